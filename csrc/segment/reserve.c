/*
 * The memory of a segment: an object without a name, free space, and reserving it.
 *
 * It may not know the contents of a segment, nor the limits of the machine that Python reads (memory_limits.py).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "segment/reserve.h"

/* From linux/memfd.h and linux/fcntl.h; older headers lack them. */
enum { MEMFD_CLOEXEC = 1, MEMFD_ALLOW_SEALING = 2, MEMFD_NOEXEC_SEAL = 8 };
enum { ADD_SEALS = 1033, GET_SEALS = 1034 };
enum { SEAL_SEAL = 1, SEAL_SHRINK = 2, SEAL_GROW = 4 };

/* ---- Without a name ------------------------------------------------------------------------- */

int rf_segment_create_nameless(const char *label)
{
    /* By number: glibc has the function only since 2.27, and some Pythons are built without
     * it. */
    int fd = (int)syscall(SYS_memfd_create, label,
                          MEMFD_CLOEXEC | MEMFD_ALLOW_SEALING | MEMFD_NOEXEC_SEAL);
    if (fd == -1 && errno == EINVAL) /* Linux before 6.3; later versions may insist on the flag */
        fd = (int)syscall(SYS_memfd_create, label, MEMFD_CLOEXEC | MEMFD_ALLOW_SEALING);
    if (fd == -1)
        return -1;
    if (fchmod(fd, S_IRUSR | S_IWUSR) == -1) { /* the kernel gives it every right */
        int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

int rf_segment_is_nameless(int fd)
{
    /* Files in /dev/shm answer too; only rf_seal_size forbids shrinking one. */
    int seals = fcntl(fd, GET_SEALS);
    return seals != -1 && seals & SEAL_SHRINK;
}

void rf_seal_size(int fd)
{
    /* If the kernel refuses, as for a file in /dev/shm, nothing is lost. */
    int error = errno;
    if (fcntl(fd, ADD_SEALS, SEAL_SHRINK | SEAL_GROW | SEAL_SEAL) == -1)
        errno = error;
}

/* ---- Space ---------------------------------------------------------------------------------- */

int64_t rf_segment_free_bytes(int fd)
{
    struct statvfs status;
    if (fstatvfs(fd, &status) == -1)
        return -1;
    if (status.f_blocks == 0) /* no limit: a memfd, or a tmpfs of size=0 */
        return INT64_MAX;
    uint64_t bytes;
    bool too_many = __builtin_mul_overflow(status.f_bavail, status.f_frsize, &bytes);
    return too_many || bytes > INT64_MAX ? INT64_MAX : (int64_t)bytes;
}

bool rf_has_space(const rf_ring *ring)
{
    int64_t free_bytes = rf_segment_free_bytes(ring->fd);
    return free_bytes < 0 || (uint64_t)free_bytes >= ring->geometry.segment_bytes;
}

/* A signal undoes what a call has reserved so far, so signals wait: with one every millisecond
 * a large segment would never be finished. One part takes milliseconds, and signals wait no
 * longer than that. */
rf_status rf_reserve(rf_ring *ring)
{
    const uint64_t part = UINT64_C(32) << 20, all = ring->geometry.segment_bytes;
    int error = 0;
    for (uint64_t at = 0; at < all && error == 0; at += part) {
        sigset_t every, before;
        sigfillset(&every);
        pthread_sigmask(SIG_SETMASK, &every, &before);
        do
            error =
                posix_fallocate(ring->fd, (off_t)at, (off_t)(all - at < part ? all - at : part));
        while (error == EINTR);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    errno = error;
    return error == 0 ? RF_OK : error == ENOSPC || error == ENOMEM ? RF_NO_SPACE : RF_SYSTEM;
}
