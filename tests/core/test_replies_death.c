/* Reply cells when a client or an engine dies, stands still, leaves or forks. */
#include "cells.h"
#include "segment/locks.h"

/* ---- A child that acts, reports and waits --------------------------------------------------- */

typedef struct role {
    void (*act)(endpoint *);
    _Atomic uint32_t ready, told;
} role;

static role *current;
static job taken;

static void play(void *unused)
{
    (void)unused;
    endpoint own = attach_endpoint();
    current->act(&own);
    atomic_store(&current->ready, 1);
    await(&current->told, 1);
}

/* Start the child and wait until it has called `act`. */
static pid_t start(void (*act)(endpoint *))
{
    current = shared_memory(sizeof *current);
    current->act = act;
    pid_t child = spawn(play, NULL);
    await(&current->ready, 1);
    return child;
}

static void take_and_hold(endpoint *own)
{
    rf_pool_serve(own->pool, 1);
    CHECK(take_job(own, 1, &taken) && taken.to_run == 1);
}

static void only_take(endpoint *own)
{
    CHECK((taken.batch = take(own->ring, 1)) != NULL);
}

static void reap_the_dead(endpoint *own)
{
    rf_recover(own->ring);
    CHECK_EQUAL(rf_recover(own->pool), 1);
}

/* ---- Dead clients --------------------------------------------------------------------------- */

/* Four cells: three asked, of which the caller answers one and holds one; the fourth stays claimed. */
static void ask_three(endpoint *own)
{
    for (uint64_t i = 0; i < 3; i++)
        ask(own, i);
    claim(own->pool, 1);
}

static void test_dead_client(void)
{
    endpoint own = create_endpoint(4, 4);
    rf_lease *none;
    job now;
    pid_t client = start(ask_three);
    CHECK_EQUAL(serve(&own, 1), 1);
    CHECK(take_job(&own, 1, &now) && now.to_run == 1);
    CHECK_EQUAL(rf_claim(own.pool, 1, 0, &none), RF_FULL);
    kill_and_reap(client);
    reap_the_dead(&own);
    uint32_t cell = now.held[0].cell;
    /* The engine that holds the cell frees it. */
    CHECK_EQUAL(word_of(own.pool, cell), now.held[0].word | RF_KEEP);
    CHECK_EQUAL(answer_job(&own, &now), 0);
    expect_all_free(own.pool);
    CHECK_EQUAL(serve(&own, 4), 0); /* the last request of the dead client is skipped */
    expect_all_free(own.ring);
    close_endpoint(&own);
}

/* ---- Dead engines --------------------------------------------------------------------------- */

static void test_dead_engine(void)
{
    endpoint own = create_endpoint(4, 2);
    rf_lease *cell = ask(&own, 5), *withdrawn;
    kill_and_reap(start(take_and_hold));
    CHECK_EQUAL(inspect_cell(cell, 0).held, 1);
    reap_the_dead(&own);
    CHECK_EQUAL(inspect_cell(cell, 0).held, 0);
    CHECK_EQUAL(serve(&own, 1), 1);
    expect_answer(cell, 0, 5);
    withdrawn = ask(&own, 6);
    pid_t engine = start(take_and_hold);
    rf_lease_drop(withdrawn);
    kill_and_reap(engine);
    reap_the_dead(&own);
    CHECK_EQUAL(serve(&own, 1), 0);
    rf_lease_drop(cell);
    expect_all_free(own.pool);
    expect_all_free(own.ring);
    close_endpoint(&own);
}

/* The engine that gets the request reaps the dead engine that held the cell; no other process does so here. */
static void test_hold_reaps(void)
{
    endpoint own = create_endpoint(4, 1);
    rf_stats stats;
    rf_lease *cell = ask(&own, 5);
    kill_and_reap(start(take_and_hold));
    CHECK_EQUAL(rf_recover(own.ring), 1);
    CHECK_EQUAL(serve(&own, 1), 1);
    expect_answer(cell, 0, 5);
    rf_ring_stats(own.pool, &stats);
    CHECK_EQUAL(stats.participants, 1);
    rf_lease_drop(cell);
    expect_all_free(own.pool);
    close_endpoint(&own);
}

/* With redelivery off, the client is told only that the engine died: the cell's text is an older request's. */
static void test_dropped(void)
{
    endpoint own = create_endpoint_as(4, 1, 0);
    job now;
    rf_lease *cell = ask(&own, 1);
    CHECK(take_job(&own, 1, &now));
    rf_answer_without(own.pool, now.held, 1, RF_FAILED, "of another", 10);
    rf_lease_drop(now.batch);
    rf_lease_drop(cell);
    cell = ask(&own, 2);
    kill_and_reap(start(take_and_hold));
    CHECK_EQUAL(wait_until(cell, 0, RF_FOREVER), RF_OK);
    rf_reply reply = inspect_cell(cell, 0);
    CHECK_EQUAL(reply.outcome, RF_ENGINE_DIED);
    CHECK_EQUAL(reply.text_bytes, 0);
    CHECK(reply.held_ns >= reply.asked_ns && reply.answered_ns == 0);
    rf_lease_drop(cell);
    rf_recover(own.ring);
    expect_all_free(own.pool);
    expect_all_free(own.ring);
    close_endpoint(&own);
}

