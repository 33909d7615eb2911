/*
 * Leases: the run of slots that a producer or a taker holds.
 *
 * It may not know how slots are given back (release.c, and the handle's kind).
 *
 * A lease lives as long as anything refers to it, be it a view in another thread. The drop of the last reference
 * gives its slots back, without a lock and without Python.
 */
#include "ring/lease.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* ---- What a lease is ------------------------------------------------------------------------ */

/* Each thread keeps the memory of one lease that it freed: the next one mostly has the same
 * size, and costs no malloc. */
enum { ROOM_WORTH_KEEPING = 256 };
typedef enum keeping { NOT_YET, KEEPING, THREAD_ENDS } keeping;
static _Thread_local rf_lease *spare;
static _Thread_local keeping keeps;
static pthread_key_t end_of_thread;
static pthread_once_t watch_threads = PTHREAD_ONCE_INIT;
static bool are_watched;

static void free_spare(void *unused)
{
    (void)unused;
    keeps = THREAD_ENDS;
    free(spare);
    spare = NULL;
}

static void watch_ends(void)
{
    are_watched = pthread_key_create(&end_of_thread, free_spare) == 0;
}

static bool keeps_spares(void)
{
    if (keeps == NOT_YET) {
        pthread_once(&watch_threads, watch_ends);
        bool watched = are_watched && pthread_setspecific(end_of_thread, &keeps) == 0;
        keeps = watched ? KEEPING : THREAD_ENDS;
    }
    return keeps == KEEPING;
}

static rf_lease *memory_for(uint32_t rows)
{
    rf_lease *lease = spare;
    if (lease && lease->room >= rows) {
        spare = NULL;
        return lease;
    }
    lease = malloc(sizeof *lease + rows * sizeof lease->words[0]);
    if (lease)
        lease->room = rows;
    return lease;
}

rf_lease *rf_new_lease(rf_ring *ring, uint32_t rows)
{
    rf_lease *lease = memory_for(rows);
    if (!lease)
        return NULL;
    *lease = (rf_lease){
        .ring = ring, .generation = rf_load_relaxed(&ring->generation), .room = lease->room};
    atomic_init(&lease->references, 1);
    rf_ring_retain(ring);
    return lease;
}

void rf_free_lease(rf_lease *lease)
{
    rf_ring *ring = lease->ring;
    if (!spare && lease->room <= ROOM_WORTH_KEEPING && keeps_spares())
        spare = lease;
    else
        free(lease);
    rf_ring_unref(ring);
}

void rf_lease_retain(rf_lease *lease)
{
    rf_add_relaxed(&lease->references, 1u);
}

void rf_lease_give_back(rf_lease *lease)
{
    lease->unseen = true;
}

void rf_lease_fail(rf_lease *lease)
{
    lease->failed = true;
}

uint32_t rf_lease_failures(const rf_lease *lease)
{
    return lease->failures;
}

int rf_lease_is_dead_letter(const rf_lease *lease)
{
    return lease->dead_letter;
}

void rf_note_failures(rf_lease *lease, uint32_t row, uint32_t failures)
{
    rf_use *use = &lease->ring->uses[rf_lease_slot(lease, row)];
    uint64_t epoch = rf_word_epoch(lease->words[row]);
    uint32_t deliveries = rf_deliveries(rf_load_relaxed(&use->deliveries), epoch);
    rf_store_relaxed(&use->deliveries, rf_delivered(epoch, deliveries, failures));
}

void rf_lease_show(rf_lease *lease, int shown)
{
    if (lease->is_claim || lease->rows > 1 ||
        lease->generation != rf_load_relaxed(&rf_fork_generation))
        return;
    for (uint32_t row = 0; row < lease->rows; row++)
        rf_note_failures(lease, row, lease->failures + (shown != 0));
}

/* The most failures of any of these rows, for rf_lease_failures. */
static uint8_t most_failures(const rf_lease *lease, uint32_t row, uint32_t end)
{
    uint32_t most = 0;
    for (; row < end; row++) {
        uint32_t failures = rf_failures_before(lease, row);
        most = failures > most ? failures : most;
    }
    return (uint8_t)most;
}

