/* Clients, engines and recoverers of reply cells that are stopped or killed at each step. */
#ifndef RF_REPLY_SCENARIOS_H
#define RF_REPLY_SCENARIOS_H

#include "reply_fixture.h"

/* ---- Victims -------------------------------------------------------------------------------- */

static inline void operate_as_client(reply_fixture *now)
{
    watched = true;
    rf_lease *early = claim(now->victim.pool, 1), *cell = ask(&now->victim, 21);
    rf_cell_ask(early, 0, RF_FOREVER, RF_WAITER_CLIENT);
    rf_lease_drop(
        early); /* without a request: whether an engine holds the cell must not depend on timing */
    CHECK_EQUAL(wait_until(cell, 0, RF_FOREVER), RF_OK);
    expect_answer(cell, 0, 21);
    rf_lease_drop(cell);
    watched = false;
}

static inline void operate_withdraw_held(reply_fixture *now)
{
    rf_lease *cell = ask(&now->victim, 20);
    while (!inspect_cell(cell, 0).held)
        rest();
    watched = true;
    rf_lease_drop(cell);
    watched = false;
}

static inline void operate_as_engine(reply_fixture *now)
{
    job work;
    watched = true;
    if (take_job(&now->victim, 6, &work))
        answer_row_by_row(&now->victim, &work);
    watched = false;
}

static inline void operate_fail(reply_fixture *now)
{
    job work;
    watched = true;
    if (take_job(&now->victim, 6, &work)) {
        rf_answer_without(now->victim.pool, work.held, rf_lease_rows(work.batch), RF_FAILED, "no",
                          2);
        rf_lease_drop(work.batch);
    }
    watched = false;
}

static inline void operate_hold_and_give_back(reply_fixture *now)
{
    job work;
    watched = true;
    if (take_job(&now->victim, 6, &work)) {
        rf_let_go(now->victim.pool, work.held, rf_lease_rows(work.batch));
        rf_lease_give_back(work.batch);
        rf_lease_drop(work.batch);
    }
    watched = false;
}

/* Hand the request on to the end of the same ring, which serves as the second ring. */
static inline void operate_hand_on(reply_fixture *now)
{
    job work;
    CHECK(take_job(&now->victim, 1, &work));
    uint64_t reply = atomic_load(&now->victim.ring->slots[rf_lease_first(work.batch)].reply);
    rf_lease *next = claim(now->victim.ring, 1);
    set_number(next, 0, number_at(work.batch, 0));
    watched = true;
    rf_let_go(now->victim.pool, work.held, 1);
    CHECK_EQUAL(rf_publish_requests(next, 1, NULL, &reply, 0), RF_OK);
    rf_lease_drop(work.batch);
    watched = false;
    rf_lease_drop(next);
}

static inline void operate_recover_cells(reply_fixture *now)
{
    watched = true;
    rf_recover(now->victim.pool);
    watched = false;
}

/* Hold a cell that other engines have held before. */
static inline void operate_hold_again(reply_fixture *now)
{
    job work;
    do
        CHECK((work.batch = take(now->victim.ring, 1)) != NULL);
    while (number_at(work.batch, 0) != 0); /* the rows of dead clients are taken too */
    watched = true;
    rf_hold(now->victim.pool, work.batch, work.held);
    watched = false;
    answer_row_by_row(&now->victim, &work);
}

static inline void operate_leave_holding(reply_fixture *now)
{
    job work;
    CHECK(take_job(&now->victim, 6, &work));
    watched = true;
    close_ring(now->victim.pool);
    watched = false;
    now->victim.pool = NULL;
    rf_lease_give_back(work.batch);
    rf_lease_drop(work.batch);
}

/* Join while every entry is in use, one of them by a participant that is killed now. */
static inline void operate_join_full_pool(reply_fixture *now)
{
    rf_ring *pool = now->victim.pool, *late;
    CHECK_EQUAL(rf_pool_attach(open_segment(POOL), &late), RF_CROWDED);
    kill(now->doomed, SIGKILL);
    uint32_t cell = rf_lease_first(now->asked[0]);
    while (rf_participant_lives(pool, rf_word_owner(word_of(pool, cell))))
        rest();
    watched = true;
    CHECK_EQUAL(rf_pool_attach(open_segment(POOL), &late), RF_OK);
    watched = false;
    close_ring(late);
}

/* ---- Helpers -------------------------------------------------------------------------------- */

