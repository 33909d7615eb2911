/*
 * Producing blocks: the ring is finished when the last of them has ended, however it ends, and takers are told of
 * a producer that failed.
 */
#include "cells.h"
#include "feeds.h"
#include "ring/producers.h"

enum { MANY = SANITIZED ? 40 : 300 };

static rf_block begin_block(rf_ring *ring)
{
    rf_block block;
    CHECK_EQUAL(rf_producing_begin(ring, 0, &block), RF_OK);
    return block;
}

static void fail_as(rf_ring *ring, rf_block block, const char *text)
{
    rf_producing_fail(ring, block, text, strlen(text));
    rf_producing_end(ring, block);
}

static rf_ring *create_ring_for(uint32_t producers)
{
    rf_options options = options_for(4);
    options.producers = producers;
    return create_ring_as(&options, SAMPLE_BYTES);
}

static rf_status take_now(rf_ring *ring)
{
    rf_lease *lease;
    rf_status status = take_until(ring, 4, 1, 0, &lease);
    if (status == RF_OK)
        rf_lease_drop(lease);
    return status;
}

/* Take without an end until something else than a record comes. */
static rf_status take_to_the_end(rf_ring *ring)
{
    rf_lease *lease;
    rf_status status;
    while ((status = take_until(ring, 4, 1, RF_FOREVER, &lease)) == RF_OK)
        rf_lease_drop(lease);
    return status;
}

static void expect_failure(const rf_ring *ring, const char *expected)
{
    char text[RF_FAILURE_BYTES + 1];
    CHECK(rf_ring_has_failed(ring));
    CHECK_EQUAL(rf_ring_failure(ring, text), strlen(expected));
    CHECK(strcmp(text, expected) == 0);
}

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
    rf_producing_end(ring, outer); /* once is enough, and twice no harm */
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
    rf_producing_end(other, block); /* a closed ring is closed, and not finished */
    CHECK_EQUAL(take_now(other), RF_CLOSED);
    CHECK_EQUAL(rf_producing_begin(ring, 0, &refused), RF_CLOSED);
    close_ring(other);
    rf_ring_drop(ring);
}

