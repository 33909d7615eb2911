/*
 * The machine's limits: round trips in nanoseconds, memory in nanoseconds per gigabyte.
 *
 *   line_round_trip         one number that two cores change in turn
 *   futex_round_trip        two processes that wake each other in turn, on two cores
 *   futex_round_trip_1      the same on one core
 *   fill_N, read_N          N cores fill (memset) and read private memory, far more than the caches hold
 *   fill_samples_N          N cores copy a number into samples of 224x224x3 float32, lap after lap over a region of 256
 *                           samples in shared memory, like producers of a ring that compute nothing
 *
 * Every thread and process is pinned. BATCHES in the environment: percent of the usual work, 100 by default.
 */
#include "rounds.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>

enum { MOST_CORES = 256, SAMPLE_FLOATS = 224 * 224 * 3, SAMPLES = 256 };
#define GIGABYTE 1e9

static uint64_t share_of(uint64_t usual)
{
    const char *text = getenv("BATCHES");
    uint64_t hundredths = text ? strtoull(text, NULL, 10) : 100;
    uint64_t some = usual * hundredths / 100;
    return some ? some : 1;
}

/* ---- Round trips ---------------------------------------------------------------------------- */

typedef struct table {
    lonely ball; /* even: the server's turn */
    _Alignas(LINE_PAIR_BYTES) _Atomic uint32_t sleepers_ball;
    uint64_t turns;
} table;

static void return_line(void *shared)
{
    table *between = shared;
    for (uint64_t turn = 0; turn < between->turns; turn++) {
        wait_for(&between->ball.value, 2 * turn + 1);
        atomic_store_explicit(&between->ball.value, 2 * turn + 2, memory_order_release);
    }
}

static double serve_line(void *shared)
{
    table *between = shared;
    int64_t begun = now_ns();
    for (uint64_t turn = 0; turn < between->turns; turn++) {
        atomic_store_explicit(&between->ball.value, 2 * turn + 1, memory_order_release);
        wait_for(&between->ball.value, 2 * turn + 2);
    }
    return (double)(now_ns() - begun) / (double)between->turns;
}

