/* What the tests of feeds share: feeds of a ring, elements that say which records they are, and who waits for one. */
#ifndef RF_FEEDS_H
#define RF_FEEDS_H

#include "check.h"
#include "feed/feed.h"
#include "feed/ticket.h"

enum { FOR_EVER = -1 };

static inline rf_feed *new_feed(rf_ring *ring, const rf_feed_plan *plan)
{
    rf_feed *feed = rf_feed_new(ring, "cams", plan);
    CHECK(feed != NULL);
    return feed;
}

/* Up to `most` rows, without turns and without end. */
static inline rf_feed *patient_feed(rf_ring *ring, uint32_t most)
{
    return new_feed(ring, &(rf_feed_plan){.most = most, .least = 1, .timeout_ns = FOR_EVER});
}

/* All rows of each element, gathered in portions of up to `most`. */
static inline rf_feed *exact_feed(rf_ring *ring, uint32_t exact, uint32_t most, int64_t turn_ns)
{
    return new_feed(
        ring,
        &(rf_feed_plan){
            .most = most, .least = 1, .exact = exact, .timeout_ns = FOR_EVER, .turn_ns = turn_ns});
}

/* Up to `most` rows, each element with a ticket. */
static inline rf_feed *ahead_feed(rf_ring *ring, uint32_t most, uint32_t exact)
{
    return new_feed(
        ring, &(rf_feed_plan){
                  .most = most, .least = 1, .exact = exact, .ahead = 1, .timeout_ns = FOR_EVER});
}

/* As who hands it over does, and then who uses it. */
static inline void deliver_and_drop(rf_run *run)
{
    CHECK(rf_ahead_deliver(*run->ticket));
    rf_run_drop(run);
}

static inline rf_run *next_of(rf_feed *feed)
{
    rf_run *run;
    CHECK_EQUAL(rf_feed_next(feed, &run), RF_OK);
    return run;
}

/* The next element that is not just the end of a turn. */
static inline rf_run *next_over_turns(rf_feed *feed)
{
    rf_run *run;
    rf_status status;
    while ((status = rf_feed_next(feed, &run)) == RF_AGAIN)
        CHECK_EQUAL(rf_feed_turn(feed), RF_OK);
    CHECK_EQUAL(status, RF_OK);
    return run;
}

static inline uint64_t number_in(const rf_run *run, uint32_t row)
{
    uint64_t number;
    memcpy(&number, (char *)run->data[0] + row * (size_t)SAMPLE_BYTES, sizeof number);
    return number;
}

/* The run has rows first, first + 1, ..., with their tags. */
static inline void expect_numbers(const rf_run *run, uint64_t first, uint32_t rows)
{
    uint64_t tags[64];
    CHECK_EQUAL(run->rows, rows);
    rf_run_tags(run, tags);
    for (uint32_t row = 0; row < rows; row++) {
        CHECK_EQUAL(number_in(run, row), first + row);
        CHECK_EQUAL(tags[row], first + row);
    }
}

static inline void put_numbers(rf_ring *ring, uint64_t first, uint32_t rows)
{
    for (uint32_t row = 0; row < rows; row++)
        put(ring, first + row);
}

/* Close a ring whose name another is to have. */
static inline void close_and_unlink(rf_ring *ring)
{
    close_ring(ring);
    CHECK_EQUAL(shm_unlink(segment_name(0)), 0);
}

/* Let the next records lie from slot `slot` on. */
static inline void move_on_to(rf_ring *ring, uint32_t slot)
{
    for (uint32_t i = 0; i < slot; i++) {
        put(ring, i);
        take_expecting(ring, i);
    }
}

/* ---- Someone who waits ---------------------------------------------------------------------- */

typedef struct waiter {
    rf_feed *feed;
    rf_status status;
    rf_run *run;
    pthread_t thread;
} waiter;

static inline void *wait_for_an_element(void *argument)
{
    waiter *own = argument;
    own->status = rf_feed_next(own->feed, &own->run);
    return NULL;
}

static inline uint64_t waited_ns(rf_ring *ring)
{
    rf_stats stats;
    rf_ring_stats(ring, &stats);
    return stats.counts.take_wait_ns;
}

/* Return when a slice of someone's waiting is over that began after the call. */
static inline void await_slices(rf_ring *ring, int slices)
{
    for (int slice = 0; slice <= slices; slice++) {
        uint64_t before = waited_ns(ring);
        while (waited_ns(ring) == before)
            rest();
    }
}

/* Start a thread that waits for an element, and return when it does. */
static inline waiter *start_waiting(rf_feed *feed, rf_ring *ring)
{
    waiter *own = calloc(1, sizeof *own);
    CHECK(own != NULL);
    own->feed = feed;
    own->thread = start_thread(wait_for_an_element, own);
    await_slices(ring, 0);
    return own;
}

/* The status that the wait came to; `run` is set where that is RF_OK. */
static inline rf_status end_of_waiting(waiter *own, rf_run **run)
{
    join_thread(own->thread);
    rf_status status = own->status;
    if (run)
        *run = own->run;
    free(own);
    return status;
}

#endif
