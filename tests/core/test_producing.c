/*
 * Producing blocks: the ring is finished when the last block has ended, in any way. Takers are told of a
 * producer that failed.
 */
#include "producing_blocks.h"

/* ---- Beginning and ending ------------------------------------------------------------------- */

static void test_last_block(void)
{
    rf_ring *ring = create_ring(4), *other = attach_ring();
    rf_block first = begin_block(ring), second = begin_block(other);
    put(ring, 1);
    rf_producing_end(ring, first);
    CHECK(!rf_ring_is_finished(ring));
    CHECK_EQUAL(rf_ring_open_blocks(ring), 1);
    put(other, 2);
    rf_producing_end(other, second);
    CHECK(rf_ring_is_finished(ring));
    take_expecting(ring, 1);
    take_expecting(ring, 2);
    CHECK_EQUAL(take_now(ring), RF_FINISHED);
    CHECK_EQUAL(take_now(other), RF_FINISHED);
    CHECK_EQUAL(put_until(ring, 3, 0), RF_FINISHED);
    close_ring(other);
    close_ring(ring);
}

static void test_nesting(void)
{
    rf_ring *ring = create_ring_for(2), *other = attach_ring();
    rf_block outer = begin_block(ring), inner;
    CHECK_EQUAL(rf_producing_begin(ring, 1, &inner), RF_OK);
    CHECK_EQUAL(rf_ring_open_blocks(ring), 2);
    CHECK_EQUAL(rf_ring_producers_entered(ring), 1);
    CHECK_EQUAL(rf_ring_producers_wanted(ring), 2);
    rf_producing_end(ring, inner);
    rf_producing_end(ring, outer);
    CHECK(!rf_ring_is_finished(ring));
    rf_producing_end(ring, outer); /* a second end of the same block does no harm */
    rf_block second = begin_block(other);
    rf_producing_end(ring, outer);
    CHECK(!rf_ring_is_finished(ring));
    rf_producing_end(other, second);
    CHECK(rf_ring_is_finished(ring));
    close_ring(other);
    close_ring(ring);
}

static void test_expected(void)
{
    rf_ring *ring = create_ring_for(3);
    for (int i = 0; i < 3; i++) {
        CHECK_EQUAL(take_now(ring), RF_EMPTY);
        rf_producing_end(ring, begin_block(ring));
    }
    CHECK_EQUAL(take_now(ring), RF_FINISHED);
    close_ring(ring);
}

static void test_too_late(void)
{
    rf_ring *ring = create_ring(4), *other = attach_ring();
    rf_block block;
    rf_producing_end(ring, begin_block(ring));
    CHECK_EQUAL(rf_producing_begin(other, 0, &block), RF_FINISHED);
    CHECK_EQUAL(rf_producing_begin(other, 1, &block), RF_FINISHED);
    CHECK_EQUAL(rf_ring_open_blocks(ring), 0);
    close_ring(other);
    close_ring(ring);
}

static void test_closed(void)
{
    rf_ring *ring = create_ring(4), *other = attach_ring();
    rf_block block = begin_block(other), refused;
    rf_ring_close(ring);
    CHECK_EQUAL(rf_producing_begin(other, 0, &refused), RF_CLOSED);
    CHECK_EQUAL(take_now(other), RF_CLOSED);
    rf_producing_end(other, block); /* the end of a block does not finish a closed ring */
    CHECK_EQUAL(take_now(other), RF_CLOSED);
    CHECK_EQUAL(rf_producing_begin(ring, 0, &refused), RF_CLOSED);
    close_ring(other);
    rf_ring_drop(ring);
}

static void test_pool(void)
{
    endpoint at = create_endpoint(4, 4);
    rf_block block;
    CHECK_EQUAL(rf_producing_begin(at.pool, 0, &block), RF_INVALID);
    close_ring(at.pool);
    close_ring(at.ring);
}

static void test_finish(void)
{
    rf_ring *ring = create_ring(4), *other = attach_ring();
    rf_block block = begin_block(other);
    rf_finish(ring);
    CHECK_EQUAL(take_now(ring), RF_FINISHED);
    CHECK_EQUAL(put_until(other, 1, 0), RF_FINISHED);
    rf_producing_end(other, block);
    CHECK_EQUAL(take_now(ring), RF_FINISHED);
    CHECK(!rf_ring_has_failed(ring));
    close_ring(other);
    close_ring(ring);
}

static void test_claim_under_way(void)
{
    rf_ring *ring = create_ring(4);
    rf_block block = begin_block(ring);
    rf_lease *lease = claim(ring, 1);
    rf_producing_end(ring, block);
    CHECK_EQUAL(take_now(ring), RF_EMPTY); /* as after rf_finish */
    publish(lease, 1, 5);
    take_expecting(ring, 5);
    CHECK_EQUAL(take_now(ring), RF_FINISHED);
    close_ring(ring);
}

