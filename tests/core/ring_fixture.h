/*
 * The state of a test in which one process stops or dies, what the others do, and a check of every record.
 *
 * The check shows whether any record was lost, doubled or put out of order. This file may not know how or where the
 * process is stopped: test_interleavings.c stops it at instructions, test_steps.c at the steps that the code names.
 * All processes count their records in shared memory.
 */
#ifndef RF_RING_FIXTURE_H
#define RF_RING_FIXTURE_H

#include "check.h"

enum { SLOTS = 5, PRODUCERS = 5, NUMBERS = 200 };
/* A number names its producer: number / NUMBERS. */
enum { OURS = 0, OTHER = 1, VICTIM = 2, HELPER = 3, EARLIER = 4 };

typedef struct ring_fixture {
    rf_ring *ours, *other; /* two participants in the parent */
    rf_ring *victim;       /* the child's handle */
    uint64_t next[PRODUCERS];
    rf_lease *held;
    bool finished;
    bool over;      /* a taker has seen the end */
    bool scrambled; /* the cursors are set to random values */
    uint32_t takes, puts;
} ring_fixture;

/* Counts by number, shared with the child. */
typedef struct shared_state {
    _Atomic uint32_t published[PRODUCERS * NUMBERS];
    _Atomic uint32_t taken[PRODUCERS * NUMBERS];
    _Atomic uint32_t seen_before[PRODUCERS * NUMBERS]; /* taken by a taker that then died */
    _Atomic uint32_t helper_asked, helper_done;
    _Atomic uint32_t answer; /* the result of an operation that waited */
} shared_state;

static shared_state *shared;

/* ---- Working, and counting records ---------------------------------------------------------- */

static inline rf_status work_put(ring_fixture *now, rf_ring *ring, int producer)
{
    uint64_t number = (uint64_t)producer * NUMBERS + now->next[producer];
    if (now->scrambled)
        atomic_store(&ring->header->claim_cursor, now->puts++ * 3 % SLOTS);
    rf_status status = put_until(ring, number, 0);
    if (status == RF_OK) {
        now->next[producer]++;
        atomic_fetch_add(&shared->published[number], 1);
    }
    return status;
}

static inline uint64_t number_in(const rf_ring *ring, uint32_t slot)
{
    uint64_t number;
    memcpy(&number, ring->region[0] + slot * (uint64_t)SAMPLE_BYTES, sizeof number);
    CHECK(number < PRODUCERS * NUMBERS);
    return number;
}

static inline bool newer_was_taken(uint64_t number)
{
    while (++number % NUMBERS)
        if (atomic_load(&shared->taken[number]))
            return true;
    return false;
}

/* Expect that no READY record of a producer is older than a taken record. This is sound because the child is
 * stopped, so no other process takes. A redelivered record may come late, and its count of deliveries is above 0. */
static inline void expect_order(const ring_fixture *now)
{
    const rf_ring *ring = now->ours;
    for (uint32_t slot = 0; slot < ring->slot_count; slot++) {
        if (state_of(ring, slot) != RF_STATE_READY)
            continue;
        if (deliveries_of(ring, slot) == 0)
            CHECK(!newer_was_taken(number_in(ring, slot)));
    }
}

/* Mark the rows of a batch as taken. A row that was seen before, or that follows a newer one, must be marked as
 * redelivered by its count of deliveries. */
static inline void mark_taken(const rf_lease *lease)
{
    rf_record records[SLOTS];
    rf_lease_records(lease, records);
    for (uint32_t row = 0; row < rf_lease_rows(lease); row++) {
        uint64_t number = number_at(lease, row);
        CHECK(number < PRODUCERS * NUMBERS);
        if (atomic_load(&shared->seen_before[number]) || newer_was_taken(number))
            CHECK(records[row].deliveries > 1);
        CHECK_EQUAL(atomic_fetch_add(&shared->taken[number], 1), 0);
    }
}

/* Take the ready rows. Returns how many. */
static inline uint32_t work_take(ring_fixture *now, rf_ring *ring, uint32_t most)
{
    rf_lease *lease;
    if (now->scrambled)
        atomic_store(&ring->header->take_cursor, now->takes++ * 3 % SLOTS);
    rf_status status = take_until(ring, most, 1, 0, &lease);
    bool over = status == RF_FINISHED || status == RF_PRODUCER_FAILED;
    CHECK(status == RF_OK || status == RF_EMPTY || (now->finished && over));
    CHECK(!now->over || over); /* after the end no taker may get a record */
    now->over = over;
    if (status != RF_OK)
        return 0;
    uint32_t rows = rf_lease_rows(lease);
    mark_taken(lease);
    expect_order(now);
    rf_lease_drop(lease);
    return rows;
}

