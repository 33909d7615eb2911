/* The effect of each verb (claim, publish, discard, take, release) on a slot's word, in one process. */
#include "check.h"

static void expect_word(const rf_ring *ring, uint32_t slot, rf_state state, uint32_t owner,
                        uint64_t epoch)
{
    CHECK_EQUAL(word_of(ring, slot), rf_word(state, owner, epoch));
}

/* ---- Steps ---------------------------------------------------------------------------------- */

static void test_each_step(void)
{
    rf_ring *ring = create_ring(4);
    uint32_t self = rf_self(ring);
    for (uint64_t epoch = 1; epoch < 5; epoch++) {
        for (uint32_t slot = 0; slot < 4; slot++) {
            expect_word(ring, slot, RF_STATE_FREE, 0, epoch);
            rf_lease *written = claim(ring, 1);
            CHECK_EQUAL(rf_lease_first(written), slot);
            expect_word(ring, slot, RF_STATE_CLAIMED, self, epoch);
            publish(written, 1, 7);
            expect_word(ring, slot, RF_STATE_READY, 0, epoch);
            rf_lease *read = take(ring, 1);
            CHECK_EQUAL(rf_lease_first(read), slot);
            expect_word(ring, slot, RF_STATE_TAKEN, self, epoch);
            rf_lease_drop(read);
            expect_word(ring, slot, RF_STATE_FREE, 0, epoch + 1);
        }
    }
    close_ring(ring);
}

static void test_discard(void)
{
    rf_ring *ring = create_ring(4);
    rf_lease *lease = claim(ring, 2);
    rf_lease_drop(lease);
    expect_word(ring, 0, RF_STATE_FREE, 0, 2);
    expect_word(ring, 1, RF_STATE_FREE, 0, 2);
    lease = claim(ring, 2);
    publish(lease, 0, 0);
    CHECK(take(ring, 4) == NULL);
    rf_stats stats;
    rf_ring_stats(ring, &stats);
    CHECK_EQUAL(stats.counts.discarded, 4);
    CHECK_EQUAL(stats.counts.published, 0);
    expect_all_free(ring);
    close_ring(ring);
}

static void test_publishing_fewer_rows(void)
{
    rf_ring *ring = create_ring(8);
    publish(claim(ring, 6), 2, 100);
    rf_lease *batch = take(ring, 8);
    CHECK_EQUAL(rf_lease_rows(batch), 2);
    CHECK_EQUAL(number_at(batch, 1), 101);
    rf_lease_drop(batch);
    expect_all_free(ring);
    close_ring(ring);
}

static void test_out_of_order_publish(void)
{
    rf_ring *ring = create_ring(4), *other = attach_ring();
    rf_lease *slow = claim(ring, 1), *fast = claim(other, 1);
    publish(fast, 1, 2);
    take_expecting(ring, 2);
    publish(slow, 1, 1);
    take_expecting(ring, 1);
    expect_all_free(ring);
    close_ring(other);
    close_ring(ring);
}

/* ---- Several rows --------------------------------------------------------------------------- */

static void test_rows_over_the_end(void)
{
    rf_ring *ring = create_ring(5);
    for (uint64_t round = 0; round < 20; round++) {
        rf_lease *written = claim(ring, 3);
        CHECK_EQUAL(rf_lease_first(written), round * 3 % 5);
        CHECK_EQUAL(rf_lease_rows(written), 3);
        publish(written, 3, round * 3);
        rf_lease *batch = take(ring, 5);
        CHECK_EQUAL(rf_lease_first(batch), round * 3 % 5);
        CHECK_EQUAL(rf_lease_rows(batch), 3);
        for (uint32_t row = 0; row < 3; row++)
            CHECK_EQUAL(number_at(batch, row), round * 3 + row);
        rf_lease_drop(batch);
    }
    close_ring(ring);
}

