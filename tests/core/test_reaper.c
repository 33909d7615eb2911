/* Of many that wait one looks after the dead; whoever of them is stopped or killed, another goes on. */
#include "check.h"

enum { WAITERS = 60 };

typedef struct crowd {
    _Atomic uint32_t waiting, claimed;
    pid_t pids[WAITERS];
} crowd;

static void wait_patiently(void *argument)
{
    crowd *all = argument;
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
    crowd *all = argument;
    rf_ring *ring = attach_ring();
    CHECK_EQUAL(rf_lease_rows(claim(ring, 4)), 4);
    atomic_store(&all->claimed, 1);
    for (;;)
        pause();
}

static rf_ring *create_crowded(crowd **all)
{
    rf_options options = options_for(4);
    options.participants = WAITERS + 8;
    rf_ring *ring = create_ring_as(&options, SAMPLE_BYTES);
    *all = shared_memory(sizeof **all);
    for (int i = 0; i < WAITERS; i++)
        (*all)->pids[i] = spawn(wait_patiently, *all);
    await(&(*all)->waiting, WAITERS);
    while (atomic_load(&ring->header->waiters) < WAITERS / 2)
        rest(); /* some look has counted them: from here on they sleep for long */
    return ring;
}

/* Who waits has to find it: we do not look. */
static void expect_a_burial(rf_ring *ring, crowd *all)
{
    atomic_store(&all->claimed, 0);
    pid_t victim = spawn(claim_all_and_wait, all);
    await(&all->claimed, 1);
    kill_and_reap(victim);
    for (uint32_t slot = 0; slot < ring->slot_count; slot++)
        while (state_of(ring, slot) != RF_STATE_FREE)
            rest();
}

static void test_the_crowd_finds_the_dead(void)
{
    crowd *all;
    rf_ring *ring = create_crowded(&all);
    for (int round = 0; round < 5; round++)
        expect_a_burial(ring, all);
    close_ring(ring);
}

/* Whoever looked last is stopped, then killed: it is among the first of those that go. */
static void test_lookers_stop_and_die(void)
{
    crowd *all;
    rf_ring *ring = create_crowded(&all);
    for (int i = 0; i < WAITERS - 1; i += 10) {
        for (int j = i; j < i + 9; j++)
            stop_and_wait(all->pids[j]);
        expect_a_burial(ring, all);
        for (int j = i; j < i + 9; j++)
            kill_and_reap(all->pids[j]);
        expect_a_burial(ring, all);
    }
    close_ring(ring);
}

static uint64_t looks_in(rf_ring *ring, int64_t span_ns)
{
    int64_t until = rf_now_ns() + span_ns, last = 0, now;
    uint64_t looks = 0;
    while (rf_now_ns() < until) {
        if ((now = atomic_load(&ring->header->reaped_ns)) != last)
            looks++;
        last = now;
        rest();
    }
    return looks;
}

static void test_one_looks_in_a_slice(void)
{
    crowd *all;
    rf_ring *ring = create_crowded(&all);
    CHECK(looks_in(ring, 20 * RF_SLICE_NS) <= 22);
    close_ring(ring);
}

/* A notifier that is killed, or stands still, behind its change: somebody tells in its place. */
static void test_what_nobody_told_of_is_found(void)
{
    crowd *all;
    rf_ring *ring = create_crowded(&all);
    for (uint64_t number = 0; number < 3; number++) {
        uint32_t wanted =
            atomic_exchange(&ring->header->readable.wanted, 0); /* so that put tells nobody */
        put(ring, number);
        atomic_store(&ring->header->readable.wanted, wanted ? wanted : 1);
        while (rf_ring_ready(ring) != 0)
            rest();
    }
    close_ring(ring);
}

static const test tests[] = {
    {"many that wait patiently find the dead", test_the_crowd_finds_the_dead},
    {"whoever looks may be stopped and killed", test_lookers_stop_and_die},
    {"one of all that wait looks in a slice", test_one_looks_in_a_slice},
    {"records of which nobody told are found by who waits patiently",
     test_what_nobody_told_of_is_found},
};

MAIN(tests)
