/* Producing blocks, for test_steps.c: producers that enter, fail and leave, and producers that died. */
#ifndef RF_STEPS_PRODUCING_H
#define RF_STEPS_PRODUCING_H

#include "steps.h"

#define VICTIMS_TEXT "the victim's text"
#define LOST_TEXT "Its text was lost"

static rf_ring *victims_ring;
static rf_block victims_block;

static inline void begin_as_victim(void)
{
    CHECK_EQUAL(rf_producing_begin(victims_ring, 0, &victims_block), RF_OK);
}

static inline void operate_produce(ring_fixture *now)
{
    begin_as_victim();
    work_put(now, now->victim, VICTIM);
    /* Wait until the taker has the record and waits again. Otherwise the end may or may not have to wake it. */
    const rf_header *header = now->victim->header;
    while (rf_ring_ready(now->victim) || !atomic_load(&header->readable.wanted))
        usleep(100);
    rf_producing_end(now->victim, victims_block);
}

static inline void operate_producer_fails(ring_fixture *now)
{
    begin_as_victim();
    rf_producing_fail(now->victim, victims_block, VICTIMS_TEXT, strlen(VICTIMS_TEXT));
    CHECK(rf_ring_has_failed(now->victim));
    rf_producing_end(now->victim, victims_block);
}

/* Another thread fails while the victim has claimed the room for the text. */
static inline void fail_too(const char *step, uint32_t visit)
{
    if (strcmp(step, "fail: room for the text claimed") == 0 && visit == 1)
        rf_producing_fail(victims_ring, victims_block, "another's", 9);
}

static inline void operate_come_as_it_ends(ring_fixture *now)
{
    CHECK_EQUAL(rf_producing_begin(now->victim, 0, &victims_block), RF_FINISHED);
}

static inline void finish_before_entering(const char *step, uint32_t visit)
{
    if (strcmp(step, "producing: block open, not entered") == 0 && visit == 1)
        atomic_fetch_or(&victims_ring->header->finished, RF_IS_FINISHED);
}

static inline void operate_drop_a_block(ring_fixture *now)
{
    begin_as_victim();
    operate_close(now);
}

/* If the victim died before it counted as a producer, the parent enters and leaves as one. */
static inline void supply_a_producer(ring_fixture *now)
{
    rf_block block;
    if (rf_producing_begin(now->ours, 0, &block) == RF_OK)
        rf_producing_end(now->ours, block);
    now->finished = true;
}

/* The text is complete and is the victim's, or it says that the text was lost. */
static inline void helper_awaits_any_end(void *unused)
{
    (void)unused;
    rf_ring *ring = attach_ring();
    rf_status status = bounded_take_all(ring);
    if (status == RF_PRODUCER_FAILED) {
        char text[RF_FAILURE_BYTES + 1];
        rf_ring_failure(ring, text);
        CHECK(strcmp(text, VICTIMS_TEXT) == 0 || strncmp(text, LOST_TEXT, strlen(LOST_TEXT)) == 0);
    } else {
        CHECK_EQUAL(status, RF_FINISHED);
    }
    close_ring(ring);
}

/* The last producer dies while it writes its text, with a block open. */
static inline void die_as_a_producer(void *unused)
{
    (void)unused;
    rf_block block;
    rf_ring *ring = attach_ring();
    CHECK_EQUAL(rf_producing_begin(ring, 0, &block), RF_OK);
    atomic_store(&ring->header->failure.word, rf_word(RF_STATE_CLAIMED, rf_self(ring), 0));
    raise(SIGKILL);
}

static inline void a_dead_producer(ring_fixture *now)
{
    int status;
    (void)now;
    waitpid(spawn(die_as_a_producer, NULL), &status, 0);
    CHECK(WIFSIGNALED(status));
}

static inline void expect_the_end(ring_fixture *now)
{
    victim_is_gone(now->ours, now->other);
    CHECK_EQUAL(bounded_take_all(now->ours), RF_FINISHED);
    now->finished = now->over = true;
}

#endif
