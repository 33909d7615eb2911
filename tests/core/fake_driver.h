/* A fake GPU driver that records each call, and the checks of the page-locking tests. */
#ifndef RF_FAKE_DRIVER_H
#define RF_FAKE_DRIVER_H

#include "check.h"

enum { MOST_CALLS = 64, FLAGS = 1, REFUSAL = 712, PAGE = SAMPLE_BYTES };

typedef struct call {
    enum { REGISTER, UNREGISTER, COPY } what;
    uint8_t *address;
    size_t bytes;
    uint64_t number; /* the number at the address when it was unregistered */
    pthread_t thread;
} call;

static call calls[MOST_CALLS];
static _Atomic uint32_t call_count;
static _Atomic int64_t registered; /* registrations in effect */
static _Atomic uint32_t registers, device_memories;
static _Thread_local void *current; /* the context of this thread */
static uint64_t refused_registers;  /* the n-th registration is refused: bit n - 1 */
static int refused_push, refused_copy, refused_unregister;
static int the_context;

static inline void note(int what, void *address, size_t bytes, uint64_t number)
{
    uint32_t place = atomic_fetch_add(&call_count, 1);
    CHECK(current == &the_context);
    if (place < MOST_CALLS)
        calls[place] = (call){what, address, bytes, number, pthread_self()};
}

static inline int push(void *context)
{
    CHECK(current == NULL);
    if (refused_push)
        return refused_push;
    current = context;
    return 0;
}

static inline int pop(void **context)
{
    *context = current;
    CHECK(current == &the_context);
    current = NULL;
    return 0;
}

static inline int host_register(void *address, size_t bytes, unsigned flags)
{
    CHECK_EQUAL(flags, FLAGS);
    note(REGISTER, address, bytes, 0);
    uint32_t earlier = atomic_fetch_add(&registers, 1);
    if (earlier < 64 && refused_registers >> earlier & 1)
        return REFUSAL;
    atomic_fetch_add(&registered, 1);
    return 0;
}

static inline int host_unregister(void *address)
{
    uint64_t number;
    memcpy(&number, address, sizeof number); /* crashes if nothing is mapped here */
    note(UNREGISTER, address, 0, number);
    atomic_fetch_sub(&registered, 1);
    return refused_unregister;
}

static inline int allocate(uint64_t *device_address, size_t bytes)
{
    CHECK(bytes > 0);
    *device_address = 64;
    atomic_fetch_add(&device_memories, 1);
    return 0;
}

static inline int copy(uint64_t device_address, const void *address, size_t bytes)
{
    CHECK_EQUAL(device_address, 64);
    note(COPY, (void *)address, bytes, 0);
    return refused_copy;
}

static inline int release(uint64_t device_address)
{
    CHECK_EQUAL(device_address, 64);
    atomic_fetch_sub(&device_memories, 1);
    return 0;
}

static const rf_pin_driver driver = {&the_context,    push,     pop,  host_register,
                                     host_unregister, allocate, copy, release};

/* ---- Questions of tests --------------------------------------------------------------------- */

static inline rf_pin_way pin(rf_ring *ring)
{
    rf_pin_report report = rf_ring_pin(ring, &driver, FLAGS);
    CHECK(current == NULL);
    CHECK_EQUAL(report.refusal == 0, report.way == RF_PIN_WHOLE || report.way == RF_PIN_HALVES);
    return report.way;
}

static inline void expect_call(uint32_t place, int what, const void *address, size_t bytes)
{
    CHECK(place < call_count);
    CHECK_EQUAL(calls[place].what, what);
    CHECK(calls[place].address == address);
    CHECK_EQUAL(calls[place].bytes, bytes);
}

static inline bool is_free(void *address)
{
    void *found =
        mmap(address, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (found != MAP_FAILED)
        munmap(found, PAGE);
    return found == address;
}

/* Two fields, with 4 slots: a page each, and two pages each. */
static inline rf_ring *create_two_fields(void)
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

#endif
