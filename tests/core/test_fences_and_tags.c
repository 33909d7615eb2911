/* A process that was wrongly taken for dead cannot change its old slots. Also the tags and times of records. */
#include "check.h"

/* ---- Fences --------------------------------------------------------------------------------- */

/* Do what recovery does to a claim of an owner that it found dead. */
static void take_back(rf_ring *ring, uint32_t slot)
{
    atomic_store(&ring->words[slot],
                 rf_word(RF_STATE_FREE, 0, rf_word_epoch(word_of(ring, slot)) + 1));
}

static void test_late_publish(void)
{
    rf_ring *ring = create_ring(2);
    rf_lease *late = claim(ring, 1);
    take_back(ring, 0);
    CHECK_EQUAL(rf_publish(late, 1, NULL, 0), RF_SLOT_LOST);
    rf_lease_drop(late);
    expect_all_free(ring);
    CHECK(take(ring, 2) == NULL);

    late = claim(ring, 1); /* slot 1; its next owner is the same participant, one epoch later */
    take_back(ring, 1);
    put(ring, 5);
    rf_lease *next = claim(ring, 1);
    CHECK_EQUAL(rf_lease_first(next), 1);
    uint64_t tag = 66;
    CHECK_EQUAL(rf_publish(late, 1, &tag, 0), RF_SLOT_LOST);
    rf_lease_drop(late);
    CHECK_EQUAL(state_of(ring, 1), RF_STATE_CLAIMED);
    publish(next, 1, 6);
    take_expecting(ring, 5);
    take_expecting(ring, 6);
    expect_all_free(ring);
    close_ring(ring);
}

static void test_late_discard(void)
{
    rf_ring *ring = create_ring(1);
    rf_lease *late = claim(ring, 1);
    take_back(ring, 0);
    rf_lease *next = claim(ring, 1);
    rf_lease_drop(late);
    CHECK_EQUAL(state_of(ring, 0), RF_STATE_CLAIMED);
    publish(next, 1, 1);
    late = take(ring, 1);
    take_back(ring, 0); /* the batch of a taker whose rows were dropped */
    put(ring, 2);
    rf_lease_drop(late);
    CHECK_EQUAL(state_of(ring, 0), RF_STATE_READY);
    take_expecting(ring, 2);
    close_ring(ring);
}

static void test_partly_lost_claim(void)
{
    rf_ring *ring = create_ring(4);
    rf_lease *lease = claim(ring, 4);
    for (uint32_t row = 0; row < 4; row++)
        set_number(lease, row, row);
    take_back(ring, 1);
    CHECK_EQUAL(rf_publish(lease, 3, NULL, 0), RF_SLOT_LOST);
    rf_lease_drop(lease);
    take_expecting(ring, 0);
    take_expecting(ring, 2);
    CHECK(take(ring, 4) == NULL);
    expect_all_free(ring);
    close_ring(ring);
}

/* ---- Tags and times ------------------------------------------------------------------------- */

static void test_tags_and_times(void)
{
    rf_ring *ring = create_ring(3);
    int64_t released = 0;
    for (uint64_t round = 0; round < 10; round++) {
        int64_t begin = rf_now_ns();
        rf_lease *lease = claim(ring, 3);
        uint64_t tags[3] = {round, UINT64_MAX, 0}, seen[3];
        CHECK_EQUAL(rf_publish(lease, 3, tags, 0), RF_OK);
        rf_lease_drop(lease);
        lease = take(ring, 3);
        rf_record records[3];
        rf_lease_tags(lease, seen);
        rf_lease_records(lease, records);
        CHECK(memcmp(tags, seen, sizeof tags) == 0);
        for (int row = 0; row < 3; row++) {
            CHECK(records[row].tag == tags[row]);
            CHECK(records[row].claimed_ns >= begin);
            CHECK(records[row].published_ns >= records[row].claimed_ns);
            CHECK(records[row].taken_ns >= records[row].published_ns);
            CHECK(records[row].taken_ns <= rf_now_ns());
            CHECK(round ? records[row].released_ns >= released && records[row].released_ns <= begin
                        : records[row].released_ns == 0);
            CHECK_EQUAL(records[row].producer, rf_self(ring));
            CHECK_EQUAL(records[row].deliveries, 1);
        }
        released = rf_now_ns();
        rf_lease_drop(lease);
    }
    close_ring(ring);
}

static void test_counts(void)
{
    rf_ring *ring = create_ring(8), *other = attach_ring();
    rf_stats stats;
    for (uint64_t i = 0; i < 5; i++)
        put(other, i);
    rf_lease *written = claim(ring, 2), *read = take(ring, 3);
    rf_ring_stats(ring, &stats);
    CHECK_EQUAL(stats.free, 1);
    CHECK_EQUAL(stats.claimed, 2);
    CHECK_EQUAL(stats.ready, 2);
    CHECK_EQUAL(stats.taken, 3);
    CHECK_EQUAL(stats.participants, 2);
    rf_lease_drop(written);
    rf_lease_drop(read);
    close_ring(other); /* its counts stay */
    rf_ring_stats(ring, &stats);
    CHECK_EQUAL(stats.participants, 1);
    CHECK_EQUAL(stats.counts.published, 5);
    CHECK_EQUAL(stats.counts.discarded, 2);
    CHECK_EQUAL(stats.counts.taken, 3);
    CHECK_EQUAL(stats.counts.released, 3);
    CHECK_EQUAL(stats.counts.batches, 1);
    close_ring(ring);
}

static const test tests[] = {
    {"a late publish is fenced after the claim was taken back", test_late_publish},
    {"a late discard or release leaves the slot's next owner alone", test_late_discard},
    {"if a part of a claim was taken back, the rest is published", test_partly_lost_claim},
    {"tags arrive and times increase", test_tags_and_times},
    {"states and operations are counted, even those of participants that have left", test_counts},
};

MAIN(tests)
