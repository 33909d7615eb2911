/* Elements that are taken ahead: delivered ones are released, the others are there again. */
#include <sched.h>

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

/* Rows of no fixed number are copied, too, where a GPU's driver knows memory only up to the ring's end. */
static void test_copies_for_their_padding(void)
{
    rf_ring *ring = create_ring(4);
    rf_feed *feed = new_feed(ring, &(rf_feed_plan){.most = 1, .least = 1, .ahead = 1, .shown = 3});
    atomic_store(&ring->runs_end, true);
    move_on_to(ring, 2);
    put_numbers(ring, 0, 2);
    rf_run *first = next_of(feed), *second = next_of(feed);
    CHECK(!first->lease && !second->lease);
    expect_all_free(ring);
    rf_run_drop(first);
    rf_run_drop(second);
    for (uint64_t number = 0; number < 2; number++) {
        rf_run *again = next_of(feed);
        expect_numbers(again, number, 1);
        CHECK_EQUAL(again->shown, 3);
        deliver_and_drop(again);
    }
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

/* A batch that goes over the ring's end, and whose first record lies behind its second. */
static void test_order(void)
{
    rf_ring *ring = create_ring(4);
    rf_feed *feed = ahead_feed(ring, 2, 0);
    move_on_to(ring, 3);
    put_numbers(ring, 0, 4); /* in the slots 3, 0, 1, 2 */
    for (int turn = 0; turn < 3; turn++) {
        rf_run *first = next_of(feed), *second = next_of(feed);
        expect_numbers(first, 0, 2);
        expect_numbers(second, 2, 2);
        CHECK_EQUAL(rf_lease_first(first->lease), 3);
        /* In whatever order they go: links lead to the first. */
        rf_run_drop(turn % 2 ? second : first);
        rf_run_drop(turn % 2 ? first : second);
    }
    rf_lease *rest = take(ring, 1);
    CHECK_EQUAL(number_at(rest, 0), 0);
    put_until(ring, 4, 0); /* there is no room */
    rf_lease_give_back(rest);
    rf_lease_drop(rest);
    for (uint64_t number = 0; number < 4; number++)
        take_expecting(ring, number);
    expect_all_free(ring);
}

/* Rows that come again are for takers that did not see them: also where the dead's are dropped. */
static void test_where_rows_come_once(void)
{
    rf_options options = options_for(4);
    options.redeliver = 0;
    rf_ring *ring = create_ring_as(&options, SAMPLE_BYTES);
    rf_feed *feed = ahead_feed(ring, 2, 0);
    put_numbers(ring, 0, 2);
    rf_run_drop(next_of(feed));
    rf_run *run = next_of(feed);
    expect_numbers(run, 0, 2);
    deliver_and_drop(run);
    expect_all_free(ring);
}

static void test_claim(void)
{
    rf_ring *ring = create_ring(4);
    rf_lease *some = claim(ring, 3);
    rf_lease_give_back(some);
    rf_lease_drop(some);
    expect_all_free(ring);
    some = claim(ring, 3);
    rf_lease_give_back(some);
    publish(some, 1, 7);
    take_expecting(ring, 7);
    expect_all_free(ring);
}

/* A run outlives its feed and its ring's handle, and goes back for another process. */
static void test_last_of_all(void)
{
    rf_ring *other = create_ring(4), *ring = attach_ring();
    rf_feed *feed = ahead_feed(ring, 2, 0), *exact = ahead_feed(ring, 1, 2);
    put_numbers(ring, 0, 4);
    rf_run *run = next_of(feed), *copies = next_of(exact);
    int64_t ticket = *run->ticket;
    rf_feed_end(feed);
    rf_feed_end(exact);
    close_ring(ring);
    rf_stats stats;
    rf_run_drop(copies);
    rf_run_drop(run);
    CHECK(!rf_ahead_deliver(ticket));
    for (uint64_t number = 0; number < 2; number++)
        take_expecting(other, number);
    expect_all_free(other);
    rf_ring_stats(other, &stats);
    CHECK_EQUAL(stats.participants, 1);
    CHECK_EQUAL(stats.counts.redelivered, 2);
    CHECK_EQUAL(stats.counts.taken, stats.counts.released + stats.counts.redelivered);
    close_ring(other);
}

/* ---- Forks ---------------------------------------------------------------------------------- */

typedef struct inherited {
    rf_feed *feed;
    rf_run *over_slots, *copies;
} inherited;

static void drop_as_a_child(void *argument)
{
    inherited *all = argument;
    CHECK(!rf_ahead_deliver(*all->over_slots->ticket));
    rf_run_drop(all->over_slots);
    rf_run_drop(all->copies);
}

static _Atomic uint32_t ended;

/* Its feed's lock is held now and then. */
static void *take_and_throw_away(void *argument)
{
    rf_feed *feed = argument;
    rf_run *run;
    while (!atomic_load(&ended))
        if (rf_feed_next(feed, &run) == RF_OK)
            rf_run_drop(run);
    return NULL;
}

static void test_fork(void)
{
    rf_ring *ring = create_ring(8);
    inherited all = {.feed = ahead_feed(ring, 1, 2)};
    rf_feed *feed = ahead_feed(ring, 2, 0);
    put_numbers(ring, 0, 6);
    all.over_slots = next_of(feed);
    all.copies = next_of(all.feed);
    rf_run_drop(next_of(all.feed)); /* so that there always is an element */
    pthread_t thread = start_thread(take_and_throw_away, all.feed);
    for (int turn = 0; turn < (SANITIZED ? 20 : 200); turn++)
        expect_success(spawn(drop_as_a_child, &all));
    atomic_store(&ended, 1);
    join_thread(thread);
    expect_numbers(all.over_slots, 0, 2);
    CHECK_EQUAL(state_of(ring, 0), RF_STATE_TAKEN);
    deliver_and_drop(all.over_slots);
    rf_run_drop(all.copies);
    for (int i = 0; i < 2; i++)
        deliver_and_drop(next_of(all.feed));
    expect_all_free(ring);
}

/* ---- Races ---------------------------------------------------------------------------------- */

enum { TURNS = SANITIZED ? 200 : 2000 };

typedef struct race {
    rf_feed *feed;
    rf_run *run;
    int64_t ticket;
    rf_status status;
    _Atomic uint32_t turn, over;
} race;

static void *look_for_more(void *argument)
{
    race *all = argument;
    for (uint32_t turn = 1; turn <= TURNS; turn++) {
        while (atomic_load(&all->turn) < turn)
            rf_pause();
        all->status = rf_feed_next(all->feed, &all->run);
        atomic_store(&all->over, turn);
    }
    return NULL;
}

/* At the ring's end one looks for more while another throws away what was the last. */
static void test_while_it_ends(void)
{
    race *all = calloc(1, sizeof *all);
    rf_options options = options_for(65536);
    rf_ring *ring =
        create_ring_as(&options, RF_ALIGNMENT); /* of which to look at all takes a while */
    CHECK(all != NULL);
    all->feed = ahead_feed(ring, 1, 0);
    rf_lease *lease = claim(ring, 1);
    publish(lease, 1, 7);
    rf_finish(ring);
    rf_run *run = next_of(all->feed);
    pthread_t thread = start_thread(look_for_more, all);
    for (uint32_t turn = 1; turn <= TURNS; turn++) {
        atomic_store(&all->turn, turn);
        for (uint32_t i = 0; i < turn % 200 * 16; i++)
            rf_pause();
        rf_run_drop(run);
        while (atomic_load(&all->over) < turn)
            rf_pause();
        CHECK(all->status == RF_OK || all->status == RF_FINISHED);
        CHECK_EQUAL(rf_feed_turn(all->feed), RF_OK);
        run = all->status == RF_OK ? all->run : next_of(all->feed);
    }
    join_thread(thread);
    deliver_and_drop(run);
    expect_all_free(ring);
    free(all);
}

static void *deliver_by_number(void *argument)
{
    race *all = argument;
    for (uint32_t turn = 1; turn <= TURNS; turn++) {
        while (atomic_load(&all->turn) < turn)
            rf_pause();
        all->status = rf_ahead_deliver(all->ticket) ? RF_OK : RF_EMPTY;
        atomic_store(&all->over, turn);
    }
    return NULL;
}

/* Who delivers has a ticket's number and no more: the last reference may go meanwhile. */
static void test_by_number(void)
{
    race *all = calloc(1, sizeof *all);
    rf_ring *ring = create_ring(4);
    CHECK(all != NULL);
    all->feed = ahead_feed(ring, 1, 0);
    pthread_t thread = start_thread(deliver_by_number, all);
    for (uint32_t turn = 1; turn <= TURNS; turn++) {
        put(ring, turn);
        rf_run *run = next_of(all->feed);
        all->ticket = *run->ticket;
        atomic_store(&all->turn, turn);
        for (uint32_t i = 0; i < turn % 50; i++)
            rf_pause();
        rf_run_drop(run);
        while (atomic_load(&all->over) < turn)
            rf_pause();
        if (all->status == RF_EMPTY)
            take_expecting(ring, turn);
        expect_all_free(ring);
    }
    join_thread(thread);
    rf_feed_end(all->feed);
    free(all);
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

typedef struct givers {
    rf_ring *ring;
    _Atomic uint32_t ended;
} givers;

static void *give_back(void *argument)
{
    givers *all = argument;
    rf_lease *lease;
    for (uint32_t turn = 0; !atomic_load(&all->ended); turn++) {
        if (take_until(all->ring, 1 + turn % 5, 1, in_ms(1), &lease) != RF_OK)
            continue;
        if (turn % 3)
            sched_yield();
        rf_lease_give_back(lease);
        rf_lease_drop(lease);
    }
    return NULL;
}

/* Beside takers that keep nothing: what comes late says that it was delivered before. */
static void test_order_in_a_crowd(void)
{
    static bool seen[RECORDS];
    givers all = {.ring = create_ring(8)};
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        threads[i] = start_thread(give_back, &all);
    uint64_t next = 0, newest = 0, rows = 0;
    while (rows < RECORDS) {
        rf_lease *lease;
        rf_record records[8];
        while (next < RECORDS && put_until(all.ring, next, 0) == RF_OK)
            next++;
        if (take_until(all.ring, 3, 1, in_ms(1), &lease) != RF_OK)
            continue;
        rf_lease_records(lease, records);
        for (uint32_t row = 0; row < rf_lease_rows(lease); row++, rows++) {
            uint64_t number = number_at(lease, row);
            CHECK(number < RECORDS && !seen[number]);
            seen[number] = true;
            CHECK(number >= newest || records[row].deliveries > 1);
            newest = number > newest ? number : newest;
        }
        rf_lease_drop(lease);
    }
    atomic_store(&all.ended, 1);
    for (int i = 0; i < THREADS; i++)
        join_thread(threads[i]);
    expect_all_free(all.ring);
    rf_stats stats;
    rf_ring_stats(all.ring, &stats);
    CHECK_EQUAL(stats.counts.released, RECORDS);
    CHECK_EQUAL(stats.counts.taken, RECORDS + stats.counts.redelivered);
    close_and_unlink(all.ring);
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
    {"rows that were copied for their padding go back, too", test_copies_for_their_padding},
    {"after the ring's end, too", test_after_the_end},
    {"a taker that waits is woken", test_waiting_taker},
    {"order: over the ring's end, and in whatever order they go", test_order},
    {"a ring that drops the rows of the dead keeps those that nobody saw",
     test_where_rows_come_once},
    {"a claim is given back as any claim", test_claim},
    {"an element outlives its feed and its ring, and goes back", test_last_of_all},
    {"a forked child gives nothing back", test_fork},
    {"who finds the ring's end while the last element goes back hides it from nobody",
     test_while_it_ends},
    {"a ticket whose element goes meanwhile delivers it, or not", test_by_number},
    {"order in a crowd: what comes late says so", test_order_in_a_crowd},
    {"many threads that throw elements away lose and double nothing", test_crowd},
};

MAIN(TESTS)
