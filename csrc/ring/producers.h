/*
 * Producing blocks of participants that end without their producer (producers.c).
 */
#ifndef RF_PRODUCERS_H
#define RF_PRODUCERS_H

#include "segment/handle.h"

/* End the open blocks of a participant that is dead or leaves, and finish the ring if they
 * were the last. */
void rf_end_blocks(rf_ring *ring, uint32_t owner);
/* Finish the ring if its producers have come and none is left. Callable after the end of a
 * block, or at any time. */
bool rf_finish_if_left(rf_ring *ring);

#endif
