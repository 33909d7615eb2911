/*
 * Where the time goes: histograms of what slots and cells know of their records.
 *
 * It may not know who reads it. A meter lies in the private memory of one process; its threads add to it
 * without a lock. A bucket is at most a quarter wide: 4 of them from one power of two to the next.
 */
#ifndef RF_METER_H
#define RF_METER_H

#include "replies.h"

/* What is measured; times in nanoseconds. */
typedef enum rf_phase {
    RF_PHASE_SLOT = 0,   /* of a request: from asking until a slot was free for it */
    RF_PHASE_PREPROCESS, /* from claim to publish */
    RF_PHASE_QUEUE,      /* from publish to take */
    RF_PHASE_COPY,       /* of a batch: from take until it was ready for the model */
    RF_PHASE_COMPUTE,    /* of a batch: the model */
    RF_PHASE_REPLY,      /* of a batch: writing its answers */
    RF_PHASE_TOTAL,      /* of a request: from asking to its answer */
    RF_PHASES,
} rf_phase;

/* Why a device had nothing to do; times in nanoseconds, summed. */
typedef enum rf_idle {
    RF_IDLE_STARVED = 0, /* nothing was ready */
    RF_IDLE_BATCHING,    /* something was, and more was waited for */
    RF_IDLES,
} rf_idle;

enum { RF_METER_BUCKETS = 168 /* up to 2^43 ns: more than two hours */ };

typedef struct rf_meter rf_meter;

RF_API rf_meter *rf_meter_new(void);
RF_API void rf_meter_free(rf_meter *meter);

/* What the slots of a batch, and the cells of its requests, tell; and what its device did since
 * `idle_since_ns`, when it began to wait for it. `held` may be NULL. */
RF_API void rf_meter_batch(rf_meter *meter, const rf_lease *batch, const rf_ring *pool,
                           const rf_held *held, int64_t idle_since_ns);
/* The same when they were answered. */
RF_API void rf_meter_answers(rf_meter *meter, const rf_ring *pool, const rf_held *held,
                             uint32_t rows, int64_t now_ns);
RF_API void rf_meter_add(rf_meter *meter, rf_phase phase, int64_t ns);

typedef struct rf_reading {
    uint64_t count, sum_ns;
    uint64_t buckets[RF_METER_BUCKETS];
} rf_reading;

RF_API void rf_meter_read(rf_meter *meter, rf_phase phase, rf_reading *reading);
RF_API uint64_t rf_meter_idle_ns(rf_meter *meter, rf_idle cause);
/* Distinct producers that records came from, of those counted so far. */
RF_API uint32_t rf_meter_producers(rf_meter *meter);
/* The smallest time, in nanoseconds, that does not belong to a bucket any more. */
RF_API uint64_t rf_bucket_end_ns(uint32_t bucket);

#endif
