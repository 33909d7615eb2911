/* A thread that waits for a number of rows and takes them. */
#ifndef RF_ROW_WAITER_H
#define RF_ROW_WAITER_H

#include "check.h"

typedef struct waiter {
    rf_ring *ring;
    uint32_t least;
    _Atomic uint32_t rows;
    rf_status status;
} waiter;

static inline void *wait_for_rows(void *argument)
{
    waiter *own = argument;
    rf_lease *lease;
    own->status = take_until(own->ring, own->least, own->least, RF_FOREVER, &lease);
    if (own->status == RF_OK) {
        atomic_store(&own->rows, rf_lease_rows(lease));
        rf_lease_drop(lease);
    }
    return NULL;
}

#endif
