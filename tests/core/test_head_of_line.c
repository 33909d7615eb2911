/* A process that holds a slot forever delays only this slot. */
#include "check.h"

enum { RECORDS = SANITIZED ? 2000 : 20000 };

static void lap_around(rf_ring *ring, uint64_t *next)
{
    uint64_t from = *next;
    while (put_until(ring, *next, 0) == RF_OK)
        ++*next;
    CHECK(*next > from);
    rf_lease *batch;
    while ((batch = take(ring, 3))) {
        for (uint32_t row = 0; row < rf_lease_rows(batch); row++)
            CHECK_EQUAL(number_at(batch, row), from++);
        rf_lease_drop(batch);
    }
    CHECK_EQUAL(from, *next);
}

static void test_claimed_forever(void)
{
    rf_ring *ring = create_ring(8), *slow = attach_ring();
    uint64_t next = 0;
    put(ring, next++);
    rf_lease *held = claim(slow, 2);
    take_expecting(ring, 0);
    for (int lap = 0; lap < 500; lap++)
        lap_around(ring, &next);
    CHECK_EQUAL(next, 1 + 500 * 6);
    publish(held, 2, 77);
    take_expecting(ring, 77);
    take_expecting(ring, 78);
    lap_around(ring, &next);
    expect_all_free(ring);
    close_ring(slow);
    close_ring(ring);
}

static void test_held_forever(void)
{
    rf_ring *ring = create_ring(8), *slow = attach_ring();
    uint64_t next = 0;
    for (; next < 5; next++)
        put(ring, next);
    take_expecting(ring, 0);
    rf_lease *held = take(slow, 3);
    CHECK_EQUAL(rf_lease_rows(held), 3);
    take_expecting(ring, 4);
    for (int lap = 0; lap < 500; lap++)
        lap_around(ring, &next);
    for (uint32_t row = 0; row < 3; row++)
        CHECK_EQUAL(number_at(held, row), 1 + row);
    rf_lease_drop(held);
    lap_around(ring, &next);
    expect_all_free(ring);
    close_ring(slow);
    close_ring(ring);
}

static void test_one_slot_left(void)
{
    rf_ring *ring = create_ring(4), *slow = attach_ring();
    uint64_t next = 2;
    put(ring, 0);
    put(ring, 1);
    rf_lease *batch = take(slow, 1), *written = claim(slow, 1);
    rf_lease *kept = claim(ring, 1);
    CHECK_EQUAL(rf_publish(kept, 1, NULL, 1), RF_OK);
    rf_lease_drop(take(ring, 1));
    rf_lease_drop(take(ring, 1));
    for (int lap = 0; lap < 500;
         lap++) /* one slot is held, one claimed, one kept, and one is free */
        lap_around(ring, &next);
    CHECK_EQUAL(next, 502);
    rf_lease_drop(batch);
    rf_lease_drop(written);
    rf_lease_drop(kept);
    expect_all_free(ring);
    close_ring(slow);
    close_ring(ring);
}

/* ---- In several processes ------------------------------------------------------------------- */

static void produce(void *argument)
{
    rf_ring *ring = attach_ring();
    uint64_t mark = (uint64_t)(uintptr_t)argument;
    for (uint64_t i = 0; i < RECORDS; i++)
        CHECK_EQUAL(put_until(ring, mark << 32 | i, RF_FOREVER), RF_OK);
    close_ring(ring);
}

static void test_processes_skip_held_slots(void)
{
    rf_ring *ring = create_ring(9), *slow = attach_ring();
    put(ring, 1);
    rf_lease *batch = take(slow, 1), *written = claim(slow, 2);
    pid_t children[2];
    uint64_t next[2] = {0};
    for (uintptr_t i = 0; i < 2; i++)
        children[i] = spawn(produce, (void *)i);
    for (uint64_t taken = 0; taken < 2 * RECORDS;) {
        rf_lease *lease;
        CHECK_EQUAL(take_until(ring, 4, 1, RF_FOREVER, &lease), RF_OK);
        for (uint32_t row = 0; row < rf_lease_rows(lease); row++, taken++) {
            uint64_t number = number_at(lease, row);
            CHECK_EQUAL((uint32_t)number, next[number >> 32]++);
        }
        rf_lease_drop(lease);
    }
    expect_success(children[0]);
    expect_success(children[1]);
    rf_lease_drop(batch);
    rf_lease_drop(written);
    expect_all_free(ring);
    close_ring(slow);
    close_ring(ring);
}

/* ---- Batches beside a held slot ------------------------------------------------------------- */

static void test_min_rows_on_both_sides(void)
{
    rf_ring *ring = create_ring(8), *slow = attach_ring();
    put(ring, 0);
    put(ring, 1);
    rf_lease *held = claim(slow, 1), *batch;
    put(ring, 2);
    put(ring, 3);
    /* Four rows are ready, two on each side of the held slot. They come in two batches. */
    CHECK_EQUAL(take_until(ring, 8, 4, RF_FOREVER, &batch), RF_OK);
    CHECK_EQUAL(rf_lease_rows(batch), 2);
    rf_lease_drop(batch);
    CHECK_EQUAL(take_until(ring, 8, 3, in_ms(20), &batch), RF_EMPTY);
    put(ring, 4);
    CHECK_EQUAL(take_until(ring, 8, 3, RF_FOREVER, &batch), RF_OK);
    CHECK_EQUAL(rf_lease_rows(batch), 3);
    rf_lease_drop(batch);
    rf_lease_drop(held);
    close_ring(slow);
    close_ring(ring);
}

static void *put_until_finished(void *ring)
{
    rf_status status;
    uint64_t next = 0;
    while ((status = put_until(ring, next, RF_FOREVER)) == RF_OK)
        next++;
    CHECK_EQUAL(status, RF_FINISHED);
    return NULL;
}

/* The ring is full except for a held slot. A producer that waits for the taker must not be blocked. */
static void test_min_rows_that_a_held_slot_makes_impossible(void)
{
    rf_ring *ring = create_ring(4), *slow = attach_ring();
    rf_lease *held = claim(slow, 1), *batch;
    pthread_t producer = start_thread(put_until_finished, ring);
    uint64_t next = 0;
    while (next < 30) {
        CHECK_EQUAL(take_until(ring, 4, 4, RF_FOREVER, &batch), RF_OK);
        CHECK_EQUAL(rf_lease_rows(batch), 3);
        for (uint32_t row = 0; row < 3; row++)
            CHECK_EQUAL(number_at(batch, row), next++);
        rf_lease_drop(batch);
    }
    rf_finish(ring);
    join_thread(producer);
    rf_lease_drop(held);
    close_ring(slow);
    close_ring(ring);
}

static const test tests[] = {
    {"slots that are claimed forever are skipped, lap after lap", test_claimed_forever},
    {"a batch that is held forever is skipped, lap after lap", test_held_forever},
    {"one free slot is enough to continue", test_one_slot_left},
    {"processes skip held slots, and no record is lost", test_processes_skip_held_slots},
    {"enough records on both sides of a held slot come in two batches",
     test_min_rows_on_both_sides},
    {"a held slot does not keep a full ring full", test_min_rows_that_a_held_slot_makes_impossible},
};

MAIN(tests)
