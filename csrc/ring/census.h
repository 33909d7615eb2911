/*
 * The slots of a ring, in numbers. The layers above the ring include this header, which tells nothing of the slot
 * protocol: no word, no cursor.
 */
#ifndef RF_CENSUS_H
#define RF_CENSUS_H

#include "ringfeed.h"

/* How many slots are in which state. A garbled word counts in none. */
typedef struct rf_census {
    uint32_t free, claimed, ready, taken, kept;
} rf_census;
rf_census rf_count_states(const rf_ring *ring);

/* How many of `rows` rows, from the first row of a lease on, can be read as one run of memory. */
uint32_t rf_lease_readable_rows(const rf_lease *lease, uint32_t rows);

#endif
