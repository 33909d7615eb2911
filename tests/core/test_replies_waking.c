/* Waking: a thread that waits for one answer, for any answer, or for a free cell is woken when it comes. */
#include "cells.h"

enum { ROUNDS = SANITIZED ? 30 : 200 };

static _Atomic uint32_t asked, answered;

/* Answer as soon as the client is about to sleep. */
static void *answer_sleepers(void *argument)
{
    endpoint *own = argument;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        job now;
        await(&asked, round + 1);
        CHECK(take_job(own, 1, &now));
        rf_cell *record = (rf_cell *)&own->pool->slots[now.held[0].cell];
        if (round % 2)
            while (!(atomic_load(&record->waiter) & RF_WAITER_THREAD))
                sched_yield();
        if (round % 4 == 3)
            rest();
        CHECK_EQUAL(answer_job(own, &now), 1);
        atomic_store(&answered, round + 1);
    }
    return NULL;
}

/* The client is woken by the answer, not by the end of its slice. A starved client may see the slice end. */
static void test_woken_thread(void)
{
    endpoint own = create_endpoint(4, 1), engine = attach_endpoint();
    uint32_t late = 0;
    pthread_t thread = start_thread(answer_sleepers, &engine);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        rf_lease *cell = ask(&own, round);
        rf_status status;
        bool again = false;
        atomic_store(&asked, round + 1);
        while ((status = rf_cell_wait(cell, 0, RF_FOREVER)) == RF_AGAIN)
            again = true;
        late += again;
        CHECK_EQUAL(status, RF_OK);
        expect_answer(cell, 0, round);
        await(&answered, round + 1);
        rf_lease_drop(cell);
    }
    CHECK(late < ROUNDS / 4);
    join_thread(thread);
    close_endpoint(&engine);
    close_endpoint(&own);
}

/* One thread waits for all answers. Another thread's wait for a single answer must not use up its wake-up. */
static void test_woken_client(void)
{
    endpoint own = create_endpoint(4, 2), engine = attach_endpoint();
    rf_event *event = &own.pool->participants[rf_self(own.pool) - 1].answered;
    for (int waited = 0; waited < 2; waited++) {
        rf_lease *cells[2] = {claim(own.pool, 1), claim(own.pool, 1)};
        for (int i = 0; i < 2; i++)
            ask_with(&own, cells[i], 0, 1, RF_FOREVER, RF_WAITER_CLIENT);
        for (int i = 0; i < 2; i++) {
            if (waited)
                CHECK_EQUAL(wait_until(cells[i], 0, in_ms(1)), RF_EMPTY);
            uint32_t key = rf_answers_prepare(own.pool);
            CHECK_EQUAL(serve(&engine, 1), 1);
            CHECK(atomic_load(&event->sequence) != key);
            CHECK_EQUAL(rf_answers_sleep(own.pool, key, RF_FOREVER), RF_OK);
        }
        for (int i = 0; i < 2; i++) {
            expect_answer(cells[i], 0, 1);
            rf_lease_drop(cells[i]);
        }
    }
    uint32_t key = rf_answers_prepare(own.pool);
    rf_answers_wake(own.pool);
    CHECK(atomic_load(&event->sequence) != key);
    rf_answers_prepare(own.pool);
    CHECK_EQUAL(rf_answers_sleep(own.pool, key + 1, in_ms(1)), RF_OK); /* or the deadline passed */
    close_endpoint(&engine);
    close_endpoint(&own);
}

/* A claimer that waits for a cell is woken when a client drops one or an engine frees a withdrawn one. */
static void *drop_or_answer(void *argument)
{
    endpoint *own = argument;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        rf_lease *cell = ask(own, round);
        job now;
        CHECK(take_job(own, 1, &now));
        if (round % 2)
            rf_lease_drop(cell);
        atomic_store(&asked, round + 1);
        while (!atomic_load(&own->pool->header->writable.wanted) && atomic_load(&answered) <= round)
            sched_yield();
        answer_job(own, &now);
        if (round % 2 == 0)
            rf_lease_drop(cell);
        await(&answered, round + 1);
    }
    return NULL;
}

static void test_woken_claimer(void)
{
    endpoint own = create_endpoint(4, 1), other = attach_endpoint();
    uint32_t late = 0;
    pthread_t thread = start_thread(drop_or_answer, &other);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        rf_lease *cell;
        rf_status status;
        bool again = false;
        await(&asked, round + 1);
        while ((status = rf_claim(own.pool, 1, RF_FOREVER, &cell)) == RF_AGAIN)
            again = true;
        late += again;
        CHECK_EQUAL(status, RF_OK);
        rf_lease_drop(cell);
        atomic_store(&answered, round + 1);
    }
    CHECK(late < ROUNDS / 4);
    join_thread(thread);
    expect_all_free(own.pool);
    close_endpoint(&other);
    close_endpoint(&own);
}

/* Many waiters sleep in longer slices than a few. The last engine that stops serving wakes them all. */
enum { CROWD = 200 };
static _Atomic uint32_t told;

static void *wait_without_engine(void *argument)
{
    rf_lease *cell = argument;
    rf_status status;
    while ((status = rf_cell_wait(cell, 0, RF_FOREVER)) == RF_AGAIN && rf_pool_engines(cell->ring))
        ;
    CHECK_EQUAL(status, RF_AGAIN);
    atomic_fetch_add(&told, 1);
    return NULL;
}

static void test_woken_crowd(void)
{
    for (int leaves = 0; leaves < 2; leaves++) {
        endpoint own = create_endpoint(256, 256), engine = attach_endpoint();
        pthread_t threads[CROWD];
        rf_lease *cells[CROWD];
        rf_pool_serve(engine.pool, 1);
        atomic_store(&told, 0);
        for (int i = 0; i < CROWD; i++) {
            cells[i] = ask(&own, (uint64_t)i);
            threads[i] = start_thread(wait_without_engine, cells[i]);
        }
        /* Most threads have slept once, and have counted the waiters. */
        while (atomic_load(&own.pool->header->waiters) < CROWD / 4 * 3)
            sched_yield();
        rest();
        int64_t stopped = rf_now_ns();
        if (leaves)
            close_endpoint(&engine);
        else
            rf_pool_serve(engine.pool, 0);
        await(&told, CROWD);
        /* Without the wake-up the threads would return one after another, within five seconds. */
        CHECK(rf_now_ns() - stopped < RF_MOST_PATIENCE_NS / 4);
        for (int i = 0; i < CROWD; i++) {
            join_thread(threads[i]);
            rf_lease_drop(cells[i]);
        }
        if (!leaves)
            close_endpoint(&engine);
        close_endpoint(&own);
        remove_segments(getpid());
    }
}

static const test tests[] = {
    {"a thread that sleeps at a cell is woken by its answer", test_woken_thread},
    {"a thread that sleeps for all answers of its client is woken by each", test_woken_client},
    {"a claimer that waits for a cell is woken when one is freed", test_woken_claimer},
    {"a crowd of waiting threads is woken when the last engine stops or leaves", test_woken_crowd},
};

MAIN(tests)
