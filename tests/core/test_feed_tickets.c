/* Elements with tickets: delivered ones are released, the others return to the feed. */
#include "feeds.h"

static void test_dropped_unseen(void)
{
    rf_ring *ring = create_ring(8);
    rf_feed *feed = feed_with_tickets(ring, 3, 0);
    put_numbers(ring, 0, 6);
    rf_element *first = next_of(feed), *second = next_of(feed);
    expect_numbers(first, 0, 3);
    expect_numbers(second, 3, 3);
    rf_element_retain(first); /* as the tensor of its ticket does when its values were copied */
    rf_element_drop(first);
    CHECK_EQUAL(state_of(ring, 0), RF_STATE_TAKEN);
    rf_element_drop(first);
    rf_element_drop(second);
    for (uint64_t number = 0; number < 6; number++)
        CHECK_EQUAL(state_of(ring, (uint32_t)number), RF_STATE_READY);
    rf_stats stats;
    rf_ring_stats(ring, &stats);
    CHECK_EQUAL(stats.counts.redelivered, 6);
    CHECK_EQUAL(stats.counts.released, 0);
    rf_ring *other = attach_ring(); /* the next taker, in any process */
    take_expecting(other, 0);
    close_ring(other);
    rf_element *again = next_of(feed);
    expect_numbers(again, 1, 3);
    rf_record records[3];
    rf_lease_records(again->lease, records);
    CHECK_EQUAL(records[0].deliveries, 2); /* its record says that it is delivered again */
    deliver_and_drop(again);
    deliver_and_drop(next_of(feed));
    expect_all_free(ring);
}

static void test_tickets(void)
{
    rf_ring *ring = create_ring(8);
    rf_feed *feed = feed_with_tickets(ring, 1, 0);
    put_numbers(ring, 0, 2);
    rf_element *first = next_of(feed), *second = next_of(feed);
    int64_t ticket = *first->ticket;
    CHECK(ticket != *second->ticket);
    CHECK_EQUAL((uintptr_t)first->ticket % RF_ALIGNMENT, 0);
    CHECK(!rf_ticket_deliver(0));
    CHECK(!rf_ticket_deliver(-1));
    CHECK(rf_ticket_deliver(ticket));
    CHECK(!rf_ticket_deliver(ticket));
    rf_element_drop(first);
    CHECK_EQUAL(state_of(ring, 0), RF_STATE_FREE);
    ticket = *second->ticket;
    rf_element_drop(second);
    CHECK(!rf_ticket_deliver(ticket));
    CHECK_EQUAL(state_of(ring, 1), RF_STATE_READY);
}

static void test_kept(void)
{
    rf_ring *ring = create_ring(4);
    rf_feed *feed = feed_with_tickets(ring, 2, 0);
    rf_lease *views[2];
    for (uint64_t number = 0; number < 2; number++) {
        views[number] = claim(ring, 1);
        set_number(views[number], 0, number);
        CHECK_EQUAL(rf_publish(views[number], 1, &number, 1), RF_OK);
    }
    rf_element *element = next_of(feed);
    rf_lease_drop(views[0]); /* one view is dropped while its row is taken, the other stays */
    rf_element_drop(element);
    CHECK_EQUAL(state_of(ring, 0), RF_STATE_READY);
    CHECK_EQUAL(state_of(ring, 1), RF_STATE_READY);
    element = next_of(feed);
    expect_numbers(element, 0, 2);
    deliver_and_drop(element);
    CHECK_EQUAL(state_of(ring, 0), RF_STATE_FREE);
    CHECK_EQUAL(state_of(ring, 1), RF_STATE_KEPT);
    rf_lease_drop(views[1]);
    expect_all_free(ring);
}

static void test_copies(void)
{
    rf_ring *ring = create_ring(8);
    rf_feed *feed = feed_with_tickets(ring, 1, 2); /* one row at a time: all rows are copied */
    put_numbers(ring, 0, 6);
    rf_element *elements[3] = {next_of(feed), next_of(feed), next_of(feed)};
    expect_all_free(ring);
    for (int i = 0; i < 3; i++)
        rf_element_drop(elements[i]);
    for (uint64_t number = 0; number < 6; number += 2) {
        rf_element *again = next_of(feed);
        expect_numbers(again, number, 2);
        deliver_and_drop(again);
    }
    put_numbers(ring, 6, 2);
    rf_element *last = next_of(feed);
    rf_feed_end(feed); /* the element keeps the feed, and frees it */
    rf_element_drop(last);
    expect_all_free(ring);
    close_ring(ring);
}

