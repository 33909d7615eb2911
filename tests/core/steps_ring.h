/*
 * The scenarios on a ring, for test_steps.c: the operations of their victims, their helpers, and the preparation.
 *
 * It may not know how the victim is stopped or killed.
 */
#ifndef RF_STEPS_RING_H
#define RF_STEPS_RING_H

#include "steps_producing.h"

/* ---- Operations of victims, beyond ring_fixture.h ------------------------------------------------- */

static inline void operate_two_puts(ring_fixture *now)
{
    work_put(now, now->victim, VICTIM);
    work_put(now, now->victim, VICTIM);
}

/* A view outlives its claim: the slots are set apart, and the view is dropped after that. */
static inline void operate_set_apart(ring_fixture *now)
{
    rf_lease *lease;
    if (rf_claim(now->victim, 2, 0, &lease) != RF_OK)
        return;
    rf_set_apart(lease);
    rf_lease_drop(lease);
}

/* Publish a copy from another slot, because a view may still write into the first slot. */
static inline void operate_publish_copy(ring_fixture *now)
{
    rf_lease *written, *copy;
    if (rf_claim(now->victim, 1, 0, &written) != RF_OK)
        return;
    set_number(written, 0, VICTIM * NUMBERS);
    if (rf_claim_copy(written, 0, 1, &copy) == RF_OK) {
        if (rf_publish(copy, 1, NULL, 0) == RF_OK)
            atomic_fetch_add(&shared->published[VICTIM * NUMBERS], 1);
        rf_lease_drop(copy);
    }
    rf_set_apart(written);
    rf_lease_drop(written);
}

static inline void operate_kept_and_take(ring_fixture *now)
{
    rf_lease *kept = claim(now->victim, 1);
    set_number(kept, 0, VICTIM * NUMBERS);
    CHECK_EQUAL(rf_publish(kept, 1, NULL, 1), RF_OK);
    atomic_fetch_add(&shared->published[VICTIM * NUMBERS], 1);
    rf_lease *batch = take(now->victim, 1);
    if (batch) {
        mark_taken(batch);
        rf_lease_drop(batch);
    }
    rf_lease_drop(kept);
}

/* The taker does not read the rows, and makes them ready again. */
static inline void operate_give_back(ring_fixture *now)
{
    rf_lease *batch = take(now->victim, 3);
    if (!batch)
        return;
    rf_lease_give_back(batch);
    rf_lease_drop(batch);
}

/* The helper waits for two records and is woken twice for the same one. */
static inline void operate_put_and_give_back(ring_fixture *now)
{
    work_put(now, now->victim, VICTIM);
    rf_lease *batch = take(now->victim, 1);
    if (!batch)
        return;
    rf_lease_give_back(batch);
    rf_lease_drop(batch);
}

/* Wait for one slice. A shorter wait may end before the taker has registered as waiting. */
static inline void operate_wait_to_take(ring_fixture *now)
{
    rf_take_request request = {.max_rows = 2, .min_rows = 1, .deadline_ns = RF_FOREVER};
    rf_lease *lease;
    if (rf_take(now->victim, &request, &lease) != RF_OK)
        return;
    mark_taken(lease);
    rf_lease_drop(lease);
}

static inline void operate_wait_where_many_waited(ring_fixture *now)
{
    atomic_store(&now->victim->header->planned, 100);
    operate_wait_to_take(now);
}

static inline void operate_wait_to_claim(ring_fixture *now)
{
    rf_lease *lease;
    if (rf_claim(now->victim, 1, RF_FOREVER, &lease) == RF_OK)
        rf_lease_drop(lease);
}

static inline void operate_attach_and_close(ring_fixture *now)
{
    (void)now;
    close_ring(attach_ring());
}

/* Another process finishes the ring between the victim's claim and its second check. */
static inline void operate_claim_as_it_ends(ring_fixture *now)
{
    rf_lease *lease;
    CHECK_EQUAL(rf_claim(now->victim, 2, 0, &lease), RF_FINISHED);
}

static inline void finish_at_the_claim(const char *step, uint32_t visit)
{
    if (strcmp(step, "claim: slot claimed") == 0 && visit == 1)
        atomic_store(&victims_ring->header->finished, 1);
}

/* ---- Helpers -------------------------------------------------------------------------------- */

static inline void helper_takes_two(void *unused)
{
    (void)unused;
    rf_ring *ring = attach_ring();
    CHECK_EQUAL(bounded_take(ring, 2, 2), RF_OK);
    close_ring(ring);
}

static inline void helper_puts_one(void *unused)
{
    (void)unused;
    rf_ring *ring = attach_ring();
    CHECK_EQUAL(bounded_put(ring, HELPER * NUMBERS), RF_OK);
    close_ring(ring);
}

static inline void helper_awaits_the_end(void *unused)
{
    (void)unused;
    rf_ring *ring = attach_ring();
    CHECK_EQUAL(bounded_take_all(ring), RF_FINISHED);
    close_ring(ring);
}

static inline uint32_t count_state(const ring_fixture *now, rf_state state)
{
    uint32_t count = 0;
    for (uint32_t slot = 0; slot < SLOTS; slot++)
        count += state_of(now->ours, slot) == state;
    return count;
}

static inline void supply_records(ring_fixture *now)
{
    for (uint32_t ready = count_state(now, RF_STATE_READY); ready < 2; ready++)
        CHECK_EQUAL(work_put(now, now->ours, OURS), RF_OK);
}

static inline void supply_room(ring_fixture *now)
{
    if (count_state(now, RF_STATE_FREE) == 0)
        CHECK(work_take(now, now->ours, 1));
}

/* ---- Preparation ---------------------------------------------------------------------------- */

/* This participant dies holding every slot: a claim, kept records and taken records. */
static inline void die_with_everything(void *argument)
{
    rf_ring *ring = attach_ring();
    for (uint64_t i = 0; i < 2; i++) {
        rf_lease *kept = claim(ring, 1);
        set_number(kept, 0, EARLIER * NUMBERS + i);
        CHECK_EQUAL(rf_publish(kept, 1, NULL, 1), RF_OK);
    }
    CHECK(take(ring, 2) && claim(ring, SLOTS - 2));
    (void)argument;
    raise(SIGKILL);
}

static inline void a_dead_owner_of_all_slots(ring_fixture *now)
{
    int status;
    (void)now;
    waitpid(spawn(die_with_everything, NULL), &status, 0);
    CHECK(WIFSIGNALED(status));
    atomic_fetch_add(&shared->published[EARLIER * NUMBERS], 1);
    atomic_fetch_add(&shared->published[EARLIER * NUMBERS + 1], 1);
}

#endif
