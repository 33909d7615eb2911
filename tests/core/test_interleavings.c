/*
 * A process is stopped, or dies, at any one instruction of an operation. The ring stays correct, and no other
 * process hangs.
 *
 * instruction_stops.h describes how one scenario is played.
 */
#include "instruction_stops.h"

#if defined(__x86_64__)

/* ---- Operations of other processes meanwhile ------------------------------------------------- */

static void recover_too(ring_fixture *now)
{
    rf_recover(now->ours);
    laps(now);
    rf_recover(now->ours);
}

static void finish_too(ring_fixture *now)
{
    rf_finish(now->ours);
    now->finished = true;
    drain(now);
}

/* A taker died with a record that the parent still keeps. */
static void die_with_a_row(void *argument)
{
    (void)argument;
    CHECK(take(attach_ring(), 1));
    raise(SIGKILL);
}

static void a_dead_taker(ring_fixture *now)
{
    int status;
    now->held = claim(now->ours, 1);
    set_number(now->held, 0, OURS * NUMBERS);
    now->next[OURS]++;
    CHECK_EQUAL(rf_publish(now->held, 1, NULL, 1), RF_OK);
    atomic_fetch_add(&shared->published[OURS * NUMBERS], 1);
    waitpid(spawn(die_with_a_row, NULL), &status, 0);
    CHECK(WIFSIGNALED(status));
}

static void take_and_hold(ring_fixture *now)
{
    atomic_store(&now->ours->header->take_cursor, 0);
    CHECK_EQUAL(take_until(now->ours, SLOTS, 1, 0, &now->held), RF_OK);
    for (uint32_t row = 0; row < rf_lease_rows(now->held); row++)
        atomic_fetch_add(&shared->taken[number_at(now->held, row)], 1);
}

/* ---- A second thread of the stopped process -------------------------------------------------- */

/* The other thread of the stopped process publishes twice, or waits until the first thread continues. */
static void helper_puts(ring_fixture *now)
{
    atomic_fetch_add(&shared->helper_asked, 2);
    for (int i = 0; i < 5 && atomic_load(&shared->helper_done) < 3; i++)
        rest();
    drain(now);
}

static void *help(void *argument)
{
    ring_fixture *now = argument;
    for (uint32_t done = 0;;) {
        await(&shared->helper_asked, done + 1);
        work_put(now, now->victim, HELPER);
        atomic_store(&shared->helper_done, ++done);
    }
    return NULL;
}

static void helper_puts_first(ring_fixture *now)
{
    start_thread(help, now);
    atomic_fetch_add(&shared->helper_asked, 1);
    await(&shared->helper_done, 1);
}

/* ---- Scenarios ----------------------------------------------------------------------------- */

SCENARIO(stopped_put, .prepare = two_records, .warm_up = put_earlier, .operate = operate_put,
         .meanwhile = laps, .variants = 2)
SCENARIO(stopped_claim, .prepare = two_records, .operate = operate_claim_and_publish,
         .meanwhile = laps, .variants = 2)
SCENARIO(stopped_kept, .prepare = two_records, .operate = operate_kept, .meanwhile = laps,
         .variants = 2)
SCENARIO(stopped_take, .prepare = four_records, .operate = operate_take, .meanwhile = laps,
         .variants = 2)
SCENARIO(stopped_crossed_take, .prepare = crossed_records, .operate = operate_take,
         .meanwhile = laps, .variants = 2)
SCENARIO(stopped_crossed_publish, .operate = operate_crossed_publish, .meanwhile = laps,
         .variants = 2)
SCENARIO(stopped_close, .prepare = two_records, .operate = operate_close, .meanwhile = laps,
         .variants = 2)
SCENARIO(stopped_recover, .prepare = a_dead_participant, .operate = operate_recover,
         .meanwhile = recover_too, .variants = 2)
SCENARIO(take_beside_recover, .prepare = a_dead_participant, .operate = operate_recover,
         .meanwhile = take_and_hold, .variants = 2)
