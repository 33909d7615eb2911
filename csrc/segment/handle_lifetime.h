/*
 * How long a handle lives. The layers above the ring include this header, which tells nothing of the slot protocol.
 */
#ifndef RF_HANDLE_LIFETIME_H
#define RF_HANDLE_LIFETIME_H

#include "ringfeed.h"
#include "segment/atomics.h"

/* + 1 in each child of a fork (participants.c). */
extern _Atomic uint32_t rf_fork_generation;

void rf_ring_retain(rf_ring *ring);
/* The last reference unmaps the memory (handle.c). */
void rf_ring_unref(rf_ring *ring);

#endif
