/*
 * Copies past the caches. Used by publish.c.
 *
 * A store into a slot that has long left the caches first reads its cache line from memory, only to overwrite it. A
 * streaming store does not. But then the record is not in a cache either, where a taker would find one that was
 * copied into a hot slot. So a handle remembers which slots it wrote last, and times its copies into those and into
 * others. If streaming is faster by half, it goes on with that. Once in a while it tries both ways.
 */
#ifndef RF_STREAMING_H
#define RF_STREAMING_H

#include <stddef.h>

#include "segment/handle.h"

/* A handle starts without any measured copy. */
void rf_begin_copies(rf_ring *ring);

/* How to copy a record into a slot that was just claimed: RF_COPY_STREAMED or not, RF_COPY_HOT
 * or not. */
unsigned rf_way_to_copy(rf_ring *ring, uint32_t slot);

/* Note that a record was copied this way, and how long it took. */
void rf_note_copy(rf_ring *ring, unsigned way, int64_t took_ns);

/* Copy past the caches; `to` is aligned to RF_ALIGNMENT. */
void rf_stream(void *to, const void *from, size_t bytes);

/* Streamed stores become visible before all later ones. No release orders them. */
void rf_end_streaming(void);

#endif