static void test_claim_larger_than_the_free_run(void)
{
    rf_ring *ring = create_ring(8);
    rf_lease *held = claim(ring, 3);
    CHECK_EQUAL(rf_lease_rows(held), 3);
    rf_lease *rest_of_ring = claim(ring, 8);
    CHECK_EQUAL(rf_lease_first(rest_of_ring), 3);
    CHECK_EQUAL(rf_lease_rows(rest_of_ring), 5);
    rf_lease *none;
    CHECK_EQUAL(rf_claim(ring, 1, 0, &none), RF_FULL);
    CHECK(none == NULL);
    rf_lease_drop(held);
    rf_lease *again = claim(ring, 8); /* the free run, up to the held slots */
    CHECK_EQUAL(rf_lease_first(again), 0);
    CHECK_EQUAL(rf_lease_rows(again), 3);
    rf_lease_drop(again);
    rf_lease_drop(rest_of_ring);
    expect_all_free(ring);
    close_ring(ring);
}

static void test_whole_ring(void)
{
    rf_ring *ring = create_ring(1);
    for (int round = 0; round < 5; round++) {
        put(ring, 3);
        CHECK_EQUAL(put_until(ring, 4, 0), RF_FULL);
        take_expecting(ring, 3);
    }
    close_ring(ring);
    shm_unlink(segment_name(0));
    ring = create_ring(7);
    rf_lease_drop(claim(ring, 2));
    publish(claim(ring, 7), 7, 10); /* starts at 2, ends at 1 */
    rf_lease *batch = take(ring, 7);
    CHECK_EQUAL(rf_lease_rows(batch), 7);
    CHECK_EQUAL(rf_lease_first(batch), 2);
    for (uint32_t row = 0; row < 7; row++)
        CHECK_EQUAL(number_at(batch, row), 10 + row);
    rf_lease_drop(batch);
    expect_all_free(ring);
    close_ring(ring);
}

/* ---- Arguments ------------------------------------------------------------------------------ */

static void test_arguments(void)
{
    rf_ring *ring = create_ring(4);
    rf_lease *lease;
    CHECK_EQUAL(rf_claim(ring, 0, 0, &lease), RF_INVALID);
    CHECK_EQUAL(rf_claim(ring, 5, 0, &lease), RF_INVALID);
    CHECK_EQUAL(take_until(ring, 0, 1, 0, &lease), RF_INVALID);
    CHECK_EQUAL(take_until(ring, 4, 0, 0, &lease), RF_INVALID);
    CHECK_EQUAL(take_until(ring, 2, 3, 0, &lease), RF_INVALID);
    CHECK_EQUAL(take_until(ring, 9, 5, 0, &lease), RF_INVALID);
    CHECK_EQUAL(take_until(ring, UINT32_MAX, 4, 0, &lease), RF_EMPTY);
    lease = claim(ring, 2);
    CHECK_EQUAL(rf_publish(lease, 3, NULL, 0), RF_INVALID);
    CHECK_EQUAL(rf_publish(lease, 2, NULL, 0), RF_OK);
    CHECK_EQUAL(rf_publish(lease, 2, NULL, 0), RF_INVALID);
    rf_lease_drop(lease);
    lease = take(ring, 2);
    CHECK_EQUAL(rf_publish(lease, 1, NULL, 0), RF_INVALID);
    rf_lease_drop(lease);
    close_ring(ring);
}

static void test_fields(void)
{
    rf_options options = options_for(64);
    rf_geometry *geometry = geometry_of(RF_UINT8, 1, (uint64_t[]){65});
    geometry->fields = 2;
    geometry->field[1] = geometry->field[0];
    geometry->field[1].shape[0] = 3;
    rf_ring *ring;
    CHECK_EQUAL(rf_plan(&options, geometry), RF_OK);
    CHECK_EQUAL(rf_ring_create(create_segment(0), &options, geometry, &ring), RF_OK);
    free(geometry);
    uint8_t wide[65], narrow[3];
    const void *sources[] = {wide, narrow};
    for (uint8_t i = 0; i < 100; i++) {
        memset(wide, i, sizeof wide);
        memset(narrow, i + 100, sizeof narrow);
        CHECK_EQUAL(rf_put(ring, sources, i, 0), RF_OK);
        rf_lease *lease = take(ring, 1);
        CHECK(memcmp(rf_lease_data(lease, 0), wide, sizeof wide) == 0);
        CHECK(memcmp(rf_lease_data(lease, 1), narrow, sizeof narrow) == 0);
        CHECK_EQUAL((uintptr_t)rf_lease_data(lease, 1) % RF_ALIGNMENT, 0);
        rf_lease_drop(lease);
    }
    close_ring(ring);
}

