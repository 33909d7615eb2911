/*
 * The state of a test of reply cells: participants, a tally of answers, and how one scenario is played.
 *
 * The scenarios are in reply_scenarios.h. The parent is a client with requests of its own, and the surviving engine.
 * Each of its requests must be answered correctly, never twice, and within a counted number of slices. At the end
 * every cell and every slot is free. Where rows of dead takers are dropped, the client may learn that the engine
 * died, or that the record is gone.
 */
#ifndef RF_REPLY_FIXTURE_H
#define RF_REPLY_FIXTURE_H

#include "cells.h"
#include "steps.h"

enum { CELLS = 8, MOST_REQUESTS = 64, ASKED_BY_US = 4, CROWD = 13, SHORT_WAIT_MS = 5 };

typedef struct reply_tally {
    _Atomic uint32_t
        answers[MOST_REQUESTS]; /* of each request: how many answers an engine delivered */
    _Atomic uint32_t helper_ready, go, over;
    _Atomic uint32_t turns; /* turns of the parent, the surviving engine */
} reply_tally;

static reply_tally *tally;

typedef struct reply_fixture {
    endpoint ours, victim;
    rf_lease *asked[ASKED_BY_US];
    uint64_t links[ASKED_BY_US];
    job held;
    rf_ring *crowd[CROWD];
    pid_t doomed;
    bool redeliver;
} reply_fixture;

typedef struct reply_scenario {
    void (*prepare)(reply_fixture *);
    void (*operate)(
        reply_fixture
            *); /* by the victim; the signal may come between watched = true and watched = false */
    void (*helper)(void *);
    void (*meanwhile)(reply_fixture *); /* by the parent, when the victim is gone */
    bool drops;                         /* rows of dead takers are dropped */
    bool needs_victim; /* others wait for what the victim holds as long as it is stopped */
} reply_scenario;

/* ---- Engines that count their answers ------------------------------------------------------- */

static inline void answer_row_by_row(endpoint *own, job *now)
{
    for (uint32_t row = 0; row < rf_lease_rows(now->batch); row++) {
        uint64_t number = number_at(now->batch, row);
        CHECK(number < MOST_REQUESTS);
        const void *outputs[1];
        const uint64_t strides[1] = {0};
        uint8_t sample[SAMPLE_BYTES];
        uint64_t answer = answer_to(number);
        outputs[0] = sample;
        memcpy(sample, &answer, sizeof answer);
        memcpy(sample + SAMPLE_BYTES - sizeof answer, &answer, sizeof answer);
        uint32_t answered = rf_answer_rows(own->pool, &now->held[row], 1, outputs, strides);
        CHECK(atomic_fetch_add(&tally->answers[number], answered) + answered <= 1);
    }
    rf_lease_drop(now->batch);
    now->batch = NULL;
}

static inline bool serve_row_by_row(endpoint *own)
{
    job now;
    atomic_fetch_add(&tally->turns, 1);
    if (!take_job(own, 2, &now))
        return false;
    answer_row_by_row(own, &now);
    return true;
}

static inline void ask_as(reply_fixture *now, int place, uint64_t number, int64_t answer_by_ns)
{
    now->asked[place] = claim(now->ours.pool, 1);
    now->links[place] = ask_with(&now->ours, now->asked[place], 0, number, answer_by_ns,
                                 place % 2 ? RF_WAITER_CLIENT : RF_WAITER_NONE);
}

static inline void expect_outcome(const rf_lease *cell, uint64_t number, bool redeliver)
{
    rf_reply reply = inspect_cell(cell, 0);
    if (reply.outcome == RF_OUTPUTS)
        expect_answer(cell, 0, number);
    else
        CHECK(reply.outcome == RF_FAILED || reply.outcome == RF_LATE ||
              (!redeliver && reply.outcome == RF_ENGINE_DIED));
}

/* True: the record was dropped with the dead taker, which had not yet held the cell. */
static inline bool is_lost(const reply_fixture *now, int place)
{
    bool gone = rf_record_is_gone(now->ours.ring, now->links[place]);
    rf_reply reply = inspect_cell(now->asked[place], 0);
    return !now->redeliver && gone && reply.outcome == RF_PENDING && !reply.held;
}

