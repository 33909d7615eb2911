/*
 * Meters: histograms of the time that records and requests spend in each phase, from the clocks in slots and cells.
 *
 * A meter lies in the private memory of one process. The threads of that process add to it without a lock. There are
 * four buckets from one power of two to the next.
 *
 * It may not know the code that reads it.
 */
#ifndef RF_METER_H
#define RF_METER_H

#include "replies.h"

/* The phases of a record or a request. Times are in nanoseconds. */
typedef enum rf_phase {
    RF_PHASE_SLOT = 0,   /* of a request: from asking until a slot was claimed for it */
    RF_PHASE_PREPROCESS, /* from claim to publish */
    RF_PHASE_QUEUE,      /* from publish to take */
    RF_PHASE_COPY,       /* of a batch: from take until the model can run */
    RF_PHASE_COMPUTE,    /* of a batch: the model */
    RF_PHASE_REPLY,      /* of a batch: the engine writes its answers */
    RF_PHASE_TOTAL,      /* of a request: from asking to its answer */
    RF_PHASES,
} rf_phase;

/* Why a device was idle. Times are sums, in nanoseconds. */
typedef enum rf_idle {
    RF_IDLE_STARVED = 0, /* no record was ready */
    RF_IDLE_BATCHING,    /* records were ready, and the engine waited for more */
    RF_IDLES,
} rf_idle;

enum { RF_METER_BUCKETS = 168 /* up to 2^43 ns: more than two hours */ };

typedef struct rf_meter rf_meter;

RF_API rf_meter *rf_meter_new(void);
RF_API void rf_meter_free(rf_meter *meter);

/* Add the times in the slots of a batch and in the cells of its requests. Its device has waited for the batch since
 * `idle_since_ns`: add that time, too. `held` may be NULL. */
RF_API void rf_meter_batch(rf_meter *meter, const rf_lease *batch, const rf_ring *pool,
                           const rf_held *held, int64_t idle_since_ns);
/* Add the total times of requests that are about to be answered: later their cells belong to their clients. */
RF_API void rf_meter_answers(rf_meter *meter, const rf_ring *pool, const rf_held *held,
                             uint32_t rows, int64_t now_ns);
RF_API void rf_meter_add(rf_meter *meter, rf_phase phase, int64_t ns);

typedef struct rf_reading {
    uint64_t count, sum_ns;
    uint64_t buckets[RF_METER_BUCKETS];
} rf_reading;

RF_API void rf_meter_read(rf_meter *meter, rf_phase phase, rf_reading *reading);
RF_API uint64_t rf_meter_idle_ns(rf_meter *meter, rf_idle cause);
/* The number of distinct producers of the records so far. */
RF_API uint32_t rf_meter_producers(rf_meter *meter);
/* The smallest time, in nanoseconds, that is too long for a bucket. */
RF_API uint64_t rf_bucket_end_ns(uint32_t bucket);

#endif
