/*
 * Producers and takers as threads of one process that share only the ring. No lock, counter or wait orders
 * them; only the ring's own ordering pairs do. ThreadSanitizer sees every access to the payload.
 * orderings.sh weakens the pairs one by one and expects ThreadSanitizer to report a race.
 */
#include <sched.h>

#include "cells.h"

enum { THREADS = 2, RECORDS = SANITIZED ? 4000 : 40000, WORDS = 8 };

/* Plain accesses to the payload: each of its words holds the record's number. */
static void write_payload(rf_lease *lease, uint64_t number)
{
    uint64_t *words = rf_lease_data(lease, 0);
    for (int i = 0; i < WORDS; i++)
        words[i] = number;
}

static void read_payload(const rf_lease *lease)
{
    const uint64_t *words = rf_lease_data(lease, 0);
    for (int i = 1; i < WORDS; i++)
        CHECK_EQUAL(words[i], words[0]);
}

static void *produce(void *ring)
{
    for (uint64_t number = 0; number < RECORDS;) {
        rf_lease *lease;
        rf_status status = rf_claim(ring, 1, 0, &lease);
        if (status == RF_OK) {
            write_payload(lease, number++);
            CHECK_EQUAL(rf_publish(lease, 1, NULL, 0), RF_OK);
            rf_lease_drop(lease);
        } else {
            CHECK_EQUAL(status, RF_FULL);
            sched_yield();
        }
    }
    return NULL;
}

static rf_status take_one(rf_ring *ring, rf_lease **lease)
{
    rf_take_request request = {.max_rows = 1, .min_rows = 1};
    rf_status status = rf_take(ring, &request, lease);
    CHECK(status == RF_OK || status == RF_EMPTY || status == RF_FINISHED);
    if (status == RF_EMPTY)
        sched_yield();
    return status;
}

static void *take_alone(void *ring)
{
    rf_lease *lease;
    rf_status status;
    while ((status = take_one(ring, &lease)) != RF_FINISHED)
        if (status == RF_OK) {
            read_payload(lease);
            rf_lease_drop(lease);
        }
    return NULL;
}

/* A taker hands its lease to its partner here. The only ordering is from the taker to the partner. */
typedef struct pair {
    rf_ring *ring;
    _Atomic(rf_lease *) handed;
    _Atomic bool over;
} pair;

static void *take_for_two(void *argument)
{
    pair *own = argument;
    rf_lease *lease;
    rf_status status;
    while ((status = take_one(own->ring, &lease)) != RF_FINISHED)
        if (status == RF_OK) {
            rf_lease_retain(lease);
            while (rf_load_relaxed(&own->handed))
                sched_yield();
            rf_store_release(&own->handed, lease);
            read_payload(lease);
            rf_lease_drop(lease);
        }
    while (rf_load_relaxed(&own->handed))
        sched_yield();
    rf_store_relaxed(&own->over, true);
    return NULL;
}

static void *read_handed_leases(void *argument)
{
    pair *own = argument;
    while (!rf_load_relaxed(&own->over)) {
        rf_lease *lease = rf_load_acquire(&own->handed);
        if (!lease) {
            sched_yield();
            continue;
        }
        rf_store_relaxed(&own->handed, NULL);
        read_payload(lease);
        rf_lease_drop(lease);
    }
    return NULL;
}

static void test_payload(void)
{
    rf_ring *ring = create_ring(3);
    pthread_t producers[THREADS], takers[THREADS];
    for (int i = 0; i < THREADS; i++) {
        producers[i] = start_thread(produce, ring);
        takers[i] = start_thread(take_alone, ring);
    }
    for (int i = 0; i < THREADS; i++)
        join_thread(producers[i]);
    rf_finish(ring);
    for (int i = 0; i < THREADS; i++)
        join_thread(takers[i]);
    expect_all_free(ring);
    close_ring(ring);
}

static void test_shared_lease(void)
{
    rf_ring *ring = create_ring(3);
    pair both = {.ring = ring};
    pthread_t producer = start_thread(produce, ring), taker = start_thread(take_for_two, &both),
              partner = start_thread(read_handed_leases, &both);
    join_thread(producer);
    rf_finish(ring);
    join_thread(taker);
    join_thread(partner);
    expect_all_free(ring);
    close_ring(ring);
}

/* ---- Requests and answers ------------------------------------------------------------------- */

enum { REQUESTS = SANITIZED ? 1000 : 10000 };

static void *ask_and_read(void *own)
{
    for (uint64_t number = 0; number < REQUESTS; number++) {
        rf_lease *cell = ask(own, number);
        while (inspect_cell(cell, 0).outcome == RF_PENDING)
            sched_yield();
        expect_answer(cell, 0, number);
        rf_lease_drop(cell);
    }
    rf_finish(((endpoint *)own)->ring);
    return NULL;
}

static void *take_and_answer(void *argument)
{
    endpoint *own = argument;
    rf_status status;
    job now;
    while ((status = take_one(own->ring, &now.batch)) != RF_FINISHED)
        if (status == RF_OK) {
            CHECK_EQUAL(rf_hold(own->pool, now.batch, now.held), 1);
            CHECK_EQUAL(answer_job(own, &now), 1);
        }
    return NULL;
}

static void test_answers(void)
{
    endpoint own = create_endpoint(3, 2);
    pthread_t client = start_thread(ask_and_read, &own),
              engine = start_thread(take_and_answer, &own);
    join_thread(client);
    join_thread(engine);
    expect_all_free(own.pool);
    close_endpoint(&own);
}

/* ---- A producer's failure ------------------------------------------------------------------- */

static void *fail_alone(void *ring)
{
    rf_block block;
    char text[RF_FAILURE_BYTES];
    memset(text, 'x', sizeof text);
    CHECK_EQUAL(rf_producing_begin(ring, 0, &block), RF_OK);
    rf_producing_fail(ring, block, text, sizeof text);
    rf_producing_end(ring, block);
    return NULL;
}

static void test_text(void)
{
    for (int round = 0; round < 20; round++) {
        char text[RF_FAILURE_BYTES + 1];
        rf_ring *ring = create_ring(1);
        pthread_t producer = start_thread(fail_alone, ring);
        while (!rf_ring_has_failed(ring))
            sched_yield();
        CHECK_EQUAL(rf_ring_failure(ring, text), RF_FAILURE_BYTES);
        for (int at = 0; at < RF_FAILURE_BYTES; at++)
            CHECK_EQUAL(text[at], 'x');
        join_thread(producer);
        close_ring(ring);
        shm_unlink(segment_name(0));
    }
}

static const test tests[] = {
    {"a payload is complete when a taker sees it, and read when a producer writes there again",
     test_payload},
    {"an answer is complete when its client sees it, and read when an engine writes there again",
     test_answers},
    {"the text of a failure is complete when a taker sees it", test_text},
    {"slots that two threads hold are released when both threads have read them",
     test_shared_lease},
};

MAIN(tests)