/* Wait until living clients sleep, so that each play passes the same steps. */
static inline void let_them_sleep(endpoint *own, const job *now)
{
    for (uint32_t row = 0; row < rf_lease_rows(now->batch); row++) {
        rf_cell *record = (rf_cell *)&own->pool->slots[now->held[row].cell];
        int64_t until = in_ms(20);
        while (now->held[row].word && rf_now_ns() < until && !atomic_load(&record->waiter))
            rest();
    }
}

static void helping_engine(void *unused)
{
    (void)unused;
    endpoint own = attach_endpoint();
    atomic_store(&tally->helper_ready, 1);
    while (!atomic_load(&tally->over)) {
        rf_take_request request = {.max_rows = 2, .min_rows = 1, .deadline_ns = in_ms(5)};
        job now;
        if (rf_take(own.ring, &request, &now.batch) != RF_OK)
            continue;
        rf_hold(own.pool, now.batch, now.held);
        let_them_sleep(&own, &now);
        answer_row_by_row(&own, &now);
    }
    close_endpoint(&own);
}

/* Hold the first request until the victim is gone. */
static inline void slow_engine(void *unused)
{
    (void)unused;
    endpoint own = attach_endpoint();
    job now;
    atomic_store(&tally->helper_ready, 1);
    CHECK_EQUAL(take_until(own.ring, 1, 1, RF_FOREVER, &now.batch), RF_OK);
    rf_hold(own.pool, now.batch, now.held);
    await(&tally->go, 1);
    answer_row_by_row(&own, &now);
    close_endpoint(&own);
}

static inline void helping_client(rf_waiter waiter)
{
    endpoint own = attach_endpoint();
    rf_lease *cell = claim(own.pool, 1);
    ask_with(&own, cell, 0, 30, RF_FOREVER, waiter);
    for (uint32_t slices = 0, turns = 0;;) {
        uint32_t key = rf_answers_prepare(own.pool);
        atomic_store(&tally->helper_ready, 1);
        if (inspect_cell(cell, 0).outcome != RF_PENDING)
            break;
        int64_t until = in_ms(RF_SLICE_NS / NS_PER_MS);
        rf_status status = waiter == RF_WAITER_CLIENT ? rf_answers_sleep(own.pool, key, RF_FOREVER)
                                                      : rf_cell_wait(cell, 0, RF_FOREVER);
        CHECK(status == RF_OK || status == RF_AGAIN);
        /* This client waits for the surviving engine, which first has to find the dead. Only slices count in which
         * that engine had a turn. */
        bool counts = atomic_load(&recorded->gone_ns) && atomic_load(&tally->turns) != turns;
        slices += rf_now_ns() >= until && counts;
        turns = atomic_load(&tally->turns);
        CHECK(slices <= 2 * MOST_SLICES);
    }
    expect_outcome(cell, 30, true);
    rf_lease_drop(cell);
    close_endpoint(&own);
}

static inline void client_at_its_cell(void *unused)
{
    (void)unused;
    helping_client(RF_WAITER_THREAD);
}

static inline void client_of_many(void *unused)
{
    (void)unused;
    helping_client(RF_WAITER_CLIENT);
}

/* ---- Initial states ------------------------------------------------------------------------- */

static inline void ask_one(reply_fixture *now)
{
    ask_as(now, 0, 0, RF_FOREVER);
}

static inline void ask_some(reply_fixture *now)
{
    ask_as(now, 0, 0, RF_FOREVER);
    ask_as(now, 1, 1, RF_FOREVER);
    ask_as(now, 2, 2, rf_now_ns() - 1); /* its deadline is already over */
    rf_lease_drop(ask(&now->ours, 3));  /* withdrawn */
}

static inline void die_asking_and_holding(void *unused)
{
    (void)unused;
    endpoint own = attach_endpoint();
    job now;
    CHECK(take_job(&own, 2, &now));
    ask(&own, 22);
    ask(&own, 23);
    rf_lease *answered = claim(own.pool, 1);
    atomic_store(&own.pool->words[rf_lease_first(answered)],
                 rf_word(RF_STATE_READY, rf_self(own.pool), rf_word_epoch(answered->words[0])));
    atomic_store(&tally->helper_ready, 1);
    await(&tally->go, 1);
    raise(SIGKILL);
}

/* A dead participant leaves in the pool its requests, an answered cell and a held cell. One of these requests is
 * withdrawn. */
