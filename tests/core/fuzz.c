/*
 * A hostile process writes into the segment while honest processes claim, publish, take, recover, attach and die.
 * The first argument is the number of writes. In every third round the hostile process also writes into a pool of
 * reply cells, while honest processes ask, hold and answer. No honest process may crash, read out of bounds (this
 * program is built under ASan and UBSan), or wait for longer than it asked.
 *
 * The hostile process makes a burst of writes, then lets the honest processes act. They must meet many different
 * states, rather than many writes that are overwritten unseen. A watchdog checks every call of the honest processes.
 * Its limit is so generous that a busy machine does not exceed it.
 *
 *     fuzz 10000000 [seed]
 */
#include "garble_cells.h"

enum { HONEST = 3, BURST = 8, SLACK_SECONDS = 20 };

typedef struct pulse {
    _Atomic int64_t since_ns; /* start of the current call; 0 between two calls */
    _Atomic uint32_t act;
    _Atomic uint64_t done, granted;
    _Atomic int64_t longest_ns;
    _Atomic uint32_t longest_act;
    _Atomic int64_t most_cpu_ns; /* the most processor time that one call used */
} pulse;

typedef struct arena {
    pulse pulses[HONEST];
    _Atomic uint64_t mutations, wanted;
    _Atomic uint32_t present;
    uint64_t seed;
    bool with_cells;
} arena;

/* Rings whose tables and regions differ in kind: one slot, few, many; narrow and wide. */
static const struct {
    uint32_t slots, fields;
    uint64_t sample_bytes;
} shapes[] = {{1, 1, 4096}, {8, 2, 4096}, {64, 1, 64}, {64, 3, 100}, {1024, 1, 64}, {7, 1, 4000}};

static arena *shared;
static uint64_t total_mutations = 200000, first_seed = 1;

static uint64_t done_by_all(void)
{
    uint64_t sum = 0;
    for (int i = 0; i < HONEST; i++)
        sum += atomic_load(&shared->pulses[i].done);
    return sum;
}

static int64_t thread_cpu_ns(void)
{
    struct timespec used;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
    return used.tv_sec * INT64_C(1000000000) + used.tv_nsec;
}

static void hostile_process(void *unused)
{
    (void)unused;
    cell_garbler own = {0};
    endpoint at = {attach_ring_with_window(), shared->with_cells ? attach_pool() : NULL};
    begin_garbling(&own.ring, at.ring);
    if (at.pool)
        begin_garbling(&own.pool, at.pool);
    seed(shared->seed);
    atomic_fetch_add(&shared->present, 1);
    await(&shared->present, HONEST + 1);
    while (atomic_load(&shared->mutations) < atomic_load(&shared->wanted)) {
        uint64_t written = 0, seen = done_by_all();
        for (uint32_t burst = 1 + random_below(BURST); burst > 0; burst--)
            written += at.pool ? garble_cells(&own) : garble(&own.ring);
        atomic_fetch_add(&shared->mutations, written);
        while (done_by_all() == seen)
            sched_yield();
    }
    restore_header(&own.ring);
    close_ring(at.ring);
    if (!at.pool)
        return;
    restore_header(&own.pool);
    close_ring(at.pool);
}

static void honest_process(void *index)
{
    pulse *own = &shared->pulses[(uintptr_t)index];
    bool cells = shared->with_cells;
    honest_peer self = {.ring = cells ? NULL : attach_ring_with_window()};
    reply_peer other = {.at = cells ? attach_endpoint() : (endpoint){NULL, NULL}};
    seed(shared->seed * 1000 + (uintptr_t)index);
    atomic_fetch_add(&shared->present, 1);
    await(&shared->present, HONEST + 1);
    while (atomic_load(&shared->mutations) < atomic_load(&shared->wanted)) {
        uint32_t act = cells ? choose_cell_act() : choose_act();
        int64_t since = rf_now_ns(), cpu = thread_cpu_ns();
        atomic_store(&own->act, act);
        atomic_store(&own->since_ns, since);
        if (cells)
            behave_at_cells(&other, act);
        else
            behave(&self, act);
        atomic_store(&own->since_ns, 0);
        int64_t took = rf_now_ns() - since, used = thread_cpu_ns() - cpu;
        if (used > atomic_load(&own->most_cpu_ns))
            atomic_store(&own->most_cpu_ns, used);
        if (took > atomic_load(&own->longest_ns)) {
            atomic_store(&own->longest_ns, took);
            atomic_store(&own->longest_act, act);
        }
        atomic_store(&own->granted, self.granted + other.granted);
        atomic_fetch_add(&own->done, 1);
    }
    if (cells)
        stop_behaving_at_cells(&other);
    else
        stop_behaving(&self);
}

/* ---- Watching ------------------------------------------------------------------------------- */

