/*
 * The backlog of a feed: elements of copies that wait for more rows, and elements that returned undelivered. It also
 * knows whether the feed is at its end.
 *
 * A thread holds its lock for the copies of a few rows at most. It may not know how rows are taken.
 */
#ifndef RF_BACKLOG_H
#define RF_BACKLOG_H

#include <pthread.h>

#include "feed/element.h"

typedef struct rf_backlog {
    pthread_mutex_t mutex;
    uint32_t exact_rows; /* rows of a complete element; 0: every element is complete */
    rf_element *first;
    uint32_t returns;    /* elements that returned: each of them may undo the end of the feed */
    _Atomic bool closed; /* the ring is at its end, and no element has returned since */
} rf_backlog;

void rf_backlog_init(rf_backlog *backlog, uint32_t exact_rows);
/* Drop all elements. */
void rf_backlog_clear(rf_backlog *backlog);
/* Complete elements, which returned, stand first, in their order. */
void rf_backlog_put(rf_backlog *backlog, rf_element *element);
/* The first element, filled up with rows of the others. NULL: that makes fewer than `min_rows` rows. */
rf_element *rf_backlog_take(rf_backlog *backlog, const rf_geometry *geometry, uint32_t min_rows);

bool rf_backlog_is_closed(const rf_backlog *backlog);
uint32_t rf_backlog_returns(rf_backlog *backlog);
/* A caller that read `returns` and then looked found the ring at its end. False: an element has returned since; look
 * again. */
bool rf_backlog_close(rf_backlog *backlog, uint32_t returns);
/* An element has returned, and its rows can be taken already. */
void rf_backlog_count_return(rf_backlog *backlog);

#endif
