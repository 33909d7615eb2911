/* How long a feed waits, and what ends a wait: rounds, timeouts, the end of the ring or of the feed. */
#include "feeds.h"

/* ---- Time ------------------------------------------------------------------------------------ */

static void test_rounds(void)
{
    rf_ring *ring = create_ring(4);
    rf_element *element;
    for (int64_t ms = 1; ms < 250; ms *= 6) {
        rf_feed *feed = new_feed(ring, &(rf_feed_plan){.max_rows = 2,
                                                       .min_rows = 1,
                                                       .timeout_ns = FOR_EVER,
                                                       .round_ns = ms * NS_PER_MS});
        int64_t ends = in_ms(ms);
        CHECK_EQUAL(rf_feed_next(feed, &element), RF_AGAIN);
        CHECK(rf_now_ns() >= ends);
        CHECK_EQUAL(rf_feed_begin_round(feed), RF_OK);
        put(ring, ms);
        element = next_of(feed);
        expect_numbers(element, ms, 1);
        rf_element_drop(element);
        rf_feed_end(feed);
    }
    close_ring(ring);
}

/* The feed has enough rows and waits for more: it is not idle. */
static void test_linger_outlasts_rounds(void)
{
    rf_ring *ring = create_ring(4);
    rf_feed *feed = new_feed(ring, &(rf_feed_plan){.max_rows = 2,
                                                   .min_rows = 1,
                                                   .linger_ns = 160 * NS_PER_MS,
                                                   .timeout_ns = FOR_EVER,
                                                   .round_ns = NS_PER_MS});
    int64_t ends = in_ms(160);
    put(ring, 0);
    rf_element *element = next_of(feed);
    CHECK(rf_now_ns() >= ends);
    expect_numbers(element, 0, 1);
    rf_element_drop(element);
    rf_feed_end(feed);
    close_ring(ring);
}

static void test_linger_ends_with_enough(void)
{
    rf_ring *ring = create_ring(4);
    rf_feed *feed = new_feed(
        ring, &(rf_feed_plan){
                  .max_rows = 3, .min_rows = 2, .linger_ns = INT64_MAX, .timeout_ns = FOR_EVER});
    rf_element *element;
    put_numbers(ring, 0, 2);
    waiter *waiting = start_waiting(feed, ring);
    put(ring, 2);
    CHECK_EQUAL(end_of_waiting(waiting, &element), RF_OK);
    expect_numbers(element, 0, 3);
    rf_element_drop(element);
    rf_feed_end(feed);
    close_ring(ring);
}

/* Ask for an element until the timeout. */
static void wait_until_empty(rf_feed *feed)
{
    rf_element *element;
    rf_status status;
    while ((status = rf_feed_next(feed, &element)) == RF_AGAIN)
        ;
    CHECK_EQUAL(status, RF_EMPTY);
}

/* Wait for one round of a longer wait. */
static void wait_for_a_round(rf_feed *feed)
{
    rf_element *element;
    rf_status status;
    /* A thread that was preempted for its whole timeout finds it over, and begins again. */
    for (int tries = 8; (status = rf_feed_next(feed, &element)) != RF_AGAIN; tries--) {
        CHECK_EQUAL(status, RF_EMPTY);
        CHECK(tries > 0);
    }
}

static void test_timeouts_over_rounds(void)
{
    rf_ring *ring = create_ring(4);
    rf_feed *feed = new_feed(ring, &(rf_feed_plan){.max_rows = 2,
                                                   .min_rows = 1,
                                                   .timeout_ns = 250 * NS_PER_MS,
                                                   .round_ns = NS_PER_MS});
    for (int wait = 0; wait < 2; wait++) { /* the second wait begins again */
        int64_t ends = in_ms(250);
        wait_until_empty(feed); /* if each round restarted the time, the wait would never end */
        CHECK(rf_now_ns() >= ends);
    }
    wait_for_a_round(feed);
    put(ring, 0);
    rf_element_drop(next_over_rounds(feed));
    int64_t ends = in_ms(250);
    wait_until_empty(feed);
    CHECK(rf_now_ns() >= ends); /* an element also ends the wait */
    rf_feed_end(feed);
    close_ring(ring);
}

static void test_no_waiting(void)
{
    rf_ring *ring = create_ring(4);
    rf_feed *feed =
        new_feed(ring, &(rf_feed_plan){.max_rows = 2, .min_rows = 2, .round_ns = NS_PER_MS});
    rf_element *element;
    char text[512];
    put(ring, 0);
    for (int i = 0; i < 100; i++)
        CHECK_EQUAL(rf_feed_next(feed, &element), RF_EMPTY);
    rf_feed_explain(feed, RF_EMPTY, text, sizeof text);
    CHECK(strstr(text, "1 of 2 records ready after 0 s") != NULL);
    put(ring, 1);
    element = next_of(feed);
    expect_numbers(element, 0, 2);
    rf_element_drop(element);
    rf_feed_end(feed);
    close_ring(ring);
}

static void test_abandoned_wait(void)
{
    rf_ring *ring = create_ring(4);
    rf_feed *feed = new_feed(ring, &(rf_feed_plan){.max_rows = 2,
                                                   .min_rows = 1,
                                                   .timeout_ns = 1000 * NS_PER_MS,
                                                   .round_ns = NS_PER_MS});
    wait_for_a_round(feed);
    usleep(1001000); /* the time under test: after it, a call begins its own wait */
    int64_t ends = in_ms(1000);
    wait_until_empty(feed);
    CHECK(rf_now_ns() >= ends);
    rf_feed_end(feed);
    close_ring(ring);
}

/* ---- The end, during a wait ------------------------------------------------------------------ */

