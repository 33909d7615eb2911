/*
 * The end of a handle: closing it, and giving back its entry and memory.
 *
 * It may not know the slot protocol.
 *
 * Three things end, one after the other or at once. First the handle is closed: no new operation begins on it. Then
 * it is retired: no thread is inside an operation or enters one. Then the last lease on its slots goes. After that
 * the entry and the memory are given back, even if the program still has the handle. A copy of the tables stays at
 * their address, so that the handle still tells the last state of the ring.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/mman.h>

#include "segment/event.h"
#include "segment/owner.h"
#include "segment/page_lock.h"
#include "segment/participants.h"
#include "segment/segment.h"

static void free_if_last(rf_ring *ring)
{
    if (rf_sub_acq_rel(&ring->lives, 1u) == 1) {
        if (ring->mapping)
            munmap(ring->mapping, ring->kept_bytes);
        free(ring);
    }
}

/* Replace the tables by a copy in one step, because a thread may be reading them. Without
 * memory for a copy the tables stay mapped, and the segment keeps its memory until the handle
 * goes. */
static void keep_copy_of_tables(rf_ring *ring)
{
    size_t bytes = ring->geometry.field[0].region_offset;
    void *copy = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (copy == MAP_FAILED)
        return;
    /* Relaxed: others write there meanwhile, and each number is one that was true. */
    _Atomic uint64_t *from = (_Atomic uint64_t *)ring->mapping;
    for (size_t i = 0; i < bytes / sizeof *from; i++)
        ((uint64_t *)copy)[i] = rf_load_relaxed(&from[i]);
    if (mremap(copy, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, ring->mapping) != MAP_FAILED)
        return;
    munmap(copy, bytes);
    /* The old mapping may be gone nevertheless; then the handle tells of an empty ring. If
     * this mapping fails too, the old one is still there. */
    mmap(ring->mapping, bytes, PROT_READ | PROT_WRITE,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

static void give_back_entry_and_memory(rf_ring *ring)
{
    rf_leave(ring);
    if (rf_ring_is_owner(ring))
        rf_unlock_owner(ring);
    /* Relaxed: if the handle is dropped at this moment, it gets a copy that nobody reads. */
    bool has_handle = rf_load_relaxed(&ring->lives) > 1;
    if (has_handle)
        keep_copy_of_tables(ring);
    ring->kept_bytes = has_handle ? ring->geometry.field[0].region_offset : 0;
    rf_pin_end(ring, ring->kept_bytes);
    if (!has_handle)
        ring->mapping = NULL;
    rf_close_descriptor(ring);
    ring->fd = -1;
}

void rf_ring_retain(rf_ring *ring)
{
    rf_add_relaxed(&ring->references, 1u);
}

void rf_ring_unref(rf_ring *ring)
{
    if (rf_sub_acq_rel(&ring->references, 1u) != 1)
        return;
    give_back_entry_and_memory(ring);
    free_if_last(ring);
}

void rf_ring_close(rf_ring *ring)
{
    bool owned = rf_ring_is_owner(ring) && !ring->kind->is_pool;
    /* R6 -> A6 (rf_enter): relaxed would do; it only stops operations that have not begun. */
    if (atomic_exchange_explicit(&ring->closing, 1u, memory_order_acq_rel))
        return;
    if (owned) {
        rf_store_relaxed(&ring->header->closed, 1u);
        RF_STEP("close: said, still owned");
        rf_unlock_owner(ring);
        RF_STEP("close: not owned, nobody told");
    }
    rf_notify(&ring->header->readable, UINT32_MAX);
    rf_notify(&ring->header->writable, UINT32_MAX);
}

static bool is_engaged(const rf_ring *ring)
{
    /* In a forked child the entry is its parent's. */
    return rf_load_relaxed(&((rf_ring *)ring)->generation) ==
               rf_load_relaxed(&rf_fork_generation) &&
           ring->kind->is_engaged(ring);
}

int rf_ring_retire(rf_ring *ring)
{
    if (rf_load_relaxed(&ring->retired))
        return 1;
    if (!rf_load_relaxed(&ring->closing) || is_engaged(ring))
        return 0;
    /* Each caller has seen the handle closed; one of them gives back its reference. */
    if (!atomic_exchange_explicit(&ring->retired, 1u, memory_order_acq_rel))
        rf_ring_unref(ring);
    return 1;
}

int rf_ring_is_retired(const rf_ring *ring)
{
    return rf_load_relaxed(&((rf_ring *)ring)->retired) != 0;
}

void rf_ring_drop(rf_ring *ring)
{
    if (atomic_exchange_explicit(&ring->retired, 1u, memory_order_acq_rel)) {
        free_if_last(ring);
        return;
    }
    /* The handle's life ends before its reference, so that no copy of the tables is made for
     * it. */
    rf_sub_acq_rel(&ring->lives, 1u);
    rf_ring_unref(ring);
}
