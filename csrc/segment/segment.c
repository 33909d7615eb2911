/*
 * The segment: its birth and its mapping. (Its end: handle.c.)
 *
 * It may not know the slot protocol. Everything that is read from a segment is checked here
 * against a fresh computation of the layout (plan.c) before anyone uses it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "ring/streaming.h"
#include "ring/window.h"
#include "segment/handle.h"
#include "segment/process_mark.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
enum { MEMORY_POLICY_BIND = 2 };

/* ---- Mapping -------------------------------------------------------------------------------- */

static bool map_part(rf_ring *ring, uint64_t at, uint64_t offset, uint64_t bytes)
{
    return mmap(ring->mapping + at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, ring->fd,
                (off_t)offset) != MAP_FAILED;
}

/* Reserve one stretch of addresses, then lay the tables and each region, twice, into it. */
static rf_status map_segment(rf_ring *ring)
{
    const rf_geometry *geometry = &ring->geometry;
    uint64_t page = geometry->page_bytes, tables = geometry->field[0].region_offset,
             total = tables + page;
    for (uint32_t i = 0; i < geometry->fields; i++) {
        uint64_t twice;
        if (__builtin_mul_overflow(geometry->field[i].region_bytes, 2, &twice) ||
            __builtin_add_overflow(total, twice, &total) || total > INT64_MAX)
            return RF_TOO_LARGE;
    }
    uint8_t *reserved =
        mmap(NULL, total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (reserved == MAP_FAILED)
        return RF_SYSTEM;
    /* Huge pages want addresses on their own size: the spare page above makes room for that. */
    uint64_t skip = (page - (uintptr_t)reserved % page) % page;
    ring->mapping = reserved + skip;
    ring->mapped_bytes = total - page;
    if (skip)
        munmap(reserved, skip);
    if (page > skip)
        munmap(ring->mapping + ring->mapped_bytes, page - skip);
    if (!map_part(ring, 0, 0, tables))
        return RF_SYSTEM;
    uint64_t at = tables;
    for (uint32_t i = 0; i < geometry->fields; i++) {
        const rf_field *field = &geometry->field[i];
        ring->region[i] = ring->mapping + at;
        ring->record_bytes += field->sample_bytes;
        if (!map_part(ring, at, field->region_offset, field->region_bytes) ||
            !map_part(ring, at + field->region_bytes, field->region_offset, field->region_bytes))
            return RF_SYSTEM;
        at += 2 * field->region_bytes;
    }
    ring->header = (rf_header *)ring->mapping;
    ring->participants = (rf_participant *)(ring->mapping + geometry->participants_offset);
    ring->words = (_Atomic uint64_t *)(ring->mapping + geometry->words_offset);
    ring->links = ring->words + geometry->slots;
    ring->slots = (rf_slot *)(ring->mapping + geometry->slots_offset);
    ring->uses = (rf_use *)(ring->slots + geometry->slots);
    ring->slot_count = geometry->slots;
    ring->window = rf_window_slots(geometry);
    ring->restarts = !ring->is_pool && rf_window_restarts(geometry);
    rf_begin_copies(ring);
    ring->is_padded = !rf_is_mirrored(geometry);
    atomic_init(&ring->runs_end, ring->is_padded);
    return RF_OK;
}

/* ---- Birth ---------------------------------------------------------------------------------- */

static rf_ring *new_ring(int fd)
{
    struct stat status;
    rf_ring *ring = calloc(1, sizeof *ring);
    if (!ring || fstat(fd, &status) == -1) {
        free(ring);
        return NULL;
    }
    rf_watch_forks();
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    ring->fd = fd;
    ring->device = status.st_dev;
    ring->inode = status.st_ino;
    atomic_init(&ring->references, 1);
    atomic_init(&ring->lives, 2);
    atomic_init(&ring->generation, rf_load_relaxed(&rf_fork_generation));
    return ring;
}

/* The number may be another file's by now. */
void rf_close_descriptor(const rf_ring *ring)
{
    if (rf_is_file(ring->fd, ring->device, ring->inode))
        close(ring->fd);
}

/* Undo a create or attach that failed half way; errno stays. */
static rf_status abandon(rf_ring *ring, rf_status status)
{
    int error = errno;
    rf_stake_end(&ring->owner_stake);
    if (ring->mapping)
        munmap(ring->mapping, ring->mapped_bytes);
    rf_close_descriptor(ring);
    free(ring);
    errno = error;
    return status;
}

static int bind_to_node(rf_ring *ring, int32_t node)
{
    enum { BITS = 8 * sizeof(unsigned long), NODES = 1024 };
    unsigned long mask[NODES / BITS] = {0};
    if (node >= NODES)
        return EINVAL;
    mask[node / BITS] = 1ul << (node % BITS);
    return syscall(SYS_mbind, ring->mapping, ring->mapped_bytes, MEMORY_POLICY_BIND, mask,
                   (unsigned long)NODES, 0u)
               ? errno
               : 0;
}

static void write_header(rf_ring *ring, const rf_options *options)
{
    rf_header *header = ring->header;
    header->magic = RF_MAGIC;
    header->layout_version = RF_LAYOUT_VERSION;
    header->creator_pid = (uint64_t)getpid();
    header->redeliver = options->redeliver;
    header->max_deliveries = options->max_deliveries;
    header->user_data = options->user_data;
    header->answers = options->answers;
    header->producers = options->producers;
    header->inode = ring->inode;
    rf_witness_leave(&header->owner);
    header->geometry = ring->geometry;
    /* A pool may take the place of another one, whose requests are still in the ring: the microseconds
     * since the machine started are later than any epoch that the other one's cells have come to. */
    uint64_t epoch = ring->is_pool ? (uint64_t)rf_now_ns() / 1000 + 1 : 1;
    for (uint32_t slot = 0; slot < ring->slot_count; slot++)
        rf_store_relaxed(&ring->words[slot], rf_word(RF_STATE_FREE, RF_NO_OWNER, epoch));
    RF_STEP("create: header written, not whole");
    /* R4 -> A4 (read_header): who sees `whole` sees the segment whole. */
    rf_store_release(&header->whole, 1u);
    RF_STEP("create: whole, creator not joined");
}

rf_status rf_ring_create(int fd, const rf_options *options, const rf_geometry *geometry,
                         rf_ring **out)
{
    *out = NULL;
    rf_ring *ring = new_ring(fd);
    if (!ring) {
        close(fd);
        return RF_NO_MEMORY;
    }
    ring->geometry = *geometry;
    ring->is_pool = options->answers != 0;
    /* This comes first: a segment without an owner is taken for what a dead process left. */
    rf_store_relaxed(&ring->owner, true);
    rf_status status = rf_lock_owner(ring);
    if (status != RF_OK)
        return abandon(ring, status);
    RF_STEP("create: owned, still empty");
    /* Before anything of that size is tried: what has no addresses left is no clear answer. */
    if (!rf_has_space(ring))
        return abandon(ring, RF_NO_SPACE);
    if (ftruncate(fd, (off_t)geometry->segment_bytes) == -1)
        return abandon(ring, errno == ENOSPC ? RF_NO_SPACE : RF_SYSTEM);
    RF_STEP("create: sized");
    if ((status = map_segment(ring)) != RF_OK)
        return abandon(ring, status);
    if (options->numa_node >= 0)
        ring->numa_errno = bind_to_node(ring, options->numa_node);
    if ((status = rf_reserve(ring)) != RF_OK)
        return abandon(ring, status);
    rf_seal_size(fd);
    RF_STEP("create: reserved, no header");
    write_header(ring, options);
    if ((status = rf_join(ring)) != RF_OK)
        return abandon(ring, status);
    *out = ring;
    return RF_OK;
}

/* ---- Attach --------------------------------------------------------------------------------- */

rf_status rf_check_geometry(const rf_geometry *claimed, uint64_t file_bytes, rf_geometry *checked)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    if (claimed->page_bytes != page && claimed->page_bytes != RF_HUGE_PAGE_BYTES)
        return RF_DAMAGED;
    rf_options options = {.slots = claimed->slots,
                          .participants = claimed->participants,
                          .huge_pages = claimed->page_bytes != page};
    *checked = *claimed;
    if (rf_plan_exactly(&options, checked) != RF_OK ||
        memcmp(checked, claimed, sizeof *claimed) != 0 || checked->segment_bytes > file_bytes)
        return RF_DAMAGED;
    return RF_OK;
}