static void test_closed_handle(void)
{
    rf_ring *ring = create_ring(4), *other = attach_ring();
    rf_block block = begin_block(other);
    rf_ring_close(other);
    CHECK_EQUAL(take_now(ring), RF_EMPTY);
    rf_producing_end(other, block);
    CHECK_EQUAL(take_now(ring), RF_FINISHED);
    rf_ring_drop(other);
    close_ring(ring);
}

static void test_dropped_handle(void)
{
    rf_ring *ring = create_ring(4), *other = attach_ring();
    begin_block(other);
    close_ring(other);
    CHECK_EQUAL(take_now(ring), RF_FINISHED);
    close_ring(ring);
}

/* ---- Failures ------------------------------------------------------------------------------- */

static void test_failure(void)
{
    rf_ring *ring = create_ring(4), *other = attach_ring();
    rf_block first = begin_block(ring), second = begin_block(other);
    put(other, 7);
    fail_as(other, second, "ValueError: a bad picture");
    CHECK(!rf_ring_is_finished(ring));
    take_expecting(ring, 7);
    CHECK_EQUAL(take_now(ring), RF_EMPTY);
    fail_as(ring, first, "a later one");
    CHECK_EQUAL(take_now(ring), RF_PRODUCER_FAILED);
    CHECK_EQUAL(take_now(other), RF_PRODUCER_FAILED);
    expect_failure(other, "ValueError: a bad picture");
    CHECK_EQUAL(put_until(ring, 1, 0), RF_FINISHED);
    close_ring(other);
    close_ring(ring);
}

static void test_long_text(void)
{
    static char text[2 * RF_FAILURE_BYTES + 1], found[RF_FAILURE_BYTES + 1];
    rf_ring *ring = create_ring(4);
    memset(text, 'x', sizeof text - 1);
    fail_as(ring, begin_block(ring), text);
    CHECK_EQUAL(rf_ring_failure(ring, found), RF_FAILURE_BYTES);
    CHECK_EQUAL(strlen(found), RF_FAILURE_BYTES);
    atomic_store(&ring->header->failure.bytes, UINT32_MAX); /* as a faulty peer may write */
    CHECK_EQUAL(rf_ring_failure(ring, found), RF_FAILURE_BYTES);
    close_ring(ring);
}

static void test_empty_text(void)
{
    rf_ring *ring = create_ring(4);
    fail_as(ring, begin_block(ring), "");
    CHECK_EQUAL(take_now(ring), RF_PRODUCER_FAILED);
    expect_failure(ring, "");
    close_ring(ring);
}

static void claim_the_text_and_die(void *unused)
{
    (void)unused;
    rf_ring *ring = attach_ring();
    begin_block(ring);
    atomic_store(&ring->header->failure.word, rf_word(RF_STATE_CLAIMED, rf_self(ring), 3));
    memset(ring->header->failure.text, 'x', 100);
    raise(SIGKILL);
}

static void test_killed_over_its_text(void)
{
    rf_ring *ring = create_ring_for(2);
    die(claim_the_text_and_die);
    CHECK_EQUAL(rf_recover(ring), 1);
    CHECK(!rf_ring_has_failed(ring));
    CHECK_EQUAL(atomic_load(&ring->header->failure.word), rf_word(RF_STATE_FREE, RF_NO_OWNER, 4));
    fail_as(ring, begin_block(ring), "another's");
    CHECK_EQUAL(take_to_the_end(ring), RF_PRODUCER_FAILED);
    expect_failure(ring, "another's");
    close_ring(ring);
}

static void test_killed_over_the_text_of_two(void)
{
    rf_ring *ring = create_ring(4);
    rf_block block = begin_block(ring);
    die(claim_the_text_and_die);
    fail_as(ring, block, "it finds no room");
    CHECK_EQUAL(take_to_the_end(ring), RF_PRODUCER_FAILED);
    expect_failure(ring, "Its text was lost with another producer, which died over its own.");
    close_ring(ring);
}

static void *fail_once(void *argument)
{
    rf_ring *ring = argument;
    fail_as(ring, begin_block(ring), "one of many");
    return NULL;
}

static void test_many_fail(void)
{
    enum { THREADS = 8 };
    for (int round = 0; round < MANY / 4; round++) {
        rf_ring *ring = create_ring_for(THREADS);
        pthread_t threads[THREADS];
        for (int i = 0; i < THREADS; i++)
            threads[i] = start_thread(fail_once, ring);
        CHECK_EQUAL(take_to_the_end(ring), RF_PRODUCER_FAILED);
        expect_failure(ring, "one of many");
        for (int i = 0; i < THREADS; i++)
            join_thread(threads[i]);
        close_ring(ring);
        shm_unlink(segment_name(0));
    }
}