/* Serve until every request of the parent is answered in time: within short waits that add up to MOST_SLICES. */
static inline void get_answers(reply_fixture *now)
{
    if (now->held.batch)
        answer_row_by_row(&now->ours, &now->held);
    for (int place = 0; place < ASKED_BY_US; place++) {
        rf_lease *cell = now->asked[place];
        for (int turn = 0; cell; turn++) {
            while (serve_row_by_row(&now->ours))
                ;
            if (is_lost(now, place))
                break;
            rf_status status = rf_cell_wait(cell, 0, in_ms(SHORT_WAIT_MS));
            CHECK(status == RF_OK || status == RF_EMPTY);
            CHECK(turn < MOST_SLICES * (int)(RF_SLICE_NS / NS_PER_MS) / SHORT_WAIT_MS);
            if (status != RF_OK)
                continue;
            expect_outcome(cell, (uint64_t)place, now->redeliver);
            break;
        }
    }
}

/* ---- Playing -------------------------------------------------------------------------------- */

static const reply_scenario *current_scenario;

static inline void run_victim(void *argument)
{
    reply_fixture *now = argument;
    now->victim = attach_endpoint();
    current_scenario->operate(now);
    if (now->victim.pool)
        close_ring(now->victim.pool);
    close_ring(now->victim.ring);
}

static inline void end_reply_scenario(reply_fixture *now)
{
    get_answers(now);
    rf_recover(now->ours.ring);
    rf_recover(now->ours.pool);
    for (int place = 0; place < ASKED_BY_US; place++)
        if (now->asked[place])
            rf_lease_drop(now->asked[place]);
    while (serve_row_by_row(&now->ours))
        ;
    expect_all_free(now->ours.pool);
    expect_all_free(now->ours.ring);
    for (int i = 0; i < CROWD; i++)
        if (now->crowd[i])
            close_ring(now->crowd[i]);
    close_endpoint(&now->ours);
    shm_unlink(segment_name(0));
    shm_unlink(segment_name(POOL));
}

/* From here on waits count. Most of the first slice is already over, so that the test waits for a shorter time. */
static inline void is_gone(reply_fixture *now)
{
    victim_is_gone(now->ours.ring, now->ours.pool);
    atomic_fetch_sub(&now->ours.ring->header->reaped_ns, RF_SLICE_NS - 5 * NS_PER_MS);
    atomic_fetch_sub(&now->ours.pool->header->reaped_ns, RF_SLICE_NS - 5 * NS_PER_MS);
}

/* After any fault there is still a free cell, a free slot, and an answer. */
static inline void expect_service(reply_fixture *now)
{
    rf_lease *cell = ask(&now->ours, 40);
    while (inspect_cell(cell, 0).outcome == RF_PENDING)
        serve_row_by_row(&now->ours);
    expect_answer(cell, 0, 40);
    rf_lease_drop(cell);
}

static void helping_engine(void *unused);

static inline pid_t start_reply_helper(const reply_fixture *now, void (*helper)(void *))
{
    atomic_store(&tally->go, 0);
    atomic_store(&tally->helper_ready, 0);
    pid_t pid = helper ? spawn(helper, NULL) : 0;
    await(&tally->helper_ready, pid != 0);
    /* The helping engine sleeps first, so that the victim passes the same steps each time. */
    while (helper == helping_engine && !atomic_load(&now->ours.ring->header->readable.wanted))
        rest();
    return pid;
}

static inline void end_reply_helper(reply_fixture *now, pid_t helper)
{
    int status;
    atomic_store(&tally->over, 1);
    while (waitpid(helper, &status, WNOHANG) == 0) {
        serve_row_by_row(&now->ours); /* the helper may have asked */
        rest();
    }
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == PASSED);
}

static inline bool play_reply_scenario(const reply_scenario *scenario, uint32_t step,
                                       uint32_t visit, int signal)
{
    static reply_fixture now;
    arm(step, visit, signal);
    memset(&now, 0, sizeof now);
    tally = shared_memory(sizeof *tally);
    current_scenario = scenario;
    now.redeliver = !scenario->drops;
    now.ours = create_endpoint_as(CELLS, CELLS, now.redeliver);
    if (scenario->prepare)
        scenario->prepare(&now);
    pid_t helper = start_reply_helper(&now, scenario->helper), victim = spawn(run_victim, &now);
    bool reached = await_victim(victim), stands = reached && signal == SIGSTOP;
    is_gone(&now);
    atomic_store(&tally->go, 1);
    if (reached && scenario->meanwhile)
        scenario->meanwhile(&now);
    expect_service(&now);
    if (!(stands && scenario->needs_victim))
        get_answers(&now);
    if (stands) {
        CHECK_EQUAL(kill(victim, SIGCONT), 0);
        expect_success(victim);
        is_gone(&now);
        get_answers(&now);
    }
    if (helper)
        end_reply_helper(&now, helper);
    end_reply_scenario(&now);
    munmap(tally, sizeof *tally);
    return reached;
}

#endif
