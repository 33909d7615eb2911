/*
 * Elements: their rows and their lifetime. See element.h.
 *
 * An element has its own reference count, separate from that of the lease below it, because several tensors share one
 * element. It may not know feeds, or the code that reads the rows.
 */
#include "feed/element.h"

#include <stdlib.h>
#include <string.h>

#include "feed/ticket.h"
#include "ring/census.h"
#include "segment/atomics.h"

static rf_element *new_element(const rf_geometry *geometry)
{
    rf_element *element = calloc(1, sizeof *element + geometry->fields * sizeof element->data[0]);
    if (element)
        atomic_init(&element->references, 1);
    return element;
}

void rf_element_retain(rf_element *element)
{
    rf_add_relaxed(&element->references, 1u);
}

void rf_element_drop(rf_element *element)
{
    /* As in rf_lease_drop: every thread's reads of the element come before the last drop gives it back. */
    if (rf_sub_acq_rel(&element->references, 1u) != 1)
        return;
    /* A11 <- R11 (leave_owner): the thread that delivered the element no longer touches it. */
    if (rf_load_acquire(&element->owner) && rf_return_undelivered(element))
        return;
    if (element->lease)
        rf_lease_drop(element->lease);
    else
        free(element->tags); /* and the copies behind them */
    free(element->ticket);
    free(element);
}

void rf_element_read(const rf_element *element, rf_element_view *view)
{
    *view = (rf_element_view){
        .rows = element->rows,
        .shown = element->shown,
        .ticket = element->ticket,
        .data = element->data,
    };
}

void rf_element_tags(const rf_element *element, uint64_t *tags)
{
    if (element->lease)
        rf_lease_tags(element->lease, tags);
    else if (element->rows)
        memcpy(tags, element->tags, element->rows * sizeof *tags);
    memset(tags + element->rows, 0, (element->shown - element->rows) * sizeof *tags);
}

/* ---- Over the ring's memory ----------------------------------------------------------------- */

rf_element *rf_element_over_lease(rf_lease *lease, uint32_t shown)
{
    const rf_geometry *geometry = rf_ring_geometry(rf_lease_ring(lease));
    uint32_t rows = rf_lease_rows(lease);
    if (rows >= shown || shown > geometry->slots)
        shown = rows;
    /* Each region is mapped twice in a row. So a run of as many rows as the ring has slots can start at any slot. An
     * exception is a region of which a GPU's driver knows one mapping only. */
    if (rf_lease_readable_rows(lease, shown) < shown)
        return rf_element_copied(lease, shown);
    rf_element *element = new_element(geometry);
    if (!element) {
        rf_lease_drop(lease);
        return NULL;
    }
    element->lease = lease;
    element->rows = rows;
    element->shown = shown;
    for (uint32_t field = 0; field < geometry->fields; field++)
        element->data[field] = rf_lease_data(lease, field);
    return element;
}

/* ---- Copies --------------------------------------------------------------------------------- */

rf_element *rf_element_copied(rf_lease *lease, uint32_t shown)
{
    uint32_t rows = rf_lease_rows(lease);
    rf_element *element = rf_element_for_copies(rf_lease_ring(lease), rows < shown ? shown : rows);
    if (element)
        rf_element_append(element, lease);
    rf_lease_drop(lease);
    return element;
}

/* One block of memory: the tags, then each field, aligned to 64 bytes. */
rf_element *rf_element_for_copies(const rf_ring *ring, uint32_t rows)
{
    const rf_geometry *geometry = rf_ring_geometry(ring);
    uint64_t bytes =
        ((uint64_t)rows * sizeof(uint64_t) + RF_ALIGNMENT - 1) / RF_ALIGNMENT * RF_ALIGNMENT;
    rf_element *element = new_element(geometry);
    if (!element)
        return NULL;
    uint64_t offset[RF_MAX_FIELDS];
    for (uint32_t field = 0; field < geometry->fields; field++) {
        uint64_t more;
        offset[field] = bytes;
        if (__builtin_mul_overflow(geometry->field[field].stride_bytes, (uint64_t)rows, &more) ||
            __builtin_add_overflow(bytes, more, &bytes))
            goto no_memory;
    }
    element->tags = aligned_alloc(RF_ALIGNMENT, bytes ? bytes : RF_ALIGNMENT);
    if (!element->tags)
        goto no_memory;
    memset(element->tags, 0, bytes);
    for (uint32_t field = 0; field < geometry->fields; field++)
        element->data[field] = (uint8_t *)element->tags + offset[field];
    element->shown = rows;
    return element;
no_memory:
    free(element);
    return NULL;
}

void rf_element_append(rf_element *element, const rf_lease *lease)
{
    const rf_geometry *geometry = rf_ring_geometry(rf_lease_ring(lease));
    uint32_t rows = rf_lease_rows(lease);
    rf_lease_tags(lease, element->tags + element->rows);
    for (uint32_t field = 0; field < geometry->fields; field++) {
        uint64_t stride = geometry->field[field].stride_bytes;
        memcpy((uint8_t *)element->data[field] + element->rows * stride,
               rf_lease_data(lease, field), rows * stride);
    }
    element->rows += rows;
}

void rf_element_move_rows(rf_element *to, rf_element *from, uint32_t rows,
                          const rf_geometry *geometry)
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
