/* Participants that are killed or stopped, and the recovery of their slots and entries. */
#include "roles.h"

/* ---- Killed --------------------------------------------------------------------------------- */

static void test_killed_claimer(void)
{
    role *claimer;
    rf_ring *ring = create_ring(4);
    pid_t child = start_role(&claimer, claim_two, NULL);
    CHECK_EQUAL(rf_recover(ring), 0); /* the child is alive */
    CHECK_EQUAL(state_of(ring, 0), RF_STATE_CLAIMED);
    kill_and_reap(child);
    CHECK_EQUAL(rf_recover(ring), 1);
    CHECK_EQUAL(rf_recover(ring), 0);
    expect_all_free(ring);
    CHECK_EQUAL(counts_of(ring).reclaimed, 2);
    CHECK_EQUAL(participants_of(ring), 1);
    close_ring(ring);
}

static void test_killed_taker(void)
{
    role *taker;
    rf_ring *ring = create_ring(4);
    for (uint64_t i = 0; i < 4; i++)
        put(ring, i);
    pid_t child = start_role(&taker, take_two, NULL);
    CHECK_EQUAL(rf_recover(ring), 0);
    kill_and_reap(child);
    CHECK_EQUAL(rf_recover(ring), 1);
    /* A record over which a taker died comes alone: if it kills the next taker too, no other record fails with it. */
    for (uint64_t number = 0, rows = 1; number < 4; number += rows, rows = number < 2 ? 1 : 2) {
        rf_lease *batch = take(ring, 4);
        rf_record records[4];
        CHECK_EQUAL(rf_lease_rows(batch), rows);
        rf_lease_records(batch, records);
        CHECK_EQUAL(number_at(batch, 0), number);
        CHECK_EQUAL(records[0].deliveries, number < 2 ? 2 : 1);
        CHECK_EQUAL(records[0].failures, number < 2 ? 1 : 0);
        rf_lease_drop(batch);
    }
    CHECK_EQUAL(counts_of(ring).redelivered, 2);
    CHECK_EQUAL(counts_of(ring).dropped, 0);
    expect_all_free(ring);
    close_ring(ring);
}

static void test_dropped_rows(void)
{
    role *taker;
    rf_options options = options_for(4);
    options.redeliver = 0;
    rf_ring *ring = create_ring_as(&options, SAMPLE_BYTES);
    for (uint64_t i = 0; i < 3; i++)
        put(ring, i);
    kill_and_reap(start_role(&taker, take_two, NULL));
    CHECK_EQUAL(rf_recover(ring), 1);
    take_expecting(ring, 2);
    CHECK_EQUAL(counts_of(ring).dropped, 2);
    CHECK_EQUAL(counts_of(ring).redelivered, 0);
    expect_all_free(ring);
    close_ring(ring);
}

static void publish_and_keep(rf_ring *ring)
{
    kept = claim(ring, 2);
    CHECK_EQUAL(rf_publish(kept, 2, NULL, 1), RF_OK);
}

static void test_killed_with_a_pin(void)
{
    role *producer;
    rf_ring *ring = create_ring(4);
    pid_t child = start_role(&producer, publish_and_keep, NULL);
    rf_lease *batch = take(ring, 1);
    rf_lease_drop(take(ring, 1));
    CHECK_EQUAL(state_of(ring, 1), RF_STATE_KEPT);
    kill_and_reap(child);
    CHECK_EQUAL(rf_recover(ring), 1);
    CHECK_EQUAL(state_of(ring, 0), RF_STATE_TAKEN);
    CHECK_EQUAL(state_of(ring, 1), RF_STATE_FREE);
    rf_lease_drop(batch);
    expect_all_free(ring);
    close_ring(ring);
}

/* ---- Found by a waiter ---------------------------------------------------------------------- */

static void claim_all(rf_ring *ring)
{
    kept = claim(ring, ring->slot_count);
    CHECK_EQUAL(rf_lease_rows(kept), ring->slot_count);
}

static void take_all(rf_ring *ring)
{
    kept = take(ring, ring->slot_count);
    CHECK_EQUAL(rf_lease_rows(kept), ring->slot_count);
}

