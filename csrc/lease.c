/*
 * Leases: the run of slots that a producer or a taker holds, and how it goes back.
 *
 * A lease lives as long as anything refers to it, be it a view in another thread; with the last
 * reference its slots are given back, without a lock and without Python. The protocol's outline
 * stands in ring.c.
 */
#include <stdlib.h>
#include <string.h>

#include "handle.h"

/* ---- What a lease is ------------------------------------------------------------------------ */

rf_lease *rf_new_lease(rf_ring *ring, uint32_t rows)
{
    rf_lease *lease = malloc(sizeof *lease + rows * sizeof lease->words[0]);
    if (!lease)
        return NULL;
    memset(lease, 0, sizeof *lease);
    lease->ring = ring;
    lease->generation = rf_load_relaxed(&ring->generation);
    atomic_init(&lease->references, 1);
    rf_ring_retain(ring);
    return lease;
}

void rf_free_lease(rf_lease *lease)
{
    rf_ring *ring = lease->ring;
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
        };
    }
}

void rf_lease_tags(const rf_lease *lease, uint64_t *tags)
{
    for (uint32_t row = 0; row < lease->rows; row++)
        tags[row] = rf_load_relaxed(&lease->ring->slots[rf_lease_slot(lease, row)].tag);
}

/* ---- Giving slots back ---------------------------------------------------------------------- */

bool rf_free_slot(rf_ring *ring, uint32_t slot, uint64_t word)
{
    _Atomic uint64_t *place = &ring->words[slot];
    uint64_t pin = word & RF_PIN;
    for (;;) {
        uint64_t next;
        if (pin)
            next = rf_word(RF_STATE_PINNED, rf_load_relaxed(&ring->slots[slot].producer) & 0xfff,
                           rf_word_epoch(word));
        else
            next = rf_word(RF_STATE_FREE, RF_NO_OWNER, rf_word_epoch(word) + 1);
        /* R2 -> A2 (claim_slot): our reads and writes of the payload are over before anyone can
         * claim the slot. Were it relaxed, the next producer's bytes could show in our batch. */
        if (rf_cas_release(place, (word & ~RF_PIN) | pin, next)) {
            RF_STEP("free: slot free or pinned, nobody told");
            /* Whatever producers wish for: this slot comes alone, and takers that would look for room left
             * unused (rf_leave_no_room_unused) may all be asleep. */
            if (!pin)
                rf_notify(&ring->header->writable, UINT32_MAX);
            return true;
        }
        /* The one change that others may make to a word of ours: the producer lets go of its
         * view, and the pin goes. */
        if (!pin || rf_load_relaxed(place) != (word & ~RF_PIN))
            return false;
        pin = 0;
    }
}

/* As rf_free_slot for the taken rows of a batch, with one notification for all. */
static void release_rows(rf_lease *lease)
{
    rf_ring *ring = lease->ring;
    int64_t now = rf_now_ns();
    uint32_t freed = 0, released = 0;
    for (uint32_t row = 0; row < lease->rows; row++) {
        uint32_t slot = rf_lease_slot(lease, row);
        uint64_t word = lease->words[row];
        rf_store_relaxed(&ring->uses[slot].released_ns, now);
        RF_STEP("release: time written, row still taken");
        /* R2 -> A2 (claim_slot), as in rf_free_slot. */
        uint64_t next = rf_word(RF_STATE_FREE, RF_NO_OWNER, rf_word_epoch(word) + 1);
        if (!(word & RF_PIN) && rf_cas_release(&ring->words[slot], word, next)) {
            freed++;
            released++;
        } else if (word & RF_PIN && rf_free_slot(ring, slot, word)) {
            released++;
        }
    }
    RF_STEP("release: rows free, not counted");
    rf_count(ring, released, released);
    RF_STEP("release: rows counted, nobody told");
    if (!freed)
        return;
    /* A taker that waits has nothing to take: then each slot counts, whatever producers wish for. F7 with F2
     * (rf_prepare_wait): either we see its wish, or it sees our slots (rf_leave_no_room_unused). */
    rf_fence_full();
    bool hungry = rf_load_relaxed(&ring->header->readable.wanted) != 0;
    rf_notify(&ring->header->writable, hungry ? UINT32_MAX : freed);
}