static void test_pool(void)
{
    desk at = create_desk(4, 4);
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
    CHECK_EQUAL(take_now(ring), RF_EMPTY); /* as behind rf_finish */
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
    atomic_store(&ring->header->failure.bytes, UINT32_MAX); /* a peer that garbles */
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

static void die(void (*how)(void *))
{
    int status;
    CHECK(waitpid(spawn(how, NULL), &status, 0) > 0);
    CHECK(WIFSIGNALED(status));
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

static void expect_explained(const rf_feed *feed, rf_status status, const char *text)
{
    char said[2 * RF_FAILURE_BYTES];
    rf_feed_explain(feed, status, said, sizeof said);
    CHECK(strstr(said, "ProducerFailed: ring 'cams'") && strstr(said, text));
}

static void test_feed(void)
{
    for (int exact = 0; exact < 2; exact++) {
        rf_ring *ring = create_ring(4);
        rf_feed *feed = exact ? exact_feed(ring, 2, 2, 0) : patient_feed(ring, 2);
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
            expect_explained(feed, RF_PRODUCER_FAILED, "KeyError: 'image'");
        }
        rf_feed_end(feed);
        close_ring(ring);
        shm_unlink(segment_name(0));
    }
}

/* ---- The dead, the stopped and the forked --------------------------------------------------- */

static void put_and_die(void *unused)
{
    (void)unused;
    rf_ring *ring = attach_ring();
    begin_block(ring);
    begin_block(ring);
    put(ring, 1);
    claim(ring, 2);
    raise(SIGKILL);
}

static void test_killed(void)
{
    rf_ring *ring = create_ring(4);
    die(put_and_die);
    CHECK_EQUAL(rf_ring_open_blocks(ring), 2);
    take_expecting(ring, 1);
    CHECK_EQUAL(take_to_the_end(ring), RF_FINISHED);
    rf_stats stats;
    rf_ring_stats(ring, &stats);
    CHECK_EQUAL(stats.counts.reclaimed, 2);
    CHECK_EQUAL(rf_ring_open_blocks(ring), 0);
    close_ring(ring);
}

static void test_buried_by_a_joiner(void)
{
    rf_options options = options_for(4);
    options.participants = 2;
    rf_ring *ring = create_ring_as(&options, SAMPLE_BYTES);
    die(put_and_die);
    rf_ring *other = attach_ring(); /* into the entry of the dead */
    CHECK(rf_ring_is_finished(ring));
    close_ring(other);
    close_ring(ring);
}

static _Atomic uint32_t *said;

static void produce_when_told(void *unused)
{
    (void)unused;
    rf_ring *ring = attach_ring();
    rf_block block = begin_block(ring);
    atomic_store(&said[0], 1);
    await(&said[1], 1);
    put(ring, 4);
    rf_producing_end(ring, block);
    close_ring(ring);
}

static void test_stopped(void)
{
    said = shared_memory(2 * sizeof *said);
    rf_ring *ring = create_ring(4);
    pid_t pid = spawn(produce_when_told, NULL);
    rf_lease *lease;
    await(&said[0], 1);
    stop_and_wait(pid);
    atomic_store(&said[1], 1);
    CHECK_EQUAL(take_until(ring, 1, 1, in_ms(150), &lease), RF_EMPTY);
    CHECK_EQUAL(kill(pid, SIGCONT), 0);
    CHECK_EQUAL(take_until(ring, 1, 1, RF_FOREVER, &lease), RF_OK);
    CHECK_EQUAL(number_at(lease, 0), 4);
    rf_lease_drop(lease);
    CHECK_EQUAL(take_to_the_end(ring), RF_FINISHED);
    expect_success(pid);
    close_ring(ring);
}

typedef struct inherited {
    rf_ring *ring;
    rf_block block;
} inherited;

/* It leaves the block that it inherited, and one of its own. */
static void leave_as_a_child(void *argument)
{
    inherited *own = argument;
    fail_as(own->ring, own->block, "not its own");
    CHECK_EQUAL(rf_ring_open_blocks(own->ring), 1);
    rf_block block = begin_block(own->ring);
    CHECK_EQUAL(rf_ring_open_blocks(own->ring), 2);
    fail_as(own->ring, own->block, "nor now");
    CHECK_EQUAL(rf_ring_open_blocks(own->ring), 2);
    rf_producing_end(own->ring, block);
    CHECK(!rf_ring_is_finished(own->ring));
    _exit(PASSED);
}

static void test_forked(void)
{
    rf_ring *ring = create_ring(4);
    inherited own = {ring, begin_block(ring)};
    expect_success(spawn(leave_as_a_child, &own));
    rf_recover(ring);
    CHECK(!rf_ring_is_finished(ring) && !rf_ring_has_failed(ring));
    put(ring, 1);
    rf_producing_end(ring, own.block);
    take_expecting(ring, 1);
    CHECK_EQUAL(take_now(ring), RF_FINISHED);
    close_ring(ring);
}

static void test_found_dead(void)
{
    rf_ring *ring = create_ring(4), *other = attach_ring();
    rf_block block = begin_block(other);
    uint32_t owner = rf_self(other);
    rf_end_blocks(ring, owner); /* as if it had been found dead */
    CHECK(rf_ring_is_finished(ring));
    atomic_store(&ring->header->finished, RF_ONE_PRODUCER);
    rf_block next = begin_block(other); /* of whoever has its entry now */
    rf_producing_end(other, block);
    CHECK_EQUAL(rf_ring_open_blocks(ring), 1);
    CHECK(!rf_ring_is_finished(ring));
    rf_producing_end(other, next);
    CHECK(rf_ring_is_finished(ring));
    close_ring(other);
    close_ring(ring);
}

/* ---- At the same instant -------------------------------------------------------------------- */

typedef struct gate {
    _Atomic uint32_t ready, go;
    _Atomic uint32_t entered, refused;
    rf_ring *ring;
} gate;

static void *leave_at_once(void *argument)
{
    gate *own = argument;
    rf_block block = begin_block(own->ring);
    atomic_fetch_add(&own->ready, 1);
    while (!atomic_load(&own->go))
        rf_pause();
    rf_producing_end(own->ring, block);
    return NULL;
}

static void test_two_leave(void)
{
    for (int round = 0; round < MANY; round++) {
        rf_ring *ring = create_ring(4);
        gate first = {.ring = attach_ring()};
        pthread_t threads[2];
        gate *both = &first;
        for (int i = 0; i < 2; i++)
            threads[i] = start_thread(leave_at_once, both);
        await(&first.ready, 2);
        atomic_store(&first.go, 1);
        for (int i = 0; i < 2; i++)
            join_thread(threads[i]);
        CHECK(rf_ring_is_finished(ring));
        close_ring(first.ring);
        close_ring(ring);
        shm_unlink(segment_name(0));
    }
}

/* Who enters may still put; who is refused finds the ring finished. */
static void *enter_at_once(void *argument)
{
    gate *own = argument;
    rf_ring *ring = attach_ring();
    rf_block block;
    atomic_fetch_add(&own->ready, 1);
    while (!atomic_load(&own->go))
        rf_pause();
    rf_status status = rf_producing_begin(ring, 0, &block);
    if (status == RF_OK) {
        put(ring, 1);
        atomic_fetch_add(&own->entered, 1);
        rf_producing_end(ring, block);
    } else {
        CHECK_EQUAL(status, RF_FINISHED);
        CHECK(rf_ring_is_finished(ring));
        atomic_fetch_add(&own->refused, 1);
    }
    close_ring(ring);
    return NULL;
}

static void test_enter_and_leave(void)
{
    uint32_t entered = 0, refused = 0;
    for (int round = 0; round < MANY; round++) {
        rf_ring *ring = create_ring(4);
        gate at = {.ring = ring};
        pthread_t leaving = start_thread(leave_at_once, &at);
        await(&at.ready, 1);
        pthread_t entering = start_thread(enter_at_once, &at);
        await(&at.ready, 2);
        atomic_store(&at.go, 1);
        join_thread(leaving);
        join_thread(entering);
        CHECK(rf_ring_is_finished(ring));
        CHECK_EQUAL(rf_ring_ready(ring), atomic_load(&at.entered));
        entered += atomic_load(&at.entered);
        refused += atomic_load(&at.refused);
        close_ring(ring);
        shm_unlink(segment_name(0));
    }
    dprintf(1, "    %u entered, %u found it finished\n", entered, refused);
    CHECK_EQUAL(entered + refused, MANY);
}

static const test tests[] = {
    {"the ring is finished when the last producing block has ended", test_last_block},
    {"blocks nest: one inside another is open, and no other producer", test_nesting},
    {"a ring for three producers is finished when three have come and none is left", test_expected},
    {"a producer that comes too late finds the ring finished", test_too_late},
    {"nobody begins a block in a closed ring, and one that ends there does not finish it",
     test_closed},
    {"a reply pool has no producing blocks", test_pool},
    {"a finish while others produce is the end, as ever", test_finish},
    {"a claim that is under way when the last block ends is waited for", test_claim_under_way},
    {"a block outlives the close of its handle, and ends with the block", test_closed_handle},
    {"a block ends with the last reference to its handle", test_dropped_handle},
    {"takers drain the ring and are told of the first producer that failed", test_failure},
    {"a text that is too long is cut, and a length that lies leads nowhere", test_long_text},
    {"a failure without a text is a failure", test_empty_text},
    {"a producer that is killed over its text leaves none, and room for another's",
     test_killed_over_its_text},
    {"a failure that found no room for its text is told all the same",
     test_killed_over_the_text_of_two},
    {"of many that fail at once one text is whole", test_many_fail},
    {"the failure of any level is told at the end of all", test_levels},
    {"a feed tells the failure behind the last element, each time", test_feed},
    {"a producer that is killed has left, without a failure", test_killed},
    {"who takes the entry of a dead producer ends its blocks", test_buried_by_a_joiner},
    {"a producer that stands still has not left", test_stopped},
    {"a forked child does not produce until it enters, and its parent's block stays its parent's",
     test_forked},
    {"a producer that was found dead does not end the block of another", test_found_dead},
    {"of two blocks that end at the same instant one is the last", test_two_leave},
    {"who enters while the last leaves may put, or finds the ring finished", test_enter_and_leave},
};

MAIN(tests)
