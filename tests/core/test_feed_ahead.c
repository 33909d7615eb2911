/* Elements that are taken ahead: delivered ones are released, the others are there again. */
#include "ahead.h"
#include "feeds.h"

static rf_feed *ahead_feed(rf_ring *ring, uint32_t most, uint32_t exact)
{
    return new_feed(
        ring, &(rf_feed_plan){
                  .most = most, .least = 1, .exact = exact, .ahead = 1, .timeout_ns = FOR_EVER});
}

/* As who hands it over does, and then who uses it. */
static void deliver_and_drop(rf_run *run)
{
    CHECK(rf_ahead_deliver(*run->ticket));
    rf_run_drop(run);
}

static void test_dropped_unseen(void)
{
    rf_ring *ring = create_ring(8);
    rf_feed *feed = ahead_feed(ring, 3, 0);
    put_numbers(ring, 0, 6);
    rf_run *first = next_of(feed), *second = next_of(feed);
    expect_numbers(first, 0, 3);
    expect_numbers(second, 3, 3);
    rf_run_retain(first); /* as its ticket does when a copy was made of its values */
    rf_run_drop(first);
    CHECK_EQUAL(state_of(ring, 0), RF_STATE_TAKEN);
    rf_run_drop(first);
    rf_run_drop(second);
    for (uint64_t number = 0; number < 6; number++)
        CHECK_EQUAL(state_of(ring, (uint32_t)number), RF_STATE_READY);
    rf_stats stats;
    rf_ring_stats(ring, &stats);
    CHECK_EQUAL(stats.counts.redelivered, 6);
    CHECK_EQUAL(stats.counts.released, 0);
    rf_ring *other = attach_ring(); /* whoever is next, in any process */
    take_expecting(other, 0);
    close_ring(other);
    rf_run *again = next_of(feed);
    expect_numbers(again, 1, 3);
    rf_record records[3];
    rf_lease_records(again->lease, records);
    CHECK_EQUAL(records[0].deliveries, 2); /* it says that it comes again */
    deliver_and_drop(again);
    deliver_and_drop(next_of(feed));
    expect_all_free(ring);
}

static void test_tickets(void)
{
    rf_ring *ring = create_ring(8);
    rf_feed *feed = ahead_feed(ring, 1, 0);
    put_numbers(ring, 0, 2);
    rf_run *first = next_of(feed), *second = next_of(feed);
    int64_t ticket = *first->ticket;
    CHECK(ticket != *second->ticket);
    CHECK_EQUAL((uintptr_t)first->ticket % RF_ALIGNMENT, 0);
    CHECK(!rf_ahead_deliver(0));
    CHECK(!rf_ahead_deliver(-1));
    CHECK(rf_ahead_deliver(ticket));
    CHECK(!rf_ahead_deliver(ticket));
    rf_run_drop(first);
    CHECK_EQUAL(state_of(ring, 0), RF_STATE_FREE);
    ticket = *second->ticket;
    rf_run_drop(second);
    CHECK(!rf_ahead_deliver(ticket));
    CHECK_EQUAL(state_of(ring, 1), RF_STATE_READY);
}

static void test_pinned(void)
{
    rf_ring *ring = create_ring(4);
    rf_feed *feed = ahead_feed(ring, 2, 0);
    rf_lease *views[2];
    for (uint64_t number = 0; number < 2; number++) {
        views[number] = claim(ring, 1);
        set_number(views[number], 0, number);
        CHECK_EQUAL(rf_publish(views[number], 1, &number, 1), RF_OK);
    }
    rf_run *run = next_of(feed);
    rf_lease_drop(views[0]); /* one view goes while the row is taken, the other stays */
    rf_run_drop(run);
    CHECK_EQUAL(state_of(ring, 0), RF_STATE_READY);
    CHECK_EQUAL(state_of(ring, 1), RF_STATE_READY);
    run = next_of(feed);
    expect_numbers(run, 0, 2);
    deliver_and_drop(run);
    CHECK_EQUAL(state_of(ring, 0), RF_STATE_FREE);
    CHECK_EQUAL(state_of(ring, 1), RF_STATE_PINNED);
    rf_lease_drop(views[1]);
    expect_all_free(ring);
}

