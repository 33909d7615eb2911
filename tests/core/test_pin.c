/*
 * Pinned memory, without a GPU: what the core asks of a driver, in which order, and what it does when
 * it is refused. The driver is played by functions that note each call; that a real one takes these
 * calls is shown by tests/gpu on a machine that has one.
 */
#include "fake_driver.h"

/* ---- Ways ----------------------------------------------------------------------------------- */

static void test_whole(void)
{
    rf_ring *ring = create_two_fields();
    uint8_t *x = rf_ring_region(ring, 0), *y = rf_ring_region(ring, 1);
    CHECK_EQUAL(pin(ring), RF_PIN_WHOLE);
    CHECK_EQUAL(call_count, 2);
    expect_call(0, REGISTER, x, 2 * 4 * PAGE);
    expect_call(1, REGISTER, y, 2 * 4 * 2 * PAGE);
    close_ring(ring);
    CHECK_EQUAL(call_count, 4);
    expect_call(2, UNREGISTER, x, 0);
    expect_call(3, UNREGISTER, y, 0);
}

static void test_halves(void)
{
    rf_ring *ring = create_ring(4);
    uint8_t *x = rf_ring_region(ring, 0);
    refused_registers = 1;
    CHECK_EQUAL(pin(ring), RF_PIN_HALVES);
    CHECK_EQUAL(call_count, 4);
    expect_call(0, REGISTER, x, 8 * PAGE);
    expect_call(1, REGISTER, x, 4 * PAGE);
    expect_call(2, REGISTER, x + 4 * PAGE, 4 * PAGE);
    CHECK_EQUAL(calls[3].what, COPY);
    CHECK(calls[3].address < x + 4 * PAGE && calls[3].address + calls[3].bytes > x + 4 * PAGE);
    CHECK_EQUAL(device_memories, 0);
    CHECK_EQUAL(registered, 2);
    close_ring(ring);
    CHECK_EQUAL(registered, 0);
    CHECK_EQUAL(call_count, 6);
}

/* Fill the ring from one slot further each time: batches come from one mapping, whole and in order. */
static void expect_runs_that_end_at_the_end(rf_ring *ring)
{
    uint32_t slots = ring->slot_count, rows;
    uint64_t written = 0, read = 0;
    for (int lap = 0; lap < 20; lap++) {
        for (uint64_t full = written + slots; written < full; written += rows) {
            rf_lease *lease = claim(ring, (uint32_t)(full - written));
            rows = rf_lease_rows(lease);
            CHECK(rf_lease_first(lease) + rows <= slots);
            publish(lease, rows, written);
        }
        /* All of it is there, so that asking for all of it does not wait for more. */
        for (uint32_t wanted = slots; read < written; wanted = 1) {
            rf_lease *lease;
            CHECK_EQUAL(take_until(ring, slots, wanted, RF_FOREVER, &lease), RF_OK);
            CHECK(rf_lease_first(lease) + rf_lease_rows(lease) <= slots);
            for (uint32_t row = 0; row < rf_lease_rows(lease); row++)
                CHECK_EQUAL(number_at(lease, row), read++);
            rf_lease_drop(lease);
        }
        put(ring, written++);
        take_expecting(ring, read++);
    }
    expect_all_free(ring);
}

static void test_first_half(void)
{
    rf_ring *ring = create_ring(8);
    uint8_t *x = rf_ring_region(ring, 0);
    refused_registers = 1 | 4;
    CHECK_EQUAL(pin(ring), RF_PIN_FIRST_HALF);
    CHECK_EQUAL(call_count, 3);
    CHECK_EQUAL(registered, 1);
    expect_runs_that_end_at_the_end(ring);
    close_ring(ring);
    CHECK_EQUAL(call_count, 4);
    expect_call(3, UNREGISTER, x, 0);
}

static void test_no_copy_across(void)
{
    rf_ring *ring = create_ring(8);
    refused_registers = 1;
    refused_copy = 1;
    CHECK_EQUAL(pin(ring), RF_PIN_FIRST_HALF);
    CHECK_EQUAL(registered, 1);
    expect_call(4, UNREGISTER, (uint8_t *)rf_ring_region(ring, 0) + 8 * PAGE, 0);
    CHECK_EQUAL(device_memories, 0);
    expect_runs_that_end_at_the_end(ring);
    close_ring(ring);
    CHECK_EQUAL(registered, 0);
}

static void expect_a_run_over_the_end(rf_ring *ring, bool possible)
{
    uint32_t slots = ring->slot_count;
    rf_lease *lease;
    for (uint32_t first = 0; first != slots - 3; rf_lease_drop(lease)) {
        lease = claim(ring, 1);
        first = rf_lease_first(lease);
    }
    lease = claim(ring, 4);
    CHECK_EQUAL(rf_lease_first(lease), slots - 2);
    CHECK_EQUAL(rf_lease_rows(lease), possible ? 4 : 2);
    rf_lease_drop(lease);
}

