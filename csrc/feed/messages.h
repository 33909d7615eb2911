/*
 * The messages for the statuses of a feed. It may not know how a feed works.
 */
#ifndef RF_FEED_MESSAGES_H
#define RF_FEED_MESSAGES_H

#include "feed.h"

/* What a message can show. */
typedef struct rf_feed_facts {
    const char *ring;
    uint32_t ready, needed; /* records that are ready, and that an element needs */
    double timeout_seconds;
    char failure[RF_FAILURE_BYTES + 1]; /* the text of a producer's error */
} rf_feed_facts;

void rf_feed_message(const rf_feed_facts *facts, rf_status status, char *text, size_t bytes);

#endif
