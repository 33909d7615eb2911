/*
 * The locks on a segment, and which byte means what; and the open file description that holds them.
 * Between participants.c, owner.c, inspect.c and segment.c.
 *
 * They are locks of an open file description (F_OFD_SETLK), and the description is our own: each handle opens the
 * segment once more for it and shows nobody the number. So no close of any other descriptor takes a lock away, and
 * handles of one process conflict as processes do. A forked child has a copy of the description, which
 * would hold the locks of a dead parent: lock_file.c closes it there.
 *
 * All bytes lie far behind the segment's end. The owner's is where it is in every layout version, so that
 * one version of RingFeed knows what another one's dead left.
 */
#ifndef RF_LOCKS_H
#define RF_LOCKS_H

#include <errno.h>
#include <fcntl.h>

#include "segment/handle.h"
#include "segment/process_mark.h"

/* Whoever gives back what a dead participant held reads its burial byte meanwhile; whoever becomes that participant
 * writes it. Its own byte would not do: a copy of the dead one's description may hold that. */
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

/* Does another description hold the byte against a lock of this type? 1, 0, or -1 when the kernel does
 * not say. */
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

/* Does whoever is said to hold a byte live? `held`: of locked_elsewhere. The lock and the witness must both say that
 * it is dead; but who certainly is, is dead whatever holds the byte: a copy of its description may. */
static inline bool rf_lives(int held, const rf_process_mark *who)
{
    if (held == 1)
        return !rf_mark_is_gone(who);
    rf_life verdict = rf_mark_says(who);
    return verdict == RF_LIVES || (verdict == RF_UNKNOWN && held == -1);
}

#endif
