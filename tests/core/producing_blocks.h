/* Shared by the tests of producing blocks: to begin, to fail, and to take until the end. */
#ifndef RF_PRODUCING_BLOCKS_H
#define RF_PRODUCING_BLOCKS_H

#include "cells.h"
#include "feeds.h"
#include "ring/producers.h"

enum { MANY = SANITIZED ? 40 : 300 };

static inline rf_block begin_block(rf_ring *ring)
{
    rf_block block;
    CHECK_EQUAL(rf_producing_begin(ring, 0, &block), RF_OK);
    return block;
}

static inline void fail_as(rf_ring *ring, rf_block block, const char *text)
{
    rf_producing_fail(ring, block, text, strlen(text));
    rf_producing_end(ring, block);
}

static inline rf_ring *create_ring_for(uint32_t producers)
{
    rf_options options = options_for(4);
    options.producers = producers;
    return create_ring_as(&options, SAMPLE_BYTES);
}

static inline rf_status take_now(rf_ring *ring)
{
    rf_lease *lease;
    rf_status status = take_until(ring, 4, 1, 0, &lease);
    if (status == RF_OK)
        rf_lease_drop(lease);
    return status;
}

/* Take without a time limit until the result is something other than a record. */
static inline rf_status take_to_the_end(rf_ring *ring)
{
    rf_lease *lease;
    rf_status status;
    while ((status = take_until(ring, 4, 1, RF_FOREVER, &lease)) == RF_OK)
        rf_lease_drop(lease);
    return status;
}

static inline void expect_failure(const rf_ring *ring, const char *expected)
{
    char text[RF_FAILURE_BYTES + 1];
    CHECK(rf_ring_has_failed(ring));
    CHECK_EQUAL(rf_ring_failure(ring, text), strlen(expected));
    CHECK(strcmp(text, expected) == 0);
}

static inline void die(void (*how)(void *))
{
    int status;
    CHECK(waitpid(spawn(how, NULL), &status, 0) > 0);
    CHECK(WIFSIGNALED(status));
}

#endif