/* ---- Kept slots ----------------------------------------------------------------------------- */

static void test_kept_release_first(void)
{
    rf_ring *ring = create_ring(2);
    rf_lease *kept = claim(ring, 1);
    set_number(kept, 0, 1);
    CHECK_EQUAL(rf_publish(kept, 1, NULL, 1), RF_OK);
    CHECK_EQUAL(state_of(ring, 0), RF_STATE_READY);
    take_expecting(ring, 1);
    CHECK_EQUAL(state_of(ring, 0), RF_STATE_KEPT);
    for (uint64_t i = 0; i < 6; i++) { /* claims skip the kept slot, lap after lap */
        put(ring, i);
        CHECK_EQUAL(state_of(ring, 0), RF_STATE_KEPT);
        take_expecting(ring, i);
    }
    rf_stats stats;
    rf_ring_stats(ring, &stats);
    CHECK_EQUAL(stats.kept, 1);
    CHECK_EQUAL(number_at(kept, 0), 1);
    rf_lease_drop(kept);
    expect_word(ring, 0, RF_STATE_FREE, 0, 2);
    close_ring(ring);
}

static void test_kept_dropped_while(rf_state state)
{
    rf_ring *ring = create_ring(2);
    rf_lease *kept = claim(ring, 2), *batch = NULL;
    set_number(kept, 0, 1);
    CHECK_EQUAL(rf_publish(kept, 1, NULL, 1), RF_OK); /* row 1 is discarded with the lease */
    CHECK_EQUAL(state_of(ring, 1), RF_STATE_CLAIMED);
    if (state == RF_STATE_TAKEN)
        batch = take(ring, 1);
    rf_lease_drop(kept);
    expect_word(ring, 0, state, batch ? rf_self(ring) : 0, 1);
    expect_word(ring, 1, RF_STATE_FREE, 0, 2);
    if (!batch)
        batch = take(ring, 1);
    CHECK_EQUAL(number_at(batch, 0), 1);
    rf_lease_drop(batch);
    expect_all_free(ring);
    close_ring(ring);
    shm_unlink(segment_name(0));
}

static void test_kept_lease_first(void)
{
    test_kept_dropped_while(RF_STATE_READY);
    test_kept_dropped_while(RF_STATE_TAKEN);
}

static void test_a_retained_claim_keeps(void)
{
    rf_ring *ring = create_ring(1);
    rf_lease *lease = claim(ring, 1);
    rf_lease_retain(lease); /* as for a view of the slot */
    CHECK_EQUAL(rf_lease_references(lease), 2);
    publish(lease, 1, 9);
    take_expecting(ring, 9);
    CHECK_EQUAL(put_until(ring, 1, 0), RF_FULL);
    rf_lease_drop(lease);
    put(ring, 1);
    take_expecting(ring, 1);
    close_ring(ring);
}

static void test_a_retained_batch(void)
{
    rf_ring *ring = create_ring(1);
    put(ring, 4);
    rf_lease *batch = take(ring, 1);
    rf_lease_retain(batch);
    rf_lease_drop(batch);
    CHECK_EQUAL(put_until(ring, 1, 0), RF_FULL);
    CHECK_EQUAL(number_at(batch, 0), 4);
    rf_lease_drop(batch);
    put(ring, 1);
    take_expecting(ring, 1);
    close_ring(ring);
}

/* ---- The end -------------------------------------------------------------------------------- */

static void test_leases_outlive_the_handle(void)
{
    rf_ring *ring = create_ring(4);
    rf_ring *other = attach_ring();
    put(ring, 3);
    rf_lease *batch = take(other, 1), *written = claim(other, 1);
    close_ring(other);
    CHECK_EQUAL(number_at(batch, 0), 3);
    CHECK_EQUAL(state_of(ring, 0), RF_STATE_TAKEN);
    rf_lease_drop(batch);
    CHECK_EQUAL(state_of(ring, 0), RF_STATE_FREE);
    publish(written, 1, 4);
    take_expecting(ring, 4);
    rf_stats stats;
    rf_ring_stats(ring, &stats);
    CHECK_EQUAL(stats.participants, 1);
    close_ring(ring);
}

