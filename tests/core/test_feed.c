/* Elements of a feed: the memory they lie in, the rows they have, and several threads that take them. */
#include "feeds.h"

/* ---- Elements -------------------------------------------------------------------------------- */

static void *drop_element(void *element)
{
    rf_element_drop(element);
    return NULL;
}

static void test_zero_copy(void)
{
    rf_ring *ring = create_ring(4);
    rf_feed *feed = untimed_feed(ring, 4);
    put_numbers(ring, 0, 3);
    rf_element *element = next_of(feed);
    CHECK(element->data[0] == rf_ring_region(ring, 0));
    expect_numbers(element, 0, 3);
    for (uint32_t slot = 0; slot < 3; slot++)
        CHECK_EQUAL(state_of(ring, slot), RF_STATE_TAKEN);
    join_thread(start_thread(drop_element, element));
    expect_all_free(ring);
    rf_feed_end(feed);
    close_ring(ring);
}

static void test_references(void)
{
    enum { THREADS = 4, ROUNDS = 50 };
    rf_ring *ring = create_ring(2);
    rf_feed *feed = untimed_feed(ring, 2);
    rf_stats stats;
    for (uint32_t round = 1; round <= ROUNDS; round++) {
        pthread_t threads[THREADS];
        put_numbers(ring, 0, 2);
        rf_element *element = next_of(feed);
        for (int i = 0; i < THREADS; i++) {
            rf_element_retain(element);
            threads[i] = start_thread(drop_element, element);
        }
        CHECK_EQUAL(number_in(element, 1), 1); /* our reference is left */
        CHECK_EQUAL(state_of(ring, element->lease->first), RF_STATE_TAKEN);
        rf_element_drop(element);
        for (int i = 0; i < THREADS; i++)
            join_thread(threads[i]);
        expect_all_free(ring);
        rf_ring_stats(ring, &stats);
        CHECK_EQUAL(stats.counts.released, 2 * round);
    }
    rf_feed_end(feed);
    close_ring(ring);
}

static void test_element_outlives_feed_and_ring(void)
{
    rf_ring *ring = create_ring(4);
    rf_feed *feed = untimed_feed(ring, 4);
    put_numbers(ring, 5, 2);
    rf_element *element = next_of(feed);
    rf_feed_end(feed);
    close_ring(ring);
    expect_numbers(element, 5, 2);
    rf_element_drop(element);
}

static void test_shown_across_the_end(void)
{
    rf_ring *ring = create_ring(8);
    rf_feed *feed = new_feed(
        ring,
        &(rf_feed_plan){.max_rows = 4, .min_rows = 3, .shown_rows = 6, .timeout_ns = FOR_EVER});
    uint64_t tags[6] = {9, 9, 9, 9, 9, 9};
    move_on_to(ring, 6);
    put_numbers(ring, 6, 3); /* in slots 6, 7, 0; the old records of 1, 2, 3 are still visible */
    rf_element *element = next_of(feed);
    CHECK_EQUAL(element->rows, 3);
    CHECK_EQUAL(element->shown, 6);
    uint64_t expected[] = {6, 7, 8, 1, 2, 3};
    rf_element_tags(element, tags);
    for (uint32_t row = 0; row < 6; row++) {
        CHECK_EQUAL(number_in(element, row), expected[row]);
        CHECK_EQUAL(tags[row], row < 3 ? expected[row] : 0);
    }
    rf_element_drop(element);
    expect_all_free(ring);
    rf_feed_end(feed);
    close_ring(ring);
}

static void test_shown_ends_with_the_slots(void)
{
    rf_ring *ring = create_ring(8);
    for (uint32_t shown = 7; shown < 12; shown++) {
        rf_feed *feed =
            new_feed(ring, &(rf_feed_plan){.max_rows = 8, .min_rows = 1, .shown_rows = shown});
        put_numbers(ring, 0, 3);
        rf_element *element = next_of(feed);
        CHECK_EQUAL(element->rows, 3);
        CHECK_EQUAL(element->shown, shown <= 8 ? shown : 3);
        for (uint32_t row = 0; row < element->shown; row++)
            (void)number_in(element, row); /* it is readable, regardless of the first slot */
        rf_element_drop(element);
        rf_feed_end(feed);
    }
    close_ring(ring);
}

