/*
 * Runs: rows in somebody's hands, over slots of the ring or copied out of it.
 *
 * They are counted apart from the lease below them, because several tensors lie over one. It may not know
 * feeds, nor who reads the rows.
 */
#include <stdlib.h>
#include <string.h>

#include "feed/element.h"
#include "feed/ticket.h"
#include "ring/lease.h"

static rf_run *new_run(const rf_ring *ring)
{
    rf_run *run = calloc(1, sizeof *run + ring->geometry.fields * sizeof run->data[0]);
    if (run)
        atomic_init(&run->references, 1);
    return run;
}

void rf_run_retain(rf_run *run)
{
    rf_add_relaxed(&run->references, 1u);
}

void rf_run_drop(rf_run *run)
{
    /* As in rf_lease_drop: what others read of the run was read before the last one gives it back. */
    if (rf_sub_acq_rel(&run->references, 1u) != 1)
        return;
    /* A11 <- R11 (leave_feed): who delivered it has done with it. */
    if (rf_load_acquire(&run->feed) && rf_ahead_took_back(run))
        return;
    if (run->lease)
        rf_lease_drop(run->lease);
    else
        free(run->tags); /* and the copies behind them */
    free(run->ticket);
    free(run);
}

void rf_run_tags(const rf_run *run, uint64_t *tags)
{
    if (run->lease)
        rf_lease_tags(run->lease, tags);
    else if (run->rows)
        memcpy(tags, run->tags, run->rows * sizeof *tags);
    memset(tags + run->rows, 0, (run->shown - run->rows) * sizeof *tags);
}

rf_run *rf_run_copied(rf_lease *lease, uint32_t shown)
{
    uint32_t rows = rf_lease_rows(lease);
    rf_run *run = rf_run_of_copies(lease->ring, rows < shown ? shown : rows);
    if (run)
        rf_run_add(run, lease);
    rf_lease_drop(lease);
    return run;
}

rf_run *rf_run_of_lease(rf_lease *lease, uint32_t shown)
{
    const rf_ring *ring = lease->ring;
    uint32_t rows = rf_lease_rows(lease);
    if (rows >= shown || shown > ring->slot_count)
        shown = rows;
    /* Each region is mapped twice: from any slot on, as many rows as it has slots can be read. Not where a
     * GPU's driver knows only one of the mappings. */
    if (rf_rows_from(ring, lease->first, shown) < shown)
        return rf_run_copied(lease, shown);
    rf_run *run = new_run(ring);
    if (!run) {
        rf_lease_drop(lease);
        return NULL;
    }
    run->lease = lease;
    run->rows = rows;
    run->shown = shown;
    for (uint32_t field = 0; field < ring->geometry.fields; field++)
        run->data[field] = rf_lease_data(lease, field);
    return run;
}

/* One block: the tags, then each field from a multiple of 64 bytes on. */
rf_run *rf_run_of_copies(const rf_ring *ring, uint32_t rows)
{
    const rf_geometry *geometry = &ring->geometry;
    uint64_t bytes =
        ((uint64_t)rows * sizeof(uint64_t) + RF_ALIGNMENT - 1) / RF_ALIGNMENT * RF_ALIGNMENT;
    rf_run *run = new_run(ring);
    if (!run)
        return NULL;
    uint64_t offset[RF_MAX_FIELDS];
    for (uint32_t field = 0; field < geometry->fields; field++) {
        uint64_t more;
        offset[field] = bytes;
        if (__builtin_mul_overflow(geometry->field[field].stride_bytes, (uint64_t)rows, &more) ||
            __builtin_add_overflow(bytes, more, &bytes))
            goto no_memory;
    }
    run->tags = aligned_alloc(RF_ALIGNMENT, bytes ? bytes : RF_ALIGNMENT);
    if (!run->tags)
        goto no_memory;
    memset(run->tags, 0, bytes);
    for (uint32_t field = 0; field < geometry->fields; field++)
        run->data[field] = (uint8_t *)run->tags + offset[field];
    run->shown = rows;
    return run;
no_memory:
    free(run);
    return NULL;
}

void rf_run_add(rf_run *run, const rf_lease *lease)
{
    const rf_geometry *geometry = &lease->ring->geometry;
    uint32_t rows = rf_lease_rows(lease);
    rf_lease_tags(lease, run->tags + run->rows);
    for (uint32_t field = 0; field < geometry->fields; field++) {
        uint64_t stride = geometry->field[field].stride_bytes;
        memcpy((uint8_t *)run->data[field] + run->rows * stride, rf_lease_data(lease, field),
               rows * stride);
    }
    run->rows += rows;
}

void rf_run_move(rf_run *to, rf_run *from, uint32_t rows, const rf_geometry *geometry)
{
    if (rows > from->rows)
        rows = from->rows;
    uint32_t left = from->rows - rows;
    memcpy(to->tags + to->rows, from->tags, rows * sizeof *to->tags);
    memmove(from->tags, from->tags + rows, left * sizeof *from->tags);
    for (uint32_t field = 0; field < geometry->fields; field++) {
        uint64_t stride = geometry->field[field].stride_bytes;
        uint8_t *source = from->data[field];
        memcpy((uint8_t *)to->data[field] + to->rows * stride, source, rows * stride);
        memmove(source, source + rows * stride, left * stride);
    }
    to->rows += rows;
    from->rows = left;
}
