/*
 * What a handle tells of its segment, and options of its memory.
 *
 * It may not know the slot protocol.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/mman.h>

#include "segment/participants.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

const rf_geometry *rf_ring_geometry(const rf_ring *ring)
{
    return &ring->geometry;
}

/* A program that has closed the descriptor should ask from one thread: two at a time leave one
 * descriptor too many. */
int rf_ring_descriptor(const rf_ring *ring)
{
    if (!rf_ring_is_retired(ring) && !rf_is_file(ring->fd, ring->device, ring->inode))
        ((rf_ring *)ring)->fd = rf_open_anew(-1, ring->device, ring->inode, &ring->lock_mapping);
    return ring->fd;
}

int rf_ring_is_closed(const rf_ring *ring)
{
    return rf_load_relaxed(&((rf_ring *)ring)->closing) || rf_load_relaxed(&ring->header->closed);
}

int rf_ring_is_mirrored(const rf_ring *ring)
{
    return !ring->is_padded;
}

uint64_t rf_ring_user_data(const rf_ring *ring)
{
    return ring->header->user_data;
}

uint64_t rf_pool_ring_inode(const rf_ring *ring)
{
    return ring->kind->is_pool ? ring->header->ring_inode : 0;
}

uint64_t rf_ring_device(const rf_ring *ring)
{
    return ring->device;
}

uint64_t rf_ring_inode(const rf_ring *ring)
{
    return ring->inode;
}

uint64_t rf_ring_creator_pid(const rf_ring *ring)
{
    return ring->header->creator_pid;
}

void *rf_ring_region(const rf_ring *ring, uint32_t field)
{
    return ring->region[field];
}

int rf_ring_use_huge_pages(rf_ring *ring)
{
    /* The first half of each region; the second half shows the same pages. Where shmem_enabled
     * says never, the kernel ignores the advice silently; collapsing reports it. */
    for (uint32_t i = 0; i < ring->geometry.fields; i++) {
        size_t bytes = ring->geometry.field[i].region_bytes;
        if (madvise(ring->region[i], bytes, MADV_HUGEPAGE) ||
            madvise(ring->region[i], bytes, MADV_COLLAPSE))
            return errno;
    }
    return 0;
}

int rf_ring_lock_memory(rf_ring *ring)
{
    return mlock(ring->mapping, ring->mapped_bytes) ? errno : 0;
}

int rf_ring_numa_errno(const rf_ring *ring)
{
    return ring->numa_errno;
}
