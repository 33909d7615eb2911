/*
 * Large records pass through a ring one by one, in one process, for a profiler that counts cache misses.
 *
 *     passes BYTES COUNT hot|walked     cache_misses.py runs it under callgrind
 *
 * The taker reads one cache line in 64 of each record, like a reader of headers. "walked" is a ring without a window,
 * whose slots are used from end to end; "hot" is the default ring.
 */
#include "rings.h"

#include "segment/handle.h"

enum { RING_BYTES = 128 << 20, LINES_APART = 64 };
#define MEASURED __attribute__((noinline))

MEASURED uint64_t measured_pass(rf_ring *ring, const void *record, uint64_t record_bytes)
{
    uint64_t sum = 0;
    rf_take_request request = {.max_rows = 1, .min_rows = 1};
    rf_lease *lease;
    expect_ok(rf_put(ring, &record, 0, 0), "put");
    expect_ok(rf_take(ring, &request, &lease), "take");
    const uint8_t *bytes = rf_lease_data(lease, 0);
    for (uint64_t at = 0; at < record_bytes; at += LINES_APART * LINE_BYTES)
        sum += bytes[at];
    rf_lease_drop(lease);
    return sum;
}

int main(int argc, char **argv)
{
    uint64_t record_bytes = argc == 4 ? strtoull(argv[1], NULL, 10) : 0, sum = 0;
    if (record_bytes == 0 || (strcmp(argv[3], "hot") != 0 && strcmp(argv[3], "walked") != 0)) {
        fprintf(stderr, "passes BYTES COUNT hot|walked\n");
        return 2;
    }
    rf_ring *ring = ring_of((uint32_t)(RING_BYTES / record_bytes), record_bytes);
    if (strcmp(argv[3], "walked") == 0) {
        ring->window = 0;
        ring->restarts = false;
    }
    void *record = calloc(1, record_bytes);
    for (int64_t left = atoll(argv[2]); left > 0; left--)
        sum += measured_pass(ring, record, record_bytes);
    free(record);
    rf_ring_close(ring);
    rf_ring_drop(ring);
    return sum != 0;
}
