/*
 * The window of slots that are used again. See window.h.
 *
 * A claim that finds all earlier claims taken starts again at the first free slots, and moves the take cursor along.
 * That is for records whose copy takes longer than a cache line takes from core to core.
 *
 * No process holds the window, and no word stores its place. At the end of a window a producer checks whether takers
 * are within it, and whether the slot where it began is free; takers search there in turn. Both results are hints,
 * as the cursors are: a search goes around the whole ring.
 */
#include "ring/window.h"

/* A cache near a core holds this much, beside the working data of the programs at both ends of
 * the ring. */
#define WINDOW_BYTES (UINT64_C(1) << 20)
enum {
    LEAST_SLOTS = 2,
    RESTART_BYTES = 16384,
    MOST_STARTS = 8,
    LEAST_UNDER_WAY = 4,
    MOST_STEPS_BACK = 16
};

static uint64_t slot_bytes(const rf_geometry *geometry)
{
    uint64_t bytes = 0;
    for (uint32_t field = 0; field < geometry->fields; field++)
        bytes += geometry->field[field].stride_bytes;
    return bytes;
}

uint32_t rf_window_slots(const rf_geometry *geometry)
{
    uint64_t bytes = slot_bytes(geometry);
    uint64_t slots = bytes ? WINDOW_BYTES / bytes : geometry->slots;
    if (slots < LEAST_SLOTS)
        slots = LEAST_SLOTS;
    return slots < geometry->slots / 2 ? (uint32_t)slots : 0;
}

static rf_state state_of(const rf_ring *ring, uint32_t slot)
{
    return rf_word_state(rf_load_relaxed(&ring->words[slot]));
}

static bool is_free(const rf_ring *ring, uint32_t slot, uint32_t count)
{
    while (count && state_of(ring, slot) == RF_STATE_FREE) {
        slot = rf_wrap(ring, slot + 1);
        count--;
    }
    return count == 0;
}

bool rf_window_restarts(const rf_geometry *geometry)
{
    return slot_bytes(geometry) >= RESTART_BYTES && rf_window_slots(geometry) != 0;
}

uint32_t rf_window_restart(const rf_ring *ring, uint32_t cursor, uint32_t rows)
{
    /* The newest claims are mostly on their way. As many as a window holds may be, because a
     * taker that was asleep finds some. But if takers wait for several records, none may be,
     * because there must be room for all of these. Only the ends and the middle of that room
     * are checked, because a batch is mostly released as a whole. */
    uint32_t together = rf_load_relaxed(&ring->header->contiguous_rows);
    uint32_t under_way =
        rf_wrap(ring, cursor + ring->slot_count - rf_cursor(ring, &ring->header->take_cursor));
    uint32_t most = ring->window > LEAST_UNDER_WAY ? ring->window : LEAST_UNDER_WAY;
    if (under_way > (together ? 0 : rows > most ? rows : most))
        return cursor;
    uint32_t run = together > rows && together <= ring->slot_count ? together : rows, start = 0;
    for (int tried = 0; tried < MOST_STARTS && start + run <= ring->slot_count; tried++) {
        if (start == cursor)
            break; /* starting at the cursor is as good */
        if (is_free(ring, start, rows) && state_of(ring, start + run - 1) == RF_STATE_FREE &&
            state_of(ring, start + run / 2) == RF_STATE_FREE)
            return start;
        start += run;
    }
    return cursor;
}

uint32_t rf_window_claim(const rf_ring *ring, uint32_t first, uint32_t count, uint32_t next)
{
    /* Relaxed, as all loads here: each is a hint. Takers that wait for several records want
     * them contiguous. */
    if (ring->kind->is_pool || rf_load_relaxed(&ring->header->contiguous_rows))
        return next;
    uint32_t taken = rf_load_relaxed(&ring->header->take_cursor);
    /* Takers that hold on to their batches keep a window from being used again; then the
     * window has twice as many slots. */
    for (uint64_t window = ring->window;
         rf_window_ends(window, first, next) && window < ring->slot_count; window *= 2) {
        uint32_t start = (uint32_t)(first / window * window);
        /* Has every record before the window been taken? */
        if (taken >= start && taken <= first && is_free(ring, start, count))
            return start;
    }
    return next;
}

/* The start of the run that claims are at. */
static uint32_t newest_run(const rf_ring *ring)
{
    uint32_t slot = rf_cursor(ring, &ring->header->claim_cursor);
    for (int step = 0; step < MOST_STEPS_BACK; step++) {
        uint32_t before = slot ? slot - 1 : ring->slot_count - 1;
        rf_state state = state_of(ring, before);
        if (state != RF_STATE_CLAIMED && state != RF_STATE_READY)
            break;
        slot = before;
    }
    return slot;
}

uint32_t rf_window_look(const rf_ring *ring, uint32_t first, uint32_t next)
{
    if (state_of(ring, next) != RF_STATE_FREE)
        return next;
    if (ring->restarts)
        return newest_run(ring);
    for (uint64_t window = ring->window;
         rf_window_ends(window, first, next) && window < ring->slot_count; window *= 2) {
        uint32_t start = (uint32_t)(first / window * window);
        rf_state state = state_of(ring, start);
        if (state == RF_STATE_CLAIMED || state == RF_STATE_READY)
            return start;
    }
    return rf_cursor(ring,
                     &ring->header->claim_cursor); /* claims go on there, and have not begun */
}
