/*
 * The order of records: a record that was published before another one of the same handle was claimed is
 * taken first. Records whose claims overlap come in the order of their slots.
 */
#include "random_cursors.h"

/* Overlapping claims have no observable order, so consecutive slots come in one batch. */
static void test_crossed_claims(void)
{
    rf_ring *ring = create_ring(6);
    for (uint64_t round = 0; round < 60; round += 6) {
        rf_lease *first = claim(ring, 2), *second = claim(ring, 2), *third = claim(ring, 2);
        publish(third, 2, round + 4);
        publish(first, 2, round);
        publish(second, 2, round + 2);
        rf_lease *batch = take(ring, 6);
        CHECK_EQUAL(rf_lease_rows(batch), 6);
        for (uint32_t i = 0; i < 6; i++)
            CHECK_EQUAL(number_at(batch, i), round + i);
        rf_lease_drop(batch);
    }
    expect_all_free(ring);
    close_ring(ring);
}

/* The claims have any length and are published in any order, with a record before and behind them. */
static void test_many_crossed_claims(void)
{
    enum { CLAIMS = 24 };
    rf_ring *ring = create_ring(256);
    for (int round = 0; round < 400; round++) {
        rf_lease *claims[CLAIMS];
        uint32_t rows = 2, all = 0, left = CLAIMS;
        put(ring, 0);
        for (uint32_t i = 0; i < CLAIMS; i++) {
            claims[i] = claim(ring, rows = 1 + random_below(3));
            all += rows;
        }
        while (left > 0) {
            uint32_t which = random_below(left);
            rf_lease *now = claims[which];
            publish(now, rf_lease_rows(now), 7);
            claims[which] = claims[--left];
        }
        put(ring, 1);
        rf_lease *batch = take(ring, 256);
        CHECK_EQUAL(rf_lease_rows(batch), all + 2);
        CHECK_EQUAL(number_at(batch, 0), 0);
        CHECK_EQUAL(number_at(batch, all + 1), 1);
        rf_lease_drop(batch);
    }
    expect_all_free(ring);
    close_ring(ring);
}

/* A record that was claimed behind two crossed records follows both, wherever the taker's search begins. */
static void test_behind_crossed_claims(void)
{
    for (uint32_t cursor = 0; cursor < 5; cursor++) {
        rf_ring *ring = create_ring(5);
        rf_lease *held = claim(ring, 1), *first = claim(ring, 1), *second = claim(ring, 1);
        publish(second, 1, 12);
        rf_lease *third = claim(ring, 1); /* behind `second`, beside `first` */
        publish(third, 1, 13);
        publish(first, 1, 11);
        rf_lease_drop(held);
        atomic_store(&ring->header->claim_cursor, 0);
        put(ring, 14); /* in slot 0, behind all three */
        CHECK_EQUAL(state_of(ring, 0), RF_STATE_READY);
        bool taken[15] = {false};
        for (uint32_t i = 0; i < 4; i++) {
            atomic_store(&ring->header->take_cursor, cursor);
            rf_lease *batch = take(ring, 1);
            uint64_t number = number_at(batch, 0);
            CHECK(number != 13 || taken[12]);
            CHECK(number != 14 || (taken[11] && taken[12] && taken[13]));
            taken[number] = true;
            rf_lease_drop(batch);
        }
        expect_all_free(ring);
        close_ring(ring);
        shm_unlink(segment_name(0));
    }
}

/* A taker takes a record before the producer of the older claim publishes in front of it. */
static void test_crossed_with_a_taker(void)
{
    rf_ring *ring = create_ring(8);
    rf_lease *first = claim(ring, 2), *second = claim(ring, 2), *third = claim(ring, 2);
    publish(second, 2, 3);
    publish(third, 2, 5);
    rf_lease *batch = take(ring, 1); /* half of the second */
    CHECK_EQUAL(number_at(batch, 0), 3);
    publish(first, 2, 1);
    put(ring, 7);
    rf_lease_drop(batch);
    uint64_t before = 0;
    for (uint32_t rows = 0; rows < 6;) {
        rf_lease *next = take(ring, 8);
        for (uint32_t row = 0; row < rf_lease_rows(next); row++)
            before = number_at(next, row);
        rows += rf_lease_rows(next);
        rf_lease_drop(next);
    }
    CHECK_EQUAL(before, 7); /* the last record was claimed behind all others */
    expect_all_free(ring);
    close_ring(ring);
}

