/*
 * Feeds: the batches of a ring for threads that can only call and wait, such as TensorFlow's.
 *
 * A feed is a ring with a plan: how many rows an element has, and how long a call waits for them. Each feed has a
 * number, so that a reference to it (in a TensorFlow graph, for instance) may outlive the feed.
 *
 * This header may not know TensorFlow or Python.
 */
#ifndef RF_FEED_H
#define RF_FEED_H

#include "ringfeed.h"

typedef struct rf_feed rf_feed;

typedef struct rf_feed_plan {
    uint32_t max_rows, min_rows; /* of an element */
    uint32_t
        exact_rows; /* not 0: of every element; rows from several batches are gathered as copies */
    uint32_t
        shown_rows;   /* an element shows at least this many rows; the extra rows are not its own */
    uint32_t tickets; /* 1: an element that is dropped before its delivery returns to the feed */
    uint32_t copies;  /* 1: an element has its own memory, and its slots are free at once */
    int64_t linger_ns;
    int64_t timeout_ns; /* < 0: wait without a limit */
    int64_t round_ns;   /* a round ends after this much idle time (rf_feed_next); 0: never */
} rf_feed_plan;

/* ---- Elements ------------------------------------------------------------------------------- */

/* Rows for one consumer: over slots of the ring, or copied out of it. It has a reference count. */
typedef struct rf_element rf_element;

typedef struct rf_element_view {
    uint32_t rows;
    uint32_t shown;    /* rows at `data`: `rows`, or more; the rows behind `rows` are not its own */
    int64_t *ticket;   /* its number, aligned to 64 bytes; NULL: the element cannot return */
    void *const *data; /* the first sample of each field */
} rf_element_view;

/* The view stays valid as long as the caller has a reference. */
RF_API void rf_element_read(const rf_element *element, rf_element_view *view);
RF_API void rf_element_retain(rf_element *element);
/* The last drop gives the slots back. Any thread may call it. */
RF_API void rf_element_drop(rf_element *element);
/* Write one tag for each row that is shown; 0 for the rows that are not its own. */
RF_API void rf_element_tags(const rf_element *element, uint64_t *tags);

/* Say that a consumer has received the element with this ticket: it cannot return to its feed any more.
 * True: there was an undelivered element with this ticket. */
RF_API int rf_ticket_deliver(int64_t ticket);

/* ---- Feeds ---------------------------------------------------------------------------------- */

/* Make a feed of an open ring. The feed keeps the ring's handle; messages show `name`. NULL: no memory. */
RF_API rf_feed *rf_feed_new(rf_ring *ring, const char *name, const rf_feed_plan *plan);
RF_API uint64_t rf_feed_id(const rf_feed *feed);
/* Forget the feed's number and drop its creator's reference. */
RF_API void rf_feed_end(rf_feed *feed);

/* The feed with this number, with a reference for the caller. NULL: there is none, or it has ended. */
RF_API rf_feed *rf_feed_find(uint64_t id);
RF_API void rf_feed_unref(rf_feed *feed);

/* Set a batch as the next element: the next rf_feed_next returns it without a wait. The feed takes its own reference.
 * RF_NO_MEMORY; RF_INVALID: the lease belongs to another ring. */
RF_API rf_status rf_feed_set_next(rf_feed *feed, rf_lease *lease);
/* Drop the batch that was set. True: there was one. */
RF_API int rf_feed_drop_next(rf_feed *feed);

/* The next element.
 *
 * RF_AGAIN               the round has ended
 * RF_FINISHED            the ring was finished; each later call returns the same
 * RF_PRODUCER_FAILED     a producer failed; each later call returns the same
 * RF_EMPTY               too few records came within the timeout
 * RF_CLOSED              the ring was closed, or the feed was ended during the wait
 * RF_INTERRUPTED         the wait hook ended the wait, and the feed has no rounds
 * RF_NO_MEMORY */
RF_API rf_status rf_feed_next(rf_feed *feed, rf_element **element);
/* Tell whether another round may begin: RF_OK, RF_FINISHED, RF_PRODUCER_FAILED, RF_CLOSED. */
RF_API rf_status rf_feed_begin_round(rf_feed *feed);
/* Write a message for a status of rf_feed_next. */
RF_API void rf_feed_explain(const rf_feed *feed, rf_status status, char *text, size_t bytes);
RF_API const rf_geometry *rf_feed_geometry(const rf_feed *feed);

/* ---- The wait hook -------------------------------------------------------------------------- */

/* What a feed does after it has called the wait hook. */
typedef enum rf_hook_result {
    RF_HOOK_GO_ON = 0,
    RF_HOOK_ASK_AGAIN, /* the hook cannot decide yet */
    RF_HOOK_GIVE_EMPTY, /* return an element without rows (of zeros, where each has an exact number of rows) */
    RF_HOOK_STOP, /* end this once; an error where the feed has no rounds */
    RF_HOOK_FAIL, /* return an error */
} rf_hook_result;

/* A waiting thread calls it. `interrupted`: SIGINT came; a result of RF_HOOK_ASK_AGAIN repeats the call. `stalled`:
 * consumers hold every slot of the ring; then the call comes about every 50 ms. */
typedef rf_hook_result rf_wait_hook(uint64_t feed_id, int interrupted, int stalled);
RF_API void rf_set_wait_hook(rf_wait_hook *hook);

/* The process is about to end: from now on no feed waits, and no thread calls the hook. */
RF_API void rf_feeds_stop(void);
/* The number of threads that are inside the hook, or about to call it. */
RF_API uint32_t rf_wait_hook_calls(void);

/* ---- For a shared object that is not linked with this library ------------------------------- */

enum { RF_FEED_TABLE_VERSION = 2 };
typedef struct rf_feed_table {
    uint32_t version;
    rf_feed *(*find)(uint64_t id);
    void (*unref)(rf_feed *feed);
    rf_status (*next)(rf_feed *feed, rf_element **element);
    rf_status (*begin_round)(rf_feed *feed);
    void (*explain)(const rf_feed *feed, rf_status status, char *text, size_t bytes);
    const rf_geometry *(*geometry)(const rf_feed *feed);
    void (*read)(const rf_element *element, rf_element_view *view);
    void (*retain)(rf_element *element);
    void (*drop)(rf_element *element);
    void (*tags)(const rf_element *element, uint64_t *tags);
    int (*deliver)(int64_t ticket);
    uint32_t (*dtype_bytes)(uint32_t dtype);
} rf_feed_table;
RF_API const rf_feed_table *rf_feed_table_get(void);

#endif
