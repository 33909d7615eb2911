/* Waiting takers and producers: they sleep, and wake when a record, a slot, an end or a signal comes. */
#include "row_waiter.h"

/* A signal whose handler only interrupts the system call. */
static _Atomic uint32_t signals;

static void on_signal(int number)
{
    (void)number;
    atomic_fetch_add(&signals, 1);
}

static void catch_signal(int flags)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = flags};
    CHECK_EQUAL(sigaction(SIGUSR1, &action, NULL), 0);
}

/* ---- Time ----------------------------------------------------------------------------------- */

static void test_no_waiting(void)
{
    rf_ring *ring = create_ring(1);
    rf_lease *lease;
    for (int i = 0; i < 1000; i++) {
        CHECK_EQUAL(take_until(ring, 1, 1, 0, &lease), RF_EMPTY);
        CHECK_EQUAL(take_until(ring, 1, 1, 1, &lease), RF_EMPTY); /* a deadline in the past */
        CHECK_EQUAL(take_until(ring, 1, 1, INT64_MIN, &lease), RF_EMPTY);
    }
    put(ring, 0);
    for (int i = 0; i < 1000; i++) {
        CHECK_EQUAL(put_until(ring, 1, 0), RF_FULL);
        CHECK_EQUAL(put_until(ring, 1, 1), RF_FULL);
        CHECK_EQUAL(rf_claim(ring, 1, INT64_MIN, &lease), RF_FULL);
    }
    close_ring(ring);
}

static void test_deadlines(void)
{
    rf_ring *ring = create_ring(1);
    rf_lease *lease;
    for (int64_t ms = 1; ms < 200; ms *= 3) {
        int64_t deadline = in_ms(ms);
        CHECK_EQUAL(take_until(ring, 1, 1, deadline, &lease), RF_EMPTY);
        CHECK(rf_now_ns() >= deadline);
    }
    put(ring, 0);
    for (int64_t ms = 1; ms < 200; ms *= 3) {
        int64_t deadline = in_ms(ms);
        CHECK_EQUAL(put_until(ring, 1, deadline), RF_FULL);
        CHECK(rf_now_ns() >= deadline);
    }
    rf_stats stats;
    rf_ring_stats(ring, &stats);
    CHECK(stats.counts.take_wait_ns >= 121 * NS_PER_MS);
    CHECK(stats.counts.claim_wait_ns >= 121 * NS_PER_MS);
    close_ring(ring);
}

static void test_slices(void)
{
    rf_ring *ring = create_ring(1);
    rf_lease *lease;
    rf_take_request request = {.max_rows = 1, .min_rows = 1, .deadline_ns = RF_FOREVER};
    CHECK_EQUAL(rf_take(ring, &request, &lease), RF_AGAIN);
    put(ring, 0);
    CHECK_EQUAL(rf_claim(ring, 1, RF_FOREVER, &lease), RF_AGAIN);
    close_ring(ring);
}

/* ---- Waking --------------------------------------------------------------------------------- */

enum { ROUNDS = SANITIZED ? 300 : 3000 };

/* If each round lost a wake-up, this would outlast the watchdog. */
static void echo(void *argument)
{
    (void)argument;
    rf_ring *there, *back;
    rf_lease *lease;
    CHECK_EQUAL(rf_ring_attach(open_segment(0), &there), RF_OK);
    CHECK_EQUAL(rf_ring_attach(open_segment(1), &back), RF_OK);
    while (take_until(there, 1, 1, RF_FOREVER, &lease) == RF_OK) {
        CHECK_EQUAL(put_until(back, number_at(lease, 0), RF_FOREVER), RF_OK);
        rf_lease_drop(lease);
    }
    close_ring(there);
    close_ring(back);
}

static rf_ring *create_ring_number(int number, uint32_t slots)
{
    rf_options options = options_for(slots);
    rf_geometry *geometry = geometry_of(RF_UINT8, 1, (uint64_t[]){SAMPLE_BYTES});
    rf_ring *ring;
    CHECK_EQUAL(rf_plan(&options, geometry), RF_OK);
    CHECK_EQUAL(rf_ring_create(create_segment(number), &options, geometry, &ring), RF_OK);
    free(geometry);
    return ring;
}

