/*
 * Claiming: a producer searches free slots and makes them its own. The outline of the protocol is in ring.c.
 *
 * It may not know how claimed slots are filled or published (publish.c).
 */
#include "ring/claim.h"

#include <string.h>

#include "ring/lease.h"
#include "ring/order.h"
#include "ring/reaper.h"
#include "ring/window.h"

/* ---- Claiming ------------------------------------------------------------------------------- */

/* FREE -> CLAIMED by us. The new word, or 0. */
static uint64_t claim_slot(rf_ring *ring, uint32_t slot, uint32_t self)
{
    uint64_t word = rf_load_relaxed(&ring->words[slot]);
    if (rf_word_state(word) != RF_STATE_FREE)
        return 0;
    uint64_t claimed = rf_word(RF_STATE_CLAIMED, self, rf_word_epoch(word));
    /* A2 <- R2 (rf_free_slot, release_rows): the last reader has finished with the payload. */
    return rf_cas_acquire(&ring->words[slot], word, claimed) ? claimed : 0;
}

/* The same for a slot and the next. */
static bool claim_pair(rf_ring *ring, uint32_t slot, uint32_t self, uint64_t *words)
{
    uint64_t seen[2];
    for (uint32_t i = 0; i < 2; i++) {
        seen[i] = rf_load_relaxed(&ring->words[slot + i]);
        if (rf_word_state(seen[i]) != RF_STATE_FREE)
            return false;
        words[i] = rf_word(RF_STATE_CLAIMED, self, rf_word_epoch(seen[i]));
    }
    return rf_cas_pair(&ring->words[slot], seen, words); /* A2 <- R2 */
}

static bool is_free(const rf_ring *ring, uint32_t slot)
{
    return rf_word_state(rf_load_relaxed(&ring->words[slot])) == RF_STATE_FREE;
}

/* A batch that is released during our search becomes free from its first slot on, and we may
 * have met it half way. Free slots left behind would lie between the records of this lap and
 * the next: a gap that parts runs. */
static uint32_t start_of_run(const rf_ring *ring, uint32_t slot, uint32_t seen)
{
    for (; seen > 0; seen--) {
        uint32_t before = slot ? slot - 1 : ring->slot_count - 1;
        if (!is_free(ring, before))
            break;
        slot = before;
    }
    return slot;
}

/* CAS from the value read, so that a preempted claimer cannot move the cursor back by laps.
 * The others would then claim among READY records, and takers would have to search for their
 * order. */
static void move_cursor(_Atomic uint32_t *cursor, uint32_t seen, uint32_t to)
{
    atomic_compare_exchange_strong_explicit(cursor, &seen, to, memory_order_relaxed,
                                            memory_order_relaxed);
}

/* Where to search first. A client of a pool returns to the cells that it had before: they are
 * in the caches near it, and other clients search elsewhere first. It takes its first cell
 * where newcomers search. */
static uint32_t claim_from(rf_ring *ring, uint32_t cursor, uint32_t rows)
{
    if (!ring->kind->is_pool)
        return ring->restarts ? rf_window_restart(ring, cursor, rows) : cursor;
    uint32_t home = rf_load_relaxed(&ring->home);
    if (home == 0)
        return cursor;
    return is_free(ring, home - 1) ? home - 1
                                   : rf_wrap(ring, rf_load_relaxed(&ring->last_cell) + 1);
}

/* A run was claimed; `cursor` is the value that the search began with. */
static void move_on(rf_ring *ring, uint32_t cursor, uint32_t first, uint32_t count)
{
    if (ring->kind->is_pool) {
        rf_store_relaxed(&ring->last_cell, rf_wrap(ring, first + count - 1));
        if (rf_load_relaxed(&ring->home))
            return;
        rf_store_relaxed(&ring->home, first + 1);
    }
    move_cursor(&ring->header->claim_cursor, cursor, rf_next_claim(ring, first, count));
}

/* Claim up to `rows` slots in a row, of which the first is claimed already. Returns how many. */
static uint32_t claim_more(rf_ring *ring, uint32_t rows, uint32_t first, uint32_t self,
                           uint64_t *words)
{
    uint32_t count = 1;
    if (rows > 1) {
        rf_fetch(ring, ring->words, first, rows);
        rf_fetch(ring, ring->links, first, rows);
    }
    while (count < rows) {
        uint32_t slot = rf_wrap(ring, first + count);
        if (rf_is_pair(ring, slot, rows - count) && claim_pair(ring, slot, self, words + count))
            count += 2;
        else if ((words[count] = claim_slot(ring, slot, self)))
            count++;
        else
            break;
        RF_STEP("claim: slots claimed");
    }
    return count;
}