static inline void drain(ring_fixture *now)
{
    while (work_take(now, now->ours, 2))
        ;
}

/* ---- Operations of a process ---------------------------------------------------------------- */

static inline void operate_put(ring_fixture *now)
{
    work_put(now, now->victim, VICTIM);
}

static inline void operate_claim_and_publish(ring_fixture *now)
{
    rf_lease *lease;
    if (rf_claim(now->victim, 3, 0, &lease) != RF_OK)
        return;
    uint32_t rows = rf_lease_rows(lease) > 2 ? 2 : rf_lease_rows(lease);
    uint64_t number = VICTIM * NUMBERS + now->next[VICTIM];
    for (uint32_t row = 0; row < rows; row++)
        set_number(lease, row, number + row);
    CHECK_EQUAL(rf_publish(lease, rows, NULL, 0), RF_OK);
    for (uint32_t row = 0; row < rows; row++)
        atomic_fetch_add(&shared->published[number + row], 1);
    rf_lease_drop(lease);
}

static inline void operate_kept(ring_fixture *now)
{
    rf_lease *lease;
    if (rf_claim(now->victim, 1, 0, &lease) != RF_OK)
        return;
    set_number(lease, 0, VICTIM * NUMBERS + now->next[VICTIM]);
    CHECK_EQUAL(rf_publish(lease, 1, NULL, 1), RF_OK);
    atomic_fetch_add(&shared->published[VICTIM * NUMBERS + now->next[VICTIM]], 1);
    rf_lease_drop(lease);
}

/* Make two overlapping claims and publish the second one first, then put a record that follows both. The two have
 * no order between them, so each counts as a record of its own producer. The third counts as the victim's. */
static inline void operate_crossed_publish(ring_fixture *now)
{
    rf_lease *first, *second = NULL;
    uint64_t numbers[3] = {HELPER * NUMBERS + now->next[HELPER],
                           VICTIM * NUMBERS + now->next[VICTIM],
                           VICTIM * NUMBERS + now->next[VICTIM] + 1};
    if (rf_claim(now->victim, 1, 0, &first) != RF_OK)
        return;
    set_number(first, 0, numbers[0]);
    if (rf_claim(now->victim, 1, 0, &second) == RF_OK) {
        set_number(second, 0, numbers[1]);
        CHECK_EQUAL(rf_publish(second, 1, NULL, 0), RF_OK);
        atomic_fetch_add(&shared->published[numbers[1]], 1);
        rf_lease_drop(second);
    }
    CHECK_EQUAL(rf_publish(first, 1, NULL, 0), RF_OK);
    atomic_fetch_add(&shared->published[numbers[0]], 1);
    rf_lease_drop(first);
    if (second && put_until(now->victim, numbers[2], 0) == RF_OK)
        atomic_fetch_add(&shared->published[numbers[2]], 1);
}

static inline void operate_take(ring_fixture *now)
{
    rf_lease *lease;
    if (take_until(now->victim, 3, 1, 0, &lease) != RF_OK)
        return;
    uint64_t last[PRODUCERS] = {0};
    for (uint32_t row = 0; row < rf_lease_rows(lease); row++) {
        uint64_t number = number_at(lease, row);
        CHECK(number < PRODUCERS * NUMBERS && number >= last[number / NUMBERS]);
        last[number / NUMBERS] = number;
        CHECK_EQUAL(atomic_fetch_add(&shared->taken[number], 1), 0);
    }
    rf_lease_drop(lease);
}

static inline void operate_close(ring_fixture *now)
{
    close_ring(now->victim);
    now->victim = NULL;
}

static inline void operate_recover(ring_fixture *now)
{
    rf_recover(now->victim);
}

static inline void operate_finish(ring_fixture *now)
{
    rf_finish(now->victim);
}

/* ---- Operations of the other processes meanwhile -------------------------------------------- */

