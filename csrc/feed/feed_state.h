/*
 * The state of a feed. Between feed.c and next.c only.
 *
 * Threads that use a feed together share what it knows of its waits, as they share its records. Each such field is
 * read and written whole. Relaxed is enough: no field hands anything else over.
 */
#ifndef RF_FEED_STATE_H
#define RF_FEED_STATE_H

#include "feed/backlog.h"
#include "feed/element.h"
#include "ring/census.h"
#include "segment/handle_lifetime.h"

struct rf_feed {
    rf_element_owner
        owner; /* of its undelivered elements; the first member, so that it leads back to the feed */
    uint64_t id;
    struct rf_feed *next; /* in the list of feeds */
    _Atomic uint32_t references;
    rf_ring *ring;
    rf_feed_plan plan;
    uint32_t generation; /* rf_fork_generation of the process that made the feed */
    char name[256];

    _Atomic(rf_element *) next_element;
    rf_backlog backlog;
    _Atomic bool ended; /* rf_feed_end */
    _Atomic bool stops; /* the hook asked for the end, once */
    _Atomic uint32_t interrupts_handled;
    _Atomic uint32_t
        interrupts_asked;           /* the hook knows these interrupts, and has not decided yet */
    _Atomic int64_t wait_began_ns;  /* 0: no wait is under way */
    _Atomic int64_t round_ended_ns; /* 0: a round is under way */
};

/* The feed with a reference for an element, as its owner. */
rf_element_owner *rf_feed_own(rf_feed *feed);

#endif