static void test_ping_pong(void)
{
    rf_ring *there = create_ring_number(0, 2), *back = create_ring_number(1, 2);
    pid_t child = spawn(echo, NULL);
    for (uint64_t round = 0; round < ROUNDS; round++) {
        rf_lease *lease;
        if (round % 100 == 0)
            rest(); /* long enough for both to fall asleep */
        CHECK_EQUAL(put_until(there, round, RF_FOREVER), RF_OK);
        CHECK_EQUAL(take_until(back, 1, 1, RF_FOREVER, &lease), RF_OK);
        CHECK_EQUAL(number_at(lease, 0), round);
        rf_lease_drop(lease);
    }
    rf_finish(there);
    expect_success(child);
    close_ring(there);
    close_ring(back);
}

/* Takers; each takes one batch in every round. */
typedef struct squad {
    rf_ring *ring;
    uint32_t least;
    _Atomic uint32_t *round, *served;
} squad;

static void *take_in_each_round(void *argument)
{
    squad *own = argument;
    rf_lease *lease;
    for (uint32_t round = 1;; round++) {
        await(own->round, round);
        if (take_until(own->ring, own->least, own->least, RF_FOREVER, &lease) != RF_OK)
            return NULL;
        rf_lease_drop(lease);
        atomic_fetch_add(own->served, 1);
    }
}

enum { TAKERS = 3, WAKE_ROUNDS = SANITIZED ? 100 : 2000 };

/* If one taker slept until the end of its slice in every round, this would outlast the watchdog. */
static void run_squad(const uint32_t *least, uint32_t puts, uint32_t served_by_them)
{
    _Atomic uint32_t round = 0, served = 0;
    rf_ring *ring = create_ring(16);
    squad squads[TAKERS];
    pthread_t threads[TAKERS];
    for (int i = 0; i < TAKERS; i++) {
        squads[i] = (squad){ring, least[i], &round, &served};
        threads[i] = start_thread(take_in_each_round, &squads[i]);
    }
    for (uint32_t i = 1; i <= WAKE_ROUNDS; i++) {
        atomic_store(&round, i);
        rest(); /* most of them are asleep by now */
        for (uint32_t k = 0; k < puts; k++)
            put(ring, k);
        await(&served, i * served_by_them);
    }
    rf_finish(ring);
    atomic_store(&round, UINT32_MAX);
    for (int i = 0; i < TAKERS; i++)
        join_thread(threads[i]);
    expect_all_free(ring);
    close_ring(ring);
}

static void test_many_takers_wait(void)
{
    run_squad((uint32_t[]){1, 1, 1}, 3, 3);
}

/* Two of the takers wait for more rows than will ever come. */
static void test_modest_taker_among_greedy_ones(void)
{
    run_squad((uint32_t[]){8, 1, 8}, 1, 1);
}

static void *put_one(void *ring)
{
    CHECK_EQUAL(put_until(ring, 1, RF_FOREVER), RF_OK);
    return NULL;
}

static void test_many_producers_wait(void)
{
    enum { PRODUCERS = 6 };
    rf_ring *ring = create_ring(2);
    for (int round = 0; round < 30; round++) {
        pthread_t threads[PRODUCERS];
        for (int i = 0; i < PRODUCERS; i++)
            threads[i] = start_thread(put_one, ring);
        if (round % 2)
            rest();
        for (int i = 0; i < PRODUCERS; i++) {
            rf_lease *lease;
            CHECK_EQUAL(take_until(ring, 1, 1, RF_FOREVER, &lease), RF_OK);
            rf_lease_drop(lease);
        }
        for (int i = 0; i < PRODUCERS; i++)
            join_thread(threads[i]);
    }
    expect_all_free(ring);
    close_ring(ring);
}

/* One slot of a full ring becomes free, and a sleeping producer is woken only for more. So the taker that
 * waits for the next record wakes the producer. If the producer slept until the end of its slice in every
 * round, this would outlast the watchdog. */
static void test_room_that_a_taker_leaves(void)
{
    enum { SLOTS = 64 };
    rf_ring *ring = create_ring(SLOTS);
    for (int round = 0; round < 2 * WAKE_ROUNDS; round++) {
        for (uint64_t i = 0; i < SLOTS; i++)
            put(ring, i);
        pthread_t producer = start_thread(put_one, ring);
        rest(); /* the producer is usually asleep by now */
        rf_lease *lease = take(ring, 1);
        rf_lease_drop(lease);
        CHECK_EQUAL(take_until(ring, SLOTS, SLOTS, RF_FOREVER, &lease), RF_OK);
        CHECK_EQUAL(rf_lease_rows(lease), SLOTS);
        rf_lease_drop(lease);
        join_thread(producer);
    }
    expect_all_free(ring);
    close_ring(ring);
}

/* ---- Ends ----------------------------------------------------------------------------------- */

static void *wait_to_put(void *argument)
{
    waiter *own = argument;
    own->status = put_until(own->ring, 9, RF_FOREVER);
    return NULL;
}

