/* A record over which a taker failed comes alone, and is set aside after `max_deliveries` failures. A record that
 * was not shown to the taker does not count as failed. */
#include "check.h"

static rf_ring *ring_with(uint32_t slots, uint32_t max_deliveries, uint32_t redeliver)
{
    rf_options options = options_for(slots);
    options.max_deliveries = max_deliveries;
    options.redeliver = redeliver;
    return create_ring_as(&options, SAMPLE_BYTES);
}

static rf_counts counts_of(rf_ring *ring)
{
    rf_stats stats;
    rf_ring_stats(ring, &stats);
    return stats.counts;
}

static rf_record about(const rf_lease *batch)
{
    rf_record records[8];
    rf_lease_records(batch, records);
    return records[0];
}

static rf_lease *take_letter(rf_ring *ring)
{
    rf_take_request request = {.max_rows = 4, .min_rows = 1, .dead_letters = 1};
    rf_lease *lease;
    return rf_take(ring, &request, &lease) == RF_OK ? lease : NULL;
}

static void fail_over(rf_lease *batch)
{
    rf_lease_fail(batch);
    rf_lease_drop(batch);
}

static void test_set_aside(void)
{
    rf_ring *ring = ring_with(4, 2, 1);
    rf_dead_letter letter;
    for (uint64_t i = 0; i < 3; i++)
        put(ring, 40 + i);
    fail_over(take(ring, 4)); /* all three */
    for (uint32_t i = 0; i < 3; i++) {
        rf_lease *batch = take(ring, 4);
        CHECK_EQUAL(rf_lease_rows(batch), 1);
        CHECK_EQUAL(number_at(batch, 0), 40 + i);
        CHECK_EQUAL(rf_lease_failures(batch), 1);
        CHECK_EQUAL(about(batch).deliveries, 2);
        if (i == 1)
            fail_over(batch);
        else
            rf_lease_drop(batch);
    }
    CHECK(take(ring, 4) == NULL);
    CHECK_EQUAL(rf_next_dead_letter(ring, &letter), 1);
    CHECK_EQUAL(letter.tag, 41);
    CHECK_EQUAL(letter.failures, 2);
    CHECK_EQUAL(rf_participant_pid(ring, letter.producer), (uint32_t)getpid());
    CHECK_EQUAL(rf_next_dead_letter(ring, &letter), 0);
    CHECK_EQUAL(counts_of(ring).dead_letters, 1);
    CHECK_EQUAL(counts_of(ring).released, 2);
    expect_all_free(ring);
    close_ring(ring);
}

static void test_handed_out(void)
{
    rf_ring *ring = ring_with(4, 1, 1);
    put(ring, 7);
    fail_over(take(ring, 1));
    put(ring, 8);
    rf_lease *letter = take_letter(ring);
    CHECK(rf_lease_is_dead_letter(letter));
    CHECK_EQUAL(rf_lease_rows(letter), 1);
    CHECK_EQUAL(number_at(letter, 0), 7);
    rf_lease_give_back(letter); /* a taker that cannot handle the letter leaves it to others */
    rf_lease_drop(letter);
    letter = take_letter(ring);
    CHECK(rf_lease_is_dead_letter(letter));
    rf_lease_drop(letter);
    rf_lease *batch = take_letter(ring);
    CHECK(!rf_lease_is_dead_letter(batch));
    CHECK_EQUAL(number_at(batch, 0), 8);
    rf_lease_drop(batch);
    CHECK_EQUAL(counts_of(ring).dead_letters, 1);
    expect_all_free(ring);
    close_ring(ring);
}

static void test_not_seen(void)
{
    rf_ring *ring = ring_with(4, 2, 1);
    put(ring, 1);
    put(ring, 2);
    for (int i = 0; i < 300; i++) { /* more often than the counter can count */
        rf_lease *batch = take(ring, 4);
        CHECK_EQUAL(rf_lease_rows(batch), 2);
        CHECK_EQUAL(rf_lease_failures(batch), 0);
        CHECK_EQUAL(about(batch).deliveries, i < 254 ? (uint32_t)i + 1 : 255);
        rf_lease_give_back(batch);
        rf_lease_drop(batch);
    }
    fail_over(take(ring, 4));
    for (int i = 0; i < 3; i++) { /* the one failure stays one */
        rf_lease *batch = take(ring, 4);
        CHECK_EQUAL(rf_lease_rows(batch), 1);
        CHECK_EQUAL(rf_lease_failures(batch), 1);
        rf_lease_give_back(batch);
        rf_lease_drop(batch);
    }
    take_expecting(ring, 1);
    take_expecting(ring, 2);
    close_ring(ring);
}

