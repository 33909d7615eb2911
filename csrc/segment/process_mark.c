/*
 * The second witness. See process_mark.h.
 *
 * A process is told from a later one of the same number by the time at which it started, and from the program that it
 * turned into by where its stack began, which each exec puts anew: both stand in /proc/PID/stat. What is not the same for
 * every reader stands in the mark, too: the PID namespace, and the time namespace, which shifts the starting time.
 *
 * Whatever can not be read is not known: another PID namespace, /proc of another one or none, hidepid. Then the caller's lock decides.
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

/* What /proc/PID/stat says, of what is asked here. */
typedef struct told {
    char state;
    long threads;
    uint64_t start;
    uint32_t stack; /* 0: not told */
} told;

enum { STATE = 3, THREADS = 20, START = 22, STACK = 28 };

static bool read_told(const char *path, told *told)
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
    /* The second field is the program's name in brackets, and may hold anything, brackets too. */
    char *at = strrchr(text, ')');
    if (!at || at[1] != ' ')
        return false;
    at += 2;
    told->state = *at;
    int field = STATE;
    for (; field < STACK && (at = strchr(at, ' ')); field++) {
        at++;
        if (field + 1 == THREADS)
            told->threads = strtol(at, NULL, 10);
        else if (field + 1 == START)
            told->start = strtoull(at, NULL, 10);
        else if (field + 1 == STACK)
            told->stack = (uint32_t)(strtoull(at, NULL, 10) >> 4);
    }
    return field == STACK;
}

/* ---- This process --------------------------------------------------------------------------- */

typedef struct mark {
    uint64_t start;
    uint32_t pid, pid_namespace, time_namespace, stack;
    bool proc_is_ours; /* the numbers in /proc are those of our PID namespace */
} mark;

static pthread_mutex_t self_mutex = PTHREAD_MUTEX_INITIALIZER;
static mark self;
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

static mark know_self(void)
{
    told told = {0};
    char link[32];
    mark now = {.pid = (uint32_t)getpid()};
    ssize_t bytes = readlink("/proc/self", link, sizeof link - 1);
    if (bytes <= 0 || !read_told("/proc/self/stat", &told))
        return now;
    link[bytes] = 0;
    now.proc_is_ours = (uint32_t)strtoul(link, NULL, 10) == now.pid;
    now.pid_namespace = namespace_at("/proc/self/ns/pid");
    now.time_namespace = namespace_at("/proc/self/ns/time");
    now.start = told.start;
    now.stack = told.stack;
    return now;
}

static mark ourselves(void)
{
    pthread_once(&watch_forks, install_fork_watch);
    pthread_mutex_lock(&self_mutex);
    if (!self_generation) {
        self = know_self();
        self_generation = 1;
    }
    mark now = self;
    pthread_mutex_unlock(&self_mutex);
    return now;
}

/* Each number is for itself: all are written before the entry, or the segment, is anybody's (rf_join, write_header). */
void rf_mark_leave(rf_process_mark *who)
{
    mark own = ourselves();
    rf_store_relaxed(&who->start, own.start);
    rf_store_relaxed(&who->pid_namespace, own.pid_namespace);
    rf_store_relaxed(&who->time_namespace, own.time_namespace);
    rf_store_relaxed(&who->stack, own.stack);
    rf_store_relaxed(&who->pid, own.pid);
}

void rf_mark_withdraw(rf_process_mark *who)
{
    rf_store_relaxed(&who->pid, 0u);
}

static mark mark_of(const rf_process_mark *witness)
{
    rf_process_mark *who = (rf_process_mark *)witness;
    return (mark){.start = rf_load_relaxed(&who->start),
                  .pid = rf_load_relaxed(&who->pid),
                  .pid_namespace = rf_load_relaxed(&who->pid_namespace),
                  .time_namespace = rf_load_relaxed(&who->time_namespace),
                  .stack = rf_load_relaxed(&who->stack)};
}

bool rf_mark_is_self(const rf_process_mark *who)
{
    mark own = ourselves(), left = mark_of(who);
    return left.pid == own.pid && left.start == own.start &&
           left.pid_namespace == own.pid_namespace;
}

/* ---- Others --------------------------------------------------------------------------------- */

static bool is_near(const mark *own, const mark *left)
{
    return left->pid_namespace && left->pid_namespace == own->pid_namespace && (int)left->pid > 0;
}

static bool no_such_process(uint32_t pid)
{
    return kill((pid_t)pid, 0) == -1 && errno == ESRCH;
}

bool rf_mark_is_gone(const rf_process_mark *who)
{
    mark own = ourselves(), left = mark_of(who);
    return is_near(&own, &left) && no_such_process(left.pid);
}

rf_life rf_mark_says(const rf_process_mark *who)
{
    mark own = ourselves(), left = mark_of(who);
    if (!is_near(&own, &left))
        return RF_UNKNOWN;
    if (no_such_process(left.pid))
        return RF_DEAD;
    char path[32];
    told told = {0};
    snprintf(path, sizeof path, "/proc/%u/stat", left.pid);
    if (!own.proc_is_ours || left.time_namespace != own.time_namespace || !read_told(path, &told))
        return RF_UNKNOWN;
    if (told.start != left.start || (told.stack && left.stack && told.stack != left.stack))
        return RF_DEAD;
    /* A process whose first thread has ended looks like a zombie while its other threads work on. */
    bool ended = told.state == 'X' || told.state == 'x' || told.state == 'Z';
    return ended && told.threads <= 1 ? RF_DEAD : RF_LIVES;
}