uint32_t rf_claim_run(rf_ring *ring, uint32_t rows, uint32_t *first, uint64_t *words)
{
    uint32_t self = rf_self(ring);
    uint32_t cursor = rf_load_relaxed(&ring->header->claim_cursor);
    uint32_t slot = cursor < ring->slot_count ? cursor : 0, from = slot;
    slot = claim_from(ring, slot, rows);
    for (uint32_t seen = 0; seen < ring->slot_count; seen++, slot = rf_wrap(ring, slot + 1)) {
        if (!is_free(ring, slot))
            continue;
        uint32_t start = start_of_run(ring, slot, seen);
        /* If another was faster at the start, the slot that we met is as good. The lap goes on
         * from there. */
        if (!(words[0] = claim_slot(ring, start, self)) &&
            (start == slot || !(words[0] = claim_slot(ring, start = slot, self))))
            continue;
        RF_STEP("claim: slot claimed");
        *first = slot = start;
        uint32_t count = claim_more(ring, rf_rows_from(ring, slot, rows), slot, self, words);
        move_on(ring, cursor, slot, count);
        if (ring->restarts) /* a taker that spins looks there */
            move_cursor(&ring->header->take_cursor, from, slot);
        RF_STEP("claim: cursor moved");
        return count;
    }
    return 0;
}

/* One attempt: RF_OK with *count rows, RF_FULL, RF_FINISHED, RF_CLOSED. */
static rf_status try_claim(rf_ring *ring, uint32_t rows, uint32_t *first, uint32_t *count,
                           uint64_t *words)
{
    rf_status status = rf_still_open(ring);
    if (status != RF_OK)
        return status;
    *count = rf_claim_run(ring, rows, first, words);
    if (!*count)
        return RF_FULL;
    rf_fence_behind_swap(); /* F3 with F4 (try_take): either we see `finished`, or the taker sees our claim */
    status = rf_still_open(ring);
    if (status != RF_OK) {
        RF_STEP("claim: end seen, claim not given back");
        rf_unclaim(ring, *first, *count, words);
    }
    return status;
}

/* How much room is worth waking up for. If many producers before a full ring were woken for
 * each slot, most would search the whole ring and find nothing. READY slots come back soon, so
 * a producer may wait for those; it may not wait for held ones. Cells of a pool come back one
 * by one, and no taker looks for cells that are left unused. */
static uint32_t wished_room(const rf_ring *ring)
{
    if (ring->kind->is_pool)
        return 1;
    uint32_t soon = rf_count_states(ring).ready / 2, most = ring->slot_count / 8;
    uint32_t room = soon < most ? soon : most;
    return room ? room : 1;
}

rf_status rf_wait_to_claim(rf_ring *ring, uint32_t rows, int64_t deadline_ns, uint32_t *first,
                           uint32_t *count, uint64_t *words)
{
    rf_event *event = &ring->header->writable;
    int64_t started = 0;
    int spins = 0;
    rf_status status;
    for (;;) {
        if ((status = rf_enter(ring)) != RF_OK ||
            (status = try_claim(ring, rows, first, count, words)) != RF_FULL)
            break;
        int64_t now = rf_now_ns();
        if (rf_reap_in_turn(ring, now))
            continue;
        if ((status = rf_wait_on(&started, now, deadline_ns, RF_FULL)) != RF_OK)
            break;
        uint32_t cursor = rf_cursor(ring, &ring->header->claim_cursor);
        if (spins++ < RF_MOST_SPINS &&
            rf_spin(&ring->claim_spin, &ring->words[cursor], RF_STATE_FREE))
            continue;
        uint32_t key = rf_prepare_wait(event, wished_room(ring));
        RF_STEP("claim: wish left");
        /* A taker may be waiting for more rows than there is room for. */
        rf_notify(&ring->header->readable, UINT32_MAX);
        if ((status = rf_enter(ring)) != RF_OK ||
            (status = try_claim(ring, rows, first, count, words)) != RF_FULL)
            break;
        int64_t slice_end = started + RF_SLICE_NS;
        if (!rf_sleep(event, key, slice_end < deadline_ns ? slice_end : deadline_ns)) {
            status = RF_AGAIN;
            break;
        }
    }
    if (started)
        rf_count(ring, claim_wait_ns, rf_now_ns() - started);
    return status;
}

rf_status rf_claim(rf_ring *ring, uint32_t rows, int64_t deadline_ns, rf_lease **out)
{
    *out = NULL;
    if (rows == 0 || rows > ring->slot_count)
        return RF_INVALID;
    rf_status status = rf_enter(ring);
    if (status != RF_OK)
        return status;
    rf_lease *lease = rf_new_lease(ring, rows);
    if (!lease)
        return RF_NO_MEMORY;
    lease->is_claim = true;
    lease->since = rf_chain_now(ring);
    status = rf_wait_to_claim(ring, rows, deadline_ns, &lease->first, &lease->rows, lease->words);
    if (status != RF_OK) {
        rf_free_lease(lease);
        return status;
    }
    lease->claimed_ns = rf_now_ns();
    *out = lease;
    return RF_OK;
}

void rf_claim_zero(rf_lease *claim)
{
    /* A run that passes the ring's end is contiguous in the second mapping. */
    for (uint32_t field = 0; field < claim->ring->geometry.fields; field++)
        memset(rf_lease_data(claim, field), 0,
               claim->rows * claim->ring->geometry.field[field].stride_bytes);
}
