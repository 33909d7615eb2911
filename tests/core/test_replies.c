/* Reply cells on a request's way: asked, held, answered or given back. Requests that are refused. */
#include "cells.h"

/* ---- One request ---------------------------------------------------------------------------- */

static void test_round_trip(void)
{
    endpoint client = create_endpoint(4, 3), engine = attach_endpoint();
    job now;
    int64_t before = rf_now_ns();
    rf_lease *cell = ask(&client, 7);
    rf_reply reply = inspect_cell(cell, 0);
    CHECK(reply.outcome == RF_PENDING && !reply.held);
    CHECK(reply.asked_ns >= before && reply.held_ns == 0 && reply.answered_ns == 0);
    CHECK(take_job(&engine, 4, &now));
    CHECK_EQUAL(now.to_run, 1);
    reply = inspect_cell(cell, 0);
    CHECK(reply.outcome == RF_PENDING && reply.held);
    CHECK_EQUAL(answer_job(&engine, &now), 1);
    reply = inspect_cell(cell, 0);
    CHECK(reply.asked_ns <= reply.held_ns && reply.held_ns <= reply.answered_ns);
    CHECK_EQUAL(wait_until(cell, 0, 0), RF_OK);
    expect_answer(cell, 0, 7);
    CHECK_EQUAL(state_of(client.pool, rf_lease_first(cell)), RF_STATE_READY);
    rf_lease_drop(cell);
    expect_all_free(client.pool);
    expect_all_free(client.ring);
    rf_stats stats;
    rf_ring_stats(client.pool, &stats);
    CHECK_EQUAL(stats.counts.published, 1);
    close_endpoint(&engine);
    close_endpoint(&client);
}

/* A client has at most as many requests in flight as it has cells. */
static void test_as_many_as_cells(void)
{
    endpoint own = create_endpoint(8, 2);
    rf_lease *first = ask(&own, 1), *second = ask(&own, 2), *third;
    CHECK_EQUAL(rf_claim(own.pool, 1, 0, &third), RF_FULL);
    rf_lease_drop(first);
    third = ask(&own, 3);
    CHECK_EQUAL(serve(&own, 8), 2); /* the first is still in the ring, but no client waits for it */
    expect_answer(second, 0, 2);
    expect_answer(third, 0, 3);
    rf_lease_drop(second);
    rf_lease_drop(third);
    expect_all_free(own.pool);
    close_endpoint(&own);
}

/* A client reuses its own cells and leaves those of other clients alone, at any number of requests in flight. */
static void test_same_cells(void)
{
    enum { CELLS = 64, CLIENTS = 3, MOST = 12 };
    for (uint32_t under_way = 1; under_way <= MOST; under_way++) {
        endpoint first = create_endpoint(CELLS, CELLS), clients[CLIENTS];
        uint64_t used[CLIENTS] = {0}, all = 0;
        for (int i = 0; i < CLIENTS; i++)
            clients[i] = i ? attach_endpoint() : first;
        for (int round = 0; round < 200; round++) {
            rf_lease *cells[CLIENTS][MOST];
            for (uint32_t number = 0; number < under_way; number++)
                for (int i = 0; i < CLIENTS; i++) {
                    cells[i][number] = ask(&clients[i], number);
                    used[i] |= (uint64_t)(round >= 100) << rf_lease_first(cells[i][number]);
                }
            uint32_t served = 0;
            while (served < CLIENTS * under_way)
                served += serve(&first, HELD_ROWS);
            for (uint32_t number = 0; number < under_way; number++)
                for (int i = 0; i < CLIENTS; i++) {
                    expect_answer(cells[i][number], 0, number);
                    rf_lease_drop(cells[i][number]);
                }
        }
        for (int i = 0; i < CLIENTS; i++)
            all |= used[i];
        CHECK(__builtin_popcountll(all) <= (int)(2 * CLIENTS * under_way));
        if (under_way == 1)
            for (int i = 0; i < CLIENTS; i++)
                CHECK_EQUAL(__builtin_popcountll(used[i]), 1);
        for (int i = CLIENTS - 1; i >= 0; i--)
            close_endpoint(&clients[i]);
        shm_unlink(segment_name(0));
        shm_unlink(segment_name(POOL));
    }
}

