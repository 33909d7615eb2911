/*
 * Giving back what a dead participant held in a ring (recover.c).
 */
#ifndef RF_RECOVER_H
#define RF_RECOVER_H

#include "segment/handle.h"

void rf_recover_slots(rf_ring *ring, uint32_t dead);

#endif
