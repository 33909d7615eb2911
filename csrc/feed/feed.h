/*
 * Batches for a consumer that can do nothing but call and wait: the threads of TensorFlow.
 *
 * A feed is a ring with a plan: how many rows an element has, how long it waits. Feeds have numbers, so that
 * what refers to one (a graph, for instance) may outlive it. It may not know TensorFlow, nor Python.
 */
#ifndef RF_FEED_H
#define RF_FEED_H

#include <stdbool.h>

#include "feed/element.h"

typedef struct rf_feed rf_feed;

typedef struct rf_feed_plan {
    uint32_t most, least; /* rows of an element */
    uint32_t exact;       /* rows of every element, where not 0; gathered, where they lie apart */
    uint32_t ahead;       /* elements go back until they are delivered (ticket.h) */
    uint32_t shown;  /* show at least so many rows: what lies behind an element's is not its own */
    uint32_t copies; /* elements have memory of their own, and their slots are free at once */
    int64_t linger_ns;
    int64_t timeout_ns; /* < 0: wait for ever */
    int64_t turn_ns;    /* idle for so long, the turn is over (rf_feed_next); 0: it never is */
} rf_feed_plan;

/* Make a feed of an open ring, whose handle it keeps; `name` is for messages. NULL: no memory. */
RF_API rf_feed *rf_feed_new(rf_ring *ring, const char *name, const rf_feed_plan *plan);
RF_API uint64_t rf_feed_id(const rf_feed *feed);
/* Forget its number and drop the reference of who made it. */
RF_API void rf_feed_end(rf_feed *feed);

/* The feed of that number, with a reference for the caller; NULL where there is none (any more). */
RF_API rf_feed *rf_feed_find(uint64_t id);
RF_API void rf_feed_unref(rf_feed *feed);
rf_feed *rf_feed_retain(rf_feed *feed);
/* An element that nobody was handed, its last reference gone: its rows are READY again or, copies, wait for
 * whoever is next; then it is true, and the run is the feed's. */
bool rf_feed_take_back(rf_feed *feed, rf_run *run);

/* Lay a batch in for the next rf_feed_next, which will not wait. Takes a reference of its own.
 * RF_NO_MEMORY; RF_INVALID: the lease is another ring's. */
RF_API rf_status rf_feed_park(rf_feed *feed, rf_lease *lease);
/* Drop what is laid in. True: there was something. */
RF_API int rf_feed_unpark(rf_feed *feed);

/* The next element. RF_AGAIN: the turn is over; RF_FINISHED, RF_PRODUCER_FAILED: also each time after that; RF_EMPTY:
 * nothing in time; RF_CLOSED: the ring, or the feed was ended while this waited;
 * RF_INTERRUPTED: the attendant said so, and there are no turns; RF_NO_MEMORY. */
RF_API rf_status rf_feed_next(rf_feed *feed, rf_run **run);
/* May another turn begin? RF_OK, RF_FINISHED, RF_PRODUCER_FAILED, RF_CLOSED. */
RF_API rf_status rf_feed_turn(rf_feed *feed);
/* What a status of rf_feed_next means, in words. */
RF_API void rf_feed_explain(const rf_feed *feed, rf_status status, char *text, size_t bytes);
RF_API const rf_geometry *rf_feed_geometry(const rf_feed *feed);

/* All of it that a shared object of its own needs, which is not linked with this library. */
enum { RF_FEED_TABLE_VERSION = 1 };
typedef struct rf_feed_table {
    uint32_t version;
    rf_feed *(*find)(uint64_t id);
    void (*unref)(rf_feed *feed);
    rf_status (*next)(rf_feed *feed, rf_run **run);
    rf_status (*turn)(rf_feed *feed);
    void (*explain)(const rf_feed *feed, rf_status status, char *text, size_t bytes);
    const rf_geometry *(*geometry)(const rf_feed *feed);
    void (*retain)(rf_run *run);
    void (*drop)(rf_run *run);
    void (*tags)(const rf_run *run, uint64_t *tags);
    int (*deliver)(int64_t ticket);
    uint32_t (*dtype_bytes)(uint32_t dtype);
} rf_feed_table;
RF_API const rf_feed_table *rf_feed_table_get(void);

#endif
