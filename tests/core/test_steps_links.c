/*
 * A taker that works between the two halves of a new link: the link is written, and the turn in the
 * record's word is not counted yet.
 *
 * The thread that publishes is stopped at that step by its name (csrc/segment/step.h), and the taker's
 * work is done there.
 */
#include "steps.h"

/* At this step the record's link already names another record, and its word still has the old turn. */
#define LINKED_ANEW "publish: link written anew, turn not counted"

static rf_ring *crossed_ring;
static _Atomic uint64_t *crossed_word; /* of the record that gets the new link */
static uint64_t word_at_the_step;
/* The participant that read the old link and takes the record at that step; 0: no taker. */
static uint32_t dead_taker;

static void meddle_with_the_link(const char *step, uint32_t visit)
{
    if (strcmp(step, LINKED_ANEW) != 0)
        return;
    CHECK_EQUAL(visit, 1);
    word_at_the_step = atomic_load(crossed_word);
    if (dead_taker)
        atomic_store(crossed_word,
                     rf_word(RF_STATE_TAKEN, dead_taker, rf_word_epoch(word_at_the_step)));
}

static void publish_watched(rf_lease *claimed, uint64_t number)
{
    word_at_the_step = 0;
    crossed_word = &crossed_ring->words[2];
    interfere = meddle_with_the_link;
    watched = true;
    publish(claimed, 1, number);
    watched = false;
    CHECK(word_at_the_step != 0);
}

static void test_an_old_link_takes_nothing(void)
{
    prepare_stage();
    arm(NO_STEP, 0, 0);
    crossed_ring = create_ring(8);
    rf_lease *first = claim(crossed_ring, 2);
    put(crossed_ring, 2);
    uint64_t read_with_the_old_link = word_of(crossed_ring, 2);
    publish_watched(first, 1);
    CHECK_EQUAL(word_at_the_step, read_with_the_old_link);
    CHECK(word_of(crossed_ring, 2) != read_with_the_old_link); /* so the CAS of that taker fails */
    CHECK_EQUAL(rf_link_slot(atomic_load(&crossed_ring->links[2])), 0);
    close_ring(crossed_ring);
}

static void attach_and_die(void *owner)
{
    *(_Atomic uint32_t *)owner = rf_self(attach_ring());
    raise(SIGKILL);
}

/* Record 1 is taken at the step and redelivered, and record 2 was to go in front of it. Record 3
 * follows record 1. If record 1 kept the new link, the links of the three would make a circle. */
static void test_no_circle(void)
{
    int status;
    _Atomic uint32_t *owner = shared_memory(sizeof *owner);
    prepare_stage();
    arm(NO_STEP, 0, 0);
    crossed_ring = create_ring(8);
    rf_lease *room = claim(crossed_ring, 1), *second = claim(crossed_ring, 1);
    put(crossed_ring, 1);
    rf_lease_drop(room);
    atomic_store(&crossed_ring->header->claim_cursor, 0);
    /* Claimed after 1 was published, in a slot before that of `second`. */
    rf_lease *third = claim(crossed_ring, 1);
    atomic_store(&crossed_ring->header->claim_cursor, 3);
    waitpid(spawn(attach_and_die, owner), &status, 0);
    dead_taker = atomic_load(owner);
    publish_watched(second, 2);
    CHECK_EQUAL(rf_recover(crossed_ring), 1);
    publish(third, 1, 3);
    uint32_t rows = 0;
    for (rf_lease *batch; rows < 3; rf_lease_drop(batch)) {
        CHECK((batch = take(crossed_ring, 8)) != NULL);
        rows += rf_lease_rows(batch);
    }
    expect_all_free(crossed_ring);
    close_ring(crossed_ring);
}

static const test tests[] = {
    {"a taker that read a link before it was written anew does not get the record",
     test_an_old_link_takes_nothing},
    {"a record that is taken while its link is written anew, and redelivered, makes no circle",
     test_no_circle},
};

MAIN(tests)
