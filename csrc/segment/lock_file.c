/*
 * Open file descriptions of our own, and the mappings that keep their locks. See lock_file.h.
 *
 * A lock of an open file description ends with the last reference to that description, and a mapping is a reference.
 * For a lock that is to last, this file opens a description, locks, maps one page of it and closes the descriptor.
 * From then on no close in the process reaches the lock: neither of a copy nor of a range of descriptors. The page
 * has no access rights, and children do not get it (MADV_DONTFORK). So no child can keep the locks of a dead parent,
 * however it was made. An exec ends the mapping, as it ends all mappings.
 *
 * While the descriptor is open, a forked child would share it. So it stands in a list, and the child closes it
 * before it does anything else. fork takes the mutex of the list. So no child is made while a description is open
 * and not in the list, nor while a page is mapped and not yet kept from children. Signals wait meanwhile, because a
 * handler may fork.
 *
 * A child made without the handlers of fork (a bare clone) in those microseconds keeps the locks until it ends or
 * execs. In that case the process mark decides (process_mark.h).
 */
#define _GNU_SOURCE
#include "segment/lock_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static pthread_mutex_t list_mutex = PTHREAD_MUTEX_INITIALIZER;
static rf_own_file *list;
static pthread_once_t watch_forks = PTHREAD_ONCE_INIT;

bool rf_is_file(int fd, dev_t device, ino_t inode)
{
    struct stat status;
    return fd >= 0 && fstat(fd, &status) == 0 && status.st_dev == device && status.st_ino == inode;
}

static size_t page_bytes(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

static void close_ours(rf_own_file *own)
{
    if (rf_is_file(own->fd, own->device, own->inode))
        close(own->fd);
    own->fd = -1;
}

/* ---- fork ----------------------------------------------------------------------------------- */

static void before_fork(void)
{
    pthread_mutex_lock(&list_mutex);
}

static void in_parent(void)
{
    pthread_mutex_unlock(&list_mutex);
}

static void in_forked_child(void)
{
    for (; list; list = list->next)
        close_ours(list);
    pthread_mutex_unlock(&list_mutex);
}

static void install_fork_watch(void)
{
    pthread_atfork(before_fork, in_parent, in_forked_child);
}

static void lock_list(sigset_t *signals)
{
    sigset_t all;
    pthread_once(&watch_forks, install_fork_watch);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, signals);
    pthread_mutex_lock(&list_mutex);
}

static void unlock_list(const sigset_t *signals)
{
    pthread_mutex_unlock(&list_mutex);
    pthread_sigmask(SIG_SETMASK, signals, NULL);
}

/* ---- Opening -------------------------------------------------------------------------------- */

/* `fd` if it is that file and none of the three standard streams, to which any code prints;
 * else -1. */
static int checked(int fd, dev_t device, ino_t inode)
{
    if (fd == -1)
        return -1;
    if (!rf_is_file(fd, device, inode)) {
        close(fd);
        errno = ENOENT;
        return -1;
    }
    if (fd > 2)
        return fd;
    int above = fcntl(fd, F_DUPFD_CLOEXEC, 3), error = errno;
    close(fd);
    errno = error;
    return above;
}

/* For when /proc is not mounted or `fd` is gone: find the name of the file, if it has one. */
static int open_by_name(dev_t device, ino_t inode)
{
    DIR *directory = opendir("/dev/shm");
    int fd = -1;
    if (!directory)
        return -1;
    for (struct dirent *entry; fd == -1 && (entry = readdir(directory));)
        if (entry->d_ino == inode)
            fd = checked(openat(dirfd(directory), entry->d_name,
                                O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK),
                         device, inode);
    closedir(directory);
    if (fd == -1)
        errno = ENOENT;
    return fd;
}

/* For a file without a name whose descriptors are all closed: open it through the mapped page.
 * The kernel permits this to few users. */
static int open_by_mapping(const rf_lock_mapping *mapping, dev_t device, ino_t inode)
{
    char path[80];
    unsigned long at =
        (unsigned long)(mapping ? rf_load_relaxed(&((rf_lock_mapping *)mapping)->page) : NULL);
    if (!at)
        return -1;
    snprintf(path, sizeof path, "/proc/self/map_files/%lx-%lx", at, at + page_bytes());
    return checked(open(path, O_RDWR | O_CLOEXEC), device, inode);
}

int rf_open_anew(int fd, dev_t device, ino_t inode, const rf_lock_mapping *mapping)
{
    char path[48];
    int own = -1;
    errno = EBADF;
    if (rf_is_file(fd, device, inode)) {
        /* Not /proc/self: that is the process's first thread, which may have ended. */
        snprintf(path, sizeof path, "/proc/thread-self/fd/%d", fd);
        own = checked(open(path, O_RDWR | O_CLOEXEC), device, inode);
    }
    if (own == -1 && errno != EMFILE && errno != ENFILE)
        own = open_by_name(device, inode);
    if (own == -1 && errno != EMFILE && errno != ENFILE)
        own = open_by_mapping(mapping, device, inode);
    return own;
}

/* The caller has locked the list; this function unlocks it. */
static bool enlist(rf_own_file *own, int opened, dev_t device, ino_t inode, const sigset_t *signals)
{
    int error = errno;
    *own = (rf_own_file){.fd = opened, .device = device, .inode = inode, .next = list};
    if (opened != -1)
        list = own;
    unlock_list(signals);
    errno = error;
    return opened != -1;
}

bool rf_own_file_open(rf_own_file *own, int fd, dev_t device, ino_t inode,
                      const rf_lock_mapping *mapping)
{
    sigset_t signals;
    lock_list(&signals);
    return enlist(own, rf_open_anew(fd, device, inode, mapping), device, inode, &signals);
}

bool rf_own_file_open_at(rf_own_file *own, const char *path, dev_t device, ino_t inode)
{
    sigset_t signals;
    lock_list(&signals);
    int opened = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    return enlist(own, checked(opened, device, inode), device, inode, &signals);
}

void rf_own_file_close(rf_own_file *own)
{
    sigset_t signals;
    int error = errno;
    lock_list(&signals);
    for (rf_own_file **link = &list; *link; link = &(*link)->next)
        if (*link == own) {
            *link = own->next;
            break;
        }
    close_ours(own);
    unlock_list(&signals);
    errno = error;
}

/* ---- Keeping -------------------------------------------------------------------------------- */

bool rf_lock_mapping_make(rf_lock_mapping *mapping, const rf_own_file *own)
{
    sigset_t signals;
    lock_list(&signals);
    void *page = mmap(NULL, page_bytes(), PROT_NONE, MAP_SHARED, own->fd, 0);
    if (page != MAP_FAILED && madvise(page, page_bytes(), MADV_DONTFORK) == -1) {
        munmap(page, page_bytes());
        page = MAP_FAILED;
    }
    rf_store_relaxed(&mapping->page, page == MAP_FAILED ? NULL : page);
    int error = errno;
    unlock_list(&signals);
    errno = error;
    return page != MAP_FAILED;
}

void rf_lock_mapping_end(rf_lock_mapping *mapping)
{
    void *page = rf_exchange_relaxed(&mapping->page, NULL);
    if (page)
        munmap(page, page_bytes());
}