static void test_waiters_recover(void)
{
    role *child;
    rf_lease *lease;
    rf_ring *ring = create_ring(3);
    kill_and_reap(start_role(&child, claim_all, NULL));
    CHECK_EQUAL(claim_until(ring, 1, RF_FOREVER, &lease), RF_OK);
    rf_lease_drop(lease);
    for (uint64_t i = 0; i < 3; i++)
        put(ring, i);
    kill_and_reap(start_role(&child, take_all, NULL));
    /* A taker that requires three rows gets them together, even rows over which a taker died. */
    CHECK_EQUAL(take_until(ring, 3, 3, RF_FOREVER, &lease), RF_OK);
    CHECK_EQUAL(rf_lease_rows(lease), 3);
    CHECK_EQUAL(rf_lease_failures(lease), 1);
    rf_lease_drop(lease);
    expect_all_free(ring);
    close_ring(ring);
}

/* A caller that only waits for short times, again and again, must find the dead as well. */
static void test_short_waits_recover(void)
{
    role *child;
    rf_lease *lease;
    rf_ring *ring = create_ring(2);
    kill_and_reap(start_role(&child, claim_all, NULL));
    while (put_until(ring, 0, in_ms(3)) == RF_FULL)
        ;
    put(ring, 1);
    kill_and_reap(start_role(&child, take_all, NULL));
    while (take_until(ring, 2, 1, 0, &lease) == RF_EMPTY)
        rest();
    CHECK_EQUAL(number_at(lease, 0), 0);
    rf_lease_drop(lease);
    close_ring(ring);
}

static void *wait_for_the_end(void *ring)
{
    rf_lease *lease;
    CHECK_EQUAL(take_until(ring, 1, 1, RF_FOREVER, &lease), RF_FINISHED);
    return NULL;
}

static void test_finish_waits_for_no_dead_claim(void)
{
    role *child;
    rf_ring *ring = create_ring(3);
    pid_t claimer = start_role(&child, claim_two, NULL);
    rf_finish(ring);
    pthread_t taker = start_thread(wait_for_the_end, ring);
    rest();
    kill_and_reap(claimer);
    join_thread(taker);
    expect_all_free(ring);
    close_ring(ring);
}

static void wait_in_take(rf_ring *ring)
{
    rf_lease *lease;
    take_until(ring, 1, 1, RF_FOREVER, &lease);
}

static void test_killed_while_waiting(void)
{
    rf_ring *ring = create_ring(2);
    for (uint64_t round = 0; round < 10; round++) {
        role *child;
        pid_t taker = start_role(&child, NULL, wait_in_take);
        atomic_store(&child->may_continue, 1);
        for (uint64_t i = 0; i < round; i++)
            rest();
        kill_and_reap(taker);
        put(ring, round);
        rf_recover(ring);
        take_expecting(ring, round);
    }
    expect_all_free(ring);
    close_ring(ring);
}

/* ---- The owner ------------------------------------------------------------------------------ */

static void own_a_ring(void *argument)
{
    owner *own = argument;
    rf_ring *ring = create_ring(2);
    put(ring, 5);
    atomic_store(&own->ready, 1);
    for (;;)
        pause();
}

static pid_t start_owner(void)
{
    owner *own = shared_memory(sizeof *own);
    segment_name(0); /* the parent sets the name before a child creates the segment */
    pid_t child = spawn(own_a_ring, own);
    await(&own->ready, 1);
    return child;
}

static void test_killed_owner(void)
{
    pid_t child = start_owner();
    rf_ring *ring = attach_ring(), *late;
    CHECK(!rf_ring_is_owner(ring));
    CHECK_EQUAL(rf_segment_has_owner(ring->fd), 1);
    kill_and_reap(child);
    CHECK_EQUAL(rf_segment_has_owner(ring->fd), 0);
    CHECK_EQUAL(rf_ring_attach(open_segment(0), &late), RF_CLOSED);
    put(ring, 6); /* no participant has noticed the death yet */
    CHECK_EQUAL(put_until(ring, 7, RF_FOREVER), RF_CLOSED);
    take_expecting(ring, 5);
    take_expecting(ring, 6);
    rf_lease *lease;
    CHECK_EQUAL(take_until(ring, 1, 1, RF_FOREVER, &lease), RF_CLOSED);
    close_ring(ring);
}

