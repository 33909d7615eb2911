/*
 * A nameless ring of one field, for the programs of this folder that measure the core.
 */
#ifndef LIMITS_RINGS_H
#define LIMITS_RINGS_H

#include "rounds.h"

#include "ringfeed.h"

static inline void expect_ok(rf_status status, const char *what)
{
    if (status != RF_OK) {
        fprintf(stderr, "%s: status %d\n", what, (int)status);
        exit(1);
    }
}

/* Forked children inherit the ring. */
static inline rf_ring *ring_of(uint32_t slots, uint64_t record_bytes)
{
    static rf_geometry geometry;
    rf_options options = {.slots = slots, .participants = 16, .redeliver = 1, .numa_node = -1};
    char name[32];
    rf_ring *ring;
    geometry = (rf_geometry){.fields = 1};
    geometry.field[0] =
        (rf_field){.name = "x", .dtype = RF_UINT8, .rank = 1, .shape = {record_bytes}};
    snprintf(name, sizeof name, "/rf-limits-%d", (int)getpid());
    int fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
    shm_unlink(name);
    expect_ok(rf_plan(&options, &geometry), "plan");
    expect_ok(rf_ring_create(fd, &options, &geometry, &ring), "create");
    return ring;
}

#endif