/* ---- Levels and feeds ----------------------------------------------------------------------- */

static rf_ring *create_level(int number)
{
    rf_options options = options_for(4);
    rf_geometry *geometry = geometry_of(RF_UINT8, 1, (uint64_t[]){SAMPLE_BYTES});
    rf_ring *ring;
    CHECK_EQUAL(rf_plan(&options, geometry), RF_OK);
    CHECK_EQUAL(rf_ring_create(create_segment(number), &options, geometry, &ring), RF_OK);
    free(geometry);
    return ring;
}

static rf_status take_from_all(rf_ring *const *rings, uint32_t count)
{
    rf_take_request request = {.max_rows = 4, .min_rows = 1};
    rf_lease *lease;
    rf_status status = rf_take_first(rings, count, &request, &lease);
    if (status == RF_OK)
        rf_lease_drop(lease);
    return status;
}

static void test_levels(void)
{
    for (int failing = 0; failing < 3; failing++) {
        rf_ring *rings[3];
        rf_block blocks[3];
        for (int level = 0; level < 3; level++) {
            rings[level] = create_level(level);
            blocks[level] = begin_block(rings[level]);
        }
        put(rings[2], 1);
        for (int level = 0; level < 3; level++) {
            CHECK(take_from_all(rings, 3) == (level ? RF_EMPTY : RF_OK));
            if (level == failing)
                fail_as(rings[level], blocks[level], "of one level");
            else
                rf_producing_end(rings[level], blocks[level]);
        }
        CHECK_EQUAL(take_from_all(rings, 3), RF_PRODUCER_FAILED);
        for (int level = 0; level < 3; level++) {
            close_ring(rings[level]);
            shm_unlink(segment_name(level));
        }
    }
}

static void expect_explanation(const rf_feed *feed, rf_status status, const char *text)
{
    char said[2 * RF_FAILURE_BYTES];
    rf_feed_explain(feed, status, said, sizeof said);
    CHECK(strstr(said, "ProducerFailed: ring 'cams'") && strstr(said, text));
}

static void test_feed(void)
{
    for (int exact = 0; exact < 2; exact++) {
        rf_ring *ring = create_ring(4);
        rf_feed *feed = exact ? exact_feed(ring, 2, 2, 0) : untimed_feed(ring, 2);
        rf_element *element;
        rf_block block = begin_block(ring);
        for (uint64_t number = 0; number < 3; number++)
            put(ring, number);
        fail_as(ring, block, "KeyError: 'image'");
        rf_element_drop(next_of(feed));
        if (!exact)
            rf_element_drop(next_of(feed));
        for (int again = 0; again < 3; again++) {
            CHECK_EQUAL(rf_feed_next(feed, &element), RF_PRODUCER_FAILED);
            CHECK_EQUAL(rf_feed_begin_round(feed), RF_PRODUCER_FAILED);
            expect_explanation(feed, RF_PRODUCER_FAILED, "KeyError: 'image'");
        }
        rf_feed_end(feed);
        close_ring(ring);
        shm_unlink(segment_name(0));
    }
}

static const test tests[] = {
    {"the ring is finished when the last producing block has ended", test_last_block},
    {"a block inside another one is open, and counts as no other producer", test_nesting},
    {"a ring for three producers is finished when three have entered and all have left",
     test_expected},
    {"a producer that enters too late finds the ring finished", test_too_late},
    {"a closed ring refuses a new block, and the end of an open one does not finish it",
     test_closed},
    {"a reply pool has no producing blocks", test_pool},
    {"rf_finish ends the ring while producing blocks are open", test_finish},
    {"takers wait for a claim that is open when the last block ends", test_claim_under_way},
    {"a block outlives the close of its handle, and ends with the block", test_closed_handle},
    {"a block ends with the last reference to its handle", test_dropped_handle},
    {"takers drain the ring and are told of the first producer that failed", test_failure},
    {"a text that is too long is cut, and a wrong length is not followed", test_long_text},
    {"a failure without a text is a failure", test_empty_text},
    {"a producer killed while it writes its text leaves room for the text of another",
     test_killed_over_its_text},
    {"a failure that found no room for its text is still reported",
     test_killed_over_the_text_of_two},
    {"of many producers that fail at once, one text is complete", test_many_fail},
    {"the failure of any level is reported at the end of all levels", test_levels},
    {"a feed reports the failure behind the last element, at each call", test_feed},
};

MAIN(tests)