/* A feed whose elements are copies, of any number of rows. */
static void test_copies_alone(void)
{
    rf_ring *ring = create_ring(4);
    rf_feed *feed = new_feed(
        ring, &(rf_feed_plan){
                  .max_rows = 2, .min_rows = 1, .tickets = 1, .copies = 1, .timeout_ns = FOR_EVER});
    uint64_t tags[2];
    move_on_to(ring, 3);
    put_numbers(ring, 0, 3); /* across the ring's end */
    rf_element *first = next_of(feed), *second = next_of(feed);
    CHECK(!first->lease);
    CHECK_EQUAL((uintptr_t)first->data[0] % RF_ALIGNMENT, 0);
    expect_all_free(ring);
    put_numbers(ring, 3, 4); /* into the slots that were copied */
    expect_numbers(first, 0, 2);
    expect_numbers(second, 2, 1);
    rf_element_tags(first, tags);
    CHECK_EQUAL(tags[1], 1);
    rf_element_drop(first);
    deliver_and_drop(second);
    uint64_t starts[] = {0, 3, 5};
    for (int i = 0; i < 3; i++) {
        rf_element *again = next_of(feed);
        expect_numbers(again, starts[i], 2);
        deliver_and_drop(again);
    }
    rf_feed_end(feed);
    close_ring(ring);
}

/* Elements without an exact number of rows are copied too, if a GPU's driver knows the memory only up to the
 * ring's end. */
static void test_copies_for_their_padding(void)
{
    rf_ring *ring = create_ring(4);
    rf_feed *feed = new_feed(
        ring, &(rf_feed_plan){.max_rows = 1, .min_rows = 1, .tickets = 1, .shown_rows = 3});
    atomic_store(&ring->runs_end, true);
    move_on_to(ring, 2);
    put_numbers(ring, 0, 2);
    rf_element *first = next_of(feed), *second = next_of(feed);
    CHECK(!first->lease && !second->lease);
    expect_all_free(ring);
    rf_element_drop(first);
    rf_element_drop(second);
    for (uint64_t number = 0; number < 2; number++) {
        rf_element *again = next_of(feed);
        expect_numbers(again, number, 1);
        CHECK_EQUAL(again->shown, 3);
        deliver_and_drop(again);
    }
}

static void test_after_the_end(void)
{
    rf_ring *ring = create_ring(4);
    rf_feed *feed = feed_with_tickets(ring, 2, 0);
    put_numbers(ring, 0, 2);
    rf_finish(ring);
    rf_element *element = next_of(feed), *none;
    CHECK_EQUAL(rf_feed_next(feed, &none), RF_FINISHED);
    CHECK_EQUAL(rf_feed_begin_round(feed), RF_FINISHED);
    rf_element_drop(element);
    CHECK_EQUAL(rf_feed_begin_round(feed), RF_OK);
    element = next_of(feed);
    expect_numbers(element, 0, 2);
    deliver_and_drop(element);
    CHECK_EQUAL(rf_feed_next(feed, &none), RF_FINISHED);
}

static void test_waiting_taker(void)
{
    rf_ring *ring = create_ring(4);
    rf_feed *feed = feed_with_tickets(ring, 1, 0), *other = untimed_feed(ring, 1);
    put_numbers(ring, 0, 1);
    rf_element *element = next_of(feed);
    waiter *waiting = start_waiting(other, ring);
    rf_element_drop(element);
    CHECK_EQUAL(end_of_waiting(waiting, &element), RF_OK);
    expect_numbers(element, 0, 1);
    rf_element_drop(element);
    expect_all_free(ring);
}

/* A batch across the ring's end, whose first record lies after its second. */
static void test_order(void)
{
    rf_ring *ring = create_ring(4);
    rf_feed *feed = feed_with_tickets(ring, 2, 0);
    move_on_to(ring, 3);
    put_numbers(ring, 0, 4); /* in the slots 3, 0, 1, 2 */
    for (int turn = 0; turn < 3; turn++) {
        rf_element *first = next_of(feed), *second = next_of(feed);
        expect_numbers(first, 0, 2);
        expect_numbers(second, 2, 2);
        CHECK_EQUAL(rf_lease_first(first->lease), 3);
        /* In any order of the drops: links lead to the first record. */
        rf_element_drop(turn % 2 ? second : first);
        rf_element_drop(turn % 2 ? first : second);
    }
    rf_lease *rest = take(ring, 1);
    CHECK_EQUAL(number_at(rest, 0), 0);
    put_until(ring, 4, 0); /* there is no free slot */
    rf_lease_give_back(rest);
    rf_lease_drop(rest);
    for (uint64_t number = 0; number < 4; number++)
        take_expecting(ring, number);
    expect_all_free(ring);
}

/* Returned rows are delivered again, because no taker saw them. This also holds in a ring that drops the rows of
 * dead takers. */
