/*
 * The record locks on a segment, and which byte means what. Between liveness.c, owner.c and look.c.
 *
 * All lie far behind the segment's end. The owner's is where it is in every layout version, so that
 * one version of RingFeed knows what another one's dead left.
 */
#ifndef RF_LOCKS_H
#define RF_LOCKS_H

#include <errno.h>
#include <fcntl.h>

#include "handle.h"

enum { OWNER_BYTE = 0, CONDEMN_BYTE = 1, PARTICIPANT_BYTE = 16 };
#define LOCKS_OFFSET (INT64_C(1) << 56)

static inline bool set_lock(int fd, int byte, short type)
{
    struct flock lock = {
        .l_type = type, .l_whence = SEEK_SET, .l_start = LOCKS_OFFSET + byte, .l_len = 1};
    int result;
    do
        result = fcntl(fd, F_SETLK, &lock);
    while (result == -1 && errno == EINTR);
    return result == 0;
}

/* Does another process hold the byte against a lock of this type? 1, 0, or -1 when the kernel does
 * not say. */
static inline int locked_elsewhere(int fd, int byte, short type)
{
    struct flock lock = {
        .l_type = type, .l_whence = SEEK_SET, .l_start = LOCKS_OFFSET + byte, .l_len = 1};
    if (fcntl(fd, F_GETLK, &lock) == -1)
        return -1;
    return lock.l_type != F_UNLCK;
}

static inline int participant_byte(uint32_t owner)
{
    return PARTICIPANT_BYTE + (int)owner;
}

#endif