static void test_copies(void)
{
    rf_ring *ring = create_ring(8);
    rf_feed *feed = ahead_feed(ring, 1, 2); /* a row at a time: all are copied */
    put_numbers(ring, 0, 6);
    rf_run *runs[3] = {next_of(feed), next_of(feed), next_of(feed)};
    expect_all_free(ring);
    for (int i = 0; i < 3; i++)
        rf_run_drop(runs[i]);
    for (uint64_t number = 0; number < 6; number += 2) {
        rf_run *again = next_of(feed);
        expect_numbers(again, number, 2);
        deliver_and_drop(again);
    }
    put_numbers(ring, 6, 2);
    rf_run *last = next_of(feed);
    rf_feed_end(feed); /* the run keeps the feed; with it they go */
    rf_run_drop(last);
    expect_all_free(ring);
}

static void test_after_the_end(void)
{
    rf_ring *ring = create_ring(4);
    rf_feed *feed = ahead_feed(ring, 2, 0);
    put_numbers(ring, 0, 2);
    rf_finish(ring);
    rf_run *run = next_of(feed), *none;
    CHECK_EQUAL(rf_feed_next(feed, &none), RF_FINISHED);
    CHECK_EQUAL(rf_feed_turn(feed), RF_FINISHED);
    rf_run_drop(run);
    CHECK_EQUAL(rf_feed_turn(feed), RF_OK);
    run = next_of(feed);
    expect_numbers(run, 0, 2);
    deliver_and_drop(run);
    CHECK_EQUAL(rf_feed_next(feed, &none), RF_FINISHED);
}

static void test_waiting_taker(void)
{
    rf_ring *ring = create_ring(4);
    rf_feed *feed = ahead_feed(ring, 1, 0), *other = patient_feed(ring, 1);
    put_numbers(ring, 0, 1);
    rf_run *run = next_of(feed);
    waiter *waiting = start_waiting(other, ring);
    rf_run_drop(run);
    CHECK_EQUAL(end_of_waiting(waiting, &run), RF_OK);
    expect_numbers(run, 0, 1);
    rf_run_drop(run);
    expect_all_free(ring);
}

/* ---- Crowds --------------------------------------------------------------------------------- */

enum { RECORDS = SANITIZED ? 400 : 4000, THREADS = 3 };

typedef struct crowd {
    rf_feed *feed;
    _Atomic uint32_t left;
    _Atomic uint32_t times[RECORDS];
} crowd;

/* Some elements are thrown away unseen; who has seen all records tells the others. */
static void *consume(void *argument)
{
    crowd *all = argument;
    uint64_t chance = (uint64_t)(uintptr_t)&chance;
    while (atomic_load(&all->left)) {
        rf_run *run;
        if (rf_feed_next(all->feed, &run) != RF_OK)
            continue;
        chance = chance * UINT64_C(6364136223846793005) + 1442695040888963407;
        if (chance >> 62) {
            for (uint32_t row = 0; row < run->rows; row++)
                atomic_fetch_add(&all->times[number_in(run, row)], 1);
            atomic_fetch_sub(&all->left, run->rows);
            CHECK(rf_ahead_deliver(*run->ticket));
        }
        rf_run_drop(run);
    }
    return NULL;
}

static void run_crowd(uint32_t most, uint32_t exact)
{
    crowd *all = calloc(1, sizeof *all);
    pthread_t threads[THREADS];
    rf_ring *ring = create_ring(8);
    CHECK(all != NULL);
    all->left = RECORDS;
    all->feed = new_feed(
        ring, &(rf_feed_plan){.most = most, .least = 1, .exact = exact, .ahead = 1, .turn_ns = 1});
    for (int i = 0; i < THREADS; i++)
        threads[i] = start_thread(consume, all);
    for (uint64_t number = 0; number < RECORDS; number++)
        CHECK_EQUAL(put_until(ring, number, RF_FOREVER), RF_OK);
    rf_finish(ring); /* the last rows may be gathered by several, each too few for an element */
    for (int i = 0; i < THREADS; i++)
        join_thread(threads[i]);
    for (uint32_t number = 0; number < RECORDS; number++)
        CHECK_EQUAL(all->times[number], 1);
    expect_all_free(ring);
    rf_feed_end(all->feed);
    close_and_unlink(ring);
    free(all);
}

static void test_crowd(void)
{
    run_crowd(3, 0);
    run_crowd(3, 4);
}

static const test TESTS[] = {
    {"what is dropped undelivered is there again, in order, for whoever is next",
     test_dropped_unseen},
    {"a ticket delivers its own element, once", test_tickets},
    {"rows that their producer still looks at keep their pins", test_pinned},
    {"exact: copies go back to the feed, in order", test_copies},
    {"after the ring's end, too", test_after_the_end},
    {"a taker that waits is woken", test_waiting_taker},
    {"many threads that throw elements away lose and double nothing", test_crowd},
};

MAIN(TESTS)
