/* Waiting for several rows or slots: a waiter sleeps until there are enough, and an idle ring wakes no thread. */
#include "row_waiter.h"

/* ---- Enough rows ---------------------------------------------------------------------------- */

static void test_min_rows(void)
{
    rf_ring *ring = create_ring(8);
    waiter own = {.ring = ring, .least = 4};
    pthread_t thread = start_thread(wait_for_rows, &own);
    rf_stats stats;
    for (uint64_t i = 0; i < 3; i++) {
        put(ring, i);
        rest();
        rf_ring_stats(ring, &stats);
        CHECK_EQUAL(stats.ready, i + 1); /* no row is taken before there are four */
    }
    put(ring, 3);
    join_thread(thread);
    CHECK_EQUAL(own.rows, 4);
    close_ring(ring);
}

static void test_min_rows_without_room(void)
{
    rf_ring *ring = create_ring(4), *other = attach_ring();
    rf_lease *batch, *rest_of_it;
    for (uint64_t i = 0; i < 4; i++)
        put(ring, i);
    batch = take(ring, 2);
    /* Two rows are held and two are ready, so no free slot is left. */
    CHECK_EQUAL(take_until(other, 4, 3, RF_FOREVER, &rest_of_it), RF_OK);
    CHECK_EQUAL(rf_lease_rows(rest_of_it), 2);
    rf_lease_drop(rest_of_it);
    rf_lease_drop(batch);
    close_ring(other);
    close_ring(ring);
}

static void test_min_rows_of_a_finished_ring(void)
{
    rf_ring *ring = create_ring(8);
    waiter own = {.ring = ring, .least = 4};
    rf_lease *claimed = claim(ring, 2);
    put(ring, 0);
    pthread_t thread = start_thread(wait_for_rows, &own);
    rest();
    rf_finish(ring);
    rest();
    publish(claimed, 1, 1);
    join_thread(thread);
    CHECK_EQUAL(own.status,
                RF_OK); /* two rows, or one and one: they lie on both sides of a claimed slot */
    CHECK(own.rows == 1 || own.rows == 2);
    close_ring(ring);
}

static rf_status take_lingering(rf_ring *ring, uint32_t most, int64_t linger, rf_lease **lease)
{
    rf_take_request request = {
        .max_rows = most, .min_rows = 1, .deadline_ns = RF_FOREVER, .linger_ns = linger};
    rf_status status;
    while ((status = rf_take(ring, &request, lease)) == RF_AGAIN)
        ;
    return status;
}

static void *put_three_slowly(void *ring)
{
    for (uint64_t i = 0; i < 3; i++) {
        put(ring, i);
        rest();
    }
    return NULL;
}

static void test_linger(void)
{
    rf_ring *ring = create_ring(8);
    rf_lease *lease;
    int64_t linger = 30 * NS_PER_MS;
    put(ring, 0);
    int64_t begun = rf_now_ns();
    CHECK_EQUAL(take_lingering(ring, 4, linger, &lease), RF_OK);
    CHECK(rf_now_ns() >= begun + linger);
    rf_lease_drop(lease);
    /* A full batch returns at once, however long it may linger. */
    pthread_t thread = start_thread(put_three_slowly, ring);
    CHECK_EQUAL(take_lingering(ring, 3, RF_FOREVER, &lease), RF_OK);
    CHECK_EQUAL(rf_lease_rows(lease), 3);
    rf_lease_drop(lease);
    join_thread(thread);
    /* So does a batch that cannot grow: the ring ends after it, or the next slot is held. */
    rf_lease *held = claim(ring, 8);
    publish(held, 8, 0);
    held = take(ring, 2);
    CHECK_EQUAL(take_lingering(ring, 7, RF_FOREVER, &lease), RF_OK);
    CHECK_EQUAL(rf_lease_rows(lease), 6);
    rf_lease_drop(lease);
    rf_lease_drop(held);
    put(ring, 0);
    rf_finish(ring);
    CHECK_EQUAL(take_lingering(ring, 3, RF_FOREVER, &lease), RF_OK);
    rf_lease_drop(lease);
    close_ring(ring);
}

static void *finish_soon(void *ring)
{
    rest();
    rf_finish(ring);
    return NULL;
}

/* The slot at the take cursor is held, and each slice of the wait inspects it first. */
static void test_a_linger_longer_than_a_slice_ends(void)
{
    rf_ring *ring = create_ring(8);
    rf_lease *held = claim(ring, 1), *lease;
    put(ring, 0);
    put(ring, 1);
    CHECK_EQUAL(take_lingering(ring, 8, 3 * RF_SLICE_NS, &lease), RF_OK);
    CHECK_EQUAL(rf_lease_rows(lease), 2);
    rf_lease_drop(lease);
    rf_lease_drop(held);
    close_ring(ring);
}

