/* The wait hook: when a feed calls it (at Ctrl-C, and while every slot is held), and what each result does. */
#include "feed/wait_hook.h"
#include "feeds.h"

/* ---- A hook that counts its calls ------------------------------------------------------------ */

static _Atomic uint32_t asked_interrupted, asked_stalled, handled, blocks, inside, may_go;
static _Atomic uint64_t asked_id;
static _Atomic int answer;

static rf_hook_result counting_hook(uint64_t id, int interrupted, int stalled)
{
    CHECK(interrupted != stalled); /* one reason for each call */
    atomic_store(&asked_id, id);
    int said = atomic_load(&answer);
    atomic_fetch_add(interrupted ? &asked_interrupted : &asked_stalled, 1);
    if (atomic_load(&blocks)) {
        atomic_store(&inside, 1);
        await(&may_go, 1);
    }
    return (rf_hook_result)said;
}

static void on_interrupt(int number)
{
    (void)number;
    atomic_fetch_add(&handled, 1);
}

static void handle_interrupts(void)
{
    struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = SA_RESTART};
    CHECK_EQUAL(sigaction(SIGINT, &action, NULL), 0);
}

/* A ring for feeds with a hook. Make it before them, because feeds leave a default SIGINT as it is. */
static rf_ring *ring_with_hook(int first_answer)
{
    atomic_store(&answer, first_answer);
    handle_interrupts();
    rf_set_wait_hook(counting_hook);
    return create_ring(4);
}

static void interrupt(void)
{
    uint32_t before = atomic_load(&handled);
    CHECK_EQUAL(kill(getpid(), SIGINT), 0);
    await(&handled, before + 1); /* the program's own handler ran, in any thread */
}

static rf_feed *feed_with_rounds(rf_ring *ring, int64_t round_ns)
{
    return new_feed(ring, &(rf_feed_plan){.max_rows = 2,
                                          .min_rows = 1,
                                          .shown_rows = 3,
                                          .timeout_ns = FOR_EVER,
                                          .round_ns = round_ns});
}

enum { ENDLESS_ROUND_MS = 1000000 };

static void end_waiting_by_a_record(waiter *waiting, rf_ring *ring, uint64_t number)
{
    rf_element *element;
    put(ring, number);
    CHECK_EQUAL(end_of_waiting(waiting, &element), RF_OK);
    expect_numbers(element, number, 1);
    rf_element_drop(element);
}

static void end(rf_feed *feed, rf_ring *ring)
{
    rf_feed_end(feed);
    expect_all_free(ring);
    close_ring(ring);
}

/* ---- Ctrl-C ---------------------------------------------------------------------------------- */

static void test_no_reason(void)
{
    rf_ring *ring = ring_with_hook(RF_HOOK_FAIL);
    rf_feed *feed = untimed_feed(ring, 2);
    waiter *waiting = start_waiting(feed, ring);
    await_slices(ring, 2);
    end_waiting_by_a_record(waiting, ring, 0);
    CHECK_EQUAL(asked_interrupted + asked_stalled, 0);
    end(feed, ring);
}

static void test_go_on(void)
{
    rf_ring *ring = ring_with_hook(RF_HOOK_GO_ON);
    rf_feed *feed = untimed_feed(ring, 2);
    waiter *waiting = start_waiting(feed, ring);
    for (uint32_t times = 1; times <= 2; times++) {
        interrupt();
        await(&asked_interrupted, times);
        CHECK_EQUAL(asked_id, rf_feed_id(feed));
        await_slices(ring, 2);
        CHECK_EQUAL(asked_interrupted, times);
    }
    end_waiting_by_a_record(waiting, ring, 0);
    end(feed, ring);
}

static void test_ask_again(void)
{
    rf_ring *ring = ring_with_hook(RF_HOOK_ASK_AGAIN);
    rf_feed *feed = untimed_feed(ring, 2);
    waiter *waiting = start_waiting(feed, ring);
    interrupt();
    await(&asked_interrupted, 3);
    end_waiting_by_a_record(waiting, ring, 0);
    /* The hook has not decided yet: the next wait calls it, even a short one. */
    uint32_t before = asked_interrupted;
    atomic_store(&answer, RF_HOOK_GO_ON);
    put(ring, 1);
    rf_element_drop(next_of(feed));
    CHECK_EQUAL(asked_interrupted, before + 1);
    put(ring, 2);
    rf_element_drop(next_of(feed));
    CHECK_EQUAL(asked_interrupted, before + 1);
    end(feed, ring);
}

/* The program has handled a Ctrl-C between two waits; it does not concern a wait that begins later. */
static void test_interrupt_between_waits(void)
{
    rf_ring *ring = ring_with_hook(RF_HOOK_FAIL);
    rf_feed *feed = untimed_feed(ring, 2);
    interrupt();
    waiter *waiting = start_waiting(feed, ring);
    await_slices(ring, 1);
    end_waiting_by_a_record(waiting, ring, 0);
    interrupt();
    put(ring, 1);
    rf_element_drop(next_of(feed));
    CHECK_EQUAL(asked_interrupted, 0);
    end(feed, ring);
}