static void lock_removal_expecting(void *answer)
{
    int fd = open_segment(0);
    rf_status expected = (rf_status)(uintptr_t)answer;
    CHECK_EQUAL(rf_segment_removal_is_locked(fd), expected == RF_AGAIN);
    CHECK_EQUAL(rf_segment_lock_removal(fd), expected);
}

static void test_removal_locked_once(void)
{
    pid_t child = start_owner();
    int fd = open_segment(0);
    CHECK_EQUAL(rf_segment_has_owner(fd), 1);
    kill_and_reap(child);
    CHECK_EQUAL(rf_segment_has_owner(fd), 0);
    CHECK_EQUAL(rf_segment_lock_removal(fd), RF_OK);
    expect_success(spawn(lock_removal_expecting, (void *)RF_AGAIN));
    close(fd);
    expect_success(spawn(lock_removal_expecting, (void *)RF_OK));
}

/* ---- Stopped -------------------------------------------------------------------------------- */

static void publish_kept(rf_ring *ring)
{
    (void)ring;
    CHECK_EQUAL(rf_publish(kept, 2, NULL, 0), RF_OK);
    rf_lease_drop(kept);
}

static void test_stopped_keeps_its_slots(void)
{
    role *claimer;
    rf_ring *ring = create_ring(4);
    pid_t child = start_role(&claimer, claim_two, publish_kept);
    stop_and_wait(child);
    for (uint64_t i = 0; i < 50; i++) {
        CHECK_EQUAL(rf_recover(ring), 0);
        put(ring, i);
        take_expecting(ring, i);
    }
    CHECK_EQUAL(put_until(ring, 1, in_ms(60)), RF_OK); /* two slots are left for others */
    CHECK_EQUAL(put_until(ring, 2, in_ms(60)), RF_OK);
    CHECK_EQUAL(put_until(ring, 3, in_ms(120)),
                RF_FULL); /* longer than a slice: the stopped process still owns its slots */
    take_expecting(ring, 1);
    take_expecting(ring, 2);
    CHECK_EQUAL(kill(child, SIGCONT), 0);
    atomic_store(&claimer->may_continue, 1);
    expect_success(child);
    take_expecting(ring, 70);
    take_expecting(ring, 71);
    expect_all_free(ring);
    close_ring(ring);
}

/* ---- Entries -------------------------------------------------------------------------------- */

static void test_entries_of_the_dead_are_reused(void)
{
    rf_options options = options_for(9);
    options.participants = 2;
    rf_ring *ring = create_ring_as(&options, SAMPLE_BYTES), *third;
    put(ring, 5);
    for (int round = 0; round < 20; round++) {
        role *child;
        pid_t pid = start_role(&child, round % 2 ? claim_two : NULL, NULL);
        CHECK_EQUAL(rf_ring_attach(open_segment(0), &third), RF_CROWDED);
        kill_and_reap(pid);
    }
    third = attach_ring();
    CHECK_EQUAL(rf_self(third), 2);
    take_expecting(third, 5);
    expect_all_free(ring);
    close_ring(third);
    for (int round = 0; round < 20; round++)
        close_ring(attach_ring());
    CHECK_EQUAL(participants_of(ring), 1);
    close_ring(ring);
}

static const test tests[] = {
    {"the claims of a killed producer are freed", test_killed_claimer},
    {"the rows of a killed taker are delivered again, in order", test_killed_taker},
    {"the rows of a killed taker are dropped and counted if the ring does not redeliver",
     test_dropped_rows},
    {"the kept slots of a killed producer are freed, the batch of a taker stays",
     test_killed_with_a_pin},
    {"a waiter finds the dead", test_waiters_recover},
    {"a waiter with short timeouts finds the dead", test_short_waits_recover},
    {"a finished ring does not wait for a dead claim", test_finish_waits_for_no_dead_claim},
    {"a taker that is killed while it waits leaves nothing behind", test_killed_while_waiting},
    {"when the owner is killed every participant sees that the ring is closed", test_killed_owner},
    {"a segment without an owner is locked for removal by one process at a time",
     test_removal_locked_once},
    {"a stopped process keeps its slots and delays no other", test_stopped_keeps_its_slots},
    {"the entries of killed participants are used again", test_entries_of_the_dead_are_reused},
};

MAIN(tests)