static void test_several_rows(void)
{
    endpoint own = create_endpoint(8, 5);
    rf_store_relaxed(&own.pool->home, 3 + 1); /* so that the claim passes the pool's end */
    rf_lease *cells = claim(own.pool, 4);
    CHECK_EQUAL(rf_lease_rows(cells), 4);
    for (uint32_t row = 0; row < 3; row++)
        ask_with(&own, cells, row, 10 + row, RF_FOREVER, RF_WAITER_NONE);
    CHECK_EQUAL(serve(&own, 2), 2);
    expect_answer(cells, 1, 11);
    CHECK_EQUAL(inspect_cell(cells, 2).outcome, RF_PENDING);
    CHECK_EQUAL(serve(&own, 2), 1);
    for (uint32_t row = 0; row < 3; row++)
        expect_answer(cells, row, 10 + row);
    CHECK_EQUAL(wait_until(cells, 3, in_ms(1)), RF_EMPTY); /* this cell has no request */
    rf_lease_drop(cells);
    expect_all_free(own.pool);
    close_endpoint(&own);
}

static void test_published_in_rows(void)
{
    endpoint own = create_endpoint(4, 3);
    rf_lease *cells = claim(own.pool, 3), *rows = claim(own.ring, 3);
    uint64_t replies[3] = {rf_cell_ask(cells, 0, RF_FOREVER, RF_WAITER_NONE), 0,
                           rf_cell_ask(cells, 2, RF_FOREVER, RF_WAITER_NONE)};
    job now;
    for (uint32_t row = 0; row < 3; row++)
        set_number(rows, row, 20 + row);
    CHECK_EQUAL(rf_publish_requests(rows, 3, NULL, replies, 0), RF_OK);
    rf_lease_drop(rows);
    CHECK(take_job(&own, 4, &now));
    CHECK_EQUAL(now.to_run, 3); /* the model also sees the row that wants no answer */
    CHECK(now.held[1].verdict == RF_RUNNABLE && now.held[1].word == 0);
    CHECK_EQUAL(answer_job(&own, &now), 2);
    expect_answer(cells, 0, 20);
    CHECK_EQUAL(inspect_cell(cells, 1).outcome, RF_PENDING);
    expect_answer(cells, 2, 22);
    rf_cells_keep(cells, 1);
    CHECK_EQUAL(rf_lease_rows(cells), 1);
    expect_answer(cells, 0, 20);
    rf_lease *others = claim(own.pool, 2);
    rf_lease_drop(others);
    rf_lease_drop(cells);
    put(own.ring, 5); /* a plain record wants no answer either */
    CHECK_EQUAL(serve(&own, 1), 1);
    expect_all_free(own.pool);
    close_endpoint(&own);
}

/* An engine splits a batch and answers each part when that part is done. */
static void test_split_batch(void)
{
    endpoint own = create_endpoint(8, 4);
    rf_lease *cells[4];
    job now;
    for (uint64_t i = 0; i < 4; i++)
        cells[i] = ask(&own, i);
    CHECK(take_job(&own, 4, &now));
    rf_lease *rest = rf_lease_split(now.batch, 1);
    CHECK(rest && rf_lease_rows(now.batch) == 1 && rf_lease_rows(rest) == 3);
    CHECK_EQUAL(answer_rows(&own, rest, now.held + 1, 3), 3);
    rf_lease_drop(rest);
    CHECK_EQUAL(inspect_cell(cells[0], 0).held, 1);
    rf_let_go(own.pool, now.held, 1); /* and gives the first request back */
    rf_lease_give_back(now.batch);
    rf_lease_drop(now.batch);
    CHECK_EQUAL(inspect_cell(cells[0], 0).held, 0);
    CHECK_EQUAL(serve(&own, 4), 1);
    for (uint64_t i = 0; i < 4; i++) {
        expect_answer(cells[i], 0, i);
        rf_lease_drop(cells[i]);
    }
    expect_all_free(own.pool);
    close_endpoint(&own);
}

/* ---- The same request twice ----------------------------------------------------------------- */