static void test_a_closed_handle_refuses(void)
{
    rf_ring *ring = create_ring(2), *other = attach_ring();
    rf_lease *lease;
    rf_ring_close(other);
    rf_ring_close(other);
    CHECK(rf_ring_is_closed(other) && !rf_ring_is_closed(ring));
    CHECK_EQUAL(rf_claim(other, 1, 0, &lease), RF_CLOSED);
    CHECK_EQUAL(take_until(other, 1, 1, 0, &lease), RF_CLOSED);
    CHECK_EQUAL(put_until(other, 1, 0), RF_CLOSED);
    rf_ring_drop(other);
    put(ring, 1);
    take_expecting(ring, 1);
    close_ring(ring);
}

static void test_the_owner_closes_for_all_handles(void)
{
    rf_ring *ring = create_ring(4), *other = attach_ring();
    rf_lease *lease;
    put(other, 1);
    rf_lease *written = claim(other, 1);
    close_ring(ring);
    CHECK(rf_ring_is_closed(other));
    CHECK_EQUAL(rf_claim(other, 1, 0, &lease), RF_CLOSED);
    take_expecting(other, 1); /* takers drain the records published or claimed before the close */
    CHECK_EQUAL(take_until(other, 1, 1, 0, &lease), RF_EMPTY);
    publish(written, 1, 2);
    take_expecting(other, 2);
    CHECK_EQUAL(take_until(other, 1, 1, 0, &lease), RF_CLOSED);
    rf_ring *late;
    CHECK_EQUAL(rf_ring_attach(open_segment(0), &late), RF_CLOSED);
    close_ring(other);
}

static void test_finish(void)
{
    rf_ring *ring = create_ring(4);
    rf_lease *lease, *written = claim(ring, 1);
    put(ring, 2);
    rf_finish(ring);
    CHECK(rf_ring_is_finished(ring));
    CHECK_EQUAL(put_until(ring, 3, RF_FOREVER), RF_FINISHED);
    CHECK_EQUAL(rf_claim(ring, 1, RF_FOREVER, &lease), RF_FINISHED);
    take_expecting(ring, 2);
    CHECK_EQUAL(take_until(ring, 4, 1, 0, &lease), RF_EMPTY);
    publish(written, 1, 1);
    CHECK_EQUAL(take_until(ring, 4, 4, RF_FOREVER, &lease), RF_OK); /* no more rows can come */
    CHECK_EQUAL(rf_lease_rows(lease), 1);
    rf_lease_drop(lease);
    CHECK_EQUAL(take_until(ring, 4, 4, RF_FOREVER, &lease), RF_FINISHED);
    expect_all_free(ring);
    close_ring(ring);
}

static const test tests[] = {
    {"a slot goes from free to claimed, ready, taken and free in the next epoch", test_each_step},
    {"a discarded claim is never seen by a taker", test_discard},
    {"rows that were claimed but not published are discarded", test_publishing_fewer_rows},
    {"a fast producer does not wait for a slow one ahead of it", test_out_of_order_publish},
    {"claims and batches of several rows run over the ring's end", test_rows_over_the_end},
    {"a claim larger than the free run gets the free run", test_claim_larger_than_the_free_run},
    {"a ring of one slot works, and a claim and a batch of the whole ring", test_whole_ring},
    {"invalid arguments are refused", test_arguments},
    {"every field of a record arrives", test_fields},
    {"a kept slot is not reused before its lease is dropped", test_kept_release_first},
    {"a kept lease that is dropped before the release leaves no keep bit", test_kept_lease_first},
    {"a claim that is referenced twice is kept when it is published", test_a_retained_claim_keeps},
    {"a batch is released when its last reference is dropped", test_a_retained_batch},
    {"leases outlive the handle that made them", test_leases_outlive_the_handle},
    {"a closed handle refuses calls, and the other handles continue", test_a_closed_handle_refuses},
    {"when the owner closes, the other handles drain the ring and are then told",
     test_the_owner_closes_for_all_handles},
    {"takers drain a finished ring and are then told that it is finished", test_finish},
};

MAIN(tests)
