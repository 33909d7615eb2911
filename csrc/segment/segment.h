/*
 * Creating and attaching a segment of any kind (segment.c).
 */
#ifndef RF_SEGMENT_H
#define RF_SEGMENT_H

#include "segment/handle.h"

/* Give the empty object `fd` its size, memory and header, and join it. The word of each slot starts at `epoch`. The descriptor
 * becomes the handle's, also on failure. */
rf_status rf_segment_create(int fd, const rf_options *options, const rf_geometry *geometry,
                            const rf_kind *kind, uint64_t epoch, rf_ring **out);
/* Map an existing segment of that kind and join it. The descriptor becomes the handle's, also on failure. */
rf_status rf_segment_attach(int fd, const rf_kind *kind, rf_ring **out);
/* Close the segment's descriptor, unless other code has done so. */
void rf_close_descriptor(const rf_ring *ring);

#endif
