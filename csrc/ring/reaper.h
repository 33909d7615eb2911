/*
 * Looking for dead participants, and how long a waiter may sleep until it looks (reaper.c).
 */
#ifndef RF_REAPER_H
#define RF_REAPER_H

#include "segment/handle.h"

/* A caller that finds nothing to do calls this, however short its own wait is. Once in a slice
 * one of all callers looks for the dead. True: something changed, and the caller should look
 * again. */
bool rf_reap_in_turn(rf_ring *ring, int64_t now_ns);
/* When a patient waiter looks again at the latest: at the end of a slice, or later if many
 * wait. */
int64_t rf_patience_ends(const rf_ring *ring, int64_t now_ns);
/* Do so many wait that they sleep for longer? */
bool rf_many_wait(const rf_ring *ring);
/* A patient sleep lies between these two calls. */
void rf_begin_patience(rf_ring *ring);
void rf_end_patience(rf_ring *ring);
/* Set the bit of a participant, for rf_recover_some. A garbled number sets none. */
void rf_add_owner(const rf_ring *ring, uint64_t *owners, uint32_t owner);

#endif