/* The engine is killed before it holds the cell: the record is gone, and the cell is still asked. A living
 * engine holds the cell before it releases the record. */
static void test_dropped_unheld(void)
{
    endpoint own = create_endpoint_as(4, 1, 0);
    rf_lease *cell = claim(own.pool, 1);
    uint64_t link = ask_with(&own, cell, 0, 1, RF_FOREVER, RF_WAITER_NONE);
    kill_and_reap(start(only_take));
    CHECK(!rf_record_is_gone(own.ring, link));
    rf_recover(own.ring);
    CHECK(rf_record_is_gone(own.ring, link));
    rf_reply reply = inspect_cell(cell, 0);
    CHECK(reply.outcome == RF_PENDING && !reply.held);
    rf_lease_drop(cell);
    expect_all_free(own.pool);
    close_endpoint(&own);
}

static void test_stopped_engine(void)
{
    endpoint own = create_endpoint(4, 1);
    rf_lease *cell = ask(&own, 1);
    pid_t engine = start(take_and_hold);
    stop_and_wait(engine);
    CHECK_EQUAL(rf_recover(own.pool), 0);
    CHECK_EQUAL(inspect_cell(cell, 0).held, 1);
    CHECK_EQUAL(rf_pool_engines(own.pool), 1);
    CHECK_EQUAL(wait_until(cell, 0, in_ms(60)), RF_EMPTY);
    rf_lease_drop(cell);
    kill_and_reap(engine);
    reap_the_dead(&own);
    expect_all_free(own.pool);
    close_endpoint(&own);
}

/* The kernel drops the locks of a dying process one by one. A process of another PID namespace can see the
 * ring's lock released while the pool's lock is still held. */
static void die_by_parts(endpoint *own)
{
    take_and_hold(own);
    rf_lock_mapping_end(&own->ring->lock_mapping);
    rf_mark_withdraw(&own->ring->participants[rf_self(own->ring) - 1].mark);
}

static void test_dying_engine(void)
{
    bool answered = false;
    endpoint own = create_endpoint(4, 1);
    /* Several attempts, because the engine may not get a processor in time. */
    for (int attempt = 0; attempt < 20 && !answered; attempt++) {
        rf_lease *cell = ask(&own, 8);
        pid_t engine = start(die_by_parts);
        CHECK_EQUAL(rf_recover(own.ring), 1);
        CHECK_EQUAL(rf_recover(own.pool), 0);
        atomic_store(&current->told, 1);
        answered = serve(&own, 1) == 1;
        expect_success(engine);
        if (answered)
            expect_answer(cell, 0, 8);
        rf_lease_drop(cell);
        rf_recover(own.pool);
        expect_all_free(own.pool);
    }
    CHECK(answered);
    close_endpoint(&own);
}

/* An engine leaves the pool before it has answered. */
static void test_leaving_engine(void)
{
    for (uint32_t redeliver = 0; redeliver < 2; redeliver++) {
        endpoint own = create_endpoint_as(4, 2, redeliver), engine = attach_endpoint();
        rf_lease *cell = ask(&own, 1), *withdrawn = ask(&own, 2);
        job now;
        CHECK(take_job(&engine, 2, &now) && now.to_run == 2);
        rf_lease_drop(withdrawn);
        close_ring(engine.pool);
        CHECK_EQUAL(inspect_cell(cell, 0).held, 0);
        CHECK_EQUAL(inspect_cell(cell, 0).outcome, redeliver ? RF_PENDING : RF_ENGINE_DIED);
        rf_lease_give_back(now.batch);
        rf_lease_drop(now.batch);
        CHECK_EQUAL(serve(&own, 2), redeliver);
        rf_lease_drop(cell);
        expect_all_free(own.pool);
        close_ring(engine.ring);
        close_endpoint(&own);
        shm_unlink(segment_name(0));
        shm_unlink(segment_name(POOL));
    }
}

static void serve_for_now(endpoint *own)
{
    rf_pool_serve(own->pool, 1);
}

static void test_engines(void)
{
    endpoint own = create_endpoint(4, 1);
    CHECK_EQUAL(rf_pool_engines(own.pool), 0);
    pid_t engine = start(serve_for_now);
    CHECK_EQUAL(rf_pool_engines(own.pool), 1);
    rf_pool_serve(own.pool, 1);
    CHECK_EQUAL(rf_pool_engines(own.pool), 2);
    kill_and_reap(engine);
    CHECK_EQUAL(rf_pool_engines(own.pool), 1);
    CHECK_EQUAL(rf_recover(own.pool), 0); /* the count has reaped it */
    rf_pool_serve(own.pool, 0);
    CHECK_EQUAL(rf_pool_engines(own.pool), 0);
    close_endpoint(&own);
}