/* A process sleeps until the ball is on its side, returns the ball, and wakes the other process. */
static void hit(table *between, uint32_t value)
{
    atomic_store(&between->sleepers_ball, value);
    syscall(SYS_futex, &between->sleepers_ball, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void sleep_until(table *between, uint32_t value)
{
    uint32_t seen;
    while ((seen = atomic_load(&between->sleepers_ball)) < value)
        syscall(SYS_futex, &between->sleepers_ball, FUTEX_WAIT, seen, NULL, NULL, 0);
}

static void return_futex(void *shared)
{
    table *between = shared;
    for (uint32_t turn = 0; turn < between->turns; turn++) {
        sleep_until(between, 2 * turn + 1);
        hit(between, 2 * turn + 2);
    }
}

static double serve_futex(void *shared)
{
    table *between = shared;
    int64_t begun = now_ns();
    for (uint32_t turn = 0; turn < between->turns; turn++) {
        hit(between, 2 * turn + 1);
        sleep_until(between, 2 * turn + 2);
    }
    return (double)(now_ns() - begun) / (double)between->turns;
}

static double round_trip(uint64_t turns, void (*other)(void *), double (*own)(void *), int on_cores)
{
    int cores[2] = {0};
    int count = cores_at_hand(cores, on_cores);
    table *between = shared_memory(sizeof *between);
    between->turns = turns / 16;
    with_a_helper(other, own, between, cores[0], cores[count - 1]); /* warm up */
    atomic_store(&between->ball.value, 0);
    atomic_store(&between->sleepers_ball, 0);
    between->turns = turns;
    double figure = with_a_helper(other, own, between, cores[0], cores[count - 1]);
    munmap(between, sizeof *between);
    return figure;
}

static double line_round_trip(int unused)
{
    (void)unused;
    return round_trip(share_of(200000), return_line, serve_line, 2);
}

static double futex_round_trip(int on_cores)
{
    return round_trip(share_of(8000), return_futex, serve_futex, on_cores);
}

/* ---- Memory --------------------------------------------------------------------------------- */

typedef enum job { FILL, READ, FILL_SAMPLES } job;

typedef struct worker {
    pthread_t thread;
    pthread_barrier_t *together;
    job what;
    int core;
    char *memory;
    size_t bytes;
    uint64_t laps;
    int64_t begun, ended;
    uint64_t sum;
} worker;

static uint64_t sum_of(const char *memory, size_t bytes)
{
    const uint64_t *words = (const uint64_t *)memory;
    uint64_t sum = 0;
    for (size_t i = 0; i < bytes / sizeof *words; i++)
        sum += words[i];
    return sum;
}

static void fill_samples(float *samples, size_t bytes, float number)
{
    for (size_t i = 0; i < bytes / sizeof *samples; i++)
        samples[i] = number;
}

static void lap(worker *self, int number)
{
    switch (self->what) {
    case FILL: memset(self->memory, number, self->bytes); break;
    case READ: self->sum += sum_of(self->memory, self->bytes); break;
    case FILL_SAMPLES: fill_samples((float *)self->memory, self->bytes, (float)number); break;
    }
}

static void *work(void *argument)
{
    worker *self = argument;
    pin_to_core(self->core);
    lap(self, 0);
    memset(self->memory, 1,
           self->bytes); /* allocates all pages, including those that are only read */
    pthread_barrier_wait(self->together);
    self->begun = now_ns();
    for (uint64_t number = 0; number < self->laps; number++)
        lap(self, (int)number);
    self->ended = now_ns();
    return NULL;
}

/* Nanoseconds from the common start to the end of the last thread, per gigabyte of all threads together. */
static double ns_per_gigabyte(worker *workers, int count)
{
    int64_t begun = INT64_MAX, ended = 0;
    double bytes = 0;
    for (int i = 0; i < count; i++) {
        begun = workers[i].begun < begun ? workers[i].begun : begun;
        ended = workers[i].ended > ended ? workers[i].ended : ended;
        bytes += (double)workers[i].bytes * (double)workers[i].laps;
    }
    return (double)(ended - begun) / (bytes / GIGABYTE);
}

/* Far larger than the caches, within the available memory. */
static size_t large_bytes(int count)
{
    size_t free_bytes = (size_t)sysconf(_SC_AVPHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
    size_t wanted = (size_t)256 << 20;
    while (wanted * (size_t)count > free_bytes / 4 && wanted > (1 << 20))
        wanted /= 2;
    return wanted;
}

static double with_workers(job what, int count)
{
    static worker workers[MOST_CORES];
    int cores[MOST_CORES];
    pthread_barrier_t together;
    size_t region = (size_t)SAMPLES * SAMPLE_FLOATS * sizeof(float);
    size_t each = what == FILL_SAMPLES ? region / (size_t)count / 4096 * 4096 : large_bytes(count);
    char *memory = shared_memory(each * (size_t)count);
    cores_at_hand(cores, MOST_CORES);
    pthread_barrier_init(&together, NULL, (unsigned)count);
    for (int i = 0; i < count; i++) {
        workers[i] = (worker){.together = &together,
                              .what = what,
                              .core = cores[i],
                              .memory = memory + each * (size_t)i,
                              .bytes = each,
                              .laps = share_of(((uint64_t)3 << 30) / (each * (size_t)count) + 1)};
        if (pthread_create(&workers[i].thread, NULL, work, &workers[i]))
            give_up("a thread");
    }
    for (int i = 0; i < count; i++)
        pthread_join(workers[i].thread, NULL);
    munmap(memory, each * (size_t)count);
    return ns_per_gigabyte(workers, count);
}

static double fill(int cores)
{
    return with_workers(FILL, cores);
}

static double read_memory(int cores)
{
    return with_workers(READ, cores);
}

static double fill_region(int cores)
{
    return with_workers(FILL_SAMPLES, cores);
}

int main(int argc, char **argv)
{
    static figure figures[3 + 3 * MOST_CORES] = {
        {"line_round_trip", line_round_trip, 0},
        {"futex_round_trip", futex_round_trip, 2},
        {"futex_round_trip_1", futex_round_trip, 1},
    };
    static char names[3 * MOST_CORES][32];
    static double (*const measures[])(int) = {fill, read_memory, fill_region};
    static const char *const called[] = {"fill", "read", "fill_samples"};
    int cores[MOST_CORES], count = cores_at_hand(cores, MOST_CORES), at = 3;
    for (int job = 0; job < 3; job++)
        for (int with = 1; with <= count; with++, at++) {
            snprintf(names[at - 3], sizeof names[0], "%s_%d", called[job], with);
            figures[at] = (figure){names[at - 3], measures[job], with};
        }
    return print_figures(figures, (size_t)at, argc, argv);
}
