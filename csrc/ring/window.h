/*
 * Slots that are used again while a cache still holds them.
 *
 * A ring that is walked from end to end puts each record into cache lines that have long left the cache, and pays
 * for reading them before it writes. So claims stay within a window of slots as long as takers keep up: at its end
 * they return to its start. Under a backlog claims walk the whole ring. They also do so for takers that wait for
 * several records at a time.
 */
#ifndef RF_WINDOW_H
#define RF_WINDOW_H

#include "ring/ring.h"

/* How many slots form a window; 0: the whole ring is no larger. */
uint32_t rf_window_slots(const rf_geometry *geometry);

/* Where a claim or a search that ends a window goes on; see below. */
uint32_t rf_window_claim(const rf_ring *ring, uint32_t first, uint32_t count, uint32_t next);
uint32_t rf_window_look(const rf_ring *ring, uint32_t first, uint32_t next);

/* Does a window of this many slots end between two slots? */
static inline bool rf_window_ends(uint64_t window, uint32_t first, uint32_t next)
{
    return next <= first || next / window != first / window;
}

/* Where the claim after one of `count` slots from `first` on searches first: behind it, or
 * where a window begins. */
static inline uint32_t rf_next_claim(const rf_ring *ring, uint32_t first, uint32_t count)
{
    uint32_t next = rf_wrap(ring, first + count);
    return ring->window && rf_window_ends(ring->window, first, next)
               ? rf_window_claim(ring, first, count, next)
               : next;
}

/* The same for the search after a run that was taken: where claims have gone on. */
static inline uint32_t rf_next_look(const rf_ring *ring, uint32_t first, uint32_t next)
{
    return ring->restarts || (ring->window && rf_window_ends(ring->window, first, next))
               ? rf_window_look(ring, first, next)
               : next;
}

/* Say that takers wait for this many records that are to lie in a row. Once said, it stays so. */
static inline void rf_want_contiguous(rf_ring *ring, uint32_t rows)
{
    if (ring->window && rf_load_relaxed(&ring->header->contiguous_rows) < rows)
        rf_store_relaxed(&ring->header->contiguous_rows, rows); /* a hint */
}

/* Does a claim start again at the first slots when everything was taken, and where? */
bool rf_window_restarts(const rf_geometry *geometry);
uint32_t rf_window_restart(const rf_ring *ring, uint32_t cursor, uint32_t rows);

#endif
