/*
 * Giving back what a dead participant held in a ring: claims, taken records, views of published slots, producing
 * blocks.
 *
 * It may not know how a participant is found dead (participants.c).
 */
#include "ring/recover.h"

#include "ring/lease.h"
#include "ring/producers.h"

/* Undo the one step that the word says `dead` was at. Returns the counter of what was done, or
 * NULL if the word changed meanwhile. */
static _Atomic uint64_t *undo(rf_ring *ring, uint32_t slot, uint64_t seen, rf_counters *counters)
{
    if (rf_word_state(seen) != RF_STATE_TAKEN)
        return rf_free_slot(ring, slot, seen) ? &counters->reclaimed : NULL;
    if (!ring->header->redeliver)
        return rf_free_slot(ring, slot, seen) ? &counters->dropped : NULL;
    /* The record comes late, perhaps behind newer records of its producer. The count of
     * deliveries tells its next taker, even if the dead one did not get to count. */
    _Atomic uint64_t *deliveries = &ring->uses[slot].deliveries;
    uint64_t before = rf_load_relaxed(deliveries), epoch = rf_word_epoch(seen);
    if (rf_deliveries(before, epoch) == 0)
        atomic_compare_exchange_strong_explicit(deliveries, &before, rf_delivered(epoch, 1, 0),
                                                memory_order_relaxed, memory_order_relaxed);
    /* The dead taker has not failed over a record that was not shown to it; the count in the
     * slot says so (take_run). */
    uint64_t ready = rf_ready_again(epoch, rf_failures(before, epoch)) | (seen & RF_KEEP);
    /* Acquire and release: the swap continues R1 for the next taker. */
    return rf_cas_acq_rel(&ring->words[slot], seen, ready) ? &counters->redelivered : NULL;
}

/* Each step is one compare-and-swap, so a recovering process may itself be killed anywhere,
 * and the next one goes on. Others may change the word meanwhile: a taker takes or releases a
 * record that `dead` keeps, or a producer lets go of one that `dead` had taken. Then the loop
 * looks again. */
static void recover_slot(rf_ring *ring, uint32_t slot, uint32_t dead)
{
    for (;;) {
        uint64_t seen = rf_load_acquire(&ring->words[slot]); /* A1 <- R1, for `producer` */
        rf_state state = rf_word_state(seen);
        if (seen & RF_KEEP && rf_load_relaxed(&ring->slots[slot].producer) == dead) {
            rf_cas_acq_rel(&ring->words[slot], seen, seen & ~RF_KEEP);
            RF_STEP("recover: view of the dead removed");
            continue;
        }
        if (rf_word_owner(seen) != dead ||
            (state != RF_STATE_CLAIMED && state != RF_STATE_TAKEN && state != RF_STATE_KEPT))
            return;
        _Atomic uint64_t *counter = undo(ring, slot, seen, &ring->header->departed);
        RF_STEP("recover: slot given back, not counted");
        if (counter)
            rf_add_relaxed(counter, 1u);
    }
}

void rf_recover_slots(rf_ring *ring, uint32_t dead)
{
    for (uint32_t slot = 0; slot < ring->slot_count; slot++)
        recover_slot(ring, slot, dead);
    RF_STEP("recover: slots given back, blocks still open");
    rf_end_blocks(ring, dead);
}