static void expect_woken(void (*end)(rf_ring *), rf_status expected)
{
    rf_ring *full = create_ring_number(0, 1), *empty = create_ring_number(1, 1);
    put(full, 1);
    waiter taker = {.ring = empty, .least = 1}, producer = {.ring = full};
    pthread_t taking = start_thread(wait_for_rows, &taker);
    pthread_t putting = start_thread(wait_to_put, &producer);
    for (int i = 0; i < 20; i++)
        rest();
    end(empty);
    end(full);
    join_thread(taking);
    join_thread(putting);
    CHECK_EQUAL(taker.status, expected);
    CHECK_EQUAL(producer.status, expected);
    close_ring(full);
    close_ring(empty);
    shm_unlink(segment_name(0));
    shm_unlink(segment_name(1));
}

static void test_finish_and_close_wake(void)
{
    expect_woken(rf_finish, RF_FINISHED);
    expect_woken(rf_ring_close, RF_CLOSED);
}

static void finish_when_told(void *argument)
{
    rf_ring *ring = attach_ring();
    _Atomic uint32_t *told = argument;
    await(told, 1);
    rf_finish(ring);
    close_ring(ring);
}

static void test_finish_reaches_other_processes(void)
{
    _Atomic uint32_t *told = shared_memory(sizeof *told);
    rf_ring *ring = create_ring(4);
    pid_t child = spawn(finish_when_told, told);
    waiter own = {.ring = ring, .least = 1};
    put(ring, 0);
    put(ring, 0);
    rf_lease *claimed = claim(ring, 1);
    atomic_store(told, 1);
    expect_success(child);
    CHECK_EQUAL(put_until(ring, 1, RF_FOREVER), RF_FINISHED);
    take_expecting(ring, 0);
    take_expecting(ring, 0);
    pthread_t thread = start_thread(wait_for_rows, &own); /* for the last claim */
    rest();
    rf_lease_drop(claimed);
    join_thread(thread);
    CHECK_EQUAL(own.status, RF_FINISHED);
    close_ring(ring);
}

/* ---- Signals -------------------------------------------------------------------------------- */

typedef struct interrupted_call {
    rf_ring *ring;
    _Atomic uint32_t calls, stop;
    _Atomic uint32_t early; /* calls that returned RF_AGAIN before the slice was over */
} interrupted_call;

static void *wait_and_count(void *argument)
{
    interrupted_call *own = argument;
    while (!atomic_load(&own->stop)) {
        rf_take_request request = {.max_rows = 1, .min_rows = 1, .deadline_ns = RF_FOREVER};
        rf_lease *lease;
        int64_t begun = rf_now_ns();
        CHECK_EQUAL(rf_take(own->ring, &request, &lease), RF_AGAIN);
        if (rf_now_ns() - begun < RF_SLICE_NS)
            atomic_fetch_add(&own->early, 1);
        atomic_fetch_add(&own->calls, 1);
    }
    return NULL;
}

static void interrupt_until_noticed(int flags)
{
    interrupted_call own = {.ring = create_ring(1)};
    catch_signal(flags);
    pthread_t thread = start_thread(wait_and_count, &own);
    while (!atomic_load(&own.early)) {
        rest();
        CHECK_EQUAL(pthread_kill(thread, SIGUSR1), 0);
    }
    atomic_store(&own.stop, 1);
    join_thread(thread);
    CHECK(atomic_load(&signals) > 0);
    close_ring(own.ring);
    shm_unlink(segment_name(0));
}

static void test_signals(void)
{
    interrupt_until_noticed(0);
    interrupt_until_noticed(SA_RESTART);
}

static const test tests[] = {
    {"a call without time to wait returns at once", test_no_waiting},
    {"a wait with a deadline ends there, and not before", test_deadlines},
    {"a wait without a deadline returns RF_AGAIN after each slice", test_slices},
    {"processes wake each other, round after round", test_ping_pong},
    {"all of many waiting takers wake", test_many_takers_wait},
    {"a taker that waits for one row wakes beside takers that wait for more rows",
     test_modest_taker_among_greedy_ones},
    {"all of many producers that wait for a slot wake", test_many_producers_wait},
    {"a producer that waits for more room is woken for the room that a waiting taker leaves",
     test_room_that_a_taker_leaves},
    {"finish and close wake every waiting thread", test_finish_and_close_wake},
    {"a finish reaches other processes and waits for the last claim",
     test_finish_reaches_other_processes},
    {"a signal makes a waiting call return", test_signals},
};

MAIN(tests)
