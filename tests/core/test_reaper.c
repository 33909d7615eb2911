/* Of many waiters, one at a time checks for dead participants. If this waiter is stopped or killed, another takes
 * over. */
#include "check.h"

enum { WAITERS = 60 };

typedef struct waiters {
    _Atomic uint32_t waiting, claimed;
    pid_t pids[WAITERS];
} waiters;

static void wait_with_patience(void *argument)
{
    waiters *all = argument;
    rf_ring *ring = attach_ring();
    rf_lease *lease;
    rf_take_request request = {
        .max_rows = 1, .min_rows = 1, .deadline_ns = RF_FOREVER, .patient = 1};
    atomic_fetch_add(&all->waiting, 1);
    while (rf_take(ring, &request, &lease) == RF_AGAIN)
        ;
    for (;;)
        pause();
}

static void claim_all_and_wait(void *argument)
{
    waiters *all = argument;
    rf_ring *ring = attach_ring();
    CHECK_EQUAL(rf_lease_rows(claim(ring, 4)), 4);
    atomic_store(&all->claimed, 1);
    for (;;)
        pause();
}

static rf_ring *create_with_waiters(waiters **all)
{
    rf_options options = options_for(4);
    options.participants = WAITERS + 8;
    rf_ring *ring = create_ring_as(&options, SAMPLE_BYTES);
    *all = shared_memory(sizeof **all);
    for (int i = 0; i < WAITERS; i++)
        (*all)->pids[i] = spawn(wait_with_patience, *all);
    await(&(*all)->waiting, WAITERS);
    while (atomic_load(&ring->header->waiters) < WAITERS / 2)
        rest(); /* a waiter has counted them: from here on they sleep for longer */
    return ring;
}

/* The waiters have to find the dead participant: the parent does not check. */
static void expect_recovery(rf_ring *ring, waiters *all)
{
    atomic_store(&all->claimed, 0);
    pid_t victim = spawn(claim_all_and_wait, all);
    await(&all->claimed, 1);
    kill_and_reap(victim);
    for (uint32_t slot = 0; slot < ring->slot_count; slot++)
        while (state_of(ring, slot) != RF_STATE_FREE)
            rest();
}

static void test_many_waiters_find_the_dead(void)
{
    waiters *all;
    rf_ring *ring = create_with_waiters(&all);
    for (int round = 0; round < 5; round++)
        expect_recovery(ring, all);
    close_ring(ring);
}

/* The waiters are stopped, then killed, in groups. The one that checked last is among the first of them. */
static void test_checkers_stop_and_die(void)
{
    waiters *all;
    rf_ring *ring = create_with_waiters(&all);
    for (int i = 0; i < WAITERS - 1; i += 10) {
        for (int j = i; j < i + 9; j++)
            stop_and_wait(all->pids[j]);
        expect_recovery(ring, all);
        for (int j = i; j < i + 9; j++)
            kill_and_reap(all->pids[j]);
        expect_recovery(ring, all);
    }
    close_ring(ring);
}

static uint64_t checks_in(rf_ring *ring, int64_t span_ns)
{
    int64_t until = rf_now_ns() + span_ns, last = 0, now;
    uint64_t checks = 0;
    while (rf_now_ns() < until) {
        if ((now = atomic_load(&ring->header->reaped_ns)) != last)
            checks++;
        last = now;
        rest();
    }
    return checks;
}

static void test_one_checks_in_a_slice(void)
{
    waiters *all;
    rf_ring *ring = create_with_waiters(&all);
    CHECK(checks_in(ring, 20 * RF_SLICE_NS) <= 22);
    close_ring(ring);
}

/* A process that is killed or stopped between its change and its notification is replaced by a waiter. */
static void test_a_missing_notification(void)
{
    waiters *all;
    rf_ring *ring = create_with_waiters(&all);
    for (uint64_t number = 0; number < 3; number++) {
        uint32_t wanted =
            atomic_exchange(&ring->header->readable.wanted, 0); /* so that put notifies no waiter */
        put(ring, number);
        atomic_store(&ring->header->readable.wanted, wanted ? wanted : 1);
        while (rf_ring_ready(ring) != 0)
            rest();
    }
    close_ring(ring);
}

static const test tests[] = {
    {"many patient waiters find the dead", test_many_waiters_find_the_dead},
    {"the waiter that checks may be stopped and killed", test_checkers_stop_and_die},
    {"one of all waiters checks in a slice", test_one_checks_in_a_slice},
    {"a patient waiter finds a record without a notification", test_a_missing_notification},
};

MAIN(tests)
