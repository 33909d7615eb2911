/*
 * An element: rows for one consumer, over slots of the ring or copied out of it.
 *
 * An element knows its feed only as an owner with two callbacks.
 */
#ifndef RF_ELEMENT_H
#define RF_ELEMENT_H

#include <stdatomic.h>
#include <stdbool.h>

#include "feed.h"

/* Where an undelivered element returns to. */
typedef struct rf_element_owner {
    /* The last reference to an undelivered element is gone. True: the element itself is the owner's again, copies
     * that wait for the next consumer. False: its rows are READY again, and the element can be freed. */
    bool (*take_back)(struct rf_element_owner *owner, rf_element *element);
    /* Drop the element's reference to its owner. */
    void (*release)(struct rf_element_owner *owner);
} rf_element_owner;

struct rf_element {
    _Atomic uint32_t references;
    uint32_t rows;
    uint32_t shown;  /* rows at `data`: `rows`, or more; the rows behind `rows` are not its own */
    rf_lease *lease; /* NULL: the rows are copies */
    uint64_t *tags;  /* of copies, which lie behind them in the same block */
    rf_element_owner
        *_Atomic owner; /* NULL: the element was delivered, or has no ticket (ticket.c) */
    int64_t *ticket;    /* its number, aligned to 64 bytes; NULL: none */
    rf_element *next;   /* in a list of undelivered elements, or in a backlog */
    void *data[];       /* the first sample of each field */
};

/* An element over the ring's memory. It shows at least `shown` rows if the ring has that many slots. Where only a part
 * of that memory is page-locked (page_lock.c), the element has copies. Takes the lease over, also when it fails.
 * NULL: no memory. */
rf_element *rf_element_over_lease(rf_lease *lease, uint32_t shown);
/* The same, always with copies: drops the lease. */
rf_element *rf_element_copied(rf_lease *lease, uint32_t shown);
/* An element with its own memory for `rows` rows. The memory is zeroed, and the element has no rows yet. NULL: no
 * memory. */
rf_element *rf_element_for_copies(const rf_ring *ring, uint32_t rows);
/* Append copies of a batch's rows. */
void rf_element_append(rf_element *element, const rf_lease *lease);
/* Move up to `rows` copies from the front of one element to the end of another, which must have room for them. */
void rf_element_move_rows(rf_element *to, rf_element *from, uint32_t rows,
                          const rf_geometry *geometry);

#endif