static void test_finish(void)
{
    rf_ring *ring = create_ring(4);
    rf_feed *feed = untimed_feed(ring, 2);
    rf_element *element;
    waiter *waiting = start_waiting(feed, ring);
    rf_finish(ring);
    CHECK_EQUAL(end_of_waiting(waiting, NULL), RF_FINISHED);
    CHECK_EQUAL(rf_feed_next(feed, &element), RF_FINISHED);
    CHECK_EQUAL(rf_feed_begin_round(feed), RF_FINISHED);
    rf_feed_end(feed);
    close_ring(ring);
}

static void test_finish_drains(void)
{
    rf_ring *ring = create_ring(4);
    rf_feed *feed = new_feed(
        ring,
        &(rf_feed_plan){.max_rows = 4, .min_rows = 4, .linger_ns = 1, .timeout_ns = FOR_EVER});
    rf_element *element;
    put_numbers(ring, 0, 3);
    waiter *waiting = start_waiting(feed, ring);
    rf_finish(ring);
    CHECK_EQUAL(end_of_waiting(waiting, &element), RF_OK); /* fewer than min_rows: the last rows */
    expect_numbers(element, 0, 3);
    rf_element_drop(element);
    CHECK_EQUAL(rf_feed_next(feed, &element), RF_FINISHED);
    rf_feed_end(feed);
    close_ring(ring);
}

static void test_closed_here(void)
{
    rf_ring *ring = create_ring(4);
    rf_feed *feed = untimed_feed(ring, 2);
    rf_element *element;
    waiter *waiting = start_waiting(feed, ring);
    rf_ring_close(ring);
    CHECK_EQUAL(end_of_waiting(waiting, NULL), RF_CLOSED);
    CHECK_EQUAL(rf_feed_next(feed, &element), RF_CLOSED);
    rf_feed_end(feed);
    rf_ring_drop(ring);
}

/* As when Python drops the ring: only the waiting thread still refers to it. */
static void test_handle_dropped(void)
{
    rf_ring *ring = create_ring(4);
    rf_feed *feed = untimed_feed(ring, 2), *found = rf_feed_find(rf_feed_id(feed));
    CHECK(found == feed);
    waiter *waiting = start_waiting(found, ring);
    rf_feed_end(feed);
    close_ring(ring);
    CHECK_EQUAL(end_of_waiting(waiting, NULL), RF_CLOSED);
    rf_feed_unref(found);
}

static void test_feed_ended(void)
{
    rf_ring *ring = create_ring(4);
    rf_feed *feed = untimed_feed(ring, 2), *found = rf_feed_find(rf_feed_id(feed));
    waiter *waiting = start_waiting(found, ring);
    rf_feed_end(feed);
    CHECK_EQUAL(end_of_waiting(waiting, NULL), RF_CLOSED);
    rf_feed_unref(found);
    put(ring, 0); /* the ring itself still works */
    take_expecting(ring, 0);
    close_ring(ring);
}

typedef struct owner {
    _Atomic uint32_t created, may_end;
    bool closes;
} owner;

static void own_a_ring(void *argument)
{
    owner *own = argument;
    rf_ring *ring = create_ring(4);
    atomic_store(&own->created, 1);
    await(&own->may_end, 1);
    if (own->closes)
        close_ring(ring);
}

static void expect_closed_with_its_owner(bool closes)
{
    owner *own = shared_memory(sizeof *own);
    own->closes = closes;
    segment_name(0); /* the name of this process, which the child uses, too */
    pid_t child = spawn(own_a_ring, own);
    await(&own->created, 1);
    rf_ring *ring = attach_ring();
    rf_feed *feed = untimed_feed(ring, 2);
    waiter *waiting = start_waiting(feed, ring);
    atomic_store(&own->may_end, 1);
    expect_success(child);
    CHECK_EQUAL(end_of_waiting(waiting, NULL), RF_CLOSED);
    rf_feed_end(feed);
    close_ring(ring);
}

static void test_owner_closes(void)
{
    expect_closed_with_its_owner(true);
}

static void test_owner_dies(void)
{
    expect_closed_with_its_owner(false);
}

static void test_rows_gathered_before_the_end(void)
{
    rf_ring *ring = create_ring(4);
    rf_feed *feed = exact_feed(ring, 3, 2, 0), *found = rf_feed_find(rf_feed_id(feed));
    put_numbers(ring, 0, 2);
    waiter *waiting = start_waiting(found, ring);
    expect_all_free(ring);
    rf_feed_end(feed);
    CHECK_EQUAL(end_of_waiting(waiting, NULL), RF_CLOSED);
    rf_feed_unref(found); /* with the rows, or the leak check would fail */
    close_ring(ring);
}

static const test TESTS[] = {
    {"a round ends after its idle time, and not sooner", test_rounds},
    {"a round does not end while the feed lingers", test_linger_outlasts_rounds},
    {"the linger ends when the element is full", test_linger_ends_with_enough},
    {"a timeout counts across rounds, and restarts for each element", test_timeouts_over_rounds},
    {"a timeout of 0 does not wait", test_no_waiting},
    {"a wait that was abandoned for a second begins again", test_abandoned_wait},
    {"finishing the ring ends a wait, and the feed for good", test_finish},
    {"the rows that are left at the ring's end are an element", test_finish_drains},
    {"closing the handle ends a wait", test_closed_here},
    {"a wait ends when all other references to feed and handle are dropped", test_handle_dropped},
    {"ending the feed ends a wait, as an error", test_feed_ended},
    {"a wait ends when the owner closes", test_owner_closes},
    {"a wait ends when the owner dies", test_owner_dies},
    {"gathered rows are dropped with the feed", test_rows_gathered_before_the_end},
};

MAIN(TESTS)
