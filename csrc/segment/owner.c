/*
 * The owner of a segment, and the removal of its name.
 *
 * Of the contents of a segment it may know the owner's mark alone.
 *
 * A name may mean another segment from one moment to the next: its owner removes it, a creator replaces the segment
 * of a dead owner, or someone cleans up. So a process removes a name only with a lock on the removal, and checks
 * with the lock whether the name still means the segment that is to go. A process that makes a segment in its place
 * needs the name to be gone first. So nothing can change between that check and the removal.
 */
#define _GNU_SOURCE
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "segment/locks.h"
#include "segment/owner.h"
#include "segment/participants.h"

rf_status rf_lock_owner(rf_ring *ring)
{
    rf_own_file own;
    if (!rf_open_for_locks(ring, &own))
        return rf_no_description();
    bool locked = set_lock(own.fd, OWNER_BYTE, F_WRLCK) &&
                  rf_lock_mapping_make(&ring->owner_lock_mapping, &own);
    rf_own_file_close(&own);
    return locked ? RF_OK : RF_SYSTEM;
}

void rf_unlock_owner(rf_ring *ring)
{
    if (!rf_load_relaxed(&ring->owner_lock_mapping.page))
        return;                             /* it was closed before */
    rf_mark_withdraw(&ring->header->owner); /* the process lives on, without being the owner */
    rf_lock_mapping_end(&ring->owner_lock_mapping);
}

/* Does a living process own the segment? 1, 0, or -1. */
static int is_owned(int fd, const rf_process_mark *mark)
{
    int held = locked_elsewhere(fd, OWNER_BYTE, F_WRLCK);
    return held == -1 ? -1 : rf_lives(held, mark);
}

/* The owner's mark, if there is one. For a copy of a segment and for another layout version,
 * only the lock tells. */
static void read_mark(int fd, rf_process_mark *mark)
{
    rf_header start;
    struct stat status;
    size_t bytes = offsetof(rf_header, inode) + sizeof start.inode;
    *mark = (rf_process_mark){0};
    if (fstat(fd, &status) == 0 && pread(fd, &start, bytes, 0) == (ssize_t)bytes &&
        start.magic == RF_MAGIC && start.layout_version == RF_LAYOUT_VERSION &&
        start.inode == status.st_ino)
        memcpy(mark, &start.owner, sizeof *mark);
}

int rf_segment_has_owner(int fd)
{
    rf_process_mark mark;
    read_mark(fd, &mark);
    return is_owned(fd, &mark);
}

int rf_ring_is_owner(const rf_ring *ring)
{
    rf_ring *own = (rf_ring *)ring;
    /* In a forked child's copy the generation is its parent's. A7 <- R7 (rf_join): a thread
     * that sees the child's own generation also sees that the child is not the owner. */
    return rf_load_acquire(&own->generation) == rf_load_relaxed(&rf_fork_generation) &&
           rf_load_relaxed(&own->owner);
}

bool rf_owner_lives(const rf_ring *ring)
{
    if (rf_ring_is_owner(ring) && rf_load_relaxed(&((rf_ring *)ring)->owner_lock_mapping.page))
        return true;
    /* Without a descriptor the mark alone tells. */
    const rf_process_mark nobody = {0};
    const rf_process_mark *mark =
        ring->header->inode == ring->inode ? &ring->header->owner : &nobody;
    if (rf_is_file(ring->fd, ring->device, ring->inode))
        return is_owned(ring->fd, mark) != 0;
    rf_own_file own;
    if (!rf_open_for_locks(ring, &own))
        return rf_mark_says(mark) != RF_DEAD;
    int owned = is_owned(own.fd, mark);
    rf_own_file_close(&own);
    return owned != 0;
}

int rf_ring_has_owner(const rf_ring *ring)
{
    return rf_owner_lives(ring);
}

rf_status rf_segment_lock_removal(int fd)
{
    if (set_lock(fd, REMOVAL_BYTE, F_WRLCK))
        return RF_OK;
    return errno == EAGAIN || errno == EACCES ? RF_AGAIN : RF_SYSTEM;
}

int rf_segment_removal_is_locked(int fd)
{
    return locked_elsewhere(fd, REMOVAL_BYTE, F_WRLCK);
}

/* The caller has locked the removal. Unlink `path` if it means that very segment. 1: removed.
 * 0: it means another segment or none. -1: a system call failed. */
static int unlink_this(const char *path, dev_t device, ino_t inode)
{
    struct stat named;
    if (lstat(path, &named) == -1)
        return errno == ENOENT ? 0 : -1;
    if (named.st_dev != device || named.st_ino != inode)
        return 0;
    if (unlink(path) == 0)
        return 1;
    return errno == ENOENT ? 0 : -1;
}

rf_status rf_segment_remove(uint64_t device, uint64_t inode, const char *path, int spare_the_living,
                            int *removed)
{
    rf_own_file own;
    *removed = 0;
    if (!rf_own_file_open_at(&own, path, (dev_t)device, (ino_t)inode))
        return errno == ENOENT || errno == ELOOP ? RF_OK : RF_SYSTEM;
    rf_status result = rf_segment_lock_removal(own.fd);
    if (result == RF_OK) {
        int owned = spare_the_living ? rf_segment_has_owner(own.fd) : 0;
        if (owned == 0)
            *removed = unlink_this(path, (dev_t)device, (ino_t)inode);
        result = owned < 0 || *removed < 0 ? RF_SYSTEM : owned ? RF_AGAIN : RF_OK;
    }
    rf_own_file_close(&own);
    return result;
}
