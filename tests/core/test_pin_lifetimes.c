/* Page-locking over the life of a handle: nested calls, the end of the handle, and forks. */
#include "fake_driver.h"

/* ---- Counting ------------------------------------------------------------------------------- */

static void test_twice(void)
{
    rf_ring *ring = create_ring(4);
    CHECK_EQUAL(pin(ring), RF_PIN_WHOLE);
    CHECK_EQUAL(pin(ring), RF_PIN_WHOLE);
    CHECK_EQUAL(registers, 1);
    CHECK_EQUAL(rf_ring_unpin(ring), 0);
    CHECK_EQUAL(registered, 1);
    CHECK_EQUAL(rf_ring_unpin(ring), 0);
    CHECK_EQUAL(registered, 0);
    CHECK_EQUAL(rf_ring_unpin(ring), 0); /* a surplus unpin does no harm */
    CHECK_EQUAL(pin(ring), RF_PIN_WHOLE);
    CHECK_EQUAL(registered, 1);
    CHECK_EQUAL(pin(ring), RF_PIN_WHOLE);
    close_ring(ring); /* one close undoes every pin */
    CHECK_EQUAL(call_count, 4);
    CHECK_EQUAL(registered, 0);
}

static void test_handles(void)
{
    rf_ring *ring = create_ring(4), *other = attach_ring();
    CHECK_EQUAL(pin(ring), RF_PIN_WHOLE);
    CHECK_EQUAL(pin(other), RF_PIN_WHOLE);
    expect_call(0, REGISTER, rf_ring_region(ring, 0), 8 * PAGE);
    expect_call(1, REGISTER, rf_ring_region(other, 0), 8 * PAGE);
    void *others = rf_ring_region(other, 0);
    close_ring(other);
    CHECK_EQUAL(call_count, 3);
    expect_call(2, UNREGISTER, others, 0);
    close_ring(ring);
    CHECK_EQUAL(registered, 0);
}

static void *pin_and_unpin(void *argument)
{
    for (int i = 0; i < 200; i++) {
        CHECK_EQUAL(pin(argument), RF_PIN_WHOLE);
        CHECK(registered == 1);
        CHECK_EQUAL(rf_ring_unpin(argument), 0);
    }
    return NULL;
}

static void test_threads(void)
{
    rf_ring *ring = create_ring(4);
    pthread_t threads[3];
    for (size_t i = 0; i < COUNT(threads); i++)
        threads[i] = start_thread(pin_and_unpin, ring);
    for (size_t i = 0; i < COUNT(threads); i++)
        join_thread(threads[i]);
    CHECK_EQUAL(registered, 0);
    close_ring(ring);
    CHECK_EQUAL(call_count, 2 * registers);
}

/* ---- Ends ----------------------------------------------------------------------------------- */

static void test_end(void)
{
    rf_ring *ring = create_ring(4);
    uint8_t *x = rf_ring_region(ring, 0);
    CHECK_EQUAL(pin(ring), RF_PIN_WHOLE);
    put(ring, 4711);
    rf_ring_close(ring);
    CHECK_EQUAL(registered, 1);
    rf_ring_drop(ring);
    CHECK_EQUAL(call_count, 2);
    expect_call(1, UNREGISTER, x, 0);
    CHECK_EQUAL(calls[1].number, 4711); /* the memory was still mapped */
    for (int page = 0; page < 8; page++)
        CHECK(is_free(x + page * PAGE)); /* and it is unmapped now */
}

static void *drop_lease(void *lease)
{
    rf_lease_drop(lease);
    return NULL;
}

static void test_last_lease(void)
{
    rf_ring *ring = create_ring(4);
    CHECK_EQUAL(pin(ring), RF_PIN_WHOLE);
    put(ring, 17);
    rf_lease *lease = take(ring, 1);
    close_ring(ring);
    CHECK_EQUAL(registered, 1); /* a DMA transfer may still read the lease */
    pthread_t thread = start_thread(drop_lease, lease);
    join_thread(thread);
    CHECK_EQUAL(registered, 0);
    CHECK_EQUAL(call_count, 2);
    CHECK_EQUAL(calls[1].number, 17);
    CHECK(pthread_equal(calls[1].thread, thread));
}

/* ---- Fork ----------------------------------------------------------------------------------- */

static void drop_inherited_handle(void *argument)
{
    rf_ring *ring = argument;
    CHECK_EQUAL(rf_ring_unpin(ring), 0);
    close_ring(ring);
    CHECK_EQUAL(call_count, 1); /* the parent's registration */
}

static void test_a_child_that_drops(void)
{
    rf_ring *ring = create_ring(4);
    CHECK_EQUAL(pin(ring), RF_PIN_WHOLE);
    expect_success(spawn(drop_inherited_handle, ring));
    close_ring(ring);
    CHECK_EQUAL(call_count, 2);
}

static void pin_anew(void *argument)
{
    rf_ring *ring = argument;
    CHECK_EQUAL(pin(ring), RF_PIN_WHOLE);
    CHECK_EQUAL(registers, 2);
    close_ring(ring);
    CHECK_EQUAL(call_count, 3);
}

static void test_a_child_that_pins(void)
{
    rf_ring *ring = create_ring(4);
    CHECK_EQUAL(pin(ring), RF_PIN_WHOLE);
    expect_success(spawn(pin_anew, ring));
    CHECK_EQUAL(call_count, 1);
    close_ring(ring);
}

static _Atomic uint32_t asked, answer;

static int slow_register(void *address, size_t bytes, unsigned flags)
{
    atomic_store(&asked, 1);
    await(&answer, 1);
    return host_register(address, bytes, flags);
}

static void *pin_slowly(void *ring)
{
    rf_pin_driver slow = driver;
    slow.host_register = slow_register;
    CHECK_EQUAL(rf_ring_pin(ring, &slow, FLAGS).way, RF_PIN_WHOLE);
    return NULL;
}

static void pin_first(void *argument)
{
    CHECK_EQUAL(pin(argument), RF_PIN_WHOLE);
    close_ring(argument);
    CHECK_EQUAL(call_count, 2);
}

static void test_a_fork_while_the_driver_is_asked(void)
{
    rf_ring *ring = create_ring(4);
    pthread_t thread = start_thread(pin_slowly, ring);
    await(&asked, 1);
    expect_success(spawn(pin_first, ring));
    atomic_store(&answer, 1);
    join_thread(thread);
    CHECK_EQUAL(registered, 1);
    close_ring(ring);
    CHECK_EQUAL(registered, 0);
}

static const test tests[] = {
    {"a ring pinned twice is registered once and unregistered once", test_twice},
    {"two handles of a process register their own addresses", test_handles},
    {"threads may pin and unpin one ring at the same time", test_threads},
    {"the end of a handle unregisters before it unmaps", test_end},
    {"the last lease unregisters on the thread that drops it", test_last_lease},
    {"a forked child unregisters no memory of its parent", test_a_child_that_drops},
    {"a forked child may pin for itself", test_a_child_that_pins},
    {"a fork while the driver is asked leaves the child free to pin",
     test_a_fork_while_the_driver_is_asked},
};

MAIN(tests)
