/* Feeds by number, parked batches, and what a forked child may do with its copies of feeds. */
#include "feed/interrupt.h"
#include "feeds.h"

/* ---- Numbers --------------------------------------------------------------------------------- */

static void test_numbers(void)
{
    rf_ring *ring = create_ring(2);
    rf_feed *one = untimed_feed(ring, 1), *two = untimed_feed(ring, 1);
    uint64_t first = rf_feed_id(one), second = rf_feed_id(two);
    CHECK(first != second);
    CHECK((int64_t)first > 0 && (int64_t)second > 0); /* a graph holds it as int64 */
    CHECK(rf_feed_find(first) == one);
    CHECK(rf_feed_find(second) == two);
    rf_feed_unref(one);
    rf_feed_unref(two);
    CHECK(rf_feed_find(0) == NULL);
    CHECK(rf_feed_find(UINT64_MAX) == NULL);
    rf_feed_end(one);
    CHECK(rf_feed_find(first) == NULL);
    rf_feed *three = untimed_feed(ring, 1);
    CHECK(rf_feed_id(three) != first);
    CHECK(rf_feed_find(second) == two);
    rf_feed_unref(two);
    rf_feed_end(two);
    rf_feed_end(three);
    close_ring(ring);
}

static void test_found_feed_outlives_its_end(void)
{
    rf_ring *ring = create_ring(2);
    rf_feed *feed = rf_feed_find(rf_feed_id(untimed_feed(ring, 1)));
    rf_element *element;
    char text[512];
    put(ring, 0);
    rf_feed_end(feed); /* its creator has ended it */
    CHECK_EQUAL(rf_feed_next(feed, &element), RF_CLOSED);
    CHECK_EQUAL(rf_feed_begin_round(feed), RF_CLOSED);
    rf_feed_explain(feed, RF_CLOSED, text, sizeof text);
    CHECK(strstr(text, "RingClosed: ring 'cams'") == text);
    CHECK_EQUAL(state_of(ring, 0), RF_STATE_READY); /* the feed took nothing */
    close_ring(ring);
    CHECK_EQUAL(rf_feed_geometry(feed)->slots, 2); /* the feed keeps the handle */
    CHECK_EQUAL(rf_feed_next(feed, &element), RF_CLOSED);
    rf_feed_unref(feed);
}

static void test_messages(void)
{
    rf_ring *ring = create_ring(2);
    rf_feed *feed = exact_feed(ring, 3, 1, 0);
    static const rf_status all[] = {RF_AGAIN,  RF_EMPTY,       RF_CLOSED,   RF_FINISHED,
                                    RF_SYSTEM, RF_INTERRUPTED, RF_NO_MEMORY};
    for (size_t i = 0; i < COUNT(all); i++) {
        char text[512], small[16];
        rf_feed_explain(feed, all[i], text, sizeof text);
        CHECK(strstr(text, "ring 'cams'") != NULL);
        CHECK(strlen(text) < sizeof text - 1); /* the message is complete */
        rf_feed_explain(feed, all[i], small, sizeof small);
        CHECK_EQUAL(strlen(small), sizeof small - 1);
        CHECK(all[i] != RF_EMPTY || strstr(text, "0 of 3 records ready") != NULL);
    }
    rf_feed_end(feed);
    close_ring(ring);
}

typedef struct race {
    _Atomic uint64_t id;
    _Atomic uint32_t over, found;
} race;

static void *find_and_take(void *argument)
{
    race *own = argument;
    rf_element *element;
    while (!atomic_load(&own->over)) {
        rf_feed *feed = rf_feed_find(atomic_load(&own->id));
        if (!feed)
            continue;
        rf_status status = rf_feed_next(feed, &element);
        CHECK(status == RF_OK || status == RF_CLOSED || status == RF_EMPTY);
        if (status == RF_OK)
            rf_element_drop(element);
        rf_feed_unref(feed);
        atomic_fetch_add(&own->found, 1);
    }
    return NULL;
}

static void test_ends_while_others_find(void)
{
    enum { THREADS = 3, ROUNDS = SANITIZED ? 200 : 2000 };
    rf_ring *ring = create_ring(4);
    race own = {0};
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        threads[i] = start_thread(find_and_take, &own);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        rf_feed *feed = new_feed(ring, &(rf_feed_plan){.max_rows = 2, .min_rows = 1});
        uint32_t found = atomic_load(&own.found);
        atomic_store(&own.id, rf_feed_id(feed));
        put_until(ring, round, RF_FOREVER);
        if (round % 4 == 0)
            await(&own.found, found + 1);
        rf_feed_end(feed);
        rf_lease *left = take(ring, 4);
        if (left)
            rf_lease_drop(left);
    }
    atomic_store(&own.over, 1);
    for (int i = 0; i < THREADS; i++)
        join_thread(threads[i]);
    expect_all_free(ring);
    close_ring(ring);
}

/* ---- Parked batches -------------------------------------------------------------------------- */

static void set_next(rf_ring *ring, rf_feed *feed, uint64_t number)
{
    put(ring, number);
    rf_lease *lease = take(ring, 1);
    CHECK(lease != NULL);
    CHECK_EQUAL(rf_feed_set_next(feed, lease), RF_OK);
    rf_lease_drop(lease);
}

