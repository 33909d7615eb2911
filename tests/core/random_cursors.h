/* Random cursors, for the tests of order. */
#ifndef RF_RANDOM_CURSORS_H
#define RF_RANDOM_CURSORS_H

#include "chance.h"
#include "check.h"

/* Cursors are hints: any value is correct. */
static inline void scramble_cursors(rf_ring *ring)
{
    static const uint32_t odd[] = {UINT32_MAX, 1u << 24, 0};
    uint32_t slots = ring->slot_count, choice = random_below(8);
    atomic_store(&ring->header->take_cursor, choice < 3 ? odd[choice] : random_below(slots));
    atomic_store(&ring->header->claim_cursor, random_below(slots));
}

#endif