static rf_status read_header(int fd, rf_geometry *geometry)
{
    struct stat status;
    if (fstat(fd, &status) == -1)
        return RF_SYSTEM;
    if (status.st_size == 0)
        return RF_UNFINISHED;
    if ((uint64_t)status.st_size < sizeof(rf_header))
        return RF_NOT_A_RING;
    rf_header *header = mmap(NULL, sizeof *header, PROT_READ, MAP_SHARED, fd, 0);
    if (header == MAP_FAILED)
        return RF_SYSTEM;
    rf_status result = RF_OK;
    /* Each is 0 until its creator has written it, in whatever order the two are seen. */
    uint64_t magic = *(volatile uint64_t *)&header->magic;
    uint32_t version = *(volatile uint32_t *)&header->layout_version;
    if (magic == 0 || (magic == RF_MAGIC && version == 0))
        result = RF_UNFINISHED;
    else if (magic != RF_MAGIC)
        result = RF_NOT_A_RING;
    else if (version != RF_LAYOUT_VERSION)
        result = RF_WRONG_VERSION;
    else if (rf_load_acquire(&header->whole) != 1) /* A4 <- R4 (write_header) */
        result = RF_UNFINISHED;
    if (result == RF_OK) {
        rf_geometry claimed;
        memcpy(&claimed, &header->geometry, sizeof claimed);
        result = rf_check_geometry(&claimed, (uint64_t)status.st_size, geometry);
    }
    munmap(header, sizeof *header);
    return result;
}

