/*
 * Stopping a process at the steps that the code names (csrc/segment/step.h), and waits with a counted number of
 * slices.
 *
 * The list of steps is read from the program itself. A victim is a child that runs an operation. Before the fork the
 * parent sets the step and the visit at which the victim is to be stopped or killed. The victim stops itself there,
 * with a signal that it cannot catch.
 *
 * Waiting is judged by slices. A waiting survivor returns with RF_AGAIN every 50 ms of its own time. It may do so
 * MOST_SLICES times before it has what it waits for. Milliseconds are measured and reported but decide nothing,
 * because on a busy machine they depend on the scheduler.
 */
#ifndef RF_STEPS_H
#define RF_STEPS_H

#include "ring_fixture.h"

enum { MAX_STEPS = 128, MOST_SLICES = 2, NO_STEP = MAX_STEPS };

extern const char *const __start_rf_steps[], *const __stop_rf_steps[];

typedef struct step_record {
    _Atomic uint32_t reached[MAX_STEPS]; /* how often the victim reached each step */
    _Atomic int64_t gone_ns; /* when the victim was gone and the missing part supplied; or 0 */
    _Atomic uint32_t most_slices;
    _Atomic uint64_t longest_ns;
    _Atomic uint32_t longest_step;
} step_record;

static step_record *recorded;
static bool watched; /* this process is the victim, inside its operation */
static uint32_t armed_step, armed_visit;
static int armed_signal;
static void (*interfere)(const char *step,
                         uint32_t visit); /* done by another thread while the victim is at a step */

static inline void prepare_stage(void)
{
    shared = shared_memory(sizeof *shared);
    recorded = shared_memory(sizeof *recorded);
}

static inline uint32_t steps_named(void)
{
    size_t count = (size_t)(__stop_rf_steps - __start_rf_steps);
    CHECK(count > 0 && count <= MAX_STEPS);
    return (uint32_t)count;
}

void rf_step_reached(const char *const *step)
{
    if (!watched)
        return;
    uint32_t index = (uint32_t)(step - __start_rf_steps);
    uint32_t visit = atomic_fetch_add(&recorded->reached[index], 1) + 1;
    if (interfere)
        interfere(*step, visit);
    if (index == armed_step && visit == armed_visit)
        kill(getpid(), armed_signal);
}

static inline void arm(uint32_t step, uint32_t visit, int signal)
{
    armed_step = step;
    armed_visit = visit;
    armed_signal = signal;
    for (uint32_t i = 0; i < MAX_STEPS; i++)
        atomic_store(&recorded->reached[i], 0);
    atomic_store(&recorded->gone_ns, 0);
}

/* Wait until the victim has exited or is stopped. True: at the armed step. */
static inline bool await_victim(pid_t pid)
{
    int status;
    CHECK_EQUAL(waitpid(pid, &status, WUNTRACED), pid);
    if (WIFEXITED(status)) {
        CHECK_EQUAL(WEXITSTATUS(status), PASSED);
        return false;
    }
    CHECK_EQUAL(WIFSTOPPED(status) ? WSTOPSIG(status) : WTERMSIG(status), armed_signal);
    return true;
}

/* ---- Waits with a counted number of slices -------------------------------------------------- */

typedef struct wait_count {
    uint32_t slices; /* slices that ended since the victim was gone */
    int64_t since_ns;
    int64_t starved_ns;
} wait_count;

/* How long this process was runnable without a processor, as counted by the kernel. */
static inline int64_t starved_ns(void)
{
    long long ran = 0, waited = 0;
    FILE *counts = fopen("/proc/self/schedstat", "r");
    if (!counts)
        return 0;
    int read = fscanf(counts, "%lld %lld", &ran, &waited);
    fclose(counts);
    return read == 2 ? waited : 0;
}

static inline wait_count start_waiting(void)
{
    return (wait_count){.since_ns = rf_now_ns(), .starved_ns = starved_ns()};
}

/* Record the longest wait, less the time without a processor. */
static inline void keep_longest(const wait_count *count, int64_t gone_ns)
{
    bool since_gone = gone_ns > count->since_ns;
    int64_t took = rf_now_ns() - (since_gone ? gone_ns : count->since_ns);
    if (!since_gone)
        took -= starved_ns() - count->starved_ns;
    if (took > (int64_t)atomic_load(&recorded->longest_ns)) {
        atomic_store(&recorded->longest_ns, (uint64_t)took);
        atomic_store(&recorded->longest_step, armed_step);
    }
    if (count->slices > atomic_load(&recorded->most_slices))
        atomic_store(&recorded->most_slices, count->slices);
}

/* True: the call returned without a result, and the caller should continue to wait. */
static inline bool waits_on(wait_count *count, rf_status status)
{
    int64_t gone_ns = atomic_load(&recorded->gone_ns);
    if (gone_ns && status == RF_AGAIN)
        CHECK(++count->slices <= MOST_SLICES);
    else if (gone_ns)
        keep_longest(count, gone_ns);
    return status == RF_AGAIN;
}

/* From here on waits count. The last check for dead participants is set to now, which is the worst case for a
 * waiter. */
static inline void victim_is_gone(rf_ring *ours, rf_ring *other)
{
    int64_t now = rf_now_ns();
    atomic_store(&ours->header->reaped_ns, now);
    if (other)
        atomic_store(&other->header->reaped_ns, now);
    atomic_store(&recorded->gone_ns, now);
}

static inline rf_status bounded_put(rf_ring *ring, uint64_t number)
{
    wait_count count = start_waiting();
    _Alignas(64) uint8_t sample[SAMPLE_BYTES] = {0};
    const void *sources[1] = {sample};
    rf_status status;
    memcpy(sample, &number, sizeof number);
    while (waits_on(&count, status = rf_put(ring, sources, number, RF_FOREVER)))
        ;
    if (status == RF_OK)
        atomic_fetch_add(&shared->published[number], 1);
    return status;
}

static inline rf_status bounded_take(rf_ring *ring, uint32_t most, uint32_t least)
{
    wait_count count = start_waiting();
    rf_take_request request = {.max_rows = most, .min_rows = least, .deadline_ns = RF_FOREVER};
    rf_lease *lease;
    rf_status status;
    while (waits_on(&count, status = rf_take(ring, &request, &lease)))
        ;
    if (status == RF_OK) {
        mark_taken(lease);
        rf_lease_drop(lease);
    }
    return status;
}

/* Take until there is no more. Returns the status that ended it. */
static inline rf_status bounded_take_all(rf_ring *ring)
{
    rf_status status;
    while ((status = bounded_take(ring, 2, 1)) == RF_OK)
        ;
    return status;
}

static inline rf_lease *bounded_claim(rf_ring *ring, uint32_t rows)
{
    wait_count count = start_waiting();
    rf_lease *lease;
    rf_status status;
    while (waits_on(&count, status = rf_claim(ring, rows, RF_FOREVER, &lease)))
        ;
    CHECK_EQUAL(status, RF_OK);
    return lease;
}

#endif
