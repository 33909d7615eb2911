/*
 * Children of a test that do something with a ring, report that they are ready, and wait for a kill or for the
 * signal to continue.
 */
#ifndef RF_ROLES_H
#define RF_ROLES_H

#include "check.h"

/* The child calls `begin` before it is ready, and `go_on` after the signal to continue. */
typedef struct role {
    void (*begin)(rf_ring *);
    void (*go_on)(rf_ring *);
    _Atomic uint32_t ready, may_continue;
} role;

static inline void act(void *argument)
{
    role *own = argument;
    rf_ring *ring = attach_ring();
    if (own->begin)
        own->begin(ring);
    atomic_store(&own->ready, 1);
    await(&own->may_continue, 1);
    if (own->go_on)
        own->go_on(ring);
    close_ring(ring);
}

static inline pid_t start_role(role **shared, void (*begin)(rf_ring *), void (*go_on)(rf_ring *))
{
    *shared = shared_memory(sizeof **shared);
    (*shared)->begin = begin;
    (*shared)->go_on = go_on;
    pid_t child = spawn(act, *shared);
    await(&(*shared)->ready, 1);
    return child;
}

static rf_lease *kept; /* set and used in one child */

static inline void claim_two(rf_ring *ring)
{
    kept = claim(ring, 2);
    CHECK_EQUAL(rf_lease_rows(kept), 2);
    set_number(kept, 0, 70);
    set_number(kept, 1, 71);
}

static inline void take_two(rf_ring *ring)
{
    kept = take(ring, 2);
    CHECK_EQUAL(rf_lease_rows(kept), 2);
}

static inline rf_counts counts_of(rf_ring *ring)
{
    rf_stats stats;
    rf_ring_stats(ring, &stats);
    return stats.counts;
}

static inline uint32_t participants_of(rf_ring *ring)
{
    rf_stats stats;
    rf_ring_stats(ring, &stats);
    return stats.participants;
}

static inline void publish_and_go_on(rf_ring *ring)
{
    CHECK_EQUAL(rf_publish(kept, 2, NULL, 0), RF_OK);
    rf_lease_drop(kept);
    put(ring, 72);
}

/* ---- A child that owns a ring --------------------------------------------------------------- */

typedef struct owner {
    _Atomic uint32_t ready;
} owner;

#endif