/* ---- An exact number of rows ----------------------------------------------------------------- */

static void test_exact_in_a_row(void)
{
    rf_ring *ring = create_ring(8);
    rf_feed *feed = exact_feed(ring, 4, 4, 0);
    move_on_to(ring, 6);
    put_numbers(ring, 0, 5);
    rf_element *element = next_of(feed);
    CHECK(element->lease != NULL);
    CHECK(element->data[0] == (char *)rf_ring_region(ring, 0) + 6 * SAMPLE_BYTES);
    expect_numbers(element, 0, 4);
    rf_element_drop(element);
    rf_stats stats;
    rf_ring_stats(ring, &stats);
    CHECK_EQUAL(stats.ready, 1);
    rf_feed_end(feed);
    close_ring(ring);
}

static void test_exact_apart(void)
{
    rf_ring *ring = create_ring(8);
    rf_feed *feed = exact_feed(ring, 4, 4, 0);
    put_numbers(ring, 0, 2);
    rf_lease *between = claim(ring, 1);
    put_numbers(ring, 2, 3);
    rf_element *element = next_of(feed);
    CHECK(element->lease == NULL);
    CHECK_EQUAL((uintptr_t)element->data[0] % RF_ALIGNMENT, 0);
    expect_numbers(element, 0, 4);
    CHECK_EQUAL(state_of(ring, 0), RF_STATE_FREE); /* the rows were copied */
    CHECK_EQUAL(state_of(ring, 4), RF_STATE_FREE);
    CHECK_EQUAL(state_of(ring, 5), RF_STATE_READY);
    rf_element_drop(element);
    rf_lease_drop(between);
    rf_feed_end(feed);
    close_ring(ring);
}

static void test_exact_over_rounds(void)
{
    rf_ring *ring = create_ring(8);
    rf_feed *feed = exact_feed(ring, 6, 2, NS_PER_MS);
    rf_element *element;
    for (uint64_t number = 0; number < 4; number += 2) {
        put_numbers(ring, number, 2);
        CHECK_EQUAL(rf_feed_next(feed, &element), RF_AGAIN);
        expect_all_free(ring); /* the rows were gathered */
    }
    put_numbers(ring, 4, 2);
    element = next_over_rounds(feed);
    expect_numbers(element, 0, 6);
    rf_element_drop(element);
    rf_feed_end(feed);
    close_ring(ring);
}

static void test_rest_is_dropped(void)
{
    rf_ring *ring = create_ring(8);
    rf_feed *feed = exact_feed(ring, 4, 2, 0);
    rf_element *element;
    put_numbers(ring, 0, 7);
    rf_finish(ring);
    element = next_of(feed);
    expect_numbers(element, 0, 4);
    rf_element_drop(element);
    CHECK_EQUAL(rf_feed_next(feed, &element), RF_FINISHED);
    CHECK_EQUAL(rf_feed_next(feed, &element), RF_FINISHED);
    expect_all_free(ring);
    rf_feed_end(feed); /* with three gathered rows, which are lost */
    close_ring(ring);
}

/* ---- Several threads ------------------------------------------------------------------------- */

enum { CONSUMERS = 4, PRODUCERS = 2, RECORDS = SANITIZED ? 480 : 4800 };

typedef struct crowd {
    rf_ring *ring;
    rf_feed *feed;
    _Atomic uint32_t next, elements;
    _Atomic uint32_t times[RECORDS];
} crowd;

static void *produce(void *argument)
{
    crowd *all = argument;
    for (uint32_t number; (number = atomic_fetch_add(&all->next, 1)) < RECORDS;)
        CHECK_EQUAL(put_until(all->ring, number, RF_FOREVER), RF_OK);
    return NULL;
}

static void *consume(void *argument)
{
    crowd *all = argument;
    rf_element *element;
    rf_status status;
    while ((status = rf_feed_next(all->feed, &element)) != RF_FINISHED) {
        if (status == RF_AGAIN)
            continue;
        CHECK_EQUAL(status, RF_OK);
        for (uint32_t row = 0; row < element->rows; row++)
            atomic_fetch_add(&all->times[number_in(element, row)], 1);
        atomic_fetch_add(&all->elements, 1);
        rf_element_drop(element);
    }
    return NULL;
}

