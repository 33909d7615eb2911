/*
 * Taking batches, from one ring or several, and dead letters.
 */
#ifndef RINGFEED_TAKING_H
#define RINGFEED_TAKING_H

#include "rf_lease.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct rf_take_request {
    uint32_t max_rows;
    uint32_t min_rows;   /* wait for this many published records */
    int64_t deadline_ns; /* CLOCK_MONOTONIC; 0 does not wait */
    int64_t linger_ns;   /* once min_rows are there, wait this long for max_rows */
    /* 1: hand them out, each alone; 0: set them aside (rf_next_dead_letter). */
    uint32_t dead_letters;
    /* 1: for a row that comes alone, dying counts as failing only after rf_lease_show. */
    uint32_t unseen;
    /* Kept from call to call; zero at first. */
    int64_t linger_until_ns;
    int64_t enough_since_ns;
    uint32_t lingers_at; /* rf_take_first: the ring of these times, counted from 1 */
    /* If many wait, RF_AGAIN may come after RF_MOST_PATIENCE_NS instead of a slice. */
    uint32_t patient;
} rf_take_request;

/* Take the oldest run of published records, at most max_rows of them.
 *
 * A record over which a taker failed comes alone, unless min_rows is more than 1. A record over which rf_options.max_deliveries
 * takers failed is a dead letter, and always comes alone. Otherwise the run is shorter than min_rows only in these cases:
 *
 *   - no more records can come: the ring was finished, or no slot is left to publish in;
 *   - for 5 ms (or linger_ns, if longer) min_rows records were ready, but on both sides of a held slot;
 *   - for that time a producer waited for a free slot while the missing records were held.
 *
 * RF_AGAIN, RF_EMPTY, RF_FINISHED, RF_PRODUCER_FAILED, RF_CLOSED, RF_INVALID, RF_NO_MEMORY. */
RF_API rf_status rf_take(rf_ring *ring, rf_take_request *request, rf_lease **lease);

/* The note of a record that a take through this handle set aside. */
typedef struct rf_dead_letter {
    uint64_t tag;
    uint32_t producer, failures;
    uint32_t unsaid; /* earlier dead letters of which nothing else is known */
} rf_dead_letter;

/* Take the oldest note that was not reported yet. 0: there is none. */
RF_API int rf_next_dead_letter(rf_ring *ring, rf_dead_letter *letter);

enum { RF_MOST_LEVELS = 8 };

/* The same from the first of several rings that has records, the most urgent first. The
 * deadline is for min_rows; the wait for more is on the ring that had them. Statuses as
 * rf_take. */
RF_API rf_status rf_take_first(rf_ring *const *rings, uint32_t count, rf_take_request *request,
                               rf_lease **lease);

#ifdef __cplusplus
}
#endif
#endif
