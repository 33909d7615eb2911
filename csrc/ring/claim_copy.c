/*
 * A claim that other code may still write into: its rows are copied into other slots and published there.
 *
 * It may not know which code still writes. csrc/model/moving.pml shows that takers find the records.
 */
#include <string.h>

#include "ring/claim.h"
#include "ring/lease.h"

/* Is every one of these rows still our claim? */
static bool still_ours(const rf_lease *claim, uint32_t row, uint32_t rows)
{
    for (uint32_t end = row + rows; row < end; row++)
        if (rf_load_relaxed(&claim->ring->words[rf_lease_slot(claim, row)]) != claim->words[row])
            return false;
    return true;
}

rf_status rf_claim_copy(rf_lease *claim, uint32_t row, uint32_t rows, rf_lease **out)
{
    rf_ring *ring = claim->ring;
    *out = NULL;
    if (!claim->is_claim || ring->kind->is_pool || claim->settled || claim->published ||
        row >= claim->rows || rows == 0 || rows > claim->rows - row)
        return RF_INVALID;
    uint32_t from = rf_lease_slot(claim, row);
    if (claim->generation != rf_load_relaxed(&rf_fork_generation) || !still_ours(claim, row, rows))
        return RF_SLOT_LOST;
    rf_lease *copy = rf_new_lease(ring, rows);
    if (!copy)
        return RF_NO_MEMORY;
    copy->is_claim = true;
    copy->since = claim->since;
    copy->claimed_ns = claim->claimed_ns;
    /* No check whether the ring has ended: takers wait for the claim that this one replaces. */
    copy->rows = rf_claim_run(ring, rows, &copy->first, copy->words);
    if (!copy->rows) {
        rf_free_lease(copy);
        return RF_FULL;
    }
    for (uint32_t field = 0; field < ring->geometry.fields; field++) {
        uint64_t stride = ring->geometry.field[field].stride_bytes;
        memcpy(rf_lease_data(copy, field), ring->region[field] + from * stride,
               copy->rows * stride);
    }
    RF_STEP("copy: copied, claim not looked at");
    /* A2 <- R2: a slot that was taken back meanwhile may have been claimed anew, and these
     * bytes may be another producer's. */
    rf_fence_full();
    if (!still_ours(claim, row, copy->rows)) {
        rf_lease_drop(copy);
        return RF_SLOT_LOST;
    }
    *out = copy;
    return RF_OK;
}

void rf_set_apart(rf_lease *lease)
{
    rf_ring *ring = lease->ring;
    if (!lease->is_claim || lease->settled || lease->published)
        return;
    /* R19 -> A19 (rf_nothing_ready): a taker that finds no claim here any more finds the
     * records where they were copied to. */
    for (uint32_t row = 0; row < lease->rows; row++)
        rf_cas_release(&ring->words[rf_lease_slot(lease, row)], lease->words[row],
                       rf_word(RF_STATE_KEPT, rf_word_owner(lease->words[row]),
                               rf_word_epoch(lease->words[row])));
    RF_STEP("set apart: claim is kept, takers not told");
    lease->kept = true;
    lease->published = lease->rows;
    /* As in rf_unclaim: takers of a ring that has ended waited for the claim. F3 with F4
     * (try_take): either we see the end, or the taker sees that our claim is gone. */
    rf_fence_behind_swap();
    if (rf_still_open(ring) != RF_OK)
        rf_notify(&ring->header->readable, UINT32_MAX);
}
