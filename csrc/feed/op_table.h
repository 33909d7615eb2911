/*
 * What others see of a feed. Between feed.c and op_table.c only.
 */
#ifndef RF_FEED_FACE_H
#define RF_FEED_FACE_H

#include "feed/feed.h"

/* What a message tells. */
typedef struct rf_feed_fact {
    const char *ring;
    uint32_t ready, least; /* records that are there, and that an element needs */
    double timeout_seconds;
    char failure[RF_FAILURE_BYTES + 1]; /* a producer's */
} rf_feed_fact;

void rf_feed_say(const rf_feed_fact *fact, rf_status status, char *text, size_t bytes);

#endif