static rf_lease *take_together(rf_ring *ring, uint32_t rows)
{
    rf_take_request request = {.max_rows = rows, .min_rows = rows, .unseen = 1};
    rf_lease *lease;
    CHECK_EQUAL(rf_take(ring, &request, &lease), RF_OK);
    CHECK_EQUAL(rf_lease_rows(lease), rows);
    return lease;
}

/* Only a record that comes alone can be marked as shown or not shown. */
static void test_several_unseen(void)
{
    rf_ring *ring = ring_with(4, 3, 1);
    rf_record records[3];
    put(ring, 1);
    put(ring, 2);
    fail_over(take(ring, 4));
    put(ring, 3);
    rf_lease *batch = take_together(ring, 3);
    rf_lease_records(batch, records);
    for (uint32_t row = 0; row < 3; row++)
        CHECK_EQUAL(records[row].failures, row < 2);
    rf_lease_show(batch, 1);
    rf_lease_show(batch, 0);
    rf_lease_give_back(batch);
    rf_lease_drop(batch);
    for (uint32_t slot = 0; slot < 3; slot++)
        CHECK_EQUAL(rf_word_failures(word_of(ring, slot)), slot < 2);
    fail_over(take_together(ring, 3));
    for (uint32_t slot = 0; slot < 3; slot++)
        CHECK_EQUAL(rf_word_failures(word_of(ring, slot)), 1u + (slot < 2));
    close_ring(ring);
}

static void test_without_limit(void)
{
    rf_ring *ring = ring_with(2, 0, 1);
    put(ring, 1);
    for (uint32_t i = 0; i < 300; i++)
        fail_over(take(ring, 1));
    rf_lease *batch = take(ring, 1);
    CHECK_EQUAL(rf_lease_failures(batch), 255);
    rf_lease_drop(batch);
    CHECK_EQUAL(counts_of(ring).dead_letters, 0);
    expect_all_free(ring);
    close_ring(ring);
}

static void test_dropped(void)
{
    rf_ring *ring = ring_with(2, 2, 0);
    put(ring, 1);
    fail_over(take(ring, 1));
    CHECK(take(ring, 1) == NULL);
    CHECK_EQUAL(counts_of(ring).dropped, 1);
    expect_all_free(ring);
    close_ring(ring);
}

/* ---- Death ---------------------------------------------------------------------------------- */

static uint32_t unseen, shown;

static void take_and_die(void *argument)
{
    (void)argument;
    rf_ring *ring = attach_ring();
    rf_take_request request = {.max_rows = 4, .min_rows = 1, .unseen = unseen};
    rf_lease *lease;
    CHECK_EQUAL(rf_take(ring, &request, &lease), RF_OK);
    if (shown)
        rf_lease_show(lease, 1);
    if (shown == 2)
        rf_lease_show(lease, 0);
    raise(SIGKILL);
}

static void die_over_it(rf_ring *ring, uint32_t is_unseen, uint32_t is_shown)
{
    int status;
    unseen = is_unseen;
    shown = is_shown;
    waitpid(spawn(take_and_die, NULL), &status, 0);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    CHECK_EQUAL(rf_recover(ring), 1);
}

