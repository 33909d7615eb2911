/*
 * How long does a record take from one process to another? In nanoseconds per record of 64 bytes: put one by one, or
 * claimed and published in rows; taken up to 64 at a time.
 *
 * It measures and asserts nothing. Run it on an idle machine: `make hop`.
 */
#include "check.h"

enum { RECORD_BYTES = 64, SLOTS = 1024, BATCH = 64, RUNS = 9, DEFAULT_RECORDS = 2000000 };

typedef struct order {
    uint64_t records;
    uint32_t rows; /* per claim; 0: put one by one */
    _Atomic uint32_t ready;
} order;

static void pin_to(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof set,
                      &set); /* a machine with one processor runs both processes there */
}

static void produce(void *argument)
{
    order *wanted = argument;
    _Alignas(64) uint64_t sample[RECORD_BYTES / sizeof(uint64_t)] = {0};
    const void *sources[1] = {sample};
    rf_ring *ring = attach_ring();
    pin_to(1);
    atomic_store(&wanted->ready, 1);
    for (uint64_t i = 0; i < wanted->records;) {
        if (!wanted->rows) {
            sample[0] = i++;
            while (rf_put(ring, sources, 0, RF_FOREVER) == RF_AGAIN)
                ;
            continue;
        }
        rf_lease *lease;
        while (rf_claim(ring, wanted->rows, RF_FOREVER, &lease) == RF_AGAIN)
            ;
        for (uint32_t row = 0; row < rf_lease_rows(lease); row++)
            set_number(lease, row, i++);
        rf_publish(lease, rf_lease_rows(lease), NULL, 0);
        rf_lease_drop(lease);
    }
    rf_finish(ring);
    close_ring(ring);
}

/* Returns nanoseconds per record. Also stores the mean length of a batch. */
static double run(uint64_t records, uint32_t rows, double *per_batch)
{
    static order *wanted;
    wanted = shared_memory(sizeof *wanted);
    *wanted = (order){.records = records, .rows = rows};
    rf_options options = options_for(SLOTS);
    rf_ring *ring = create_ring_as(&options, RECORD_BYTES);
    pid_t child = spawn(produce, wanted);
    pin_to(0);
    await(&wanted->ready, 1);
    uint64_t next = 0, batches = 0;
    rf_lease *lease;
    int64_t begun = rf_now_ns();
    while (take_until(ring, BATCH, 1, RF_FOREVER, &lease) == RF_OK) {
        for (uint32_t row = 0; row < rf_lease_rows(lease); row++)
            CHECK_EQUAL(number_at(lease, row), next++);
        rf_lease_drop(lease);
        batches++;
    }
    double each = (double)(rf_now_ns() - begun) / (double)next;
    *per_batch = (double)next / (double)batches;
    expect_success(child);
    close_ring(ring);
    shm_unlink(segment_name(0));
    munmap(wanted, sizeof *wanted);
    return each;
}

static int ascending(const void *a, const void *b)
{
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

int main(int argc, char **argv)
{
    uint64_t records = argc > 1 ? (uint64_t)atof(argv[1]) : DEFAULT_RECORDS;
    static const uint32_t rows[] = {0, 1, 8, 64};
    printf("%-24s %10s %10s %10s %12s\n", "64-byte records", "best ns", "median ns", "worst ns",
           "rows/batch");
    for (size_t i = 0; i < COUNT(rows); i++) {
        double each[RUNS], per_batch[RUNS];
        for (int k = 0; k < RUNS; k++)
            each[k] = run(records, rows[i], &per_batch[k]);
        qsort(each, RUNS, sizeof each[0], ascending);
        qsort(per_batch, RUNS, sizeof per_batch[0], ascending);
        char name[32];
        snprintf(name, sizeof name, rows[i] ? "claim of %u, publish" : "put", rows[i]);
        printf("%-24s %10.1f %10.1f %10.1f %12.1f\n", name, each[0], each[RUNS / 2], each[RUNS - 1],
               per_batch[RUNS / 2]);
    }
    return PASSED;
}
