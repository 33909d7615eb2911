/*
 * The segment: creating it, mapping it, attaching to it. (Its end: handle.c.)
 *
 * It may not know the slot protocol. Everything that is read from a segment is checked here against a new
 * computation of the layout (plan.c) before it is used.
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

#include "segment/segment.h"

#include "segment/event.h"
#include "segment/owner.h"
#include "segment/participants.h"
#include "segment/plan.h"
#include "segment/process_mark.h"
#include "segment/reserve.h"

enum { MEMORY_POLICY_BIND = 2 };

/* ---- Mapping -------------------------------------------------------------------------------- */

static bool map_part(rf_ring *ring, uint64_t at, uint64_t offset, uint64_t bytes)
{
    return mmap(ring->mapping + at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, ring->fd,
                (off_t)offset) != MAP_FAILED;
}

/* Reserve one range of addresses, then map the tables and each region, twice, into it. */
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
    /* Huge pages need addresses on their own size: the spare page above makes room for that. */
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

/* The number may belong to another file by now. */
void rf_close_descriptor(const rf_ring *ring)
{
    if (rf_is_file(ring->fd, ring->device, ring->inode))
        close(ring->fd);
}

/* Undo a create or attach that failed half way; errno is unchanged. */
static rf_status abandon(rf_ring *ring, rf_status status)
{
    int error = errno;
    rf_lock_mapping_end(&ring->owner_lock_mapping);
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

static void write_header(rf_ring *ring, const rf_options *options, uint64_t epoch)
{
    rf_header *header = ring->header;
    header->magic = RF_MAGIC;
    header->layout_version = RF_LAYOUT_VERSION;
    header->creator_pid = (uint64_t)getpid();
    header->redeliver = options->redeliver;
    header->max_deliveries = options->max_deliveries;
    header->user_data = options->user_data;
    header->ring_inode = options->ring_inode;
    header->producers = options->producers;
    header->inode = ring->inode;
    rf_mark_leave(&header->owner);
    header->geometry = ring->geometry;
    for (uint32_t slot = 0; slot < ring->slot_count; slot++)
        rf_store_relaxed(&ring->words[slot], rf_word(RF_STATE_FREE, RF_NO_OWNER, epoch));
    RF_STEP("create: header written, not whole");
    /* R4 -> A4 (read_header): a process that sees `initialized` sees all of the segment. */
    rf_store_release(&header->initialized, 1u);
    RF_STEP("create: whole, creator not joined");
}

rf_status rf_segment_create(int fd, const rf_options *options, const rf_geometry *geometry,
                            const rf_kind *kind, uint64_t epoch, rf_ring **out)
{
    *out = NULL;
    rf_ring *ring = new_ring(fd);
    if (!ring) {
        close(fd);
        return RF_NO_MEMORY;
    }
    if ((options->ring_inode != 0) != kind->is_pool)
        return abandon(ring, RF_OTHER_KIND);
    ring->geometry = *geometry;
    ring->kind = kind;
    /* This comes first: others take a segment without an owner for the remains of a dead
     * process. */
    rf_store_relaxed(&ring->owner, true);
    rf_status status = rf_lock_owner(ring);
    if (status != RF_OK)
        return abandon(ring, status);
    RF_STEP("create: owned, still empty");
    /* Check before anything of that size is tried: a failure for want of addresses would not
     * be a clear answer. */
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
    write_header(ring, options, epoch);
    if ((status = rf_join(ring)) != RF_OK)
        return abandon(ring, status);
    *out = ring;
    return RF_OK;
}

/* ---- Attach --------------------------------------------------------------------------------- */

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
    /* Each is 0 until its creator has written it, in whatever order the two become visible. */
    uint64_t magic = *(volatile uint64_t *)&header->magic;
    uint32_t version = *(volatile uint32_t *)&header->layout_version;
    if (magic == 0 || (magic == RF_MAGIC && version == 0))
        result = RF_UNFINISHED;
    else if (magic != RF_MAGIC)
        result = RF_NOT_A_RING;
    else if (version != RF_LAYOUT_VERSION)
        result = RF_WRONG_VERSION;
    else if (rf_load_acquire(&header->initialized) != 1) /* A4 <- R4 (write_header) */
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

rf_status rf_segment_attach(int fd, const rf_kind *kind, rf_ring **out)
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
    if ((ring->header->ring_inode != 0) != kind->is_pool)
        return abandon(ring, RF_OTHER_KIND);
    ring->kind = kind;
    RF_STEP("attach: mapped, not joined");
    /* A pool outlives the engine that made it. */
    if (!kind->is_pool && (rf_load_relaxed(&ring->header->closed) || !rf_owner_lives(ring)))
        return abandon(ring, RF_CLOSED);
    if ((status = rf_join(ring)) != RF_OK)
        return abandon(ring, status);
    *out = ring;
    return RF_OK;
}
