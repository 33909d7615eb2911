/* Elements that return while other threads inspect, deliver and take: races of two threads, and many threads. */
#include <sched.h>

#include "feeds.h"

/* ---- Races ----------------------------------------------------------------------------------- */

enum { TURNS = SANITIZED ? 200 : 2000 };

typedef struct race {
    rf_feed *feed;
    rf_element *element;
    int64_t ticket;
    rf_status status;
    _Atomic uint32_t turn, over;
} race;

/* Spin until it is our turn; on one core, give the core to the other thread. */
static void spin_until(_Atomic uint32_t *flag, uint32_t value)
{
    for (uint32_t spins = 1; atomic_load(flag) < value; spins++) {
        if (spins % 64)
            rf_pause();
        else
            sched_yield();
    }
}

static void *look_for_more(void *argument)
{
    race *all = argument;
    for (uint32_t turn = 1; turn <= TURNS; turn++) {
        spin_until(&all->turn, turn);
        all->status = rf_feed_next(all->feed, &all->element);
        atomic_store(&all->over, turn);
    }
    return NULL;
}

/* At the ring's end one thread takes while another drops the last element undelivered. */
static void test_while_it_ends(void)
{
    race *all = calloc(1, sizeof *all);
    rf_options options = options_for(65536);
    rf_ring *ring =
        create_ring_as(&options, RF_ALIGNMENT); /* large, so that a scan takes a while */
    CHECK(all != NULL);
    all->feed = feed_with_tickets(ring, 1, 0);
    rf_lease *lease = claim(ring, 1);
    publish(lease, 1, 7);
    rf_finish(ring);
    rf_element *element = next_of(all->feed);
    pthread_t thread = start_thread(look_for_more, all);
    for (uint32_t turn = 1; turn <= TURNS; turn++) {
        atomic_store(&all->turn, turn);
        for (uint32_t i = 0; i < turn % 200 * 16; i++)
            rf_pause();
        rf_element_drop(element);
        spin_until(&all->over, turn);
        CHECK(all->status == RF_OK || all->status == RF_FINISHED);
        CHECK_EQUAL(rf_feed_begin_round(all->feed), RF_OK);
        element = all->status == RF_OK ? all->element : next_of(all->feed);
    }
    join_thread(thread);
    deliver_and_drop(element);
    expect_all_free(ring);
    free(all);
}

static void *deliver_by_number(void *argument)
{
    race *all = argument;
    for (uint32_t turn = 1; turn <= TURNS; turn++) {
        spin_until(&all->turn, turn);
        all->status = rf_ticket_deliver(all->ticket) ? RF_OK : RF_EMPTY;
        atomic_store(&all->over, turn);
    }
    return NULL;
}

/* The thread that delivers has only the ticket's number: another thread may drop the last reference. */
static void test_by_number(void)
{
    race *all = calloc(1, sizeof *all);
    rf_ring *ring = create_ring(4);
    CHECK(all != NULL);
    all->feed = feed_with_tickets(ring, 1, 0);
    pthread_t thread = start_thread(deliver_by_number, all);
    for (uint32_t turn = 1; turn <= TURNS; turn++) {
        put(ring, turn);
        rf_element *element = next_of(all->feed);
        all->ticket = *element->ticket;
        atomic_store(&all->turn, turn);
        for (uint32_t i = 0; i < turn % 50; i++)
            rf_pause();
        rf_element_drop(element);
        spin_until(&all->over, turn);
        if (all->status == RF_EMPTY)
            take_expecting(ring, turn);
        expect_all_free(ring);
    }
    join_thread(thread);
    rf_feed_end(all->feed);
    close_ring(ring);
    free(all);
}

/* ---- Many threads ---------------------------------------------------------------------------- */

enum { RECORDS = SANITIZED ? 400 : 4000, THREADS = 3 };

typedef struct crowd {
    rf_feed *feed;
    _Atomic uint32_t left;
    _Atomic uint32_t times[RECORDS];
} crowd;

/* Some elements are dropped undelivered. The thread that sees the last record tells the others. */
static void *consume(void *argument)
{
    crowd *all = argument;
    uint64_t chance = (uint64_t)(uintptr_t)&chance;
    while (atomic_load(&all->left)) {
        rf_element *element;
        if (rf_feed_next(all->feed, &element) != RF_OK)
            continue;
        chance = chance * UINT64_C(6364136223846793005) + 1442695040888963407;
        if (chance >> 62) {
            for (uint32_t row = 0; row < element->rows; row++)
                atomic_fetch_add(&all->times[number_in(element, row)], 1);
            atomic_fetch_sub(&all->left, element->rows);
            CHECK(rf_ticket_deliver(*element->ticket));
        }
        rf_element_drop(element);
    }
    return NULL;
}

static void run_many_threads(uint32_t most, uint32_t exact)
{
    crowd *all = calloc(1, sizeof *all);
    pthread_t threads[THREADS];
    rf_ring *ring = create_ring(8);
    CHECK(all != NULL);
    all->left = RECORDS;
    all->feed = new_feed(
        ring,
        &(rf_feed_plan){
            .max_rows = most, .min_rows = 1, .exact_rows = exact, .tickets = 1, .round_ns = 1});
    for (int i = 0; i < THREADS; i++)
        threads[i] = start_thread(consume, all);
    for (uint64_t number = 0; number < RECORDS; number++)
        CHECK_EQUAL(put_until(ring, number, RF_FOREVER), RF_OK);
    rf_finish(ring); /* several threads may hold the last rows, each too few for an element */
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

/* Beside takers that keep nothing. A record that comes late says that it was delivered before. */
static void test_order_of_many_threads(void)
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

static void test_many_threads(void)
{
    run_many_threads(3, 0);
    run_many_threads(3, 4);
}

static const test TESTS[] = {
    {"a thread that finds the ring's end while the last element returns hides it from no other",
     test_while_it_ends},
    {"a ticket whose element is dropped at the same time delivers it, or not", test_by_number},
    {"order among many threads: a record that comes late says so", test_order_of_many_threads},
    {"many threads that drop elements undelivered lose and double nothing", test_many_threads},
};

MAIN(TESTS)