static void test_interrupt_between_rounds(void)
{
    rf_ring *ring = ring_with_hook(RF_HOOK_FAIL);
    rf_feed *feed = feed_with_rounds(ring, 1);
    rf_element *element;
    CHECK_EQUAL(rf_feed_next(feed, &element), RF_AGAIN);
    interrupt(); /* the wait continues, and the interrupt ends it */
    CHECK_EQUAL(rf_feed_next(feed, &element), RF_INTERRUPTED);
    end(feed, ring);
}

static void test_give_empty(void)
{
    rf_ring *ring = ring_with_hook(RF_HOOK_GIVE_EMPTY);
    rf_feed *feed = feed_with_rounds(ring, ENDLESS_ROUND_MS * NS_PER_MS);
    waiter *waiting = start_waiting(feed, ring);
    rf_element *element;
    uint64_t tags[3] = {9, 9, 9};
    interrupt();
    CHECK_EQUAL(end_of_waiting(waiting, &element), RF_OK);
    CHECK_EQUAL(element->rows, 0);
    CHECK_EQUAL(element->shown, 3);
    rf_element_tags(element, tags);
    for (uint32_t row = 0; row < 3; row++) {
        CHECK_EQUAL(number_in(element, row), 0);
        CHECK_EQUAL(tags[row], 0);
    }
    rf_element_drop(element);
    put(ring, 5); /* the result was for this wait only */
    element = next_of(feed);
    expect_numbers(element, 5, 1);
    rf_element_drop(element);
    CHECK_EQUAL(rf_feed_begin_round(feed), RF_OK);
    end(feed, ring);
}

static void test_give_empty_exactly(void)
{
    rf_ring *ring = ring_with_hook(RF_HOOK_GIVE_EMPTY);
    rf_feed *feed = exact_feed(ring, 3, 2, 0);
    rf_element *element;
    put_numbers(ring, 0, 2);
    waiter *waiting = start_waiting(feed, ring);
    interrupt();
    CHECK_EQUAL(end_of_waiting(waiting, &element), RF_OK);
    CHECK_EQUAL(element->rows, 0);
    CHECK_EQUAL(element->shown, 3);
    rf_element_drop(element);
    put(ring, 2);
    element = next_of(feed); /* the gathered rows are still there */
    expect_numbers(element, 0, 3);
    rf_element_drop(element);
    end(feed, ring);
}

static void test_stop(void)
{
    rf_ring *ring = ring_with_hook(RF_HOOK_STOP);
    rf_feed *feed = feed_with_rounds(ring, ENDLESS_ROUND_MS * NS_PER_MS);
    waiter *waiting = start_waiting(feed, ring);
    interrupt();
    CHECK_EQUAL(end_of_waiting(waiting, NULL), RF_AGAIN);
    CHECK_EQUAL(rf_feed_begin_round(feed), RF_FINISHED);
    CHECK_EQUAL(rf_feed_begin_round(feed), RF_OK); /* once */
    put(ring, 0);
    rf_element_drop(next_of(feed));
    end(feed, ring);
}

static void expect_interrupted(int said, int64_t round_ns)
{
    rf_ring *ring = ring_with_hook(said);
    rf_feed *feed = feed_with_rounds(ring, round_ns);
    waiter *waiting = start_waiting(feed, ring);
    interrupt();
    CHECK_EQUAL(end_of_waiting(waiting, NULL), RF_INTERRUPTED);
    CHECK_EQUAL(rf_feed_begin_round(feed), RF_OK);
    put(ring, 0);
    rf_element_drop(next_of(feed));
    end(feed, ring);
}

static void test_stop_without_rounds(void)
{
    expect_interrupted(RF_HOOK_STOP, 0);
}

static void test_fail(void)
{
    expect_interrupted(RF_HOOK_FAIL, 0);
}

static void test_fail_with_rounds(void)
{
    expect_interrupted(RF_HOOK_FAIL, ENDLESS_ROUND_MS * NS_PER_MS);
}

static void test_handlers_of_the_program(void)
{
    rf_ring *ring = ring_with_hook(RF_HOOK_GO_ON);
    rf_feed *feed = untimed_feed(ring, 2);
    struct sigaction now;
    waiter *waiting = start_waiting(feed, ring);
    handle_interrupts(); /* replaces our handler, as signal.signal() does */
    await_slices(ring, 1);
    interrupt();
    await(&asked_interrupted, 1);
    end_waiting_by_a_record(waiting, ring, 0);
    end(feed, ring);
    CHECK_EQUAL(sigaction(SIGINT, NULL, &now), 0);
    CHECK(now.sa_handler == on_interrupt); /* the last feed removed our handler */
    CHECK_EQUAL(handled, 1);
}

