/*
 * RingFeed: a lock-free ring of fixed-shape tensor slots in POSIX shared memory. The public interface of the C core.
 *
 * It knows no Python and no TensorFlow. Replies, meters and feeds have headers of their own (replies.h, meter.h, feed.h).
 *
 * A ring has `slots` slots. Each slot holds one record: one sample of every named field. A producer claims free slots, writes the
 * samples in place and publishes them. A taker takes the oldest run of published slots as one contiguous batch, and releases it
 * when it has read it.
 *
 *     FREE --claim--> CLAIMED --publish--> READY --take--> TAKEN --release--> FREE (epoch + 1)
 *
 * Every function returns an rf_status; none prints, exits or raises a signal. Functions that may wait return RF_AGAIN every
 * RF_SLICE_NS and after every signal, so that the caller can run its own signal handlers. It then calls again with the same
 * request.
 */
#ifndef RINGFEED_H
#define RINGFEED_H

#include "rf_lease.h"
#include "rf_producing.h"
#include "rf_ring_state.h"
#include "rf_segment.h"
#include "rf_taking.h"
#include "rf_types.h"

#endif