SCENARIO(unkeep_beside_recover, .prepare = a_dead_taker, .operate = operate_recover,
         .meanwhile = drop_held, .variants = 2)
SCENARIO(finished_put, .prepare = two_records, .warm_up = put_earlier, .operate = operate_put,
         .meanwhile = finish_too, .variants = 2)
SCENARIO(finished_claim, .operate = operate_claim_and_publish, .meanwhile = finish_too,
         .variants = 2)
SCENARIO(finished_take, .prepare = four_records, .operate = operate_take, .meanwhile = finish_too,
         .variants = 2)
SCENARIO(stopped_finish, .prepare = two_records, .operate = operate_finish, .meanwhile = laps,
         .variants = 2)
SCENARIO(threads_put, .warm_up = helper_puts_first, .operate = operate_put,
         .meanwhile = helper_puts, .variants = 5)
SCENARIO(killed_put, .prepare = two_records, .warm_up = put_earlier, .operate = operate_put,
         .meanwhile = laps, .variants = 2, .kill = true)
SCENARIO(killed_claim, .prepare = two_records, .operate = operate_claim_and_publish,
         .meanwhile = laps, .variants = 2, .kill = true)
SCENARIO(killed_kept, .prepare = two_records, .operate = operate_kept, .meanwhile = laps,
         .variants = 2, .kill = true)
SCENARIO(killed_crossed_publish, .operate = operate_crossed_publish, .meanwhile = laps,
         .variants = 2, .kill = true)
SCENARIO(killed_take, .prepare = four_records, .operate = operate_take, .meanwhile = laps,
         .variants = 2, .kill = true)
SCENARIO(killed_close, .prepare = two_records, .operate = operate_close, .meanwhile = laps,
         .variants = 2, .kill = true)
SCENARIO(killed_recover, .prepare = a_dead_participant, .operate = operate_recover,
         .meanwhile = laps, .variants = 2, .kill = true)

static const test tests[] = {
    {"a put that is stopped at any instruction blocks no other", stopped_put},
    {"a claim or publish that is stopped at any instruction blocks no other", stopped_claim},
    {"a kept publish that is stopped at any instruction blocks no other", stopped_kept},
    {"a take or release that is stopped at any instruction blocks no other", stopped_take},
    {"a take of crossed records that is stopped at any instruction keeps the order",
     stopped_crossed_take},
    {"records published crosswise keep the order if their producer stops at any instruction",
     stopped_crossed_publish},
    {"a close that is stopped at any instruction blocks no other", stopped_close},
    {"two processes may recover the same dead participant, at any instruction", stopped_recover},
    {"a kept record that is taken at any instruction of a recovery leaves no slot behind",
     take_beside_recover},
    {"a record that is no longer kept at any instruction of a recovery is delivered",
     unkeep_beside_recover},
    {"a ring that is finished at any instruction of a put loses nothing", finished_put},
    {"a ring that is finished at any instruction of a claim loses nothing", finished_claim},
    {"a ring that is finished at any instruction of a take loses nothing", finished_take},
    {"a finish that is stopped at any instruction blocks no other", stopped_finish},
    {"threads of one process keep their order when one is stopped in a put", threads_put},
    {"a put that is killed at any instruction is complete or gone", killed_put},
    {"a claim or publish that is killed at any instruction is complete or gone", killed_claim},
    {"a kept publish that is killed at any instruction leaves no slot behind", killed_kept},
    {"records published crosswise keep the order if their producer dies at any instruction",
     killed_crossed_publish},
    {"the rows of a taker that is killed at any instruction are delivered", killed_take},
    {"a handle that is killed while it closes leaves its entry to others", killed_close},
    {"a recovery that is killed at any instruction is completed by the next", killed_recover},
};

#else

static const test tests[] = {{"operations may be stopped or killed at any instruction", skipped}};

#endif

MAIN(tests)
