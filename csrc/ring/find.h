/*
 * Finding the run of records that a taker takes next (find.c).
 */
#ifndef RF_FIND_H
#define RF_FIND_H

#include "segment/handle.h"

/* What one search told a taker. */
typedef struct rf_find_result {
    uint32_t first;
    uint32_t rows;    /* of the run that starts there; 0: nothing is ready */
    uint32_t missing; /* rows worth sleeping for */
    bool by_link;
    bool alone; /* a record over which a taker failed */
    /* The taker will not sleep on this result, so the search reads the cursor's word only. Reading all
     * words takes their cache lines from the processes that are about to change them. */
    bool hasty;
    rf_status open; /* rf_still_open, before anything else was read */
} rf_find_result;

/* Find the first record of the run to take next, among `most` slots from the start of the
 * search on, or where links lead. */
bool rf_find_first(const rf_ring *ring, uint32_t most, uint32_t *first, bool *by_link);
/* How many records lie READY in a row from `first` on, each of them free to go; their words.
 * Records over which a taker failed count only if `together`, and dead letters never. */
uint32_t rf_run_length(const rf_ring *ring, uint32_t first, uint32_t most, bool together,
                       uint64_t *words);
/* Remember where a run ended. */
void rf_leave_trail(rf_ring *ring, const rf_find_result *seen, uint32_t count);

#endif
