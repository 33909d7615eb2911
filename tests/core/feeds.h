/* Shared by the tests of feeds: making feeds, checking which records an element has, and threads that wait for one. */
#ifndef RF_FEEDS_H
#define RF_FEEDS_H

#include "check.h"
#include "feed.h"
#include "feed/element.h"

enum { FOR_EVER = -1 };

static inline rf_feed *new_feed(rf_ring *ring, const rf_feed_plan *plan)
{
    rf_feed *feed = rf_feed_new(ring, "cams", plan);
    CHECK(feed != NULL);
    return feed;
}

/* A feed of up to `most` rows, without rounds and without a timeout. */
static inline rf_feed *untimed_feed(rf_ring *ring, uint32_t most)
{
    return new_feed(ring, &(rf_feed_plan){.max_rows = most, .min_rows = 1, .timeout_ns = FOR_EVER});
}

/* A feed of `exact` rows in each element, gathered from batches of up to `most` rows. */
static inline rf_feed *exact_feed(rf_ring *ring, uint32_t exact, uint32_t most, int64_t round_ns)
{
    return new_feed(ring, &(rf_feed_plan){.max_rows = most,
                                          .min_rows = 1,
                                          .exact_rows = exact,
                                          .timeout_ns = FOR_EVER,
                                          .round_ns = round_ns});
}

/* A feed of up to `most` rows, with a ticket for each element. */
static inline rf_feed *feed_with_tickets(rf_ring *ring, uint32_t most, uint32_t exact)
{
    return new_feed(ring, &(rf_feed_plan){.max_rows = most,
                                          .min_rows = 1,
                                          .exact_rows = exact,
                                          .tickets = 1,
                                          .timeout_ns = FOR_EVER});
}

/* Deliver an element as tf.data does, then drop it as its consumer does. */
static inline void deliver_and_drop(rf_element *element)
{
    CHECK(rf_ticket_deliver(*element->ticket));
    rf_element_drop(element);
}

static inline rf_element *next_of(rf_feed *feed)
{
    rf_element *element;
    CHECK_EQUAL(rf_feed_next(feed, &element), RF_OK);
    return element;
}

/* The next element; ends of rounds are skipped. */
static inline rf_element *next_over_rounds(rf_feed *feed)
{
    rf_element *element;
    rf_status status;
    while ((status = rf_feed_next(feed, &element)) == RF_AGAIN)
        CHECK_EQUAL(rf_feed_begin_round(feed), RF_OK);
    CHECK_EQUAL(status, RF_OK);
    return element;
}

static inline uint64_t number_in(const rf_element *element, uint32_t row)
{
    uint64_t number;
    memcpy(&number, (char *)element->data[0] + row * (size_t)SAMPLE_BYTES, sizeof number);
    return number;
}

/* The element has rows first, first + 1, ..., with their tags. */
static inline void expect_numbers(const rf_element *element, uint64_t first, uint32_t rows)
{
    uint64_t tags[64];
    CHECK_EQUAL(element->rows, rows);
    rf_element_tags(element, tags);
    for (uint32_t row = 0; row < rows; row++) {
        CHECK_EQUAL(number_in(element, row), first + row);
        CHECK_EQUAL(tags[row], first + row);
    }
}

static inline void put_numbers(rf_ring *ring, uint64_t first, uint32_t rows)
{
    for (uint32_t row = 0; row < rows; row++)
        put(ring, first + row);
}

/* Close a ring and free its name for another ring. */
static inline void close_and_unlink(rf_ring *ring)
{
    close_ring(ring);
    CHECK_EQUAL(shm_unlink(segment_name(0)), 0);
}

/* Move the cursors, so that the next record lies in slot `slot`. */
static inline void move_on_to(rf_ring *ring, uint32_t slot)
{
    for (uint32_t i = 0; i < slot; i++) {
        put(ring, i);
        take_expecting(ring, i);
    }
}

/* ---- A thread that waits --------------------------------------------------------------------- */

typedef struct waiter {
    rf_feed *feed;
    rf_status status;
    rf_element *element;
    pthread_t thread;
} waiter;

static inline void *wait_for_an_element(void *argument)
{
    waiter *own = argument;
    own->status = rf_feed_next(own->feed, &own->element);
    return NULL;
}

static inline uint64_t waited_ns(rf_ring *ring)
{
    rf_stats stats;
    rf_ring_stats(ring, &stats);
    return stats.counts.take_wait_ns;
}

/* Return when a slice of a thread's wait that began after the call has ended. */
static inline void await_slices(rf_ring *ring, int slices)
{
    for (int slice = 0; slice <= slices; slice++) {
        uint64_t before = waited_ns(ring);
        while (waited_ns(ring) == before)
            rest();
    }
}

/* Start a thread that waits for an element, and return when it waits. */
static inline waiter *start_waiting(rf_feed *feed, rf_ring *ring)
{
    waiter *own = calloc(1, sizeof *own);
    CHECK(own != NULL);
    own->feed = feed;
    own->thread = start_thread(wait_for_an_element, own);
    await_slices(ring, 0);
    return own;
}

/* The status that ended the wait. RF_OK: `element` is set. */
static inline rf_status end_of_waiting(waiter *own, rf_element **element)
{
    join_thread(own->thread);
    rf_status status = own->status;
    if (element)
        *element = own->element;
    free(own);
    return status;
}

#endif