/* Put the same request into the ring twice, as after a death between handing it on and releasing it. */
static void ask_twice(endpoint *own, rf_lease *cell, uint64_t number)
{
    _Alignas(64) uint8_t sample[SAMPLE_BYTES] = {0};
    const void *sources[1] = {sample};
    uint64_t reply = rf_cell_ask(cell, 0, RF_FOREVER, RF_WAITER_NONE);
    memcpy(sample, &number, sizeof number);
    for (int i = 0; i < 2; i++)
        CHECK_EQUAL(rf_put_request(own->ring, sources, number, reply, 0, NULL), RF_OK);
}

static void test_held_once(void)
{
    endpoint own = create_endpoint(4, 1), other = attach_endpoint();
    job mine, twin;
    for (int way = 0; way < 3; way++) {
        rf_lease *cell = claim(own.pool, 1);
        ask_twice(&own, cell, 9);
        CHECK(take_job(&own, 1, &mine) && mine.to_run == 1);
        if (way == 1)
            answer_job(&own, &mine);
        CHECK(take_job(way == 2 ? &own : &other, 1, &twin));
        CHECK(twin.to_run == 0 && twin.held[0].verdict == RF_WITHDRAWN);
        CHECK_EQUAL(answer_job(&own, &twin), 0);
        if (way != 1)
            CHECK_EQUAL(answer_job(&own, &mine), 1);
        expect_answer(cell, 0, 9);
        rf_lease_drop(cell);
        expect_all_free(own.pool);
    }
    close_endpoint(&other);
    close_endpoint(&own);
}

/* The request is handed on and not released: the engine that holds it first answers, from either record. */
static void test_handed_on(void)
{
    endpoint own = create_endpoint(4, 1), other = attach_endpoint();
    job first, second;
    rf_lease *cell = ask(&own, 4);
    CHECK(take_job(&own, 1, &first) && first.to_run == 1);
    uint64_t link = atomic_load(&own.ring->slots[rf_lease_first(first.batch)].reply);
    rf_let_go(own.pool, first.held, 1);
    rf_lease *next = claim(own.ring, 1);
    set_number(next, 0, 4);
    CHECK_EQUAL(rf_publish_requests(next, 1, NULL, &link, 0), RF_OK);
    rf_lease_drop(next);
    CHECK(take_job(&other, 1, &second) && second.to_run == 1);
    /* It no longer holds the request. */
    CHECK_EQUAL(answer_rows(&own, first.batch, first.held, 1), 0);
    CHECK_EQUAL(inspect_cell(cell, 0).outcome, RF_PENDING);
    CHECK_EQUAL(answer_job(&other, &second), 1);
    rf_lease_drop(first.batch);
    expect_answer(cell, 0, 4);
    rf_lease_drop(cell);
    expect_all_free(own.pool);
    expect_all_free(own.ring);
    close_endpoint(&other);
    close_endpoint(&own);
}

/* ---- Refusals ------------------------------------------------------------------------------- */

static void test_pools_carry_no_records(void)
{
    endpoint own = create_endpoint(4, 2);
    uint8_t sample[SAMPLE_BYTES] = {0};
    const void *sources[2] = {sample, sample};
    rf_lease *lease, *cells = claim(own.pool, 1);
    CHECK_EQUAL(rf_take(own.pool, &(rf_take_request){.max_rows = 1, .min_rows = 1}, &lease),
                RF_INVALID);
    CHECK_EQUAL(rf_put(own.pool, sources, 0, 0), RF_INVALID);
    CHECK_EQUAL(rf_publish(cells, 1, NULL, 0), RF_INVALID);
    CHECK(rf_lease_split(cells, 1) == NULL);
    rf_lease_drop(cells);
    expect_all_free(own.pool);
    CHECK_EQUAL(rf_pool_ring_inode(own.pool), rf_ring_inode(own.ring));
    CHECK_EQUAL(rf_pool_ring_inode(own.ring), 0);
    close_endpoint(&own);
}