static void test_deaths(void)
{
    rf_ring *ring = ring_with(4, 3, 1);
    put(ring, 1);
    die_over_it(ring, 0, 0);
    CHECK_EQUAL(rf_word_failures(word_of(ring, 0)), 1);
    die_over_it(ring, 1, 0); /* the record was not shown */
    CHECK_EQUAL(rf_word_failures(word_of(ring, 0)), 1);
    die_over_it(ring, 1, 2); /* the record was shown, then marked as not shown */
    CHECK_EQUAL(rf_word_failures(word_of(ring, 0)), 1);
    die_over_it(ring, 1, 1);
    CHECK_EQUAL(rf_word_failures(word_of(ring, 0)), 2);
    die_over_it(ring, 0, 0);
    CHECK_EQUAL(rf_word_failures(word_of(ring, 0)), 3);
    CHECK(take(ring, 4) == NULL);
    CHECK_EQUAL(counts_of(ring).dead_letters, 1);
    expect_all_free(ring);
    close_ring(ring);
}

static void test_a_finished_ring(void)
{
    rf_ring *ring = ring_with(4, 1, 1);
    rf_lease *lease;
    put(ring, 1);
    put(ring, 2);
    rf_finish(ring);
    fail_over(take(ring, 1));
    CHECK_EQUAL(take_until(ring, 4, 1, RF_FOREVER, &lease), RF_OK);
    CHECK_EQUAL(number_at(lease, 0), 2);
    rf_lease_drop(lease);
    CHECK_EQUAL(take_until(ring, 4, 1, RF_FOREVER, &lease), RF_FINISHED);
    CHECK_EQUAL(counts_of(ring).dead_letters, 1);
    close_ring(ring);
}

/* There are more letters than the handle keeps: it keeps the last ones, and counts the others. */
static void test_many_letters(void)
{
    rf_ring *ring = ring_with(64, 1, 1);
    rf_dead_letter letter;
    for (uint64_t i = 0; i < 40; i++)
        put(ring, i);
    fail_over(take(ring, 40));
    CHECK(take(ring, 4) == NULL);
    CHECK_EQUAL(rf_next_dead_letter(ring, &letter), 1);
    CHECK_EQUAL(letter.unsaid, 40 - RF_MOST_DEAD_LETTERS);
    CHECK_EQUAL(letter.tag, 40 - RF_MOST_DEAD_LETTERS);
    for (int i = 1; i < RF_MOST_DEAD_LETTERS; i++)
        CHECK_EQUAL(rf_next_dead_letter(ring, &letter), 1);
    CHECK_EQUAL(letter.tag, 39);
    CHECK_EQUAL(rf_next_dead_letter(ring, &letter), 0);
    expect_all_free(ring);
    close_ring(ring);
}

/* Each part of a split batch has the highest failure count of its own rows. */
static void test_split(void)
{
    for (uint32_t failed = 0; failed < 4; failed++)
        for (uint32_t rows = 1; rows < 4; rows++) {
            rf_ring *ring = ring_with(4, 3, 1);
            rf_lease *single[4];
            for (uint32_t row = 0; row < 4; row++) {
                put(ring, row);
                single[row] = take(ring, 1);
            }
            for (uint32_t row = 0; row < 4; row++)
                if (row == failed) {
                    fail_over(single[row]);
                } else {
                    rf_lease_give_back(single[row]);
                    rf_lease_drop(single[row]);
                }
            rf_lease *batch = take_together(ring, 4), *rest = rf_lease_split(batch, rows);
            CHECK_EQUAL(rf_lease_failures(batch), failed < rows);
            CHECK_EQUAL(rf_lease_failures(rest), failed >= rows);
            rf_lease_drop(batch);
            rf_lease_drop(rest);
            close_ring(ring);
            CHECK_EQUAL(shm_unlink(segment_name(0)), 0);
        }
}

static const test tests[] = {
    {"a record comes alone after a failure, and is set aside after the limit", test_set_aside},
    {"a dead letter is handed out to a taker that asks for it", test_handed_out},
    {"a record that is given back unseen has not failed, however often", test_not_seen},
    {"in a batch of several requested rows, each row keeps its own failures", test_several_unseen},
    {"each part of a split batch has the highest failure count of its own rows", test_split},
    {"without a limit a record comes again forever", test_without_limit},
    {"a ring that does not redeliver drops failed records", test_dropped},
    {"a taker that dies has failed over the rows that it was shown", test_deaths},
    {"a finished ring is drained of dead letters, too", test_a_finished_ring},
    {"of many letters the handle keeps the last, and counts the others", test_many_letters},
};

MAIN(tests)
