/*
 * An operation is stopped at any instruction on its way to sleep. It must notice the event for which it waits.
 *
 * instruction_stops.h describes how one scenario is played.
 */
#include "instruction_stops.h"

#if defined(__x86_64__)

/* ---- Operations of the waiting child --------------------------------------------------------- */

/* One call. A waiter that is not woken returns with RF_AGAIN. */
static void operate_wait_take(ring_fixture *now, uint32_t least)
{
    rf_take_request request = {.max_rows = least, .min_rows = least, .deadline_ns = RF_FOREVER};
    rf_lease *lease;
    rf_status status = rf_take(now->victim, &request, &lease);
    atomic_store(&shared->answer, status);
    if (status != RF_OK)
        return;
    CHECK_EQUAL(rf_lease_rows(lease), least);
    for (uint32_t row = 0; row < least; row++)
        atomic_fetch_add(&shared->taken[number_at(lease, row)], 1);
    rf_lease_drop(lease);
}

static void operate_wait_for_one(ring_fixture *now)
{
    operate_wait_take(now, 1);
}

static void operate_wait_for_three(ring_fixture *now)
{
    operate_wait_take(now, 3);
}

static void operate_wait_claim(ring_fixture *now)
{
    rf_lease *lease;
    rf_status status = rf_claim(now->victim, 1, RF_FOREVER, &lease);
    atomic_store(&shared->answer, status);
    if (status == RF_OK)
        rf_lease_drop(lease);
}

/* ---- The events for which it waits ----------------------------------------------------------- */

static void put_one(ring_fixture *now)
{
    CHECK_EQUAL(work_put(now, now->ours, OURS), RF_OK);
}

static void put_two(ring_fixture *now)
{
    put_one(now);
    put_one(now);
}

static void release_one(ring_fixture *now)
{
    CHECK_EQUAL(work_take(now, now->ours, 1), 1);
}

static void only_finish(ring_fixture *now)
{
    rf_finish(now->ours);
    now->finished = true;
}

static void helper_closes(ring_fixture *now)
{
    (void)now;
    atomic_fetch_add(&shared->helper_asked, 1);
    await(&shared->helper_done, 1);
}

static void finished_but_for_a_claim(ring_fixture *now)
{
    now->held = claim(now->ours, 1);
    only_finish(now);
}

static void *help_closing(void *argument)
{
    ring_fixture *now = argument;
    await(&shared->helper_asked, 1);
    rf_ring_close(now->victim);
    atomic_store(&shared->helper_done, 1);
    return NULL;
}

static void helper_will_close(ring_fixture *now)
{
    start_thread(help_closing, now);
}

/* ---- Scenarios ----------------------------------------------------------------------------- */

SCENARIO(woken_by_put, .operate = operate_wait_for_one, .meanwhile = put_one, .waits = true,
         .answer = RF_OK)
SCENARIO(woken_by_the_last_of_three, .operate = operate_wait_for_three, .meanwhile = put_one,
         .later = put_two, .waits = true, .answer = RF_OK)
SCENARIO(woken_by_release, .prepare = full_ring, .operate = operate_wait_claim,
         .meanwhile = release_one, .waits = true, .answer = RF_OK)
SCENARIO(woken_by_finish, .operate = operate_wait_for_one, .meanwhile = only_finish, .waits = true,
         .answer = RF_FINISHED)
SCENARIO(claimer_woken_by_finish, .prepare = full_ring, .operate = operate_wait_claim,
         .meanwhile = only_finish, .waits = true, .answer = RF_FINISHED)
SCENARIO(woken_by_discard, .prepare = finished_but_for_a_claim, .operate = operate_wait_for_one,
         .meanwhile = drop_held, .waits = true, .answer = RF_FINISHED)
SCENARIO(woken_by_close, .warm_up = helper_will_close, .operate = operate_wait_for_one,
         .meanwhile = helper_closes, .waits = true, .answer = RF_CLOSED)

static const test tests[] = {
    {"a taker on its way to sleep notices a put", woken_by_put},
    {"a taker on its way to sleep notices the first of three records and wakes at the last",
     woken_by_the_last_of_three},
    {"a claimer on its way to sleep notices a release", woken_by_release},
    {"a taker on its way to sleep notices the finish", woken_by_finish},
    {"a claimer on its way to sleep notices the finish", claimer_woken_by_finish},
    {"a taker on its way to sleep notices the discard of the last claim", woken_by_discard},
    {"a taker on its way to sleep notices that another thread closes", woken_by_close},
};

#else

static const test tests[] = {
    {"a waiter on its way to sleep notices the event for which it waits", skipped}};

#endif

MAIN(tests)
