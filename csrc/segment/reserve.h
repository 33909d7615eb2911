/*
 * The memory of a segment (reserve.c).
 */
#ifndef RF_RESERVE_H
#define RF_RESERVE_H

#include "segment/handle.h"

/* Does the file system of the segment have room for it? */
bool rf_has_space(const rf_ring *ring);
/* Reserve every page now, so that missing memory shows here and not as SIGBUS at a write.
 * RF_NO_SPACE, RF_SYSTEM. */
rf_status rf_reserve(rf_ring *ring);
/* Forbid changes to the size of a segment without a name: a peer that could shrink it could
 * end all. */
void rf_seal_size(int fd);

#endif
