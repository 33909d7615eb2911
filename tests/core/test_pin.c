/*
 * Pinned memory, without a GPU: what the core asks of a driver, in which order, and what it does when
 * it is refused. The driver is played by functions that note each call; that a real one takes these
 * calls is shown by tests/gpu on a machine that has one.
 */
#include "check.h"

enum { MOST_CALLS = 64, FLAGS = 1, REFUSAL = 712, PAGE = SAMPLE_BYTES };

typedef struct call {
    enum { REGISTER, UNREGISTER, COPY } what;
    uint8_t *address;
    size_t bytes;
    uint64_t number; /* that stood there when it was unregistered */
    pthread_t thread;
} call;

static call calls[MOST_CALLS];
static _Atomic uint32_t call_count;
static _Atomic int64_t registered; /* registrations that stand */
static _Atomic uint32_t registers, device_memories;
static _Thread_local void *current; /* the context of this thread */
static uint64_t refused_registers;  /* the n-th registration is refused: bit n - 1 */
static int refused_push, refused_copy, refused_unregister;
static int the_context;

static void note(int what, void *address, size_t bytes, uint64_t number)
{
    uint32_t place = atomic_fetch_add(&call_count, 1);
    CHECK(current == &the_context);
    if (place < MOST_CALLS)
        calls[place] = (call){what, address, bytes, number, pthread_self()};
}

static int push(void *context)
{
    CHECK(current == NULL);
    if (refused_push)
        return refused_push;
    current = context;
    return 0;
}

static int pop(void **context)
{
    *context = current;
    CHECK(current == &the_context);
    current = NULL;
    return 0;
}

static int host_register(void *address, size_t bytes, unsigned flags)
{
    CHECK_EQUAL(flags, FLAGS);
    note(REGISTER, address, bytes, 0);
    uint32_t earlier = atomic_fetch_add(&registers, 1);
    if (earlier < 64 && refused_registers >> earlier & 1)
        return REFUSAL;
    atomic_fetch_add(&registered, 1);
    return 0;
}

static int host_unregister(void *address)
{
    uint64_t number;
    memcpy(&number, address, sizeof number); /* faults where nothing is mapped any more */
    note(UNREGISTER, address, 0, number);
    atomic_fetch_sub(&registered, 1);
    return refused_unregister;
}

static int allocate(uint64_t *device_address, size_t bytes)
{
    CHECK(bytes > 0);
    *device_address = 64;
    atomic_fetch_add(&device_memories, 1);
    return 0;
}

static int copy(uint64_t device_address, const void *address, size_t bytes)
{
    CHECK_EQUAL(device_address, 64);
    note(COPY, (void *)address, bytes, 0);
    return refused_copy;
}

static int release(uint64_t device_address)
{
    CHECK_EQUAL(device_address, 64);
    atomic_fetch_sub(&device_memories, 1);
    return 0;
}

static const rf_pin_driver driver = {&the_context,    push,     pop,  host_register,
                                     host_unregister, allocate, copy, release};

/* ---- What tests ask ------------------------------------------------------------------------- */

static rf_pin_way pin(rf_ring *ring)
{
    rf_pin_report report = rf_ring_pin(ring, &driver, FLAGS);
    CHECK(current == NULL);
    CHECK_EQUAL(report.refusal == 0, report.way == RF_PIN_WHOLE || report.way == RF_PIN_HALVES);
    return report.way;
}

static void expect_call(uint32_t place, int what, const void *address, size_t bytes)
{
    CHECK(place < call_count);
    CHECK_EQUAL(calls[place].what, what);
    CHECK(calls[place].address == address);
    CHECK_EQUAL(calls[place].bytes, bytes);
}

static bool is_free(void *address)
{
    void *found =
        mmap(address, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (found != MAP_FAILED)
        munmap(found, PAGE);
    return found == address;
}

/* Two fields: 4 slots of a page, and of two pages. */
static rf_ring *create_two_fields(void)
{
    rf_options options = options_for(4);
    rf_geometry *geometry = geometry_of(RF_UINT8, 1, (uint64_t[]){PAGE});
    rf_ring *ring;
    geometry->fields = 2;
    geometry->field[1] = geometry->field[0];
    strcpy(geometry->field[1].name, "y");
    geometry->field[1].shape[0] = 2 * PAGE;
    CHECK_EQUAL(rf_plan(&options, geometry), RF_OK);
    CHECK_EQUAL(rf_ring_create(create_segment(0), &options, geometry, &ring), RF_OK);
    free(geometry);
    return ring;
}

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
    CHECK_EQUAL(rf_ring_unpin(ring), 0); /* one too many does no harm */
    CHECK_EQUAL(pin(ring), RF_PIN_WHOLE);
    CHECK_EQUAL(registered, 1);
    CHECK_EQUAL(pin(ring), RF_PIN_WHOLE);
    close_ring(ring); /* however often it was pinned */
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
    CHECK_EQUAL(calls[1].number, 4711); /* it was still mapped */
    for (int page = 0; page < 8; page++)
        CHECK(is_free(x + page * PAGE)); /* and is not any more */
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
    CHECK_EQUAL(registered, 1); /* the lease may be read by DMA */
    pthread_t thread = start_thread(drop_lease, lease);
    join_thread(thread);
    CHECK_EQUAL(registered, 0);
    CHECK_EQUAL(call_count, 2);
    CHECK_EQUAL(calls[1].number, 17);
    CHECK(pthread_equal(calls[1].thread, thread));
}

/* ---- Fork ----------------------------------------------------------------------------------- */

static void drop_the_parent_s(void *argument)
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
    expect_success(spawn(drop_the_parent_s, ring));
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
    {"a ring pinned twice is registered once and unregistered once", test_twice},
    {"two handles of a process register their own addresses", test_handles},
    {"threads may pin and unpin one ring side by side", test_threads},
    {"the end of a handle unregisters before it unmaps", test_end},
    {"the last lease unregisters on whatever thread drops it", test_last_lease},
    {"a forked child unregisters nothing of its parent's", test_a_child_that_drops},
    {"a forked child may pin for itself", test_a_child_that_pins},
    {"a fork while the driver is asked leaves the child free to pin",
     test_a_fork_while_the_driver_is_asked},
};

MAIN(tests)
