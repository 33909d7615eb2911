/*
 * The mark of a process. See process_mark.h.
 *
 * A process differs from a later one of the same number in the time at which it started. It differs from the program
 * that it became by exec in the address where its stack began. /proc/PID/stat has both. The mark also has the PID
 * namespace and the time namespace, because these numbers depend on them: the second shifts the starting time.
 *
 * A fact that cannot be read is unknown: in another PID namespace, without /proc or with that of another namespace,
 * or with hidepid. In these cases the caller's lock decides.
 */
#define _GNU_SOURCE
#include "segment/process_mark.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The parts of /proc/PID/stat that are used here. */
typedef struct proc_stat {
    char state;
    long threads;
    uint64_t start;
    uint32_t stack; /* 0: not given */
} proc_stat;

enum { STATE = 3, THREADS = 20, START = 22, STACK = 28 };

static bool read_stat(const char *path, proc_stat *stat)
{
    char text[1024];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd == -1)
        return false;
    ssize_t bytes = read(fd, text, sizeof text - 1);
    close(fd);
    if (bytes <= 0)
        return false;
    text[bytes] = 0;
    /* The second field is the program's name in brackets. It may contain anything, brackets
     * too. */
    char *at = strrchr(text, ')');
    if (!at || at[1] != ' ')
        return false;
    at += 2;
    stat->state = *at;
    int field = STATE;
    for (; field < STACK && (at = strchr(at, ' ')); field++) {
        at++;
        if (field + 1 == THREADS)
            stat->threads = strtol(at, NULL, 10);
        else if (field + 1 == START)
            stat->start = strtoull(at, NULL, 10);
        else if (field + 1 == STACK)
            stat->stack = (uint32_t)(strtoull(at, NULL, 10) >> 4);
    }
    return field == STACK;
}

/* ---- This process --------------------------------------------------------------------------- */

typedef struct identity {
    uint64_t start;
    uint32_t pid, pid_namespace, time_namespace, stack;
    bool proc_is_ours; /* the numbers in /proc are those of our PID namespace */
} identity;

static pthread_mutex_t self_mutex = PTHREAD_MUTEX_INITIALIZER;
static identity self;
static uint32_t self_generation;
static pthread_once_t watch_forks = PTHREAD_ONCE_INIT;

static void in_forked_child(void)
{
    self_mutex = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    self_generation = 0;
}

static void install_fork_watch(void)
{
    pthread_atfork(NULL, NULL, in_forked_child);
}

static uint32_t namespace_at(const char *path)
{
    struct stat status;
    return stat(path, &status) == -1 ? 0 : (uint32_t)status.st_ino;
}

static identity know_self(void)
{
    proc_stat seen = {0};
    char link[32];
    identity now = {.pid = (uint32_t)getpid()};
    ssize_t bytes = readlink("/proc/self", link, sizeof link - 1);
    if (bytes <= 0 || !read_stat("/proc/self/stat", &seen))
        return now;
    link[bytes] = 0;
    now.proc_is_ours = (uint32_t)strtoul(link, NULL, 10) == now.pid;
    now.pid_namespace = namespace_at("/proc/self/ns/pid");
    now.time_namespace = namespace_at("/proc/self/ns/time");
    now.start = seen.start;
    now.stack = seen.stack;
    return now;
}

static identity ourselves(void)
{
    pthread_once(&watch_forks, install_fork_watch);
    pthread_mutex_lock(&self_mutex);
    if (!self_generation) {
        self = know_self();
        self_generation = 1;
    }
    identity now = self;
    pthread_mutex_unlock(&self_mutex);
    return now;
}

/* The order does not matter: all are written before the entry, or the segment, belongs to
 * anybody (rf_join, write_header). */
void rf_mark_leave(rf_process_mark *mark)
{
    identity own = ourselves();
    rf_store_relaxed(&mark->start, own.start);
    rf_store_relaxed(&mark->pid_namespace, own.pid_namespace);
    rf_store_relaxed(&mark->time_namespace, own.time_namespace);
    rf_store_relaxed(&mark->stack, own.stack);
    rf_store_relaxed(&mark->pid, own.pid);
}

void rf_mark_withdraw(rf_process_mark *mark)
{
    rf_store_relaxed(&mark->pid, 0u);
}

static identity identity_in(const rf_process_mark *from)
{
    rf_process_mark *mark = (rf_process_mark *)from;
    return (identity){.start = rf_load_relaxed(&mark->start),
                      .pid = rf_load_relaxed(&mark->pid),
                      .pid_namespace = rf_load_relaxed(&mark->pid_namespace),
                      .time_namespace = rf_load_relaxed(&mark->time_namespace),
                      .stack = rf_load_relaxed(&mark->stack)};
}

bool rf_mark_is_self(const rf_process_mark *mark)
{
    identity own = ourselves(), left = identity_in(mark);
    return left.pid == own.pid && left.start == own.start &&
           left.pid_namespace == own.pid_namespace;
}

/* ---- Others --------------------------------------------------------------------------------- */

static bool is_near(const identity *own, const identity *left)
{
    return left->pid_namespace && left->pid_namespace == own->pid_namespace && (int)left->pid > 0;
}

static bool no_such_process(uint32_t pid)
{
    return kill((pid_t)pid, 0) == -1 && errno == ESRCH;
}

bool rf_mark_is_gone(const rf_process_mark *mark)
{
    identity own = ourselves(), left = identity_in(mark);
    return is_near(&own, &left) && no_such_process(left.pid);
}

rf_life rf_mark_says(const rf_process_mark *mark)
{
    identity own = ourselves(), left = identity_in(mark);
    if (!is_near(&own, &left))
        return RF_UNKNOWN;
    if (no_such_process(left.pid))
        return RF_DEAD;
    char path[32];
    proc_stat seen = {0};
    snprintf(path, sizeof path, "/proc/%u/stat", left.pid);
    if (!own.proc_is_ours || left.time_namespace != own.time_namespace || !read_stat(path, &seen))
        return RF_UNKNOWN;
    if (seen.start != left.start || (seen.stack && left.stack && seen.stack != left.stack))
        return RF_DEAD;
    /* A process whose first thread has ended looks like a zombie while its other threads work
     * on. */
    bool ended = seen.state == 'X' || seen.state == 'x' || seen.state == 'Z';
    return ended && seen.threads <= 1 ? RF_DEAD : RF_LIVES;
}