/* A record is gone after its release, even while its producer still has a view of the slot. */
static void test_gone(void)
{
    endpoint own = create_endpoint(2, 1);
    rf_lease *cell = claim(own.pool, 1);
    uint64_t link = ask_with(&own, cell, 0, 1, RF_FOREVER, RF_WAITER_NONE);
    job now;
    CHECK(!rf_record_is_gone(own.ring, link));
    CHECK(take_job(&own, 1, &now));
    CHECK(!rf_record_is_gone(own.ring, link));
    answer_job(&own, &now);
    CHECK(rf_record_is_gone(own.ring, link));
    CHECK(rf_record_is_gone(own.ring, UINT64_MAX));
    rf_lease_drop(cell);
    rf_lease *kept = claim(own.ring, 1);
    link = rf_link(rf_lease_first(kept), rf_word_epoch(kept->words[0]));
    CHECK_EQUAL(rf_publish(kept, 1, NULL, 1), RF_OK);
    rf_lease_drop(take(own.ring, 1));
    CHECK_EQUAL(state_of(own.ring, rf_lease_first(kept)), RF_STATE_KEPT);
    CHECK(rf_record_is_gone(own.ring, link));
    rf_lease_drop(kept);
    close_endpoint(&own);
}

/* Link 0 means that no answer is wanted. No cell has link 0 at any epoch, not even cell 0 after many uses. */
static void test_links_at_any_epoch(void)
{
    endpoint own = create_endpoint(2, 2);
    static const uint64_t epochs[] = {UINT64_C(1) << 39, UINT64_C(1) << 40, UINT64_C(3) << 40,
                                      UINT64_C(1) << 47, 0};
    for (size_t i = 0; i < COUNT(epochs); i++) {
        for (uint32_t cell = 0; cell < 2; cell++)
            atomic_store(&own.pool->words[cell],
                         rf_word(RF_STATE_FREE, RF_NO_OWNER, epochs[i] - 1));
        for (uint64_t number = 1; number < 7; number++) { /* up to that epoch, at it and past it */
            rf_lease *cell = ask(&own, number);
            CHECK_EQUAL(serve(&own, 1), 1);
            CHECK_EQUAL(wait_until(cell, 0, rf_now_ns() + 1000 * NS_PER_MS), RF_OK);
            expect_answer(cell, 0, number);
            rf_lease_drop(cell);
        }
    }
    /* The link of a record's slot has the same form. */
    atomic_store(&own.ring->words[0], rf_word(RF_STATE_FREE, RF_NO_OWNER, UINT64_C(1) << 40));
    atomic_store(&own.ring->header->claim_cursor, 0);
    put(own.ring, 1);
    put(own.ring, 2);
    atomic_store(&own.ring->header->take_cursor, 1);
    take_expecting(own.ring, 1);
    take_expecting(own.ring, 2);
    close_endpoint(&own);
}

static void test_closed_handles(void)
{
    endpoint own = create_endpoint(4, 2), client = attach_endpoint();
    rf_lease *answered = ask(&client, 1), *pending = ask(&client, 2);
    CHECK_EQUAL(serve(&own, 1), 1);
    rf_ring_close(client.pool);
    CHECK_EQUAL(wait_until(answered, 0, RF_FOREVER), RF_OK);
    expect_answer(answered, 0, 1); /* the memory stays as long as the lease */
    CHECK_EQUAL(wait_until(pending, 0, RF_FOREVER), RF_CLOSED);
    CHECK_EQUAL(rf_answers_sleep(client.pool, rf_answers_prepare(client.pool), RF_FOREVER),
                RF_CLOSED);
    rf_ring_drop(client.pool);
    CHECK_EQUAL(inspect_cell(pending, 0).outcome, RF_PENDING);
    rf_lease_drop(answered);
    rf_lease_drop(pending);
    expect_all_free(own.pool);
    close_ring(client.ring);
    close_endpoint(&own);
}

static const test tests[] = {
    {"a request is asked, held and answered, and its cell is free again", test_round_trip},
    {"a client has as many requests in flight as it has cells", test_as_many_as_cells},
    {"a client reuses the cells that it had before", test_same_cells},
    {"several rows have one cell each, also across the pool's end", test_several_rows},
    {"rows that want no answer are served beside rows that want one", test_published_in_rows},
    {"a batch is split, and each part is answered or given back by itself", test_split_batch},
    {"a request that is in the ring twice is held by one engine and answered once", test_held_once},
    {"an engine that has handed a request on cannot answer it any more", test_handed_on},
    {"a pool refuses take, put and publish", test_pools_carry_no_records},
    {"a record is gone when it was released", test_gone},
    {"a cell of any epoch has a link", test_links_at_any_epoch},
    {"answers are readable after the handle was closed, and a wait returns at once",
     test_closed_handles},
};

MAIN(tests)
