/*
 * The whole ring: finishing, recovery, and its states and counters.
 */
#ifndef RINGFEED_RING_STATE_H
#define RINGFEED_RING_STATE_H

#include "rf_types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* No more records: claims fail from now on. Takers drain the records that were claimed before,
 * then stop. */
RF_API void rf_finish(rf_ring *ring);

/* Give back what dead participants held. Returns how many participants were found dead. */
RF_API uint32_t rf_recover(rf_ring *ring);

/* The same for participants that hold something, at most once in a slice for all callers
 * together. For a thread that waits for others. */
RF_API void rf_reap(rf_ring *ring);

/* When a thread that waits for anything of this ring should look again at the latest, given
 * how many others wait. */
RF_API int64_t rf_patience_until(const rf_ring *ring);
/* If many wait: does another thread than this one look for the dead? */
RF_API int rf_another_reaps(const rf_ring *ring);

/* How many records are READY. */
RF_API uint32_t rf_ring_ready(const rf_ring *ring);

typedef struct rf_counts {
    uint64_t published;
    uint64_t discarded;
    uint64_t taken;
    uint64_t released;
    uint64_t batches;
    uint64_t redelivered;   /* rows that became READY again: of dead takers, or given back */
    uint64_t dropped;       /* rows of dead takers that were dropped */
    uint64_t reclaimed;     /* claims of dead producers that were freed */
    uint64_t dead_letters;  /* rows over which too many takers failed, set aside */
    uint64_t claim_wait_ns; /* time producers spent waiting for a free slot */
    uint64_t take_wait_ns;  /* time takers spent waiting for records */
} rf_counts;

typedef struct rf_stats {
    uint32_t free, claimed, ready, taken, kept; /* slots by state, counted one after the other */
    uint32_t participants;
    rf_counts counts; /* of all participants, past and present */
} rf_stats;

RF_API void rf_ring_stats(rf_ring *ring, rf_stats *stats);

/* What a participant holds: the slots that it claimed, and those that it took or keeps. In a
 * pool, also the answers that it has not let go of. */
typedef struct rf_holding {
    uint32_t pid;
    uint32_t ours; /* 1: it is a handle of this process */
    uint32_t claimed, held;
} rf_holding;

/* Fill one entry for each participant; the geometry has their number. */
RF_API void rf_ring_holdings(rf_ring *ring, rf_holding *holdings);

/* CLOCK_MONOTONIC in nanoseconds. */
RF_API int64_t rf_now_ns(void);

#ifdef __cplusplus
}
#endif
#endif
