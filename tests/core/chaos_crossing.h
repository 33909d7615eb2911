/* The producers of chaos_failures.c: they publish claims crosswise, discard some, and record what they published. */
#ifndef RF_CHAOS_CROSSING_H
#define RF_CHAOS_CROSSING_H

#include "chaos_failing.h"

typedef struct lane {
    rf_ring *ring;
    _Atomic uint64_t *reported; /* the counts of all threads of its process */
    uint64_t producer;
    uint32_t thread;
    watch watch;
} lane;

typedef struct open_claim {
    rf_lease *lease;
    uint64_t reported[THREADS]; /* the counts before the claim was made */
} open_claim;

static void copy_reported(const lane *own, uint64_t *reported)
{
    for (uint32_t thread = 0; thread < THREADS; thread++)
        reported[thread] = atomic_load(&own->reported[thread]);
}

static uint64_t write_record(const lane *own, payload *record, uint64_t number,
                             const uint64_t *reported)
{
    CHECK(number < NUMBERS_PER_LANE);
    fill(record, own->producer, number);
    record->filling[0] = own->thread;
    memcpy(&record->filling[1], reported, THREADS * sizeof *reported);
    record->checksum = checksum_of(record);
    return tag_of(record);
}

/* End a wait for a slot. False: no slot was free before the deadline. */
static bool end_wait(lane *own, rf_status status, int64_t deadline_ns)
{
    memset(&own->watch, 0, sizeof own->watch);
    CHECK(status == RF_OK || (status == RF_FULL && deadline_ns != RF_FOREVER));
    return status == RF_OK;
}

static void put_one(lane *own, int64_t deadline_ns)
{
    payload record;
    const void *sources[1] = {&record};
    uint64_t reported[THREADS];
    rf_status status;
    copy_reported(own, reported);
    uint64_t tag = write_record(own, &record, reported[own->thread], reported);
    while ((status = rf_put(own->ring, sources, tag, deadline_ns)) == RF_AGAIN)
        inspect_slots(own->ring, &own->watch, RF_STATE_FREE, 1);
    if (!end_wait(own, status, deadline_ns))
        return;
    atomic_store(&entries[tag].published, 1);
    atomic_store(&own->reported[own->thread], reported[own->thread] + 1);
}

static bool claim_some(lane *own, open_claim *claim, int64_t deadline_ns)
{
    rf_status status;
    uint32_t rows = 1 + random_below(MAX_ROWS / 2);
    copy_reported(own, claim->reported);
    while ((status = rf_claim(own->ring, rows, deadline_ns, &claim->lease)) == RF_AGAIN)
        inspect_slots(own->ring, &own->watch, RF_STATE_FREE, 1);
    return end_wait(own, status, deadline_ns);
}

/* Publish the first rows and discard the others, which are written as well. */
static void publish_some(const lane *own, const open_claim *claim, uint32_t rows)
{
    uint64_t tags[MAX_ROWS], number = atomic_load(&own->reported[own->thread]);
    uint32_t all = rf_lease_rows(claim->lease);
    payload *records = rf_lease_data(claim->lease, 0);
    for (uint32_t row = 0; row < all; row++) {
        tags[row] = write_record(own, &records[row], number + row, claim->reported);
        atomic_store(&entries[tags[row]].discarded, row >= rows);
    }
    CHECK_EQUAL(rf_publish(claim->lease, rows, tags, 0), RF_OK);
    rf_lease_drop(claim->lease);
    for (uint32_t row = 0; row < rows; row++)
        atomic_store(&entries[tags[row]].published, 1);
    atomic_store(&own->reported[own->thread], number + all);
}

/* Make two claims and publish the second one first, sometimes with another record in between. Then publish all or
 * some rows of the first. */
static void cross(lane *own)
{
    open_claim first, second;
    claim_some(own, &first, RF_FOREVER);
    uint32_t all = rf_lease_rows(first.lease), rows = random_below(8) ? all : random_below(all);
    if (claim_some(own, &second, in_ms(1))) {
        rest_at_times();
        publish_some(own, &second, rf_lease_rows(second.lease));
        rest_at_times();
        if (random_below(2))
            put_one(own, in_ms(1));
        note(rows ? &shared->crossed : &shared->discarded);
    }
    publish_some(own, &first, rows);
}

static void *produce(void *argument)
{
    lane *own = argument;
    seed(own->producer * THREADS + own->thread);
    while (!atomic_load(&shared->stop)) {
        garble_cursor(own->ring, &own->ring->header->claim_cursor);
        if (random_below(2))
            put_one(own, RF_FOREVER);
        else
            cross(own);
        rest_at_times();
    }
    return NULL;
}

static void producer_process(void *argument)
{
    uint32_t index = (uint32_t)(uintptr_t)argument;
    uint64_t producer = index + PRODUCERS * (uint64_t)atomic_load(&shared->generation[index]);
    rf_ring *ring = attach_ring_with_window();
    pthread_t threads[THREADS];
    lane lanes[THREADS];
    atomic_store(&shared->owner[index], rf_self(ring));
    for (uint32_t i = 0; i < THREADS; i++) {
        lanes[i] = (lane){ring, &shared->reported[index * THREADS], producer, i, {{0}, {0}, {0}}};
        threads[i] = start_thread(produce, &lanes[i]);
    }
    for (uint32_t i = 0; i < THREADS; i++)
        join_thread(threads[i]);
    close_ring(ring);
}

#endif
