/*
 * What the files of this folder share: small functions over slots, and the states counted.
 * The outline of the protocol is in ring.c.
 */
#ifndef RF_RING_H
#define RF_RING_H

#include "ring/census.h"
#include "segment/event.h"
#include "segment/participants.h"

static inline uint32_t rf_wrap(const rf_ring *ring, uint32_t slot)
{
    return slot >= ring->slot_count ? slot - ring->slot_count : slot;
}

/* How many of `rows` rows from a slot on may form one run. */
static inline uint32_t rf_rows_from(const rf_ring *ring, uint32_t slot, uint32_t rows)
{
    /* Relaxed: it is set before a run that may not pass the end is asked for. */
    if (!rf_load_relaxed(&((rf_ring *)ring)->runs_end) || rows <= ring->slot_count - slot)
        return rows;
    return ring->slot_count - slot;
}

/* May the words of this slot and the next be swapped with one operation (rf_cas_pair), in a
 * run of `rows` rows? */
static inline bool rf_is_pair(const rf_ring *ring, uint32_t slot, uint32_t rows)
{
    return rows >= 2 && slot % 2 == 0 && slot + 1 < ring->slot_count;
}

/* Prefetch the cache lines of a run's words or links for writing, all at once: otherwise each
 * swap would wait for its own. */
static inline void rf_fetch(const rf_ring *ring, _Atomic uint64_t *of_slots, uint32_t slot,
                            uint32_t rows)
{
    uint32_t end = slot + rows < ring->slot_count ? slot + rows : ring->slot_count;
    for (; slot < end; slot += RF_CACHE_LINE / sizeof of_slots[0])
        __builtin_prefetch((const void *)&of_slots[slot], 1);
}

/* A cursor from shared memory is a hint, which a peer may have garbled. */
static inline uint32_t rf_cursor(const rf_ring *ring, _Atomic uint32_t *cursor)
{
    uint32_t slot = rf_load_relaxed(cursor);
    return slot < ring->slot_count ? slot : 0;
}

/* A word in the wished state that is of no use is not worth spinning on more often than this. */
enum { RF_MOST_SPINS = 16 };

/* RF_OK while records may still be published into the ring. */
static inline rf_status rf_still_open(const rf_ring *ring)
{
    if (rf_load_relaxed(&ring->header->finished) & RF_IS_FINISHED)
        return RF_FINISHED;
    return rf_load_relaxed(&ring->header->closed) ? RF_CLOSED : RF_OK;
}
/* Before a wait goes on: RF_OK, or the reason why it is over. */
rf_status rf_wait_on(int64_t *started, int64_t now_ns, int64_t deadline_ns, rf_status out_of_time);
/* A taker calls this before it sleeps: if there is free room, it wakes the producers that wait
 * for more of it than was given back. (Without free room they would wake the taker for
 * nothing, and the taker them, without end.) */
void rf_leave_no_room_unused(rf_ring *ring);

#endif
