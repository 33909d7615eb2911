/*
 * Shared parts of the programs of this folder: clocks, pinned helper processes, and the figures by name.
 *
 * It may not know the figures themselves. A program measures each figure that its arguments name once (all of them
 * without arguments), and prints one JSON object.
 */
#ifndef LIMITS_ROUNDS_H
#define LIMITS_ROUNDS_H

#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { LINE_BYTES = 64, LINE_PAIR_BYTES = 128 /* processors fetch lines in pairs */ };

/* An atomic number with cache lines of its own. */
typedef struct lonely {
    _Alignas(LINE_PAIR_BYTES) _Atomic uint64_t value;
} lonely;

static inline int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static inline void give_up(const char *what)
{
    perror(what);
    exit(1);
}

/* Store the numbers of the cores that this process may use; return how many. */
static inline int cores_at_hand(int *cores, int most)
{
    cpu_set_t allowed;
    int count = 0;
    sched_getaffinity(0, sizeof allowed, &allowed);
    for (int core = 0; core < CPU_SETSIZE && count < most; core++)
        if (CPU_ISSET(core, &allowed))
            cores[count++] = core;
    return count;
}

/* Pin the calling thread to a core. */
static inline void pin_to_core(int core)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(core, &set);
    if (sched_setaffinity(0, sizeof set, &set))
        give_up("pinning");
}

/* Zeroed memory that is shared with forked children. */
static inline void *shared_memory(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        give_up("shared memory");
    memset(memory, 0, bytes);
    return memory;
}

/* On two cores a pause between spins costs more than it saves; on one core the two processes must yield. */
static inline void wait_for(_Atomic uint64_t *value, uint64_t least)
{
    for (uint64_t turn = 1; atomic_load_explicit(value, memory_order_acquire) < least; turn++)
        if (turn % 65536 == 0)
            sched_yield();
}

/* Run `other(shared)` in a child on one core and `own(shared)` here on another; return the result of `own`. */
static inline double with_a_helper(void (*other)(void *), double (*own)(void *), void *shared,
                                   int own_core, int other_core)
{
    cpu_set_t before;
    sched_getaffinity(0, sizeof before, &before);
    pid_t child = fork();
    if (child < 0)
        give_up("fork");
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        pin_to_core(other_core);
        other(shared);
        _exit(0);
    }
    pin_to_core(own_core);
    double figure = own(shared);
    int status;
    if (waitpid(child, &status, 0) != child || status != 0) {
        fprintf(stderr, "the helper failed: status %d\n", status);
        exit(1);
    }
    sched_setaffinity(0, sizeof before, &before);
    return figure;
}

/* ---- Figures by name ------------------------------------------------------------------------ */

typedef struct figure {
    const char *name;
    double (*measure)(int argument);
    int argument;
} figure;

static inline int is_asked_for(const char *name, int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], name) == 0)
            return 1;
    return argc == 1;
}

static inline int print_figures(const figure *figures, size_t count, int argc, char **argv)
{
    const char *separator = "{";
    for (size_t i = 0; i < count; i++) {
        if (!is_asked_for(figures[i].name, argc, argv))
            continue;
        printf("%s\"%s\": %.6g", separator, figures[i].name,
               figures[i].measure(figures[i].argument));
        fflush(stdout); /* before a fork, so that a child does not print it again */
        separator = ", ";
    }
    printf("%s}\n", *separator == '{' ? "{" : "");
    return *separator == '{'; /* no figure has that name */
}

#endif