/* ---- Every slot held ------------------------------------------------------------------------- */

static void test_stalled(void)
{
    rf_ring *ring = ring_with_hook(RF_HOOK_FAIL); /* a stall ignores the result */
    rf_feed *feed = untimed_feed(ring, 2);
    put_numbers(ring, 0, 4);
    rf_element *held[2] = {next_of(feed), next_of(feed)};
    waiter *waiting = start_waiting(feed, ring);
    await(&asked_stalled, 2);
    CHECK_EQUAL(asked_id, rf_feed_id(feed));
    rf_element_drop(held[0]);
    await_slices(ring, 0);
    uint32_t before = asked_stalled;
    await_slices(ring, 1);
    CHECK_EQUAL(asked_stalled, before); /* there is room again */
    end_waiting_by_a_record(waiting, ring, 4);
    rf_element_drop(held[1]);
    CHECK_EQUAL(asked_interrupted, 0);
    end(feed, ring);
}

/* ---- After rf_feeds_stop --------------------------------------------------------------------- */

static void test_stop_ends_waits(void)
{
    rf_ring *ring = ring_with_hook(RF_HOOK_FAIL);
    rf_feed *feed = untimed_feed(ring, 2);
    rf_element *element;
    waiter *waiting = start_waiting(feed, ring);
    rf_feeds_stop();
    CHECK_EQUAL(end_of_waiting(waiting, NULL), RF_FINISHED);
    CHECK_EQUAL(rf_feed_begin_round(feed), RF_FINISHED);
    put_numbers(ring, 0, 4);
    rf_lease *all = take(ring, 4); /* stalled and interrupted: no call */
    interrupt();
    CHECK_EQUAL(rf_feed_next(feed, &element), RF_FINISHED);
    CHECK_EQUAL(asked_interrupted + asked_stalled, 0);
    CHECK_EQUAL(rf_call_wait_hook(1, true, false), RF_HOOK_GO_ON);
    CHECK_EQUAL(asked_interrupted, 0);
    rf_lease_drop(all);
    end(feed, ring);
}

static void test_hook_calls(void)
{
    rf_ring *ring = ring_with_hook(RF_HOOK_GO_ON);
    rf_feed *feed = untimed_feed(ring, 2);
    atomic_store(&blocks, 1);
    waiter *waiting = start_waiting(feed, ring);
    CHECK_EQUAL(rf_wait_hook_calls(), 0);
    interrupt();
    await(&inside, 1);
    rf_feeds_stop();
    CHECK_EQUAL(rf_wait_hook_calls(), 1); /* so that the end of the process waits */
    atomic_store(&may_go, 1);
    CHECK_EQUAL(end_of_waiting(waiting, NULL), RF_FINISHED);
    CHECK_EQUAL(rf_wait_hook_calls(), 0);
    end(feed, ring);
}

static void expect_no_hook_calls(void *unused)
{
    (void)unused;
    CHECK_EQUAL(rf_wait_hook_calls(), 0);
}

static void test_hook_calls_in_a_child(void)
{
    rf_ring *ring = ring_with_hook(RF_HOOK_GO_ON);
    rf_feed *feed = untimed_feed(ring, 2);
    atomic_store(&blocks, 1);
    waiter *waiting = start_waiting(feed, ring);
    interrupt();
    await(&inside, 1);
    expect_success(spawn(expect_no_hook_calls, NULL));
    CHECK_EQUAL(rf_wait_hook_calls(), 1);
    atomic_store(&may_go, 1);
    end_waiting_by_a_record(waiting, ring, 0);
    end(feed, ring);
}

static const test TESTS[] = {
    {"the hook is not called without a reason", test_no_reason},
    {"GO_ON: called once for each Ctrl-C", test_go_on},
    {"ASK_AGAIN: called until the hook decides, in later waits too", test_ask_again},
    {"a Ctrl-C that came while no thread waited does not call the hook",
     test_interrupt_between_waits},
    {"a Ctrl-C between two rounds calls the hook", test_interrupt_between_rounds},
    {"GIVE_EMPTY: an element without rows, this once", test_give_empty},
    {"GIVE_EMPTY, exact: zeros, and the gathered rows are kept", test_give_empty_exactly},
    {"STOP: the round ends, and no other begins, this once", test_stop},
    {"STOP without rounds: an error", test_stop_without_rounds},
    {"FAIL: an error", test_fail},
    {"FAIL with rounds: an error", test_fail_with_rounds},
    {"the program's handlers run, and are restored", test_handlers_of_the_program},
    {"called while every slot is held", test_stalled},
    {"after the stop no feed waits and the hook is not called", test_stop_ends_waits},
    {"the stop tells that a thread is still inside the hook", test_hook_calls},
    {"a forked child does not wait for its parent's threads", test_hook_calls_in_a_child},
};

MAIN(TESTS)
