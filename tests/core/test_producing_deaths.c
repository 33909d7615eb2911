/* Producing blocks of producers that die, are stopped or fork. Blocks that begin and end at the same instant. */
#include "producing_blocks.h"

/* ---- Producers that die, are stopped or fork ------------------------------------------------ */

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

static void test_reaped_by_a_joiner(void)
{
    rf_options options = options_for(4);
    options.participants = 2;
    rf_ring *ring = create_ring_as(&options, SAMPLE_BYTES);
    die(put_and_die);
    rf_ring *other = attach_ring(); /* in the entry of the dead process */
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

/* The child ends the block that it inherited, and a block of its own. */
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
    rf_end_blocks(ring, owner); /* as if another process had found it dead */
    CHECK(rf_ring_is_finished(ring));
    atomic_store(&ring->header->finished, RF_ONE_PRODUCER);
    rf_block next = begin_block(other); /* of the participant that now has this entry */
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

/* A producer that enters may still put. A producer that is refused finds the ring finished. */
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
    {"a killed producer has left, without a failure", test_killed},
    {"a participant that gets the entry of a dead producer ends its blocks",
     test_reaped_by_a_joiner},
    {"a producer that stands still has not left", test_stopped},
    {"a forked child produces only after it enters, and its parent keeps its own block",
     test_forked},
    {"a producer that was found dead does not end the block of another", test_found_dead},
    {"of two blocks that end at the same instant, one is the last", test_two_leave},
    {"a producer that enters while the last one leaves may put, or finds the ring finished",
     test_enter_and_leave},
};

MAIN(tests)