static void test_no_linger_for_what_lies_behind_the_end(void)
{
    rf_ring *ring = create_ring(8);
    refused_registers = 1 | 4;
    CHECK_EQUAL(pin(ring), RF_PIN_FIRST_HALF);
    for (uint64_t number = 0; number < 8; number++)
        put(ring, number);
    for (uint64_t number = 0; number < 6; number++)
        take_expecting(ring, number);
    rf_take_request request = {
        .max_rows = 8, .min_rows = 1, .deadline_ns = RF_FOREVER, .linger_ns = RF_FOREVER};
    rf_lease *lease;
    CHECK_EQUAL(rf_take(ring, &request, &lease), RF_OK); /* not RF_AGAIN after a slice of waiting */
    CHECK_EQUAL(rf_lease_rows(lease), 2);
    rf_lease_drop(lease);
    close_ring(ring);
}

static void test_other_handles_pass_the_end(void)
{
    rf_ring *ring = create_ring(8), *other = attach_ring();
    refused_registers = 1 | 4;
    CHECK_EQUAL(pin(ring), RF_PIN_FIRST_HALF);
    expect_a_run_over_the_end(other, true);
    expect_a_run_over_the_end(ring, false);
    CHECK_EQUAL(rf_ring_unpin(ring), 0);
    expect_a_run_over_the_end(ring, true);
    close_ring(other);
    close_ring(ring);
}

/* ---- Refusals ------------------------------------------------------------------------------- */

static void test_undo(void)
{
    rf_ring *ring = create_two_fields();
    refused_registers = 2 | 4; /* the second field as a whole, and its first half */
    rf_pin_report report = rf_ring_pin(ring, &driver, FLAGS);
    CHECK_EQUAL(report.way, RF_PIN_NONE);
    CHECK_EQUAL(report.refusal, REFUSAL);
    CHECK(current == NULL);
    CHECK_EQUAL(registered, 0);
    CHECK_EQUAL(call_count, 4);
    expect_call(3, UNREGISTER, rf_ring_region(ring, 0), 0);
    CHECK_EQUAL(rf_ring_unpin(ring), 0);
    CHECK_EQUAL(call_count, 4);
    /* Nothing is left of it: the next time may succeed. */
    CHECK_EQUAL(pin(ring), RF_PIN_WHOLE);
    close_ring(ring);
    CHECK_EQUAL(registered, 0);
}

static void test_undo_of_halves(void)
{
    rf_ring *ring = create_two_fields();
    refused_registers = 1 | 8 | 16; /* the first field goes by halves, the second not at all */
    CHECK_EQUAL(rf_ring_pin(ring, &driver, FLAGS).way, RF_PIN_NONE);
    CHECK_EQUAL(registered, 0);
    close_ring(ring);
    CHECK_EQUAL(registered, 0);
}

static void test_the_least_counts(void)
{
    rf_ring *ring = create_two_fields();
    refused_registers = 2 | 8; /* the second field only by its first half */
    CHECK_EQUAL(pin(ring), RF_PIN_FIRST_HALF);
    CHECK_EQUAL(registered, 2);
    close_ring(ring);
    CHECK_EQUAL(registered, 0);
}

static void test_no_context(void)
{
    rf_ring *ring = create_ring(8);
    refused_push = 201;
    rf_pin_report report = rf_ring_pin(ring, &driver, FLAGS);
    CHECK_EQUAL(report.way, RF_PIN_NONE);
    CHECK_EQUAL(report.refusal, 201);
    CHECK_EQUAL(call_count, 0);
    expect_a_run_over_the_end(ring, true);
    close_ring(ring);
    CHECK_EQUAL(call_count, 0);
}

static void test_addresses_that_the_driver_keeps(void)
{
    rf_ring *ring = create_ring(4);
    uint8_t *x = rf_ring_region(ring, 0);
    CHECK_EQUAL(pin(ring), RF_PIN_WHOLE);
    refused_unregister = 4; /* as CUDA says when the process ends */
    close_ring(ring);
    CHECK_EQUAL(call_count, 2);
    for (int page = 0; page < 8; page++)
        CHECK(!is_free(x + page * PAGE));
}

static void test_addresses_kept_at_an_unpin(void)
{
    rf_ring *ring = create_ring(4);
    uint8_t *x = rf_ring_region(ring, 0);
    CHECK_EQUAL(pin(ring), RF_PIN_WHOLE);
    refused_unregister = 800;
    CHECK_EQUAL(rf_ring_unpin(ring), 800);
    refused_unregister = 0;
    CHECK_EQUAL(pin(ring), RF_PIN_WHOLE);
    put(ring, 1);
    take_expecting(ring, 1);
    close_ring(ring);
    CHECK(!is_free(x));
}

static const test tests[] = {
    {"both mappings of every field are registered at once", test_whole},
    {"where a driver does not want pages twice each mapping is registered by itself", test_halves},
    {"with the first mapping alone claims and batches end at the ring's end", test_first_half},
    {"so they do where the driver does not copy from one mapping into the next",
     test_no_copy_across},
    {"and nobody lingers there for rows that lie behind it",
     test_no_linger_for_what_lies_behind_the_end},
    {"other handles, and this one once unpinned, pass the ring's end",
     test_other_handles_pass_the_end},
    {"a field that is refused takes back the fields before it", test_undo},
    {"and those that went by halves", test_undo_of_halves},
    {"the field that got least is what a ring got", test_the_least_counts},
    {"without a context nothing is registered and the ring works", test_no_context},
    {"addresses that the driver would not let go are not used again",
     test_addresses_that_the_driver_keeps},
    {"nor are they when it was an unpin that it refused", test_addresses_kept_at_an_unpin},
};

MAIN(tests)
