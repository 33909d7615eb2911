/* Reply cells: requests that clients withdraw, and answers without outputs. */
#include "cells.h"

/* ---- Withdrawn ------------------------------------------------------------------------------ */

static void test_withdrawn_before_taken(void)
{
    endpoint own = create_endpoint(4, 2);
    job now;
    rf_lease_drop(ask(&own, 1));
    expect_all_free(own.pool);
    rf_lease *next[2] = {ask(&own, 2), ask(&own, 3)}; /* one of them uses the same cell */
    CHECK(take_job(&own, 1, &now));
    CHECK(now.to_run == 0 && now.held[0].verdict == RF_WITHDRAWN && now.held[0].word == 0);
    CHECK_EQUAL(answer_job(&own, &now), 0);
    CHECK_EQUAL(serve(&own, 4), 2);
    for (int i = 0; i < 2; i++) {
        expect_answer(next[i], 0, 2 + (uint64_t)i);
        rf_lease_drop(next[i]);
    }
    expect_all_free(own.pool);
    close_endpoint(&own);
}

/* The engine that holds a withdrawn cell frees it: by an answer, by an error, or by letting go. */
static void test_withdrawn_while_held(void)
{
    endpoint own = create_endpoint(4, 1);
    rf_lease *none;
    job now;
    for (int way = 0; way < 3; way++) {
        rf_lease *cell = ask(&own, 1);
        CHECK(take_job(&own, 1, &now));
        rf_lease_drop(cell);
        CHECK_EQUAL(rf_claim(own.pool, 1, 0, &none), RF_FULL); /* an engine may be writing there */
        if (way == 0)
            CHECK_EQUAL(answer_rows(&own, now.batch, now.held, 1), 0);
        else if (way == 1)
            CHECK_EQUAL(rf_answer_without(own.pool, now.held, 1, RF_FAILED, "no", 2), 0);
        else
            rf_let_go(own.pool, now.held, 1);
        rf_lease_drop(now.batch);
        expect_all_free(own.pool);
    }
    close_endpoint(&own);
}

static void test_withdrawn_when_answered(void)
{
    endpoint own = create_endpoint(4, 1);
    rf_lease *cell = ask(&own, 1);
    serve(&own, 1);
    rf_lease_retain(cell);
    rf_lease_drop(cell);
    expect_answer(cell, 0, 1); /* another reader still has a reference */
    rf_lease_drop(cell);
    expect_all_free(own.pool);
    rf_lease_drop(claim(own.pool, 1)); /* a cell without a request */
    expect_all_free(own.pool);
    close_endpoint(&own);
}

/* ---- Without outputs ------------------------------------------------------------------------ */

static void test_expired(void)
{
    endpoint own = create_endpoint(4, 3);
    rf_lease *cells = claim(own.pool, 3);
    job now;
    ask_with(&own, cells, 0, 1, rf_now_ns() - 1, RF_WAITER_NONE);
    ask_with(&own, cells, 1, 2, in_ms(60000), RF_WAITER_NONE);
    CHECK(take_job(&own, 4, &now));
    CHECK_EQUAL(now.to_run, 1);
    CHECK(now.held[0].verdict == RF_EXPIRED && now.held[1].verdict == RF_RUNNABLE);
    CHECK_EQUAL(inspect_cell(cells, 0).outcome, RF_LATE);
    CHECK_EQUAL(inspect_cell(cells, 0).text_bytes, 0);
    CHECK_EQUAL(answer_job(&own, &now), 1);
    CHECK_EQUAL(inspect_cell(cells, 0).outcome, RF_LATE); /* the other answer does not change it */
    expect_answer(cells, 1, 2);
    rf_lease_drop(cells);
    expect_all_free(own.pool);
    close_endpoint(&own);
}

/* An error's text is cut to the size of a cell, and never within a UTF-8 character. */
static void test_text(void)
{
    static char text[SAMPLE_BYTES + 8];
    const struct {
        uint32_t bytes, kept;
        size_t character; /* where a character of three bytes begins */
    } cases[] = {{0, 0, 0},
                 {5, 5, 0},
                 {SAMPLE_BYTES, SAMPLE_BYTES, SAMPLE_BYTES - 3},
                 {SAMPLE_BYTES + 1, SAMPLE_BYTES - 2, SAMPLE_BYTES - 2},
                 {SAMPLE_BYTES + 4, SAMPLE_BYTES, SAMPLE_BYTES - 3},
                 {SAMPLE_BYTES + 8, SAMPLE_BYTES - 1, SAMPLE_BYTES - 1},
                 {UINT32_MAX, SAMPLE_BYTES, SAMPLE_BYTES}};
    endpoint own = create_endpoint(4, 1);
    job now;
    for (size_t i = 0; i < COUNT(cases); i++) {
        rf_lease *cell = ask(&own, 1);
        memset(text, 'a', sizeof text);
        memcpy(text + cases[i].character, "\xe2\x82\xac", 3);
        CHECK(take_job(&own, 1, &now));
        CHECK_EQUAL(rf_answer_without(own.pool, now.held, 1, RF_FAILED, text, cases[i].bytes), 1);
        rf_lease_drop(now.batch);
        rf_reply reply = inspect_cell(cell, 0);
        CHECK_EQUAL(reply.outcome, RF_FAILED);
        CHECK_EQUAL(reply.text_bytes, cases[i].kept);
        CHECK(memcmp(text_of(cell, 0), text, reply.text_bytes) == 0);
        rf_lease_drop(cell);
    }
    rf_lease *cell = ask(&own, 2);
    serve(&own, 1);
    CHECK_EQUAL(inspect_cell(cell, 0).text_bytes, 0); /* the text of the last answer is gone */
    rf_lease_drop(cell);
    close_endpoint(&own);
}

static const test tests[] = {
    {"a request that is withdrawn early is skipped, even if another request has its cell by then",
     test_withdrawn_before_taken},
    {"a held cell that is withdrawn is freed by the engine that holds it",
     test_withdrawn_while_held},
    {"an answered cell stays until its last reference is dropped", test_withdrawn_when_answered},
    {"a request past its deadline is answered without the model", test_expired},
    {"an error's text is cut to the size of a cell, and never within a character", test_text},
};

MAIN(tests)