static void test_rows_that_come_once(void)
{
    rf_options options = options_for(4);
    options.redeliver = 0;
    rf_ring *ring = create_ring_as(&options, SAMPLE_BYTES);
    rf_feed *feed = feed_with_tickets(ring, 2, 0);
    put_numbers(ring, 0, 2);
    rf_element_drop(next_of(feed));
    rf_element *element = next_of(feed);
    expect_numbers(element, 0, 2);
    deliver_and_drop(element);
    expect_all_free(ring);
}

static void test_claim(void)
{
    rf_ring *ring = create_ring(4);
    rf_lease *some = claim(ring, 3);
    rf_lease_give_back(some);
    rf_lease_drop(some);
    expect_all_free(ring);
    some = claim(ring, 3);
    rf_lease_give_back(some);
    publish(some, 1, 7);
    take_expecting(ring, 7);
    expect_all_free(ring);
}

/* An element outlives its feed and its ring's handle, and returns for another process. */
static void test_last_of_all(void)
{
    rf_ring *other = create_ring(4), *ring = attach_ring();
    rf_feed *feed = feed_with_tickets(ring, 2, 0), *exact = feed_with_tickets(ring, 1, 2);
    put_numbers(ring, 0, 4);
    rf_element *element = next_of(feed), *copies = next_of(exact);
    int64_t ticket = *element->ticket;
    rf_feed_end(feed);
    rf_feed_end(exact);
    close_ring(ring);
    rf_stats stats;
    rf_element_drop(copies);
    rf_element_drop(element);
    CHECK(!rf_ticket_deliver(ticket));
    for (uint64_t number = 0; number < 2; number++)
        take_expecting(other, number);
    expect_all_free(other);
    rf_ring_stats(other, &stats);
    CHECK_EQUAL(stats.participants, 1);
    CHECK_EQUAL(stats.counts.redelivered, 2);
    CHECK_EQUAL(stats.counts.taken, stats.counts.released + stats.counts.redelivered);
    close_ring(other);
}

/* ---- Forks ----------------------------------------------------------------------------------- */

typedef struct inherited {
    rf_feed *feed;
    rf_element *over_slots, *copies;
} inherited;

static void drop_as_a_child(void *argument)
{
    inherited *all = argument;
    CHECK(!rf_ticket_deliver(*all->over_slots->ticket));
    rf_element_drop(all->over_slots);
    rf_element_drop(all->copies);
}

static _Atomic uint32_t ended;

/* Another thread often holds the lock of the element's feed. */
static void *take_and_throw_away(void *argument)
{
    rf_feed *feed = argument;
    rf_element *element;
    while (!atomic_load(&ended))
        if (rf_feed_next(feed, &element) == RF_OK)
            rf_element_drop(element);
    return NULL;
}

static void test_fork(void)
{
    rf_ring *ring = create_ring(8);
    inherited all = {.feed = feed_with_tickets(ring, 1, 2)};
    rf_feed *feed = feed_with_tickets(ring, 2, 0);
    put_numbers(ring, 0, 6);
    all.over_slots = next_of(feed);
    all.copies = next_of(all.feed);
    rf_element_drop(next_of(all.feed)); /* so that there is always an element */
    pthread_t thread = start_thread(take_and_throw_away, all.feed);
    for (int turn = 0; turn < (SANITIZED ? 20 : 200); turn++)
        expect_success(spawn(drop_as_a_child, &all));
    atomic_store(&ended, 1);
    join_thread(thread);
    expect_numbers(all.over_slots, 0, 2);
    CHECK_EQUAL(state_of(ring, 0), RF_STATE_TAKEN);
    deliver_and_drop(all.over_slots);
    rf_element_drop(all.copies);
    for (int i = 0; i < 2; i++)
        deliver_and_drop(next_of(all.feed));
    expect_all_free(ring);
}

static const test TESTS[] = {
    {"an element that is dropped undelivered is ready again, in order, for the next taker",
     test_dropped_unseen},
    {"a ticket delivers its own element, once", test_tickets},
    {"rows that their producer still views stay kept", test_kept},
    {"exact: copies return to the feed, in order", test_copies},
    {"a feed of copies: slots are free at once, and undelivered elements return to the feed",
     test_copies_alone},
    {"rows that were copied for their padding return, too", test_copies_for_their_padding},
    {"elements that are dropped after the ring's end return, too", test_after_the_end},
    {"a taker that waits is woken", test_waiting_taker},
    {"order is kept across the ring's end, and in any order of the drops", test_order},
    {"a ring that drops the rows of dead takers keeps undelivered rows", test_rows_that_come_once},
    {"a claim is given back like any other claim", test_claim},
    {"an element outlives its feed and its ring, and returns", test_last_of_all},
    {"a forked child gives nothing back", test_fork},
};

MAIN(TESTS)
