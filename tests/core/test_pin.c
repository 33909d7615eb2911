/*
 * Pinned memory, without a GPU: the calls of the core to a driver, their order, and the core's reaction to a
 * refusal. fake_driver.h plays the driver and records each call. tests/gpu makes the same calls to a real
 * driver, on a machine that has one.
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

/* Fill the ring from one slot further each time: each batch comes from one mapping, complete and in order. */
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
        /* All rows are published, so a request for all of them does not wait. */
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

static void test_no_linger_for_rows_behind_the_end(void)
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
    /* The failed call leaves no state behind: the next call succeeds. */
    CHECK_EQUAL(pin(ring), RF_PIN_WHOLE);
    close_ring(ring);
    CHECK_EQUAL(registered, 0);
}

static void test_undo_of_halves(void)
{
    rf_ring *ring = create_two_fields();
    refused_registers = 1 | 8 | 16; /* the first field goes by halves, the second is refused */
    CHECK_EQUAL(rf_ring_pin(ring, &driver, FLAGS).way, RF_PIN_NONE);
    CHECK_EQUAL(registered, 0);
    close_ring(ring);
    CHECK_EQUAL(registered, 0);
}

static void test_the_least_counts(void)
{
    rf_ring *ring = create_two_fields();
    refused_registers = 2 | 8; /* only the first half of the second field is registered */
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
    refused_unregister = 4; /* CUDA returns this when the process ends */
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
    {"if a driver refuses the same pages twice, each mapping is registered by itself", test_halves},
    {"with only the first mapping registered, claims and batches end at the ring's end",
     test_first_half},
    {"claims and batches end there too if the driver does not copy across the two mappings",
     test_no_copy_across},
    {"no take lingers there for rows behind the ring's end",
     test_no_linger_for_rows_behind_the_end},
    {"other handles, and this handle after an unpin, pass the ring's end",
     test_other_handles_pass_the_end},
    {"a refused field undoes the registration of the fields before it", test_undo},
    {"a refused field also undoes fields that were registered by halves", test_undo_of_halves},
    {"a ring reports the way of its least registered field", test_the_least_counts},
    {"without a context no memory is registered, and the ring works", test_no_context},
    {"addresses that the driver did not unregister are not used again",
     test_addresses_that_the_driver_keeps},
    {"addresses of a refused unpin are not used again", test_addresses_kept_at_an_unpin},
};

MAIN(tests)
