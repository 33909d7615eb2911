/*
 * Finding the run of records that a taker takes next (find.c).
 */
#ifndef RF_FIND_H
#define RF_FIND_H

#include "segment/handle.h"

/* What one look at the ring said to a taker. */
typedef struct rf_find_result {
    uint32_t first;
    uint32_t rows;    /* of the run that starts there; 0: nothing is ready */
    uint32_t missing; /* rows worth sleeping for */
    bool by_link;
    bool alone; /* a record over which a taker failed */
    bool hasty; /* nobody will sleep on what it says: who looks at all words takes their lines from
                   who is about to change them, so only the cursor's is looked at */
    rf_status open; /* rf_still_open, before anything else was looked at */
} rf_find_result;

/* The first record of the run to take next, among `most` slots from where we look on, or where links lead. */
bool rf_find_first(const rf_ring *ring, uint32_t most, uint32_t *first, bool *by_link);
/* How many records lie READY in a row from `first` on, each of them free to go; their words.
 * Records over which a taker failed only `together` with others if so wished, and dead letters never. */
uint32_t rf_run_length(const rf_ring *ring, uint32_t first, uint32_t most, bool together,
                       uint64_t *words);
/* Remember where a run ended. */
void rf_leave_trail(rf_ring *ring, const rf_find_result *seen, uint32_t count);

#endif
