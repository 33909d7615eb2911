/*
 * The locks on a segment: which byte means what, and when a process counts as alive. For participants.c, owner.c,
 * inspect.c and segment.c.
 *
 * They are locks of an open file description (F_OFD_SETLK). Each handle opens the segment once more for a
 * description of its own and shows nobody its descriptor. So no close of another descriptor takes a lock away, and
 * two handles of one process conflict as two processes do. A forked child has a copy of the description, which would
 * hold the locks of a dead parent; lock_file.c closes it there.
 *
 * All bytes lie far behind the segment's end. The owner's byte is at the same place in every layout version, so that
 * each version of RingFeed recognizes the dead of another.
 */
#ifndef RF_LOCKS_H
#define RF_LOCKS_H

#include <errno.h>
#include <fcntl.h>

#include "segment/handle.h"
#include "segment/process_mark.h"

/* A process that gives back what a dead participant held read-locks its reap byte meanwhile. A
 * process that becomes that participant write-locks it. The participant byte itself would not
 * do: a copy of the dead participant's description may hold it. */
enum { OWNER_BYTE = 0, REMOVAL_BYTE = 1, PARTICIPANT_BYTE = 16, REAP_BYTE = 8192 };
#define LOCKS_OFFSET (INT64_C(1) << 56)

static inline bool set_lock(int fd, int byte, short type)
{
    struct flock lock = {
        .l_type = type, .l_whence = SEEK_SET, .l_start = LOCKS_OFFSET + byte, .l_len = 1};
    int result;
    do
        result = fcntl(fd, F_OFD_SETLK, &lock);
    while (result == -1 && errno == EINTR);
    return result == 0;
}

/* Does another description hold a lock on the byte that conflicts with this type? 1, 0, or -1
 * when the kernel does not say. */
static inline int locked_elsewhere(int fd, int byte, short type)
{
    struct flock lock = {
        .l_type = type, .l_whence = SEEK_SET, .l_start = LOCKS_OFFSET + byte, .l_len = 1};
    if (fcntl(fd, F_OFD_GETLK, &lock) == -1)
        return -1;
    return lock.l_type != F_UNLCK;
}

static inline int participant_byte(uint32_t owner)
{
    return PARTICIPANT_BYTE + (int)owner;
}

static inline int reap_byte(uint32_t owner)
{
    return REAP_BYTE + (int)owner;
}

/* Does the process live that is said to hold a byte? `held` is the result of locked_elsewhere.
 * It is dead if both the lock and the mark say so. It is also dead if it is certainly gone,
 * regardless of the lock: a copy of its description may hold the byte. */
static inline bool rf_lives(int held, const rf_process_mark *mark)
{
    if (held == 1)
        return !rf_mark_is_gone(mark);
    rf_life verdict = rf_mark_says(mark);
    return verdict == RF_LIVES || (verdict == RF_UNKNOWN && held == -1);
}

#endif
