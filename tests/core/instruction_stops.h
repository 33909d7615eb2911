/*
 * Stopping a process at any one instruction of an operation, by ptrace and a debug register.
 *
 * A child runs one operation under ptrace. A first child is stepped through the operation, to note every address of
 * this program that it passes. Then each address is played on a fresh ring. A debug register stops a child there.
 * The other processes work on, lap after lap. Then the child continues or is killed. At the end every record must
 * have been taken once and in order, and every slot must be free again. Debug registers belong to one thread, so
 * another thread of the stopped process can work on, too.
 *
 * The cursors are hints, so the other processes set them to the worst values.
 *
 * A waiting operation is stopped on its way to sleep. Then the event happens for which it waits. It must not sleep
 * through the event: a lost wake-up shows as a futex that timed out.
 */
#ifndef RF_INSTRUCTION_STOPS_H
#define RF_INSTRUCTION_STOPS_H

#include "ring_fixture.h"

#if defined(__x86_64__)

#include <linux/futex.h>
#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>

enum { MAX_ADDRESSES = 4096, TRIES = 3, FROZEN_MS = 2000 };

typedef struct scenario {
    void (*prepare)(ring_fixture *); /* in the parent, before the child attaches */
    void (*warm_up)(ring_fixture *); /* in the child, untraced */
    void (*operate)(ring_fixture *); /* in the child, stopped at some instruction */
    void (*meanwhile)(ring_fixture *);
    void (*later)(ring_fixture *); /* when the child sleeps again */
    uint32_t variants; /* of the cursors; every other variant stops at the second visit */
    bool kill;
    bool waits;
    rf_status answer; /* the status that the waiter must get */
} scenario;

extern char __executable_start, etext;

/* ---- The clock of a child that waits -------------------------------------------------------- */

/* The child's clock stands still at a moment in the future, so its slice does not end while it is stepped through.
 * A futex that would sleep forever times out after this moment. */
static int64_t frozen_until_ns, frozen_ms;

int clock_gettime(clockid_t clock, struct timespec *now)
{
    long result = syscall(SYS_clock_gettime, clock, now);
    int64_t real_ns = (int64_t)now->tv_sec * 1000000000 + now->tv_nsec;
    if (clock == CLOCK_MONOTONIC && real_ns < frozen_until_ns)
        *now = (struct timespec){frozen_until_ns / 1000000000, frozen_until_ns % 1000000000};
    return (int)result;
}

static inline void freeze_clock(rf_ring *ring)
{
    frozen_until_ns = in_ms(frozen_ms);
    atomic_store(&ring->header->reaped_ns,
                 frozen_until_ns); /* as if the child had just checked for dead participants */
}

/* ---- Stopping at an instruction ------------------------------------------------------------- */

static inline void victim_process(const scenario *played, ring_fixture *now)
{
    now->victim = attach_ring();
    if (played->warm_up)
        played->warm_up(now);
    atomic_store(&now->victim->take_spin, 1); /* spinning takes long under single steps */
    atomic_store(&now->victim->claim_spin, 1);
    if (played->waits)
        freeze_clock(now->victim);
    CHECK_EQUAL(ptrace(PTRACE_TRACEME, 0, 0, 0), 0);
    raise(SIGSTOP);
    played->operate(now);
    raise(SIGSTOP);
    await(&shared->helper_done, atomic_load(&shared->helper_asked));
    if (now->victim)
        close_ring(now->victim);
    _exit(PASSED);
}

static inline int wait_stop(pid_t pid)
{
    int status;
    CHECK_EQUAL(waitpid(pid, &status, 0), pid);
    if (!WIFSTOPPED(status))
        exit(FAILED); /* a check failed in the child, which has reported it */
    return WSTOPSIG(status);
}

static inline pid_t start_victim(const scenario *played, ring_fixture *now)
{
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        victim_process(played, now);
    }
    CHECK_EQUAL(wait_stop(pid), SIGSTOP);
    return pid;
}

/* Wait until the child sleeps in the kernel. */
static inline void await_sleep(pid_t pid)
{
    char path[64], line[512];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    for (int asleep = 0; asleep < 3; rest()) {
        FILE *stat = fopen(path, "r");
        CHECK(stat && fgets(line, sizeof line, stat));
        fclose(stat);
        asleep = strrchr(line, ')')[2] == 'S' ? asleep + 1 : 0;
        if (strrchr(line, ')')[2] == 't')
            return; /* the system call returned at once */
    }
}

static inline void set_debug_register(pid_t pid, size_t index, uint64_t value)
{
    size_t offset = offsetof(struct user, u_debugreg) + index * sizeof(long);
    if (ptrace(PTRACE_POKEUSER, pid, offset, value) == -1)
        skip("debug registers cannot be set here");
}

/* Run until the child reaches `address` for the `visit`th time. False: the operation ended before. */
static inline bool run_to(pid_t pid, uint64_t address, uint32_t visit)
{
    set_debug_register(pid, 0, address);
    set_debug_register(pid, 7, 1);
    while (visit--) {
        ptrace(PTRACE_CONT, pid, 0, 0);
        if (wait_stop(pid) == SIGSTOP)
            return false;
    }
    return true;
}

