/*
 * Who owns a segment, and who may remove its name.
 *
 * It may not know what lies in a segment. A name means another segment from one moment to the next:
 * its owner removes it, a creator replaces what a dead owner left, someone cleans up. So each of them
 * removes it under a lock, the right to condemn, and looks under it whether the name still means what
 * is to go. Who makes a segment in its place needs the name to be gone first, so between that look
 * and the removal nothing can change.
 */
#define _GNU_SOURCE
#include <sys/stat.h>
#include <unistd.h>

#include "locks.h"

rf_status rf_lock_owner(int fd)
{
    return set_lock(fd, OWNER_BYTE, F_WRLCK) ? RF_OK : RF_SYSTEM;
}

void rf_unlock_owner(rf_ring *ring)
{
    set_lock(ring->fd, OWNER_BYTE, F_UNLCK);
}

/* With the list locked: does a living process own the segment? 1, 0, or -1. */
static int is_owned(int fd, dev_t device, ino_t inode)
{
    return rf_we_own(device, inode) ? 1 : locked_elsewhere(fd, OWNER_BYTE, F_WRLCK);
}

int rf_segment_has_owner(int fd)
{
    struct stat status;
    if (fstat(fd, &status) == -1)
        return -1;
    rf_lock_list();
    int owned = is_owned(fd, status.st_dev, status.st_ino);
    rf_unlock_list();
    return owned;
}

bool rf_owner_lives(const rf_ring *ring)
{
    rf_lock_list();
    int owned = is_owned(ring->fd, ring->device, ring->inode);
    rf_unlock_list();
    return owned != 0;
}

rf_status rf_segment_condemn(int fd)
{
    if (set_lock(fd, CONDEMN_BYTE, F_WRLCK))
        return RF_OK;
    return errno == EAGAIN || errno == EACCES ? RF_AGAIN : RF_SYSTEM;
}

int rf_segment_is_condemned(int fd)
{
    return locked_elsewhere(fd, CONDEMN_BYTE, F_WRLCK);
}

/* With the right to do so: unlink `path` if it means that very segment. 1 removed, 0 it meant
 * another one or none, -1. */
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

rf_status rf_segment_remove(int fd, const char *path, int spare_the_living, int *removed)
{
    struct stat status;
    *removed = 0;
    if (fstat(fd, &status) == -1)
        return RF_SYSTEM;
    /* The locked list keeps this process's other threads out, which the record lock does not. */
    rf_lock_list();
    rf_status result = rf_segment_condemn(fd);
    if (result == RF_OK) {
        int owned = spare_the_living ? is_owned(fd, status.st_dev, status.st_ino) : 0;
        if (owned == 0)
            *removed = unlink_this(path, status.st_dev, status.st_ino);
        result = owned < 0 || *removed < 0 ? RF_SYSTEM : owned ? RF_AGAIN : RF_OK;
        int error = errno;
        set_lock(fd, CONDEMN_BYTE, F_UNLCK);
        errno = error;
    }
    rf_unlock_list();
    return result;
}