uint32_t rf_segment_version(int fd)
{
    struct {
        uint64_t magic;
        uint32_t layout_version;
    } start;
    if (pread(fd, &start, sizeof start, 0) != (ssize_t)sizeof start || start.magic != RF_MAGIC)
        return 0;
    return start.layout_version;
}

rf_status rf_ring_attach(int fd, rf_ring **out)
{
    *out = NULL;
    rf_ring *ring = new_ring(fd);
    if (!ring) {
        close(fd);
        return RF_NO_MEMORY;
    }
    rf_status status = read_header(fd, &ring->geometry);
    if (status == RF_OK)
        status = map_segment(ring);
    if (status != RF_OK)
        return abandon(ring, status);
    ring->is_pool = ring->header->answers != 0;
    ring->restarts = ring->restarts && !ring->is_pool;
    RF_STEP("attach: mapped, not joined");
    /* A pool goes on without the engine that made it. */
    if (!ring->is_pool && (rf_load_relaxed(&ring->header->closed) || !rf_owner_lives(ring)))
        return abandon(ring, RF_CLOSED);
    if ((status = rf_join(ring)) != RF_OK)
        return abandon(ring, status);
    *out = ring;
    return RF_OK;
}

/* ---- What a handle is ----------------------------------------------------------------------- */

const rf_geometry *rf_ring_geometry(const rf_ring *ring)
{
    return &ring->geometry;
}

/* One thread of a program that has closed it asks here: two at a time leave one descriptor too many. */
int rf_ring_descriptor(const rf_ring *ring)
{
    if (!rf_ring_is_retired(ring) && !rf_is_file(ring->fd, ring->device, ring->inode))
        ((rf_ring *)ring)->fd = rf_open_anew(-1, ring->device, ring->inode, &ring->stake);
    return ring->fd;
}

int rf_ring_is_owner(const rf_ring *ring)
{
    rf_ring *own = (rf_ring *)ring;
    /* Of a forked child's copy the generation is its parent's. A7 <- R7 (rf_join): who sees the
     * child's own also sees that the child is not the owner. */
    return rf_load_acquire(&own->generation) == rf_load_relaxed(&rf_fork_generation) &&
           rf_load_relaxed(&own->owner);
}

int rf_ring_is_closed(const rf_ring *ring)
{
    return rf_load_relaxed(&((rf_ring *)ring)->closing) || rf_load_relaxed(&ring->header->closed);
}

int rf_ring_is_finished(const rf_ring *ring)
{
    return (rf_load_relaxed(&ring->header->finished) & RF_IS_FINISHED) != 0;
}

int rf_ring_has_ended(const rf_ring *ring)
{
    return rf_still_open(ring) != RF_OK;
}

int rf_ring_redelivers(const rf_ring *ring)
{
    return ring->header->redeliver != 0;
}

int rf_ring_is_mirrored(const rf_ring *ring)
{
    return !ring->is_padded;
}

uint64_t rf_ring_user_data(const rf_ring *ring)
{
    return ring->header->user_data;
}

uint64_t rf_ring_answers(const rf_ring *ring)
{
    return ring->is_pool ? ring->header->answers : 0;
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
    /* The first half of each region; the second shows the same pages. Advice alone is silently
     * ignored where shmem_enabled says never; collapsing at once tells. */
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