/* Every entry belongs to a living or a dead participant. A joining process reaps a dead one and gets its entry. */
static void test_crowded(void)
{
    endpoint own = create_endpoint(4, 1);
    rf_ring *others[15];
    rf_lease *cell = ask(&own, 3);
    pid_t engine = start(take_and_hold);
    for (int i = 0; i < 14; i++)
        others[i] = attach_pool();
    CHECK_EQUAL(rf_pool_attach(open_segment(POOL), &others[14]), RF_CROWDED);
    kill_and_reap(engine);
    rf_ring *late = attach_pool();
    CHECK_EQUAL(inspect_cell(cell, 0).held, 0);
    rf_recover(own.ring);
    CHECK_EQUAL(serve(&own, 1), 1);
    rf_lease_drop(cell);
    expect_all_free(own.pool);
    for (int i = 0; i < 14; i++)
        close_ring(others[i]);
    close_ring(late);
    close_endpoint(&own);
}

/* ---- Forked --------------------------------------------------------------------------------- */

typedef struct inherited {
    endpoint own;
    rf_lease *asked, *held;
    job now;
} inherited;

static void in_the_child(void *argument)
{
    inherited *was = argument;
    rf_reply reply;
    job again = was->now;
    CHECK_EQUAL(rf_cell_ask(was->asked, 0, 0, RF_WAITER_CLIENT), 0);
    CHECK_EQUAL(rf_cell_inspect(was->asked, 0, &reply), RF_SLOT_LOST);
    CHECK_EQUAL(rf_cell_wait(was->asked, 0, RF_FOREVER), RF_SLOT_LOST);
    for (int joined = 0; joined < 2; joined++) {
        CHECK_EQUAL(rf_answer_without(was->own.pool, was->now.held, 1, RF_FAILED, "no", 2), 0);
        rf_let_go(was->own.pool, was->now.held, 1);
        CHECK_EQUAL(rf_hold(was->own.pool, was->now.batch, again.held), 0); /* this call joins */
        CHECK_EQUAL(again.held[0].verdict, RF_WITHDRAWN);
    }
    rf_answers_prepare(was->own.pool);
    rf_cells_keep(was->asked, 0);
    rf_lease_drop(was->asked);
    rf_lease_drop(was->held);
    rf_lease *cell = ask(&was->own, 6); /* as its own participant the child may ask as usual */
    CHECK_EQUAL(wait_until(cell, 0, RF_FOREVER), RF_OK);
    expect_answer(cell, 0, 6);
    rf_lease_drop(cell);
}

static void test_forked_child(void)
{
    static inherited was;
    was.own = create_endpoint(4, 3);
    was.held = ask(&was.own, 4);
    CHECK(take_job(&was.own, 1, &was.now) && was.now.to_run == 1);
    was.asked = ask(&was.own, 5);
    rf_event *ours = &was.own.pool->participants[rf_self(was.own.pool) - 1].answered;
    pid_t child = spawn(in_the_child, &was);
    rf_take_request request = {.max_rows = 2, .min_rows = 2, .deadline_ns = RF_FOREVER};
    job next;
    while (rf_take(was.own.ring, &request, &next.batch) == RF_AGAIN)
        ;
    CHECK_EQUAL(rf_hold(was.own.pool, next.batch, next.held), 2);
    CHECK_EQUAL(answer_job(&was.own, &next), 2);
    expect_success(child);
    CHECK_EQUAL(atomic_load(&ours->wanted), 0);
    CHECK_EQUAL(inspect_cell(was.held, 0).held, 1);
    CHECK_EQUAL(answer_job(&was.own, &was.now), 1);
    expect_answer(was.held, 0, 4);
    expect_answer(was.asked, 0, 5);
    rf_lease_drop(was.held);
    rf_lease_drop(was.asked);
    rf_recover(was.own.pool);
    expect_all_free(was.own.pool);
    close_endpoint(&was.own);
}

static const test tests[] = {
    {"a dead client's cells are free, and a held one is freed by the engine that holds it",
     test_dead_client},
    {"a cell that a dead engine held is asked again, and another engine answers", test_dead_engine},
    {"an engine that gets the request of a dead engine reaps that engine first", test_hold_reaps},
    {"with redelivery off, the client is told that the engine died", test_dropped},
    {"a request that was dropped before its cell was held is detected as lost",
     test_dropped_unheld},
    {"a stopped engine keeps its cells", test_stopped_engine},
    {"a request held by a process that is just dying is served by another engine",
     test_dying_engine},
    {"an engine that leaves lets go of the cells that it holds", test_leaving_engine},
    {"living engines are counted, dead engines are reaped", test_engines},
    {"a process that joins a crowded pool reaps a dead participant and gets its entry",
     test_crowded},
    {"a forked child answers, asks and withdraws no request of its parent", test_forked_child},
};

MAIN(tests)
