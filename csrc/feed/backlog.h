/*
 * Runs of copies that lie in a feed: some wait for more rows, some came back. And whether the feed is at its end.
 *
 * It has a lock, which is held for a few copies of rows at most. It may not know how rows are taken.
 */
#ifndef RF_SHELF_H
#define RF_SHELF_H

#include <pthread.h>

#include "feed/element.h"
#include "ring/lease.h"

typedef struct rf_shelf {
    pthread_mutex_t mutex;
    uint32_t exact; /* rows of a whole run; 0: any is whole */
    rf_run *first;
    uint32_t returns;    /* runs that came back: what was the end before may not be the end now */
    _Atomic bool closed; /* the ring is at its end, and nothing has come back since */
} rf_shelf;

void rf_shelf_init(rf_shelf *shelf, uint32_t exact);
/* Drop what lies here. */
void rf_shelf_clear(rf_shelf *shelf);
/* Whole ones, which came back, come first, in their order. */
void rf_shelf_put(rf_shelf *shelf, rf_run *run);
/* The first run, filled up with the rows of others; NULL where that makes less than `least`. */
rf_run *rf_shelf_take(rf_shelf *shelf, const rf_geometry *geometry, uint32_t least);

bool rf_shelf_is_closed(const rf_shelf *shelf);
uint32_t rf_shelf_returns(rf_shelf *shelf);
/* The ring had come to its end for who looked behind that count. False: look again, a run is back. */
bool rf_shelf_close(rf_shelf *shelf, uint32_t returns);
/* A run is back: its rows are to be had by now. */
void rf_shelf_count_return(rf_shelf *shelf);

#endif
