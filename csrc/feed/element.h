/*
 * Rows in somebody's hands: slots of the ring, or copies of some that lay apart.
 */
#ifndef RF_RUN_H
#define RF_RUN_H

#include <stdatomic.h>

#include "ringfeed.h"

typedef struct rf_run {
    _Atomic uint32_t references;
    uint32_t rows;
    uint32_t
        shown; /* rows at `data`: `rows`, or more; what lies behind `rows` is not the run's own */
    rf_lease *lease;
    uint64_t *tags; /* of copies */
    /* While nobody was handed the run (ticket.c): */
    struct rf_feed *_Atomic feed; /* takes it back; NULL else */
    int64_t *ticket;              /* its number, starting on 64 bytes */
    struct rf_run *next;          /* in a list of those that wait for something */
    void *data[];                 /* of each field, its first sample */
} rf_run;

/* A run over the ring's memory that shows at least `shown` rows, if the ring has so many slots; over copies,
 * where that memory is not all page-locked (page_lock.c). Takes the lease over, also when it fails. NULL: no
 * memory. */
rf_run *rf_run_of_lease(rf_lease *lease, uint32_t shown);
/* The same over copies, always: the lease is dropped. */
rf_run *rf_run_copied(rf_lease *lease, uint32_t shown);
/* A run with memory of its own, for `rows` rows: zeros, and none of them filled yet. NULL: no memory. */
rf_run *rf_run_of_copies(const rf_ring *ring, uint32_t rows);
/* Copy a batch behind the rows that are there. */
void rf_run_add(rf_run *run, const rf_lease *lease);
/* Move up to so many rows of copies from the front of one run to the end of another, which has the room. */
void rf_run_move(rf_run *to, rf_run *from, uint32_t rows, const rf_geometry *geometry);

RF_API void rf_run_retain(rf_run *run);
/* The last one gives the slots back; from any thread. */
RF_API void rf_run_drop(rf_run *run);
/* As many as are shown; 0 behind its own rows. */
RF_API void rf_run_tags(const rf_run *run, uint64_t *tags);

#endif