/* The rows of a batch that nobody looked at. In their order: what a producer published first is there
 * first, so that whoever takes in between takes it first. */
static void give_rows_back(rf_lease *lease)
{
    rf_ring *ring = lease->ring;
    uint32_t ready = 0;
    for (uint32_t row = 0; row < lease->rows; row++) {
        _Atomic uint64_t *place = &ring->words[rf_lease_slot(lease, row)];
        uint64_t word = lease->words[row],
                 next = rf_word(RF_STATE_READY, RF_NO_OWNER, rf_word_epoch(word));
        /* Acquire and release: the swap goes on with R1 for the next taker. Without success the producer
         * has let go of its view meanwhile, and the pin is gone. */
        if (rf_cas_acq_rel(place, word, next | (word & RF_PIN)) ||
            (word & RF_PIN && rf_cas_acq_rel(place, word & ~RF_PIN, next)))
            ready++;
        RF_STEP("give back: row ready, nobody told");
    }
    rf_count(ring, redelivered, ready);
    if (ready)
        rf_notify(&ring->header->readable, ready);
}

/* The views through a pinned claim are gone: whoever is to reuse the slots may. */
static void unpin_rows(rf_lease *lease)
{
    rf_ring *ring = lease->ring;
    for (uint32_t row = 0; row < lease->published; row++) {
        uint32_t slot = rf_lease_slot(lease, row);
        uint64_t epoch = rf_word_epoch(lease->words[row]);
        for (;;) {
            uint64_t word = rf_load_relaxed(&ring->words[slot]);
            if (rf_word_epoch(word) != epoch)
                break;
            if (rf_word_state(word) == RF_STATE_PINNED) {
                RF_STEP("unpin: slot found released");
                rf_free_slot(ring, slot, word);
                break;
            }
            /* A compare-and-swap goes on with the release sequence of the word it changes, so
             * R1 reaches the taker also through us. */
            if (!(word & RF_PIN) || rf_cas_acq_rel(&ring->words[slot], word, word & ~RF_PIN))
                break;
        }
        RF_STEP("unpin: row unpinned");
    }
}

uint32_t rf_unclaim(rf_ring *ring, uint32_t first, uint32_t count, const uint64_t *words)
{
    uint32_t freed = 0;
    for (uint32_t row = 0; row < count; row++)
        freed += rf_free_slot(ring, rf_wrap(ring, first + row), words[row]);
    /* Takers of a ring that has ended wait for its last claims, also for those that come to
     * nothing. The fence in rf_free_slot's notification is the one that F4 needs: either we see
     * the end or the taker sees the slots free. */
    RF_STEP("discard: slots free, takers not told");
    if (freed && rf_still_open(ring) != RF_OK)
        rf_notify(&ring->header->readable, UINT32_MAX);
    return freed;
}

void rf_discard_rows(rf_lease *lease, uint32_t from)
{
    rf_ring *ring = lease->ring;
    if (from < lease->rows)
        rf_count(
            ring, discarded,
            rf_unclaim(ring, rf_lease_slot(lease, from), lease->rows - from, lease->words + from));
}

void rf_lease_drop(rf_lease *lease)
{
    if (rf_sub_acq_rel(&lease->references, 1u) != 1)
        return;
    RF_STEP("drop: last reference gone, slots still held");
    /* A forked child drops copies of its parent's leases: the slots are not its own. */
    if (lease->generation == rf_load_relaxed(&rf_fork_generation) && !lease->settled) {
        if (lease->ring->is_pool)
            rf_withdraw(lease);
        else if (!lease->is_claim && lease->unseen)
            give_rows_back(lease);
        else if (!lease->is_claim)
            release_rows(lease);
        else if (lease->pinned)
            unpin_rows(lease);
        if (lease->is_claim && !lease->ring->is_pool)
            rf_discard_rows(lease, lease->published);
    }
    rf_free_lease(lease);
}