static inline void laps(ring_fixture *now)
{
    for (int lap = 0; lap < 6; lap++) {
        drain(now);
        rf_status mine = work_put(now, now->ours, OURS), next = work_put(now, now->other, OTHER);
        /* The stopped process holds at most four of the five slots. */
        if (!now->finished)
            CHECK(mine == RF_OK && (next == RF_OK || next == RF_FULL));
        work_put(now, now->ours, OURS);
        if (lap % 2)
            CHECK(now->finished || work_take(now, now->ours, 1) == 1);
    }
}

/* ---- Initial states ------------------------------------------------------------------------- */

static inline void two_records(ring_fixture *now)
{
    work_put(now, now->ours, OURS);
    work_put(now, now->ours, OURS);
}

static inline void full_ring(ring_fixture *now)
{
    while (work_put(now, now->ours, OURS) == RF_OK)
        ;
}

static inline void four_records(ring_fixture *now)
{
    two_records(now);
    work_put(now, now->other, OTHER);
    work_put(now, now->ours, OURS);
}

/* Records whose order differs from the order of their slots. */
static inline void crossed_records(ring_fixture *now)
{
    rf_lease *held = claim(now->ours, 1);
    uint32_t slot = rf_lease_first(held);
    two_records(now);
    rf_lease_drop(held);
    atomic_store(&now->ours->header->claim_cursor, slot);
    work_put(now, now->ours, OURS); /* in a slot before those of the older records */
}

static inline void put_earlier(ring_fixture *now)
{
    work_put(now, now->victim, EARLIER);
}

/* A participant that died with a claim, two kept records, and one taken record of its own. */
static inline void die_with_slots(void *argument)
{
    (void)argument;
    rf_ring *ring = attach_ring();
    for (uint64_t i = 0; i < 2; i++) {
        rf_lease *kept = claim(ring, 1);
        set_number(kept, 0, EARLIER * NUMBERS + i);
        CHECK_EQUAL(rf_publish(kept, 1, NULL, 1), RF_OK);
    }
    CHECK(take(ring, 1) && claim(ring, 1));
    raise(SIGKILL);
}

static inline void a_dead_participant(ring_fixture *now)
{
    (void)now;
    int status;
    waitpid(spawn(die_with_slots, NULL), &status, 0);
    CHECK(WIFSIGNALED(status));
    atomic_fetch_add(&shared->published[EARLIER * NUMBERS], 1);
    atomic_fetch_add(&shared->published[EARLIER * NUMBERS + 1], 1);
}

/* ---- Final checks --------------------------------------------------------------------------- */

static inline void drop_held(ring_fixture *now)
{
    rf_lease_drop(now->held);
    now->held = NULL;
}

/* After a kill the slot words decide. A record in a READY or TAKEN slot was published and must be delivered
 * (again). A record in no slot was not published, or the victim had it in hand before it released it. In that case
 * the victim has already counted it. */
static inline void reconcile_with_words(const ring_fixture *now)
{
    bool held[PRODUCERS * NUMBERS] = {0};
    for (uint32_t slot = 0; slot < SLOTS; slot++) {
        rf_state state = state_of(now->ours, slot);
        if (state != RF_STATE_READY && state != RF_STATE_TAKEN)
            continue;
        uint64_t number = number_in(now->ours, slot);
        CHECK(!held[number]);
        held[number] = true;
        atomic_store(&shared->published[number], 1);
        atomic_store(&shared->seen_before[number], atomic_exchange(&shared->taken[number], 0));
    }
    for (size_t number = 0; number < PRODUCERS * NUMBERS; number++) {
        if (held[number])
            continue;
        CHECK(atomic_load(&shared->published[number]) <= atomic_load(&shared->taken[number]));
        atomic_store(&shared->published[number], atomic_load(&shared->taken[number]));
    }
}

static inline void end(ring_fixture *now)
{
    if (now->held)
        drop_held(now);
    rf_recover(now->ours); /* reaps the process of a_dead_participant, if no other process has */
    now->finished |= rf_ring_is_finished(now->ours) != 0;
    drain(now);
    expect_all_free(now->ours);
    for (size_t number = 0; number < PRODUCERS * NUMBERS; number++)
        CHECK_EQUAL(atomic_load(&shared->taken[number]), atomic_load(&shared->published[number]));
    rf_stats stats;
    rf_ring_stats(now->ours, &stats);
    CHECK_EQUAL(stats.participants, 2);
    close_ring(now->other);
    close_ring(now->ours);
    shm_unlink(segment_name(0));
}

#endif
