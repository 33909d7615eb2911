/*
 * What others see of a feed: words for its statuses, and the table through which the op calls, which is linked with
 * nothing. It may not know how a feed works.
 */
#include "feed/op_table.h"

#include <inttypes.h>
#include <stdio.h>

#include "feed/ticket.h"

void rf_feed_say(const rf_feed_fact *fact, rf_status status, char *text, size_t bytes)
{
    switch (status) {
    case RF_EMPTY:
        snprintf(text, bytes,
                 "RingEmpty: ring '%s': %" PRIu32 " of %" PRIu32
                 " records ready after %g s; the producers are slower than the feed, or tensors "
                 "that are alive hold their slots. Wait longer (timeout=), add producers, or drop "
                 "tensors sooner.",
                 fact->ring, fact->ready, fact->least, fact->timeout_seconds);
        return;
    case RF_CLOSED:
        snprintf(text, bytes,
                 "RingClosed: ring '%s' is closed: here, or its owner closed it or died. Keep it "
                 "open until the last use of its feeds.",
                 fact->ring);
        return;
    case RF_FINISHED:
        snprintf(text, bytes, "RingFinished: ring '%s' was finished: no more records come.",
                 fact->ring);
        return;
    case RF_PRODUCER_FAILED:
        snprintf(
            text, bytes,
            "ProducerFailed: ring '%s': a producer raised, and no more records come. Mend it, and "
            "create the ring anew. %s",
            fact->ring, fact->failure);
        return;
    case RF_INTERRUPTED:
        snprintf(text, bytes,
                 "InterruptedError: ring '%s': SIGINT ended a feed's wait for records.",
                 fact->ring);
        return;
    case RF_NO_MEMORY:
        snprintf(text, bytes, "MemoryError: no memory for an element of ring '%s'.", fact->ring);
        return;
    default: snprintf(text, bytes, "ring '%s': status %d", fact->ring, (int)status);
    }
}

const rf_feed_table *rf_feed_table_get(void)
{
    static const rf_feed_table table = {
        .version = RF_FEED_TABLE_VERSION,
        .find = rf_feed_find,
        .unref = rf_feed_unref,
        .next = rf_feed_next,
        .turn = rf_feed_turn,
        .explain = rf_feed_explain,
        .geometry = rf_feed_geometry,
        .retain = rf_run_retain,
        .drop = rf_run_drop,
        .tags = rf_run_tags,
        .deliver = rf_ahead_deliver,
        .dtype_bytes = rf_dtype_bytes,
    };
    return &table;
}
