/* A record that was published before another one of the same handle was claimed is taken first; others lie in a row. */
#include "random_cursors.h"

/* ---- By hand -------------------------------------------------------------------------------- */

/* Claims that overlap have no order that anybody could observe: what lies in a row comes in one batch. */
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

/* In any order, of any length, and with others of the same claims published before and behind. */
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

/* What was claimed behind both of two that crossed follows both, wherever the search for it begins. */
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

/* A taker is faster than who would put its record in front. */
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
    CHECK_EQUAL(before, 7); /* the last is the one that was claimed behind them all */
    expect_all_free(ring);
    close_ring(ring);
}

/* What lies behind a record that comes again may be in somebody's hands: nothing is put in front of it any more. */
static void test_crossed_with_a_record_that_comes_again(void)
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
    rf_lease *held = claim(other, 1); /* slot 0: everyone goes around it */
    put(ring, 0);
    put(ring, 1);
    put(ring, 2);
    CHECK_EQUAL(put_until(ring, 3, 0), RF_FULL);
    take_expecting(ring, 0);
    rf_lease_drop(held); /* slot 0 comes free: younger records pass the oldest in place */
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
    {"so do many, of several rows, whatever the order of publishing", test_many_crossed_claims},
    {"a record that was claimed behind two that crossed follows both", test_behind_crossed_claims},
    {"a taker that is faster than who publishes crosswise breaks no order",
     test_crossed_with_a_taker},
    {"a record that comes again is not put behind what was claimed before it",
     test_crossed_with_a_record_that_comes_again},
    {"a record in a slot that was skipped waits for the older ones", test_skipped_slots},
    {"a batch ends where the next record in place is not the next in order",
     test_a_batch_ends_where_the_order_does},
};

MAIN(tests)
