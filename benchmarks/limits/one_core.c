/*
 * The cost of single operations of the ring, one after the other, in one process on one core.
 *
 *     one_core NAME COUNT     prints nanoseconds per operation; instructions.py runs it under callgrind
 *
 * Each operation is a separate function, so that a profiler can measure it alone.
 */
#include "rings.h"

enum { SLOTS = 1024, RECORD_BYTES = 64, MOST_ROWS = 64 };
#define MEASURED __attribute__((noinline))

MEASURED void measured_put(rf_ring *ring, uint32_t rows)
{
    static _Alignas(LINE_BYTES) char sample[RECORD_BYTES];
    const void *sources[1] = {sample};
    for (uint32_t row = 0; row < rows; row++)
        expect_ok(rf_put(ring, sources, 0, 0), "put");
}

MEASURED void measured_publish(rf_ring *ring, uint32_t rows)
{
    rf_lease *lease;
    expect_ok(rf_claim(ring, rows, 0, &lease), "claim");
    expect_ok(rf_publish(lease, rows, NULL, 0), "publish");
    rf_lease_drop(lease);
}

MEASURED void measured_take(rf_ring *ring, uint32_t rows)
{
    rf_take_request request = {.max_rows = rows, .min_rows = rows};
    rf_lease *lease;
    expect_ok(rf_take(ring, &request, &lease), "take");
    rf_lease_drop(lease);
}

typedef struct operation {
    const char *name;
    void (*before)(rf_ring *, uint32_t);
    void (*measured)(rf_ring *, uint32_t);
    void (*after)(rf_ring *, uint32_t);
    uint32_t rows;
} operation;

static const operation operations[] = {
    {"put_1", NULL, measured_put, measured_take, 1},
    {"publish_1", NULL, measured_publish, measured_take, 1},
    {"publish_64", NULL, measured_publish, measured_take, MOST_ROWS},
    {"take_1", measured_publish, measured_take, NULL, 1},
    {"take_64", measured_publish, measured_take, NULL, MOST_ROWS},
};

int main(int argc, char **argv)
{
    const operation *found = NULL;
    for (size_t i = 0; i < sizeof operations / sizeof operations[0]; i++)
        if (argc == 3 && strcmp(operations[i].name, argv[1]) == 0)
            found = &operations[i];
    if (!found) {
        fprintf(stderr, "one_core put_1|publish_1|publish_64|take_1|take_64 COUNT\n");
        return 2;
    }
    rf_ring *ring = ring_of(SLOTS, RECORD_BYTES);
    int64_t spent = 0, count = atoll(argv[2]);
    for (int64_t i = 0; i < count; i++) {
        if (found->before)
            found->before(ring, found->rows);
        int64_t begun = now_ns();
        found->measured(ring, found->rows);
        spent += now_ns() - begun;
        if (found->after)
            found->after(ring, found->rows);
    }
    printf("{\"%s\": %.6g}\n", found->name, (double)spent / (double)count);
    rf_ring_close(ring);
    rf_ring_drop(ring);
    return 0;
}
