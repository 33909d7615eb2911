/*
 * The messages for the statuses of a feed. See messages.h.
 *
 * A message begins with the name of the Python exception that it becomes.
 */
#include "feed/messages.h"

#include <inttypes.h>
#include <stdio.h>

void rf_feed_message(const rf_feed_facts *facts, rf_status status, char *text, size_t bytes)
{
    switch (status) {
    case RF_EMPTY:
        snprintf(text, bytes,
                 "RingEmpty: ring '%s': %" PRIu32 " of %" PRIu32
                 " records ready after %g s; the producers are slower than the feed, or tensors "
                 "that are alive hold their slots. Wait longer (timeout=), add producers, or drop "
                 "tensors sooner.",
                 facts->ring, facts->ready, facts->needed, facts->timeout_seconds);
        return;
    case RF_CLOSED:
        snprintf(text, bytes,
                 "RingClosed: ring '%s' is closed: this process closed it, or its owner closed it "
                 "or died. Keep it open until the last use of its feeds.",
                 facts->ring);
        return;
    case RF_FINISHED:
        snprintf(text, bytes, "RingFinished: ring '%s' was finished: no more records come.",
                 facts->ring);
        return;
    case RF_PRODUCER_FAILED:
        snprintf(text, bytes,
                 "ProducerFailed: ring '%s': a producer raised an exception, and no more records "
                 "come. Correct the producer, then create the ring again. %s",
                 facts->ring, facts->failure);
        return;
    case RF_INTERRUPTED:
        snprintf(text, bytes,
                 "InterruptedError: ring '%s': SIGINT ended a feed's wait for records.",
                 facts->ring);
        return;
    case RF_NO_MEMORY:
        snprintf(text, bytes, "MemoryError: no memory for an element of ring '%s'.", facts->ring);
        return;
    default: snprintf(text, bytes, "ring '%s': status %d", facts->ring, (int)status);
    }
}