/* Continue to the end of the operation. True: the child slept through its whole slice. */
static inline bool run_on(const scenario *played, ring_fixture *now, pid_t pid)
{
    bool overslept = false, falls_asleep = false, later = played->later != NULL;
    struct user_regs_struct seen;
    for (;;) {
        CHECK_EQUAL(ptrace(PTRACE_SYSCALL, pid, 0, 0), 0);
        if (falls_asleep && later) {
            await_sleep(pid);
            played->later(now);
            later = false;
        }
        if (wait_stop(pid) == SIGSTOP)
            return overslept;
        CHECK_EQUAL(ptrace(PTRACE_GETREGS, pid, 0, &seen), 0);
        bool waits = seen.orig_rax == SYS_futex && seen.rsi == FUTEX_WAIT_BITSET;
        falls_asleep = waits && (int64_t)seen.rax ==
                                    -ENOSYS; /* rax has this value at each entry of a system call */
        overslept |= waits && (int64_t)seen.rax == -ETIMEDOUT;
    }
}

/* ---- Playing -------------------------------------------------------------------------------- */

static inline void begin(const scenario *played, ring_fixture *now, uint32_t scramble)
{
    memset(now, 0, sizeof *now);
    now->scrambled = !played->waits;
    now->takes = scramble;
    now->puts = scramble * 2;
    memset(shared, 0, sizeof *shared);
    now->ours = create_ring(SLOTS);
    now->other = attach_ring();
    if (played->prepare)
        played->prepare(now);
}

/* True: the child is at the system call that puts it to sleep. */
static inline bool at_futex_call(pid_t pid, uint64_t at)
{
    size_t rax = offsetof(struct user, regs.rax);
    return (ptrace(PTRACE_PEEKTEXT, pid, at, 0) & 0xffff) == 0x050f &&
           ptrace(PTRACE_PEEKUSER, pid, rax, 0) == SYS_futex;
}

/* Returns the addresses that the operation passes, each once, until it ends or goes to sleep. */
static inline size_t trace(const scenario *played, uint64_t *addresses)
{
    ring_fixture now;
    bool sleeps = false;
    frozen_ms = WATCHDOG_SECONDS * 1000; /* the child is killed before it sleeps */
    begin(played, &now, 1);
    pid_t pid = start_victim(played, &now);
    size_t count = 0;
    while (!sleeps) {
        CHECK_EQUAL(ptrace(PTRACE_SINGLESTEP, pid, 0, 0), 0);
        if (wait_stop(pid) == SIGSTOP)
            break;
        uint64_t at = (uint64_t)ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user, regs.rip), 0);
        sleeps = played->waits && at_futex_call(pid, at);
        if (sleeps || at < (uintptr_t)&__executable_start || at >= (uintptr_t)&etext)
            continue;
        size_t i = 0;
        while (i < count && addresses[i] != at)
            i++;
        if (i == count && count < MAX_ADDRESSES)
            addresses[count++] = at;
    }
    CHECK_EQUAL(sleeps, played->waits);
    kill_and_reap(pid);
    if (now.held)
        drop_held(&now);
    close_ring(now.other);
    close_ring(now.ours);
    shm_unlink(segment_name(0));
    return count;
}

/* True: the operation slept through its slice, or returned the wrong status. */
static inline bool play_once(const scenario *played, uint64_t address, uint32_t variant)
{
    ring_fixture now;
    bool overslept = false;
    frozen_ms = FROZEN_MS;
    begin(played, &now, variant);
    pid_t pid = start_victim(played, &now);
    bool stands = run_to(pid, address, 1 + variant % 2);
    now.finished = rf_ring_is_finished(now.ours) != 0;
    if (played->kill) {
        kill_and_reap(pid);
        reconcile_with_words(&now);
        rf_recover(now.ours);
        played->meanwhile(&now);
    } else {
        set_debug_register(pid, 7, 0);
        if (stands && played->meanwhile) {
            played->meanwhile(&now);
            overslept = run_on(played, &now, pid);
            expect_order(&now);
            overslept |= played->waits && atomic_load(&shared->answer) != played->answer;
        }
        overslept |= played->waits && !stands; /* the child slept before it reached this address */
        ptrace(PTRACE_CONT, pid, 0, 0);        /* the child itself waits for its helper */
        expect_success(pid);
    }
    end(&now);
    return overslept;
}

static inline void play_at(const scenario *played, uint64_t address, uint32_t variant)
{
    /* On a busy machine even the moment of the stopped clock may pass before any process could wake the child. It
     * does not pass every time. */
    int tries = TRIES;
    alarm(WATCHDOG_SECONDS); /* each play has its own watchdog */
    while (play_once(played, address, variant) && played->waits)
        if (!--tries) {
            printf("    stopped at +%#lx\n", (long)(address - (uintptr_t)&__executable_start));
            fflush(stdout);
            CHECK(tries);
        }
}

/* A thread keeps the memory of one lease. Each play is to find this memory, and so to pass the same instructions. */
static inline void leave_a_spare_lease(void)
{
    rf_ring *ring = create_ring(SLOTS);
    rf_lease *lease;
    CHECK_EQUAL(rf_claim(ring, 1, 0, &lease), RF_OK);
    rf_lease_drop(lease);
    close_ring(ring);
    shm_unlink(segment_name(0));
}

static inline void play(const scenario *played)
{
    static uint64_t addresses[MAX_ADDRESSES];
    shared = shared_memory(sizeof *shared);
    leave_a_spare_lease();
    size_t count = trace(played, addresses);
    CHECK(count > 20);
    for (size_t i = 0; i < count; i++)
        for (uint32_t variant = 0; variant < (played->variants ? played->variants : 1); variant++)
            play_at(played, addresses[i], variant);
}

#define SCENARIO(name, ...)                           \
    static void name(void)                            \
    {                                                 \
        static const scenario played = {__VA_ARGS__}; \
        play(&played);                                \
    }

#endif

/* The one test on other machines. */
static inline void skipped(void)
{
    skip("this test knows only the debug registers of x86-64");
}

#endif
