/*
 * The parts that all C tests share. A test is a sentence and a function, and runs in a process of its own.
 *
 * This file may know the whole core, its private headers too, because some states are best made by hand.
 *
 * A test passes if its process exits with 0. Exit status 77 means skipped, and any other means failed. CHECK ends a
 * failed test at once, at any depth of calls. An alarm ends a test that hangs. The process leads a process group.
 * The runner removes the rest of the group and the test's segments afterwards, so a failing test does not clean up
 * itself.
 */
#ifndef RF_CHECK_H
#define RF_CHECK_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "ring/lease.h"

enum { PASSED = 0, FAILED = 1, SKIPPED = 77, WATCHDOG_SECONDS = 60 };

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

#define NS_PER_MS INT64_C(1000000)
#define COUNT(array) (sizeof(array) / sizeof(array)[0])

#define CHECK(condition)                                   \
    do {                                                   \
        if (!(condition))                                  \
            fail(__FILE__, __LINE__, #condition, 0, 0, 0); \
    } while (0)

/* A failure shows both sides as numbers. */
#define CHECK_EQUAL(actual, expected)                                            \
    do {                                                                         \
        long long is_ = (long long)(actual), should_ = (long long)(expected);    \
        if (is_ != should_)                                                      \
            fail(__FILE__, __LINE__, #actual " == " #expected, 1, is_, should_); \
    } while (0)

static inline void fail(const char *file, int line, const char *what, int numbers, long long is,
                        long long should)
{
    if (numbers)
        dprintf(1, "    %s:%d: %s: %lld, not %lld\n", file, line, what, is, should);
    else
        dprintf(1, "    %s:%d: %s\n", file, line, what);
    _exit(FAILED);
}

static inline void skip(const char *reason)
{
    dprintf(1, "    %s\n", reason);
    _exit(SKIPPED);
}

/* ---- Running tests -------------------------------------------------------------------------- */

typedef struct test {
    const char *sentence;
    void (*run)(void);
} test;

static volatile sig_atomic_t running_test, interrupted;

static inline void stop_running_test(int number)
{
    interrupted = number;
    if (running_test > 0)
        kill(-running_test, SIGKILL);
}

static inline void remove_segments(pid_t creator)
{
    char pattern[64];
    glob_t found;
    snprintf(pattern, sizeof pattern, "/dev/shm/rf-test-%d-*", (int)creator);
    if (glob(pattern, 0, NULL, &found) != 0)
        return;
    for (size_t i = 0; i < found.gl_pathc; i++)
        unlink(found.gl_pathv[i]);
    globfree(&found);
}

static inline int run_one(const test *one)
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        setpgid(0, 0);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        signal(SIGINT, SIG_DFL);
        signal(SIGTERM, SIG_DFL);
        alarm(WATCHDOG_SECONDS);
        one->run();
        exit(PASSED); /* the sanitizers report here */
    }
    setpgid(pid, pid);
    running_test = pid;
    /* Killed processes leave their children to the runner, thousands of them in a long test. */
    siginfo_t ended = {0};
    while (waitid(P_ALL, 0, &ended, WEXITED | WNOWAIT) == -1 ? errno == EINTR : ended.si_pid != pid)
        if (ended.si_pid != 0)
            waitpid(ended.si_pid, NULL, 0);
    /* The process is not reaped yet, so its process group number cannot be reused. */
    kill(-pid, SIGKILL);
    running_test = 0;
    int status;
    while (waitpid(pid, &status, 0) == -1 && errno == EINTR)
        ;
    while (waitpid(-1, NULL, 0) > 0 || errno == EINTR)
        ; /* the test's own children are now ours: the runner is their subreaper */
    remove_segments(pid);
    if (WIFSIGNALED(status))
        printf("    ended by signal %d%s\n", WTERMSIG(status),
               WTERMSIG(status) == SIGALRM ? ": it hung" : "");
    return WIFEXITED(status) ? WEXITSTATUS(status) : FAILED;
}

/* Exits with 0, with 1, or with 77 when all tests were skipped. An argument selects the tests whose sentence
 * contains it. */
static inline int run_tests(int argc, char **argv, const test *tests, size_t count)
{
    size_t failed = 0, skipped = 0, ran = 0;
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    signal(SIGINT, stop_running_test);
    signal(SIGTERM, stop_running_test);
    for (size_t i = 0; i < count && !interrupted; i++) {
        if (argc > 1 && !strstr(tests[i].sentence, argv[1]))
            continue;
        int result = run_one(&tests[i]);
        const char *verdict = result == PASSED ? "ok" : result == SKIPPED ? "skipped" : "FAILED";
        printf("%-7s %s\n", verdict, tests[i].sentence);
        ran++;
        failed += result != PASSED && result != SKIPPED;
        skipped += result == SKIPPED;
    }
    if (failed || interrupted)
        return FAILED;
    return ran && skipped == ran ? SKIPPED : PASSED;
}

#define MAIN(tests)                                        \
    int main(int argc, char **argv)                        \
    {                                                      \
        return run_tests(argc, argv, tests, COUNT(tests)); \
    }

/* ---- Processes and time --------------------------------------------------------------------- */

/* Memory that a test and its children share. */
static inline void *shared_memory(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    return memory;
}

