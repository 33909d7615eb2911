/*
 * The owner of a segment (owner.c).
 */
#ifndef RF_OWNER_H
#define RF_OWNER_H

#include "segment/handle.h"

rf_status rf_lock_owner(rf_ring *ring); /* say that this process owns the segment */
void rf_unlock_owner(rf_ring *ring);
bool rf_owner_lives(const rf_ring *ring);

#endif