rf_lease *rf_lease_split(rf_lease *batch, uint32_t rows)
{
    if (batch->is_claim || rows == 0 || rows >= batch->rows || rf_lease_references(batch) != 1)
        return NULL;
    rf_lease *rest = rf_new_lease(batch->ring, batch->rows - rows);
    if (!rest)
        return NULL;
    rest->first = rf_lease_slot(batch, rows);
    rest->rows = batch->rows - rows;
    rest->generation = batch->generation;
    rest->unseen = batch->unseen;
    rest->failed = batch->failed;
    rest->failures = most_failures(batch, rows, batch->rows);
    batch->failures = most_failures(batch, 0, rows);
    memcpy(rest->words, batch->words + rows, rest->rows * sizeof rest->words[0]);
    batch->rows = rows;
    return rest;
}

uint32_t rf_lease_references(const rf_lease *lease)
{
    return rf_load_relaxed(&((rf_lease *)lease)->references);
}

const rf_ring *rf_lease_ring(const rf_lease *lease)
{
    return lease->ring;
}

uint32_t rf_lease_readable_rows(const rf_lease *lease, uint32_t rows)
{
    return rf_rows_from(lease->ring, lease->first, rows);
}

uint32_t rf_lease_first(const rf_lease *lease)
{
    return lease->first;
}

uint32_t rf_lease_rows(const rf_lease *lease)
{
    return lease->rows;
}

uint64_t rf_lease_link(const rf_lease *lease, uint32_t row)
{
    return rf_link(rf_lease_slot(lease, row), rf_word_epoch(lease->words[row]));
}

void *rf_lease_data(const rf_lease *lease, uint32_t field)
{
    const rf_ring *ring = lease->ring;
    return ring->region[field] + (uint64_t)lease->first * ring->geometry.field[field].stride_bytes;
}

uint32_t rf_failures_before(const rf_lease *lease, uint32_t row)
{
    if (lease->rows == 1 || lease->is_claim)
        return lease->failures;
    const rf_use *use = &lease->ring->uses[rf_lease_slot(lease, row)];
    uint32_t counted = rf_failures(rf_load_relaxed(&((rf_use *)use)->deliveries),
                                   rf_word_epoch(lease->words[row]));
    return counted ? counted - 1 : 0;
}

void rf_lease_records(const rf_lease *lease, rf_record *records)
{
    for (uint32_t row = 0; row < lease->rows; row++) {
        rf_slot *slot = &lease->ring->slots[rf_lease_slot(lease, row)];
        rf_use *use = &lease->ring->uses[rf_lease_slot(lease, row)];
        uint32_t deliveries =
            rf_deliveries(rf_load_relaxed(&use->deliveries), rf_word_epoch(lease->words[row]));
        records[row] = (rf_record){
            .tag = rf_load_relaxed(&slot->tag),
            .claimed_ns = rf_load_relaxed(&slot->claimed_ns),
            .published_ns = rf_load_relaxed(&slot->published_ns),
            .taken_ns = deliveries ? rf_load_relaxed(&use->taken_ns) : 0,
            .released_ns = rf_load_relaxed(&use->released_ns),
            .producer = rf_load_relaxed(&slot->producer),
            .deliveries = deliveries,
            .failures = rf_failures_before(lease, row),
        };
    }
}

void rf_lease_tags(const rf_lease *lease, uint64_t *tags)
{
    for (uint32_t row = 0; row < lease->rows; row++)
        tags[row] = rf_load_relaxed(&lease->ring->slots[rf_lease_slot(lease, row)].tag);
}

void rf_lease_drop(rf_lease *lease)
{
    if (rf_sub_acq_rel(&lease->references, 1u) != 1)
        return;
    RF_STEP("drop: last reference gone, slots still held");
    /* A forked child drops copies of its parent's leases: the slots are not its own. */
    if (lease->generation == rf_load_relaxed(&rf_fork_generation) && !lease->settled)
        lease->ring->kind->drop(lease);
    rf_free_lease(lease);
}