/* Run `function` in a child, which then exits. The runner kills the child if the test ends first. */
static inline pid_t spawn(void (*function)(void *), void *argument)
{
    pid_t parent = getpid(), pid = fork();
    CHECK(pid != -1);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(FAILED);
        function(argument);
        _exit(PASSED);
    }
    return pid;
}

static inline void expect_success(pid_t pid)
{
    int status;
    while (waitpid(pid, &status, 0) == -1)
        CHECK_EQUAL(errno, EINTR);
    CHECK(WIFEXITED(status));
    CHECK_EQUAL(WEXITSTATUS(status), PASSED);
}

static inline void kill_and_reap(pid_t pid)
{
    int status;
    CHECK_EQUAL(kill(pid, SIGKILL), 0);
    while (waitpid(pid, &status, 0) == -1)
        CHECK_EQUAL(errno, EINTR);
    CHECK(WIFSIGNALED(status));
}

static inline void stop_and_wait(pid_t pid)
{
    int status;
    CHECK_EQUAL(kill(pid, SIGSTOP), 0);
    CHECK_EQUAL(waitpid(pid, &status, WUNTRACED), pid);
    CHECK(WIFSTOPPED(status));
}

static inline pthread_t start_thread(void *(*function)(void *), void *argument)
{
    pthread_t thread;
    CHECK_EQUAL(pthread_create(&thread, NULL, function, argument), 0);
    return thread;
}

static inline void join_thread(pthread_t thread)
{
    CHECK_EQUAL(pthread_join(thread, NULL), 0);
}

static inline void rest(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
}

/* Wait until another thread or process has set `*flag` to at least `value`. The watchdog ends a wait that hangs. */
static inline void await(_Atomic uint32_t *flag, uint32_t value)
{
    while (atomic_load(flag) < value)
        rest();
}

static inline int64_t in_ms(int64_t milliseconds)
{
    return rf_now_ns() + milliseconds * NS_PER_MS;
}

static inline int64_t cpu_ns(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * INT64_C(1000000000) +
           (used.ru_utime.tv_usec + used.ru_stime.tv_usec) * INT64_C(1000);
}

/* ---- Rings ---------------------------------------------------------------------------------- */

/* A sample fills a page, so that a ring can have any number of slots. It holds a number. */
enum { SAMPLE_BYTES = 4096 };

static inline const char *segment_name(int number)
{
    static char name[64];
    static pid_t creator; /* children attach under their parent's name */
    if (!creator)
        creator = getpid();
    snprintf(name, sizeof name, "/rf-test-%d-%d", (int)creator, number);
    return name;
}

static inline rf_geometry *geometry_of(uint32_t dtype, uint32_t rank, const uint64_t *shape)
{
    rf_geometry *geometry = calloc(1, sizeof *geometry);
    CHECK(geometry);
    geometry->fields = 1;
    rf_field *field = &geometry->field[0];
    snprintf(field->name, sizeof field->name, "x");
    field->dtype = dtype;
    field->rank = rank;
    for (uint32_t axis = 0; axis < rank; axis++)
        field->shape[axis] = shape[axis];
    return geometry;
}

static inline rf_options options_for(uint32_t slots)
{
    return (rf_options){.slots = slots, .participants = 16, .redeliver = 1, .numa_node = -1};
}

static inline int create_segment(int number)
{
    int fd = shm_open(segment_name(number), O_RDWR | O_CREAT | O_EXCL, 0600);
    CHECK(fd >= 0);
    return fd;
}

static inline int open_segment(int number)
{
    int fd = shm_open(segment_name(number), O_RDWR, 0600);
    CHECK(fd >= 0);
    return fd;
}

static inline rf_ring *create_ring_as(const rf_options *options, uint64_t sample_bytes)
{
    rf_geometry *geometry = geometry_of(RF_UINT8, 1, &sample_bytes);
    rf_ring *ring;
    CHECK_EQUAL(rf_plan(options, geometry), RF_OK);
    CHECK_EQUAL(rf_ring_create(create_segment(0), options, geometry, &ring), RF_OK);
    free(geometry);
    return ring;
}

/* A ring of exactly `slots` slots, each one page. */
static inline rf_ring *create_ring(uint32_t slots)
{
    rf_options options = options_for(slots);
    rf_ring *ring = create_ring_as(&options, SAMPLE_BYTES);
    CHECK_EQUAL(rf_ring_geometry(ring)->slots, slots);
    return ring;
}

static inline rf_ring *attach_ring(void)
{
    rf_ring *ring;
    CHECK_EQUAL(rf_ring_attach(open_segment(0), &ring), RF_OK);
    return ring;
}

/* A handle of the same ring with a window (window.h) that ends within a small ring, or with none. Some of the
 * handles stream their copies (streaming.h). */
static inline rf_ring *attach_ring_with_window(void)
{
    rf_ring *ring = attach_ring();
    ring->window = (uint32_t)getpid() % 6;
    ring->restarts = ring->window != 0 && getpid() / 6 % 2;
    if (getpid() / 12 % 2)
        ring->copies.least_bytes = 1; /* copies alternate between both ways, while they are timed */
    return ring;
}

static inline void close_ring(rf_ring *ring)
{
    rf_ring_close(ring);
    rf_ring_drop(ring);
}

#include "ring_operations.h"

#endif
