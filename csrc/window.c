/*
 * The window of slots that are used again. See window.h.
 *
 * Nobody holds the window, and no word says where it is: at the end of so many slots a producer asks whether takers have
 * taken all that lies before its record, and whether the slot is free at which these began; takers look there in turn. What
 * either finds is a hint, as the cursors are: a search goes around the whole ring.
 */
#include "window.h"

/* A cache near a core holds as much, beside what the programs at both ends of the ring work on. */
#define WINDOW_BYTES (UINT64_C(1) << 20)
enum { LEAST_SLOTS = 2 };

uint32_t rf_window_slots(const rf_geometry *geometry)
{
    uint64_t bytes = 0;
    for (uint32_t field = 0; field < geometry->fields; field++)
        bytes += geometry->field[field].stride_bytes;
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

uint32_t rf_window_claim(const rf_ring *ring, uint32_t first, uint32_t count, uint32_t next)
{
    /* Relaxed, as all here: each is a hint. Has everything before our claim been taken? What comes behind it may wait for
     * a while, and would then lie in two pieces: that is nothing for takers that wait for several records. */
    if (ring->is_pool || rf_load_relaxed(&ring->header->together) ||
        rf_load_relaxed(&ring->header->take_cursor) != first)
        return next;
    /* Takers that hold on to what they took keep a window from being used again: then it is one of twice as many. */
    for (uint64_t window = ring->window;
         rf_window_ends(window, first, next) && window < ring->slot_count; window *= 2) {
        uint32_t start = (uint32_t)(first / window * window);
        if (is_free(ring, start, count))
            return start;
    }
    return next;
}

/* Where looks go on that end a window, and how many in a row did not go on to its end. */
static uint32_t look_at(rf_ring *ring, uint32_t next, uint32_t at)
{
    uint32_t returns = at == next ? 0 : rf_load_relaxed(&ring->returns) + 1;
    /* Outside may lie what a claim from before became: whoever looks meets it within a lap, as without a window. */
    if (returns > ring->slot_count / ring->window)
        returns = 0;
    rf_store_relaxed(&ring->returns, returns);
    return returns ? at : next;
}

uint32_t rf_window_look(rf_ring *ring, uint32_t first, uint32_t next)
{
    if (state_of(ring, next) != RF_STATE_FREE)
        return look_at(ring, next, next);
    for (uint64_t window = ring->window;
         rf_window_ends(window, first, next) && window < ring->slot_count; window *= 2) {
        uint32_t start = (uint32_t)(first / window * window);
        rf_state state = state_of(ring, start);
        if (state == RF_STATE_CLAIMED || state == RF_STATE_READY)
            return look_at(ring, next, start);
    }
    /* They go on there, and have not begun. */
    return look_at(ring, next, rf_cursor(ring, &ring->header->claim_cursor));
}