static inline void leave_dead_participant(reply_fixture *now)
{
    int status;
    ask_as(now, 0, 0, RF_FOREVER);
    ask_as(now, 1, 1, RF_FOREVER);
    pid_t dead = spawn(die_asking_and_holding, NULL);
    await(&tally->helper_ready, 1);
    CHECK_EQUAL(take_until(now->ours.ring, 1, 1, 0, &now->held.batch),
                RF_OK); /* a request of the dead client */
    CHECK_EQUAL(rf_hold(now->ours.pool, now->held.batch, now->held.held), 1);
    rf_lease_drop(now->asked[1]);
    now->asked[1] = NULL;
    atomic_store(&tally->go, 1);
    waitpid(dead, &status, 0);
    CHECK(WIFSIGNALED(status));
}

static inline void leave_dead_participant_and_rows(reply_fixture *now)
{
    leave_dead_participant(now);
    rf_recover(now->ours.ring);
}

static inline void hold_until_killed(void *unused)
{
    (void)unused;
    endpoint own = attach_endpoint();
    job now;
    CHECK(take_job(&own, 1, &now) && now.to_run == 1);
    atomic_store(&tally->helper_ready, 1);
    await(&tally->over, 1);
}

static inline void full_pool(reply_fixture *now)
{
    ask_one(now);
    now->doomed = spawn(hold_until_killed, NULL);
    await(&tally->helper_ready, 1);
    for (int i = 0; i < CROWD; i++)
        now->crowd[i] = attach_pool();
}

/* An engine finds a cell held by a dead participant, then stops for longer than its wait. It must not take a new
 * participant with the same number for the holder. */
static inline void another_has_their_number(reply_fixture *now)
{
    int64_t until = in_ms(2 * RF_SLICE_NS / NS_PER_MS + 5);
    rf_recover(now->ours.pool);
    now->crowd[0] = attach_pool();
    while (armed_signal == SIGSTOP && rf_now_ns() < until)
        rest();
}

/* The ring has the same request twice: we hold one, and the other was given back once. */
static inline void ask_twice_and_hold(reply_fixture *now)
{
    ask_one(now);
    CHECK(take_job(&now->ours, 1, &now->held));
    uint64_t reply = atomic_load(&now->ours.ring->slots[rf_lease_first(now->held.batch)].reply);
    rf_lease *twin = claim(now->ours.ring, 1);
    set_number(twin, 0, 0);
    CHECK_EQUAL(rf_publish_requests(twin, 1, NULL, &reply, 0), RF_OK);
    rf_lease_drop(twin);
    twin = take(now->ours.ring, 1);
    rf_lease_give_back(twin);
    rf_lease_drop(twin);
}

/* ---- Scenarios ----------------------------------------------------------------------------- */

#define REPLY_SCENARIO(name, ...)                                      \
    static inline bool name(uint32_t step, uint32_t visit, int signal) \
    {                                                                  \
        static const reply_scenario scenario = {__VA_ARGS__};          \
        return play_reply_scenario(&scenario, step, visit, signal);    \
    }

REPLY_SCENARIO(play_client, .operate = operate_as_client, .helper = helping_engine)
REPLY_SCENARIO(play_withdrawal, .operate = operate_withdraw_held, .helper = slow_engine)
REPLY_SCENARIO(play_engine, .prepare = ask_some, .operate = operate_as_engine,
               .helper = client_at_its_cell, .needs_victim = true)
REPLY_SCENARIO(play_engine_that_drops, .prepare = ask_some, .operate = operate_as_engine,
               .drops = true, .needs_victim = true)
REPLY_SCENARIO(play_failing_engine, .prepare = ask_some, .operate = operate_fail,
               .helper = client_of_many, .needs_victim = true)
REPLY_SCENARIO(play_giving_back, .prepare = ask_some, .operate = operate_hold_and_give_back,
               .needs_victim = true)
REPLY_SCENARIO(play_handing_on, .prepare = ask_one, .operate = operate_hand_on,
               .needs_victim = true)
REPLY_SCENARIO(play_recovery, .prepare = leave_dead_participant, .operate = operate_recover_cells)
REPLY_SCENARIO(play_recovery_that_drops, .prepare = leave_dead_participant,
               .operate = operate_recover_cells, .drops = true)
REPLY_SCENARIO(play_holding_again, .prepare = leave_dead_participant_and_rows,
               .operate = operate_hold_again, .meanwhile = another_has_their_number,
               .needs_victim = true)
REPLY_SCENARIO(play_holding_a_twin, .prepare = ask_twice_and_hold, .operate = operate_hold_again)
REPLY_SCENARIO(play_leaving, .prepare = ask_some, .operate = operate_leave_holding,
               .needs_victim = true)
REPLY_SCENARIO(play_joining_full_pool, .prepare = full_pool, .operate = operate_join_full_pool)

#endif
