/* Who waits for an answer, for any answer, or for a free cell, is woken by it. */
#include "cells.h"

enum { ROUNDS = SANITIZED ? 30 : 200 };

static _Atomic uint32_t asked, answered;

/* Answers as soon as its client is about to sleep. */
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

/* Woken, and not by the end of a slice; but who gets no processor for so long may find it over. */
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

/* One thread waits for all answers; that another waited for one of them takes nothing from it. */
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
    CHECK_EQUAL(rf_answers_sleep(own.pool, key + 1, in_ms(1)), RF_OK); /* or its time is over */
    close_endpoint(&engine);
    close_endpoint(&own);
}

/* Who waits for a free cell is woken by who drops one, and by an engine that frees a withdrawn one. */
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

/* Many sleep for longer than a few do. The last engine that stops serving wakes them all. */
enum { CROWD = 200 };
static _Atomic uint32_t told;

static void *wait_for_nobody(void *argument)
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
            threads[i] = start_thread(wait_for_nobody, cells[i]);
        }
        /* Most have slept once, and know how many they are. */
        while (atomic_load(&own.pool->header->waiters) < CROWD / 4 * 3)
            sched_yield();
        rest();
        int64_t stopped = rf_now_ns();
        if (leaves)
            close_endpoint(&engine);
        else
            rf_pool_serve(engine.pool, 0);
        await(&told, CROWD);
        CHECK(rf_now_ns() - stopped < RF_MOST_PATIENCE_NS / 4); /* by turns: in five seconds */
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
    {"who sleeps at a cell is woken by its answer", test_woken_thread},
    {"who sleeps for all its answers is woken by each", test_woken_client},
    {"who waits for a free cell is woken by who frees one", test_woken_claimer},
    {"a crowd that waits is woken when its last engine stops, or leaves", test_woken_crowd},
};

MAIN(tests)