static const char *name_of(uint32_t act, bool with_cells)
{
    return with_cells ? cell_acts[act] : acts[act];
}

static void check_pulses(void)
{
    for (int i = 0; i < HONEST; i++) {
        int64_t since = atomic_load(&shared->pulses[i].since_ns);
        if (since && rf_now_ns() - since > SLACK_SECONDS * 1000 * NS_PER_MS) {
            dprintf(1, "    %s does not return\n",
                    name_of(atomic_load(&shared->pulses[i].act), shared->with_cells));
            CHECK(!"a call outlived its timeout");
        }
    }
}

static void watch(const pid_t *pids, size_t count)
{
    for (size_t left = count; left > 0; rest()) {
        int status;
        pid_t pid = waitpid(-1, &status, WNOHANG);
        check_pulses();
        if (pid <= 0)
            continue;
        for (size_t i = 0; i < count; i++)
            left -= pids[i] == pid;
        if (!WIFEXITED(status) || WEXITSTATUS(status) != PASSED)
            dprintf(1, "    seed %llu: a process ended with status %#x\n",
                    (unsigned long long)shared->seed, status);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == PASSED);
    }
}

static rf_ring *create_shape(size_t shape)
{
    rf_options options = options_for(shapes[shape].slots);
    rf_geometry *geometry = geometry_of(RF_UINT8, 1, &shapes[shape].sample_bytes);
    rf_ring *ring;
    geometry->fields = shapes[shape].fields;
    for (uint32_t field = 1; field < geometry->fields; field++) {
        geometry->field[field] = geometry->field[0];
        geometry->field[field].shape[0] = 1 + field;
    }
    CHECK_EQUAL(rf_plan(&options, geometry), RF_OK);
    CHECK_EQUAL(rf_ring_create(create_segment(0), &options, geometry, &ring), RF_OK);
    free(geometry);
    return ring;
}

static void play_round(uint64_t round, uint64_t mutations)
{
    pid_t pids[HONEST + 1];
    memset(shared, 0, sizeof *shared);
    shared->seed = first_seed + round;
    shared->with_cells = round % 3 == 2;
    atomic_store(&shared->wanted, shared->with_cells ? mutations / 4 : mutations);
    rf_ring *ring = shared->with_cells ? create_ring(16) : create_shape(round % COUNT(shapes));
    rf_ring *pool = shared->with_cells ? create_pool(ring, 8, (uint32_t)(round & 1)) : NULL;
    for (uintptr_t i = 0; i < HONEST; i++)
        pids[i] = spawn(honest_process, (void *)i);
    pids[HONEST] = spawn(hostile_process, NULL);
    watch(pids, COUNT(pids));
    if (pool) {
        close_ring(pool);
        shm_unlink(segment_name(POOL));
    }
    close_ring(ring);
    shm_unlink(segment_name(0));
}

static void fuzz(void)
{
    uint64_t per_round = total_mutations / 12 + 1, mutations = 0, calls = 0, granted = 0;
    int64_t began = rf_now_ns(), longest = 0, most_cpu = 0;
    const char *longest_act = "none";
    alarm(0); /* the runner's watchdog is too short for so many writes; this program has its own */
    shared = shared_memory(sizeof *shared);
    for (uint64_t round = 0; mutations < total_mutations; round++) {
        play_round(round, per_round);
        mutations += atomic_load(&shared->mutations);
        calls += done_by_all();
        for (int i = 0; i < HONEST; i++) {
            pulse *one = &shared->pulses[i];
            granted += atomic_load(&one->granted);
            if (atomic_load(&one->most_cpu_ns) > most_cpu)
                most_cpu = atomic_load(&one->most_cpu_ns);
            if (atomic_load(&one->longest_ns) > longest) {
                longest = atomic_load(&one->longest_ns);
                longest_act = name_of(atomic_load(&one->longest_act), shared->with_cells);
            }
        }
    }
    double seconds = (double)(rf_now_ns() - began) / 1e9;
    printf("    %.0f mutations in %.1f s: %.0f/s\n", (double)mutations, seconds,
           (double)mutations / seconds);
    printf("    %.0f honest calls, of which %.0f got what they asked for\n", (double)calls,
           (double)granted);
    printf("    the longest call, %s, took %.0f ms; the busiest used %.0f ms of a processor\n",
           longest_act, (double)longest / NS_PER_MS, (double)most_cpu / NS_PER_MS);
}

static const test tests[] = {
    {"a hostile peer crashes no process, and delays none for longer than it asked", fuzz},
};

int main(int argc, char **argv)
{
    if (argc > 1)
        total_mutations = (uint64_t)atof(argv[1]);
    if (argc > 2)
        first_seed = (uint64_t)atof(argv[2]);
    return run_tests(1, argv, tests, COUNT(tests));
}