/* The record behind a redelivered record may be taken already. So no record is put in front of the
 * redelivered one. */
static void test_crossed_with_a_redelivered_record(void)
{
    rf_ring *ring = create_ring(8);
    rf_lease *first = claim(ring, 1);
    publish(claim(ring, 2), 2, 2);
    rf_lease *again = take(ring, 1), *held = take(ring, 1);
    CHECK_EQUAL(number_at(held, 0), 3);
    rf_lease_give_back(again);
    rf_lease_drop(again);
    publish(first, 1, 1);
    put(ring, 4); /* it was claimed behind 1, and its link names 3, which is taken */
    bool taken = false;
    for (uint32_t i = 0; i < 3; i++) {
        atomic_store(&ring->header->take_cursor, 3);
        rf_lease *batch = take(ring, 1);
        CHECK(number_at(batch, 0) != 4 || taken);
        taken |= number_at(batch, 0) == 1;
        rf_lease_drop(batch);
    }
    rf_lease_drop(held);
    expect_all_free(ring);
    close_ring(ring);
}

static void test_skipped_slots(void)
{
    rf_ring *ring = create_ring(4), *other = attach_ring();
    rf_lease *held = claim(other, 1); /* slot 0: every claim skips it */
    put(ring, 0);
    put(ring, 1);
    put(ring, 2);
    CHECK_EQUAL(put_until(ring, 3, 0), RF_FULL);
    take_expecting(ring, 0);
    rf_lease_drop(held); /* now a newer record can lie in slot 0, before the oldest one */
    atomic_store(&ring->header->claim_cursor, 0);
    put(ring, 3); /* in slot 0 */
    CHECK_EQUAL(state_of(ring, 0), RF_STATE_READY);
    for (uint32_t cursor = 0; cursor < 4; cursor++) {
        atomic_store(&ring->header->take_cursor, cursor);
        rf_lease *batch = take(ring, 1);
        if (cursor < 3)
            CHECK_EQUAL(number_at(batch, 0), cursor + 1);
        else
            CHECK(batch == NULL);
        if (batch)
            rf_lease_drop(batch);
    }
    close_ring(other);
    close_ring(ring);
}

static void test_a_batch_ends_where_the_order_does(void)
{
    rf_ring *ring = create_ring(4);
    rf_lease *first = claim(ring, 1), *second = claim(ring, 1);
    publish(second, 1, 0); /* slot 1 */
    rf_lease_drop(first);
    atomic_store(&ring->header->claim_cursor, 0);
    put(ring, 1); /* slot 0 */
    put(ring, 2); /* slot 2 */
    atomic_store(&ring->header->take_cursor, 0);
    rf_lease *batch = take(ring, 4);
    CHECK_EQUAL(rf_lease_first(batch), 1);
    CHECK_EQUAL(rf_lease_rows(batch), 1);
    rf_lease *next = take(ring, 4);
    CHECK_EQUAL(rf_lease_first(next), 0);
    CHECK_EQUAL(rf_lease_rows(next), 1);
    rf_lease_drop(batch);
    rf_lease_drop(next);
    take_expecting(ring, 2);
    expect_all_free(ring);
    close_ring(ring);
}

static const test tests[] = {
    {"claims that are published crosswise lie in a row for takers", test_crossed_claims},
    {"many claims of several rows lie in a row for takers after publishing in any order",
     test_many_crossed_claims},
    {"a record that was claimed behind two crossed records follows both",
     test_behind_crossed_claims},
    {"a taker that is faster than a crosswise publish keeps the order", test_crossed_with_a_taker},
    {"a redelivered record is not put behind a record that was claimed before it",
     test_crossed_with_a_redelivered_record},
    {"a record in a slot that was skipped waits for the older records", test_skipped_slots},
    {"a batch ends where the next slot does not hold the next record in order",
     test_a_batch_ends_where_the_order_does},
};

MAIN(tests)