static void test_next_batch_once(void)
{
    rf_ring *ring = create_ring(4);
    rf_feed *feed = new_feed(ring, &(rf_feed_plan){.max_rows = 2, .min_rows = 1, .shown_rows = 2});
    rf_element *element;
    set_next(ring, feed, 3);
    put(ring, 4);
    element = next_of(feed);
    expect_numbers(element, 3, 1);
    CHECK_EQUAL(element->shown, 2);
    rf_element_drop(element);
    element = next_of(feed); /* from the ring */
    expect_numbers(element, 4, 1);
    rf_element_drop(element);
    CHECK_EQUAL(rf_feed_next(feed, &element), RF_EMPTY);
    expect_all_free(ring);
    rf_feed_end(feed);
    close_ring(ring);
}

static void test_next_batch_replaced(void)
{
    rf_ring *ring = create_ring(4);
    rf_feed *feed = untimed_feed(ring, 2);
    set_next(ring, feed, 0);
    set_next(ring, feed, 1);
    CHECK_EQUAL(state_of(ring, 0), RF_STATE_FREE);
    rf_element *element = next_of(feed);
    expect_numbers(element, 1, 1);
    rf_element_drop(element);
    CHECK(!rf_feed_drop_next(feed));
    set_next(ring, feed, 2);
    CHECK(rf_feed_drop_next(feed));
    CHECK(!rf_feed_drop_next(feed));
    expect_all_free(ring);
    set_next(ring, feed, 3);
    rf_feed_end(feed);
    expect_all_free(ring);
    close_ring(ring);
}

static void test_next_batch_of_another_ring(void)
{
    rf_ring *ring = create_ring(4), *other = attach_ring();
    rf_feed *feed = untimed_feed(ring, 2);
    put(ring, 0);
    rf_lease *lease = take(other, 1); /* the same segment, but another handle */
    CHECK_EQUAL(rf_feed_set_next(feed, lease), RF_INVALID);
    CHECK_EQUAL(rf_lease_references(lease), 1);
    CHECK(!rf_feed_drop_next(feed));
    rf_lease_drop(lease);
    rf_feed_end(feed);
    close_ring(other);
    close_ring(ring);
}

/* ---- Forks ----------------------------------------------------------------------------------- */

typedef struct inherited {
    rf_ring *ring;
    rf_feed *feed;
    rf_element *element;
} inherited;

static void use_up_copies(void *argument)
{
    inherited *own = argument;
    rf_element *element;
    CHECK(rf_feed_find(rf_feed_id(own->feed)) == NULL);
    rf_feed *feed = untimed_feed(own->ring, 2);
    CHECK(rf_feed_find(rf_feed_id(feed)) == feed);
    put(own->ring, 100);
    element = next_of(feed); /* with its own feed the child is an ordinary taker */
    expect_numbers(element, 100, 1);
    rf_element_drop(element);
    rf_feed_unref(feed);
    rf_feed_end(feed);
    rf_element_drop(own->element);
    rf_feed_end(own->feed);
    close_ring(own->ring);
}

static void test_fork(void)
{
    rf_ring *ring = create_ring(8);
    rf_feed *feed = exact_feed(ring, 2, 1, NS_PER_MS);
    inherited own = {.ring = ring, .feed = feed};
    rf_element *element;
    put_numbers(ring, 0, 2);
    own.element = next_of(feed);
    put(ring, 3);
    CHECK_EQUAL(rf_feed_next(feed, &element), RF_AGAIN); /* with one row gathered */
    set_next(ring, feed, 9);
    expect_success(spawn(use_up_copies, &own));
    CHECK(rf_feed_find(rf_feed_id(feed)) == feed);
    rf_feed_unref(feed);
    expect_numbers(own.element, 0, 2);
    rf_element_drop(own.element);
    element = next_of(feed);
    expect_numbers(element, 9, 1);
    rf_element_drop(element);
    put(ring, 4);
    element = next_over_rounds(feed);
    expect_numbers(element, 3, 2);
    rf_element_drop(element);
    expect_all_free(ring);
    rf_feed_end(feed);
    close_ring(ring);
}

static _Atomic uint32_t over;

static void on_interrupt(int number)
{
    (void)number;
}

static void *make_and_end_feeds(void *ring)
{
    while (!atomic_load(&over))
        rf_feed_end(untimed_feed(ring, 1));
    return NULL;
}

static void make_one_feed(void *ring)
{
    rf_feed_end(untimed_feed(ring, 1));
}

/* If a thread held a lock during the fork, the child would find it locked forever. */
static void test_fork_while_feeds_come_and_go(void)
{
    enum { FORKS = SANITIZED ? 60 : 300 };
    rf_ring *ring = create_ring(2);
    struct sigaction action = {.sa_handler = on_interrupt};
    CHECK_EQUAL(sigaction(SIGINT, &action, NULL), 0);
    make_one_feed(ring); /* TSan's pthread_once, unlike glibc's, does not survive a fork in it */
    pthread_t thread = start_thread(make_and_end_feeds, ring);
    for (int i = 0; i < FORKS; i++)
        expect_success(spawn(make_one_feed, ring));
    atomic_store(&over, 1);
    join_thread(thread);
    close_ring(ring);
}

static const test TESTS[] = {
    {"a number that is unknown or ended is not found", test_numbers},
    {"a caller that has found a feed may use it after its end", test_found_feed_outlives_its_end},
    {"the message of every status names the ring", test_messages},
    {"feeds end while other threads find them", test_ends_while_others_find},
    {"a batch that is set as the next element is delivered once", test_next_batch_once},
    {"a batch that is set as the next element is dropped with another one, or with the feed",
     test_next_batch_replaced},
    {"a batch of another handle is refused", test_next_batch_of_another_ring},
    {"a forked child's copies harm nothing", test_fork},
    {"a fork while other threads make and end feeds leaves no lock behind",
     test_fork_while_feeds_come_and_go},
};

MAIN(TESTS)