/* Every record is in exactly one element. */
static uint32_t run_many_threads(const rf_feed_plan *plan, uint32_t slots)
{
    crowd *all = calloc(1, sizeof *all);
    pthread_t producers[PRODUCERS], consumers[CONSUMERS];
    CHECK(all != NULL);
    all->ring = create_ring(slots);
    all->feed = new_feed(all->ring, plan);
    for (int i = 0; i < CONSUMERS; i++)
        consumers[i] = start_thread(consume, all);
    for (int i = 0; i < PRODUCERS; i++)
        producers[i] = start_thread(produce, all);
    for (int i = 0; i < PRODUCERS; i++)
        join_thread(producers[i]);
    rf_finish(all->ring);
    for (int i = 0; i < CONSUMERS; i++)
        join_thread(consumers[i]);
    for (uint32_t number = 0; number < RECORDS; number++)
        CHECK_EQUAL(all->times[number], 1);
    uint32_t elements = all->elements;
    expect_all_free(all->ring);
    rf_feed_end(all->feed);
    close_and_unlink(all->ring);
    free(all);
    return elements;
}

static void test_many_threads(void)
{
    run_many_threads(&(rf_feed_plan){.max_rows = 3, .min_rows = 1, .timeout_ns = FOR_EVER}, 8);
}

static void test_many_threads_that_gather(void)
{
    rf_feed_plan plan = {.max_rows = 2, .min_rows = 1, .exact_rows = 6, .timeout_ns = FOR_EVER};
    CHECK_EQUAL(run_many_threads(&plan, 8), RECORDS / 6);
    plan.round_ns =
        1; /* each idle slice ends a round, and other threads continue with the gathered rows */
    CHECK_EQUAL(run_many_threads(&plan, 4), RECORDS / 6);
}

/* At the end each thread may hold a few rows, which together make an element. */
static void test_gathered_rows_are_put_together(void)
{
    enum { ROUNDS = SANITIZED ? 5 : 20, EXACT = 8 };
    for (int round = 0; round < ROUNDS; round++) {
        crowd *all = calloc(1, sizeof *all);
        pthread_t threads[CONSUMERS];
        CHECK(all != NULL);
        all->ring = create_ring(EXACT);
        all->feed = exact_feed(all->ring, EXACT, 1, 0);
        for (int i = 0; i < CONSUMERS; i++)
            threads[i] = start_thread(consume, all);
        for (uint64_t number = 0; number < EXACT; number++) {
            put(all->ring, number);
            rest(); /* the first thread gets it */
        }
        rf_finish(all->ring);
        for (int i = 0; i < CONSUMERS; i++)
            join_thread(threads[i]);
        CHECK_EQUAL(all->elements, 1);
        for (uint64_t number = 0; number < EXACT; number++)
            CHECK_EQUAL(all->times[number], 1);
        rf_feed_end(all->feed);
        close_and_unlink(all->ring);
        free(all);
    }
}

static const test TESTS[] = {
    {"an element is the ring's memory, and any thread can give it back", test_zero_copy},
    {"the last of several references gives the slots back, once", test_references},
    {"an element outlives its feed and the ring's handle", test_element_outlives_feed_and_ring},
    {"rows that are only shown continue across the ring's end, and have no tags",
     test_shown_across_the_end},
    {"no more rows are shown than the ring has slots", test_shown_ends_with_the_slots},
    {"exact: rows in a row are the ring's memory", test_exact_in_a_row},
    {"exact: rows that lie apart are copied in order, and their slots free", test_exact_apart},
    {"exact: gathering continues where a round ended half way", test_exact_over_rounds},
    {"exact: too few rows at the ring's end are dropped, with the feed", test_rest_is_dropped},
    {"many threads on one feed lose and double nothing", test_many_threads},
    {"exact: many threads that gather lose and double nothing", test_many_threads_that_gather},
    {"exact: rows that several threads gathered become one element at the end",
     test_gathered_rows_are_put_together},
};

MAIN(TESTS)
