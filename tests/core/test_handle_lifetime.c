/* A handle's entry and memory are freed when the handle closes, or when its last lease is dropped. */
#include <pthread.h>

#include "check.h"
#include "feed.h"

static uint32_t living(rf_ring *ring)
{
    rf_stats stats;
    rf_ring_stats(ring, &stats);
    return stats.participants;
}

/* Are the first page of a region and its last one still mapped? */
static bool is_mapped(const void *address)
{
    unsigned char resident;
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    return mincore((void *)((uintptr_t)address / page * page), 1, &resident) == 0;
}

static void test_open_handles_are_not_retired(void)
{
    rf_ring *ring = create_ring(2), *other = attach_ring();
    CHECK(!rf_ring_retire(other) && !rf_ring_is_retired(other));
    put(other, 1);
    take_expecting(ring, 1);
    close_ring(other);
    close_ring(ring);
}

static void test_without_leases(void)
{
    rf_ring *ring = create_ring(4), *other = attach_ring();
    put(other, 1);
    put(other, 2);
    void *region = rf_ring_region(other, 0);
    CHECK_EQUAL(living(ring), 2);
    rf_ring_close(other);
    CHECK(rf_ring_retire(other) && rf_ring_retire(other) && rf_ring_is_retired(other));
    CHECK_EQUAL(living(ring), 1);
    CHECK(!is_mapped(region));
    CHECK_EQUAL(rf_ring_descriptor(other), -1);
    /* A retired handle reports the state at its close, whatever happens in the ring. */
    take_expecting(ring, 1);
    CHECK_EQUAL(rf_ring_ready(other), 2);
    CHECK_EQUAL(rf_ring_ready(ring), 1);
    CHECK(rf_ring_is_closed(other) && !rf_ring_is_finished(other));
    CHECK_EQUAL(put_until(other, 1, 0), RF_CLOSED);
    CHECK_EQUAL(rf_recover(other), 0);
    rf_ring_drop(other);
    take_expecting(ring, 2);
    close_ring(ring);
}

static void test_no_feed_of_a_retired_handle(void)
{
    rf_ring *ring = create_ring(4), *other = attach_ring();
    rf_ring_close(other);
    CHECK(rf_ring_retire(other));
    CHECK(rf_feed_new(other, "cams", &(rf_feed_plan){.max_rows = 1, .min_rows = 1}) == NULL);
    rf_ring_drop(other);
    close_ring(ring);
}

static void test_with_a_lease(void)
{
    for (int dropped_first = 0; dropped_first < 2; dropped_first++) {
        rf_ring *ring = create_ring(4), *other = attach_ring();
        put(ring, 7);
        rf_lease *lease = take(other, 1);
        void *region = rf_ring_region(other, 0);
        rf_ring_close(other);
        CHECK(rf_ring_retire(other));
        CHECK_EQUAL(living(ring), 2);
        CHECK_EQUAL(number_at(lease, 0), 7);
        if (dropped_first)
            rf_ring_drop(other);
        rf_lease_drop(lease);
        CHECK_EQUAL(living(ring), 1);
        CHECK(!is_mapped(region));
        if (!dropped_first)
            rf_ring_drop(other);
        put(ring, 8);
        take_expecting(ring, 8);
        close_ring(ring);
        shm_unlink(segment_name(0));
    }
}

static void test_an_open_block_keeps_the_entry(void)
{
    rf_ring *ring = create_ring(2), *other = attach_ring();
    rf_block block;
    CHECK_EQUAL(rf_producing_begin(other, 0, &block), RF_OK);
    rf_ring_close(other);
    CHECK(!rf_ring_retire(other));
    CHECK_EQUAL(living(ring), 2);
    rf_producing_end(other, block);
    CHECK(rf_ring_retire(other));
    CHECK_EQUAL(living(ring), 1);
    CHECK(rf_ring_is_finished(ring));
    rf_ring_drop(other);
    close_ring(ring);
}

static pthread_barrier_t at_once;

static void *drop_lease(void *lease)
{
    pthread_barrier_wait(&at_once);
    rf_lease_drop(lease);
    return NULL;
}

static void *read_on(void *ring)
{
    pthread_barrier_wait(&at_once);
    for (int i = 0; i < 20; i++)
        rf_ring_ready(ring);
    return NULL;
}

/* The last leases are dropped while the handle is retired, read and dropped. */
static void test_all_at_once(void)
{
    rf_ring *ring = create_ring(4);
    for (int round = 0; round < 300; round++) {
        rf_ring *other = attach_ring();
        pthread_t threads[3];
        put(ring, 1);
        put(ring, 2);
        pthread_barrier_init(&at_once, NULL, 4);
        pthread_create(&threads[0], NULL, drop_lease, take(other, 1));
        pthread_create(&threads[1], NULL, drop_lease, take(other, 1));
        pthread_create(&threads[2], NULL, read_on, other);
        rf_ring_close(other);
        pthread_barrier_wait(&at_once);
        if (round % 2)
            rf_ring_retire(other);
        pthread_join(threads[2], NULL);
        rf_ring_drop(other);
        pthread_join(threads[0], NULL);
        pthread_join(threads[1], NULL);
        pthread_barrier_destroy(&at_once);
        CHECK_EQUAL(living(ring), 1);
    }
    close_ring(ring);
}

static const test tests[] = {
    {"a handle that is open is not retired", test_open_handles_are_not_retired},
    {"entry, memory and descriptor are freed at the close; the handle reports the last state",
     test_without_leases},
    {"no feed is made of a handle whose memory is gone", test_no_feed_of_a_retired_handle},
    {"with a lease they are freed with the lease, whether the handle is dropped before or after",
     test_with_a_lease},
    {"an open block of a producer keeps the entry until it ends",
     test_an_open_block_keeps_the_entry},
    {"leases may be dropped while the handle is retired, read and dropped", test_all_at_once},
};

MAIN(tests)
