/*
 * Copies past the caches. Used by claim.c.
 *
 * A store into a slot that has long left the caches first reads its line from memory, only to overwrite it. A streaming store
 * does not; but then the record is not in a cache either, where a taker finds one that was copied into a hot slot. So a handle
 * remembers which slots it wrote last, and times its copies, into those and into others: where streaming is faster by half it
 * goes on so. Once in a while both ways are tried.
 */
#ifndef RF_STREAMING_H
#define RF_STREAMING_H

#include <stddef.h>

#include "segment/handle.h"

/* A handle has copied nothing yet. */
void rf_begin_copies(rf_ring *ring);

/* How a record is to be copied into a slot that was claimed just now: RF_COPY_STREAMED or not, RF_COPY_HOT or not. */
unsigned rf_way_to_copy(rf_ring *ring, uint32_t slot);

/* That a record was copied so, and for how long. */
void rf_note_copy(rf_ring *ring, unsigned way, int64_t took_ns);

/* Copy past the caches; `to` is aligned to RF_ALIGNMENT. */
void rf_stream(void *to, const void *from, size_t bytes);

/* What was streamed is seen before whatever is written from here on. No release orders it. */
void rf_end_streaming(void);

#endif
