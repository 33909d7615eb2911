/*
 * Giving slots back: a batch that is released or given back, a claim that is discarded. The outline of the protocol
 * is in ring.c.
 *
 * It may not know when a lease ends (lease.c).
 */
#include "ring/lease.h"

/* ---- Giving slots back ---------------------------------------------------------------------- */

static uint64_t freed_word(uint64_t word)
{
    return rf_word(RF_STATE_FREE, RF_NO_OWNER, rf_word_epoch(word) + 1);
}

bool rf_free_slot(rf_ring *ring, uint32_t slot, uint64_t word)
{
    _Atomic uint64_t *place = &ring->words[slot];
    uint64_t keep = word & RF_KEEP;
    for (;;) {
        uint64_t next;
        if (keep)
            next = rf_word(RF_STATE_KEPT, rf_load_relaxed(&ring->slots[slot].producer) & 0xfff,
                           rf_word_epoch(word));
        else
            next = freed_word(word);
        /* R2 -> A2 (claim_slot): our reads and writes of the payload are over before anyone
         * can claim the slot. If it were relaxed, the next producer's bytes could show in our
         * batch. */
        if (rf_cas_release(place, (word & ~RF_KEEP) | keep, next)) {
            RF_STEP("free: slot free or kept, nobody told");
            /* Regardless of the producers' wishes: this slot comes alone, and the takers that
             * would look for unused room (rf_leave_no_room_unused) may all be asleep. */
            if (!keep)
                rf_notify_behind_swap(&ring->header->writable, UINT32_MAX);
            return true;
        }
        /* Others may change a word of ours in one way only: the producer lets go of its view,
         * and RF_KEEP goes. */
        if (!keep || rf_load_relaxed(place) != (word & ~RF_KEEP))
            return false;
        keep = 0;
    }
}

/* TAKEN -> FREE for a slot and the next, if no producer's view keeps them. R2 -> A2
 * (claim_pair), as in rf_free_slot. */
static bool free_pair(rf_ring *ring, uint32_t slot, const uint64_t *words)
{
    return !((words[0] | words[1]) & RF_KEEP) &&
           rf_cas_pair(&ring->words[slot], words,
                       (uint64_t[]){freed_word(words[0]), freed_word(words[1])});
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
        bool pair = rf_is_pair(ring, slot, lease->rows - row);
        rf_store_relaxed(&ring->uses[slot].released_ns, now);
        if (pair)
            rf_store_relaxed(&ring->uses[slot + 1].released_ns, now);
        RF_STEP("release: time written, row still taken");
        if (pair && free_pair(ring, slot, lease->words + row)) {
            freed += 2;
            released += 2;
            row++;
        } else if (!(word & RF_KEEP) &&
                   /* R2 -> A2 (claim_slot), as in rf_free_slot. */
                   rf_cas_release(&ring->words[slot], word, freed_word(word))) {
            freed++;
            released++;
        } else if (word & RF_KEEP && rf_free_slot(ring, slot, word)) {
            released++;
        }
        RF_STEP("release: slots free, others still taken");
    }
    RF_STEP("release: rows free, not counted");
    if (lease->dead_letter)
        rf_count(ring, dead_letters, released);
    else if (lease->failed)
        rf_count(ring, dropped, released);
    else
        rf_count(ring, released, released);
    RF_STEP("release: rows counted, nobody told");
    if (!freed)
        return;
    /* A taker that waits has nothing to take; then each slot counts, regardless of the
     * producers' wishes. F7 with F2 (rf_prepare_wait): either we see its wish, or it sees our
     * slots (rf_leave_no_room_unused). */
    rf_fence_behind_swap();
    bool hungry = rf_load_relaxed(&ring->header->readable.wanted) != 0;
    rf_notify_behind_swap(&ring->header->writable, hungry ? UINT32_MAX : freed);
}

/* The rows of a batch that this taker did not look at, or failed over. In their order: the
 * records that a producer published first come back first, so that a taker that comes in
 * between takes them first. */
static void give_rows_back(rf_lease *lease)
{
    rf_ring *ring = lease->ring;
    uint32_t ready = 0;
    for (uint32_t row = 0; row < lease->rows; row++) {
        _Atomic uint64_t *place = &ring->words[rf_lease_slot(lease, row)];
        uint32_t failures = rf_failures_before(lease, row) + (lease->failed && !lease->unseen);
        uint64_t word = lease->words[row], next = rf_ready_again(rf_word_epoch(word), failures);
        rf_note_failures(lease, row, failures);
        /* Acquire and release: the swap continues R1 for the next taker. If the first swap
         * fails, the producer has let go of its view meanwhile, and RF_KEEP is gone. */
        if (rf_cas_acq_rel(place, word, next | (word & RF_KEEP)) ||
            (word & RF_KEEP && rf_cas_acq_rel(place, word & ~RF_KEEP, next)))
            ready++;
        RF_STEP("give back: row ready, nobody told");
    }
    rf_count(ring, redelivered, ready);
    if (ready)
        rf_notify_behind_swap(&ring->header->readable, ready);
}

/* The views through a kept claim are gone: its slots may be used again. */
static void unkeep_rows(rf_lease *lease)
{
    rf_ring *ring = lease->ring;
    for (uint32_t row = 0; row < lease->published; row++) {
        uint32_t slot = rf_lease_slot(lease, row);
        uint64_t epoch = rf_word_epoch(lease->words[row]);
        for (;;) {
            uint64_t word = rf_load_relaxed(&ring->words[slot]);
            if (rf_word_epoch(word) != epoch)
                break;
            if (rf_word_state(word) == RF_STATE_KEPT) {
                RF_STEP("views gone: slot found released");
                rf_free_slot(ring, slot, word);
                break;
            }
            /* A compare-and-swap continues the release sequence of the word that it changes,
             * so R1 reaches the taker also through us. */
            if (!(word & RF_KEEP) || rf_cas_acq_rel(&ring->words[slot], word, word & ~RF_KEEP))
                break;
        }
        RF_STEP("views gone: row no longer kept");
    }
}

uint32_t rf_unclaim(rf_ring *ring, uint32_t first, uint32_t count, const uint64_t *words)
{
    uint32_t freed = 0;
    for (uint32_t row = 0; row < count; row++)
        freed += rf_free_slot(ring, rf_wrap(ring, first + row), words[row]);
    /* Takers of a ring that has ended wait for its last claims, also for claims that are
     * discarded. The fence in rf_free_slot's notification is the one that F4 needs: either we
     * see the end, or the taker sees the slots free. */
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

void rf_give_slots_back(rf_lease *lease)
{
    if (lease->is_claim) {
        if (lease->kept)
            unkeep_rows(lease);
        rf_discard_rows(lease, lease->published);
    } else if (lease->unseen || (lease->failed && rf_ring_redelivers(lease->ring))) {
        give_rows_back(lease);
    } else {
        release_rows(lease);
    }
}