static void test_long_linger_beside_a_gap(void)
{
    rf_ring *ring = create_ring(8), *slow = attach_ring();
    put(ring, 0);
    rf_lease *held = claim(slow, 1), *lease;
    put(ring, 1);
    pthread_t thread = start_thread(finish_soon, ring);
    rf_take_request request = {
        .max_rows = 8, .min_rows = 2, .deadline_ns = in_ms(100), .linger_ns = RF_FOREVER};
    rf_status status;
    while ((status = rf_take(ring, &request, &lease)) == RF_AGAIN)
        ;
    /* The linger has no end, so only the deadline ends the wait. No sum of times overflows. */
    CHECK_EQUAL(status, RF_EMPTY);
    join_thread(thread);
    rf_lease_drop(held);
    close_ring(slow);
    close_ring(ring);
}

/* ---- Idleness ------------------------------------------------------------------------------- */

/* Waiting 400 ms must use a small part of 400 ms of CPU time. Spinning would use nearly all of it. */
static void expect_idle(rf_ring *ring, rf_take_request *request, rf_status expected)
{
    rf_lease *lease;
    int64_t begun = rf_now_ns(), used = cpu_ns();
    rf_status status;
    request->deadline_ns = in_ms(400);
    do
        status = request->max_rows ? rf_take(ring, request, &lease)
                                   : rf_claim(ring, 1, request->deadline_ns, &lease);
    while (status == RF_AGAIN);
    CHECK_EQUAL(status, expected);
    CHECK(cpu_ns() - used < (rf_now_ns() - begun) / 4);
}

static void test_idle_waiters(void)
{
    rf_ring *ring = create_ring(2);
    rf_take_request request = {.max_rows = 2, .min_rows = 1};
    expect_idle(ring, &request, RF_EMPTY);
    request = (rf_take_request){.max_rows = 2, .min_rows = 2};
    put(ring, 0);
    expect_idle(ring, &request, RF_EMPTY);
    put(ring, 0);
    request = (rf_take_request){0};
    expect_idle(ring, &request, RF_FULL);
    close_ring(ring);
}

static void *put_in_vain(void *ring)
{
    CHECK_EQUAL(put_until(ring, 1, in_ms(600)), RF_FULL);
    return NULL;
}

/* The two waiters wake each other only when there is work. */
static void test_idle_on_both_sides(void)
{
    rf_ring *ring = create_ring(16);
    for (uint64_t i = 0; i < 16; i++)
        put(ring, i);
    rf_lease *held = take(ring, 16);
    pthread_t producer = start_thread(put_in_vain, ring);
    rf_take_request request = {.max_rows = 2, .min_rows = 1};
    expect_idle(ring, &request, RF_EMPTY);
    join_thread(producer);
    rf_lease_drop(held);
    close_ring(ring);
}

static void test_idle_after_a_faster_taker(void)
{
    rf_ring *ring = create_ring(4);
    /* The taker lingered over records that another taker has taken since. */
    rf_take_request request = {.max_rows = 4, .min_rows = 2, .linger_ns = NS_PER_MS};
    request.linger_until_ns = rf_now_ns() - 1;
    expect_idle(ring, &request, RF_EMPTY);
    request.enough_since_ns = rf_now_ns() - 100 * NS_PER_MS;
    expect_idle(ring, &request, RF_EMPTY);
    put(ring, 0);
    request.linger_until_ns = rf_now_ns() - 1;
    request.enough_since_ns = rf_now_ns() - 100 * NS_PER_MS;
    expect_idle(ring, &request, RF_EMPTY);
    close_ring(ring);
}

static const test tests[] = {
    {"a taker waits for as many rows as it wants at least", test_min_rows},
    {"fewer rows are taken when there is no room for more", test_min_rows_without_room},
    {"fewer rows are taken when the ring is finished", test_min_rows_of_a_finished_ring},
    {"a batch lingers for more rows until it is full or cannot grow", test_linger},
    {"a linger that is longer than a slice ends, even next to a held slot",
     test_a_linger_longer_than_a_slice_ends},
    {"an unlimited linger does not overflow", test_long_linger_beside_a_gap},
    {"a waiter uses no CPU", test_idle_waiters},
    {"a producer and a taker that wait for held slots use no CPU", test_idle_on_both_sides},
    {"a taker whose records another taker took uses no CPU", test_idle_after_a_faster_taker},
};

MAIN(tests)
