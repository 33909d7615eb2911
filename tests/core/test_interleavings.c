/*
 * What happens when a process stands still, or dies, at any one instruction of an operation?
 *
 * A child runs one operation under ptrace. First it is stepped through once, and every address of
 * this program that it passes is noted. Then, for each of these addresses, on a fresh ring, the
 * child is stopped right there by a debug register; the others work on, lap after lap; the child
 * goes on or is killed; and in the end every record must have been taken once and in order, and
 * every slot must be free again. Debug registers belong to one thread, so another thread of the
 * stopped process can work on, too.
 *
 * The cursors are hints, so the others set them to whatever is worst.
 *
 * An operation that waits is stopped on its way to sleep, while that happens for which it waits.
 * It must not sleep through it: a wake-up that was lost shows as a futex that timed out.
 */
#include "ring_fixture.h"

#if defined(__x86_64__)

#include <linux/futex.h>
#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>

enum { MAX_ADDRESSES = 4096, TRIES = 3, TIME_STANDS_MS = 2000 };

typedef struct scenario {
    void (*prepare)(ring_fixture *); /* in the parent, before the child attaches */
    void (*warm_up)(ring_fixture *); /* in the child, untraced */
    void (*operate)(ring_fixture *); /* in the child, stopped somewhere */
    void (*meanwhile)(ring_fixture *);
    void (*later)(ring_fixture *); /* when the child has gone to sleep again */
    uint32_t variants;             /* of the cursors; every other one stops at the second visit */
    bool kill;
    bool waits;
    rf_status answer; /* that who waits must get */
} scenario;

extern char __executable_start, etext;

/* ---- The clock of a child that waits -------------------------------------------------------- */

/* Its time stands still at a moment that is yet to come: so its slice is not over while it is stepped through, and
 * a futex on which it would sleep for good times out when that moment has been. */
static int64_t time_stands_ns, time_stands_ms;

int clock_gettime(clockid_t clock, struct timespec *now)
{
    long result = syscall(SYS_clock_gettime, clock, now);
    int64_t real_ns = (int64_t)now->tv_sec * 1000000000 + now->tv_nsec;
    if (clock == CLOCK_MONOTONIC && real_ns < time_stands_ns)
        *now = (struct timespec){time_stands_ns / 1000000000, time_stands_ns % 1000000000};
    return (int)result;
}

static void let_time_stand(rf_ring *ring)
{
    time_stands_ns = in_ms(time_stands_ms);
    atomic_store(&ring->header->reaped_ns,
                 time_stands_ns); /* as if it had just looked after the dead */
}

/* ---- What the child does when it waits ------------------------------------------------------ */

/* One call; a waiter that is not woken comes back with RF_AGAIN. */
static void operate_wait_take(ring_fixture *now, uint32_t least)
{
    rf_take_request request = {.max_rows = least, .min_rows = least, .deadline_ns = RF_FOREVER};
    rf_lease *lease;
    rf_status status = rf_take(now->victim, &request, &lease);
    atomic_store(&shared->answer, status);
    if (status != RF_OK)
        return;
    CHECK_EQUAL(rf_lease_rows(lease), least);
    for (uint32_t row = 0; row < least; row++)
        atomic_fetch_add(&shared->taken[number_at(lease, row)], 1);
    rf_lease_drop(lease);
}

static void operate_wait_for_one(ring_fixture *now)
{
    operate_wait_take(now, 1);
}

static void operate_wait_for_three(ring_fixture *now)
{
    operate_wait_take(now, 3);
}

static void operate_wait_claim(ring_fixture *now)
{
    rf_lease *lease;
    rf_status status = rf_claim(now->victim, 1, RF_FOREVER, &lease);
    atomic_store(&shared->answer, status);
    if (status == RF_OK)
        rf_lease_drop(lease);
}

/* ---- What the others do meanwhile ----------------------------------------------------------- */

static void recover_too(ring_fixture *now)
{
    rf_recover(now->ours);
    laps(now);
    rf_recover(now->ours);
}

static void finish_too(ring_fixture *now)
{
    rf_finish(now->ours);
    now->finished = true;
    drain(now);
}

/* A participant that died with a record of ours that we keep. */
static void die_with_a_row(void *argument)
{
    (void)argument;
    CHECK(take(attach_ring(), 1));
    raise(SIGKILL);
}

static void a_dead_taker(ring_fixture *now)
{
    int status;
    now->held = claim(now->ours, 1);
    set_number(now->held, 0, OURS * NUMBERS);
    now->next[OURS]++;
    CHECK_EQUAL(rf_publish(now->held, 1, NULL, 1), RF_OK);
    atomic_fetch_add(&shared->published[OURS * NUMBERS], 1);
    waitpid(spawn(die_with_a_row, NULL), &status, 0);
    CHECK(WIFSIGNALED(status));
}

static void take_and_hold(ring_fixture *now)
{
    atomic_store(&now->ours->header->take_cursor, 0);
    CHECK_EQUAL(take_until(now->ours, SLOTS, 1, 0, &now->held), RF_OK);
    for (uint32_t row = 0; row < rf_lease_rows(now->held); row++)
        atomic_fetch_add(&shared->taken[number_at(now->held, row)], 1);
}

static void put_one(ring_fixture *now)
{
    CHECK_EQUAL(work_put(now, now->ours, OURS), RF_OK);
}

static void put_two(ring_fixture *now)
{
    put_one(now);
    put_one(now);
}

static void release_one(ring_fixture *now)
{
    CHECK_EQUAL(work_take(now, now->ours, 1), 1);
}

static void only_finish(ring_fixture *now)
{
    rf_finish(now->ours);
    now->finished = true;
}

static void helper_closes(ring_fixture *now)
{
    (void)now;
    atomic_fetch_add(&shared->helper_asked, 1);
    await(&shared->helper_done, 1);
}

/* The other thread of the stopped process publishes twice, or waits for the first to go on. */
static void helper_puts(ring_fixture *now)
{
    atomic_fetch_add(&shared->helper_asked, 2);
    for (int i = 0; i < 5 && atomic_load(&shared->helper_done) < 3; i++)
        rest();
    drain(now);
}

/* ---- Beginnings ----------------------------------------------------------------------------- */

static void finished_but_for_a_claim(ring_fixture *now)
{
    now->held = claim(now->ours, 1);
    only_finish(now);
}

static void *help(void *argument)
{
    ring_fixture *now = argument;
    for (uint32_t done = 0;;) {
        await(&shared->helper_asked, done + 1);
        work_put(now, now->victim, HELPER);
        atomic_store(&shared->helper_done, ++done);
    }
    return NULL;
}

static void *help_closing(void *argument)
{
    ring_fixture *now = argument;
    await(&shared->helper_asked, 1);
    rf_ring_close(now->victim);
    atomic_store(&shared->helper_done, 1);
    return NULL;
}

static void helper_will_close(ring_fixture *now)
{
    start_thread(help_closing, now);
}

static void helper_puts_first(ring_fixture *now)
{
    start_thread(help, now);
    atomic_fetch_add(&shared->helper_asked, 1);
    await(&shared->helper_done, 1);
}

/* ---- Stopping at an instruction ------------------------------------------------------------- */

static void victim_process(const scenario *played, ring_fixture *now)
{
    now->victim = attach_ring();
    if (played->warm_up)
        played->warm_up(now);
    atomic_store(&now->victim->take_spin, 1); /* spinning takes long, step by step */
    atomic_store(&now->victim->claim_spin, 1);
    if (played->waits)
        let_time_stand(now->victim);
    CHECK_EQUAL(ptrace(PTRACE_TRACEME, 0, 0, 0), 0);
    raise(SIGSTOP);
    played->operate(now);
    raise(SIGSTOP);
    await(&shared->helper_done, atomic_load(&shared->helper_asked));
    if (now->victim)
        close_ring(now->victim);
    _exit(PASSED);
}

static int wait_stop(pid_t pid)
{
    int status;
    CHECK_EQUAL(waitpid(pid, &status, 0), pid);
    if (!WIFSTOPPED(status))
        exit(FAILED); /* a check failed in the child, which has said so */
    return WSTOPSIG(status);
}

static pid_t start_victim(const scenario *played, ring_fixture *now)
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
static void await_sleep(pid_t pid)
{
    char path[64], line[512];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    for (int asleep = 0; asleep < 3; rest()) {
        FILE *stat = fopen(path, "r");
        CHECK(stat && fgets(line, sizeof line, stat));
        fclose(stat);
        asleep = strrchr(line, ')')[2] == 'S' ? asleep + 1 : 0;
        if (strrchr(line, ')')[2] == 't')
            return; /* it came back at once */
    }
}

static void set_debug_register(pid_t pid, size_t index, uint64_t value)
{
    size_t offset = offsetof(struct user, u_debugreg) + index * sizeof(long);
    if (ptrace(PTRACE_POKEUSER, pid, offset, value) == -1)
        skip("debug registers can not be set here");
}

/* Run to the `visit`th pass of `address`. False: the operation was over before. */
static bool run_to(pid_t pid, uint64_t address, uint32_t visit)
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

/* Go on to the end of the operation. True: it slept through its whole slice. */
static bool run_on(const scenario *played, ring_fixture *now, pid_t pid)
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
        falls_asleep = waits && (int64_t)seen.rax == -ENOSYS; /* so says every entry */
        overslept |= waits && (int64_t)seen.rax == -ETIMEDOUT;
    }
}

/* ---- Playing -------------------------------------------------------------------------------- */

static void begin(const scenario *played, ring_fixture *now, uint32_t scramble)
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

/* Where an operation that waits goes to sleep. */
static bool at_futex_call(pid_t pid, uint64_t at)
{
    size_t rax = offsetof(struct user, regs.rax);
    return (ptrace(PTRACE_PEEKTEXT, pid, at, 0) & 0xffff) == 0x050f &&
           ptrace(PTRACE_PEEKUSER, pid, rax, 0) == SYS_futex;
}

/* Where does the operation pass, to its end or to where it goes to sleep? Each address once. */
static size_t trace(const scenario *played, uint64_t *addresses)
{
    ring_fixture now;
    bool sleeps = false;
    time_stands_ms = WATCHDOG_SECONDS * 1000; /* it is killed before it sleeps */
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

/* True: the operation slept through its slice, or came back with the wrong answer. */
static bool play_once(const scenario *played, uint64_t address, uint32_t variant)
{
    ring_fixture now;
    bool overslept = false;
    time_stands_ms = TIME_STANDS_MS;
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
        overslept |= played->waits && !stands; /* it sleeps before it comes to that address */
        ptrace(PTRACE_CONT, pid, 0, 0);        /* it waits for its helper itself */
        expect_success(pid);
    }
    end(&now);
    return overslept;
}

static void play_at(const scenario *played, uint64_t address, uint32_t variant)
{
    /* On a busy machine even the time that stands still may be over before anyone could wake the child; not every time. */
    int tries = TRIES;
    alarm(WATCHDOG_SECONDS); /* for each play its own */
    while (play_once(played, address, variant) && played->waits)
        if (!--tries) {
            printf("    stopped at +%#lx\n", (long)(address - (uintptr_t)&__executable_start));
            fflush(stdout);
            CHECK(tries);
        }
}

/* A thread keeps the memory of one lease. Each play is to find it, and so to take the same way. */
static void leave_a_spare_lease(void)
{
    rf_ring *ring = create_ring(SLOTS);
    rf_lease *lease;
    CHECK_EQUAL(rf_claim(ring, 1, 0, &lease), RF_OK);
    rf_lease_drop(lease);
    close_ring(ring);
    shm_unlink(segment_name(0));
}

static void play(const scenario *played)
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

#define SCENE(name, ...)                              \
    static void name(void)                            \
    {                                                 \
        static const scenario played = {__VA_ARGS__}; \
        play(&played);                                \
    }

SCENE(stopped_put, .prepare = two_records, .warm_up = put_earlier, .operate = operate_put,
      .meanwhile = laps, .variants = 2)
SCENE(stopped_claim, .prepare = two_records, .operate = operate_claim_and_publish,
      .meanwhile = laps, .variants = 2)
SCENE(stopped_kept, .prepare = two_records, .operate = operate_kept, .meanwhile = laps,
      .variants = 2)
SCENE(stopped_take, .prepare = four_records, .operate = operate_take, .meanwhile = laps,
      .variants = 2)
SCENE(stopped_crossed_take, .prepare = crossed_records, .operate = operate_take, .meanwhile = laps,
      .variants = 2)
SCENE(stopped_crossed_publish, .operate = operate_crossed_publish, .meanwhile = laps, .variants = 2)
SCENE(stopped_close, .prepare = two_records, .operate = operate_close, .meanwhile = laps,
      .variants = 2)
SCENE(stopped_recover, .prepare = a_dead_participant, .operate = operate_recover,
      .meanwhile = recover_too, .variants = 2)
SCENE(take_beside_recover, .prepare = a_dead_participant, .operate = operate_recover,
      .meanwhile = take_and_hold, .variants = 2)
SCENE(unkeep_beside_recover, .prepare = a_dead_taker, .operate = operate_recover,
      .meanwhile = drop_held, .variants = 2)
SCENE(finished_put, .prepare = two_records, .warm_up = put_earlier, .operate = operate_put,
      .meanwhile = finish_too, .variants = 2)
SCENE(finished_claim, .operate = operate_claim_and_publish, .meanwhile = finish_too, .variants = 2)
SCENE(finished_take, .prepare = four_records, .operate = operate_take, .meanwhile = finish_too,
      .variants = 2)
SCENE(stopped_finish, .prepare = two_records, .operate = operate_finish, .meanwhile = laps,
      .variants = 2)
SCENE(threads_put, .warm_up = helper_puts_first, .operate = operate_put, .meanwhile = helper_puts,
      .variants = 5)
SCENE(killed_put, .prepare = two_records, .warm_up = put_earlier, .operate = operate_put,
      .meanwhile = laps, .variants = 2, .kill = true)
SCENE(killed_claim, .prepare = two_records, .operate = operate_claim_and_publish, .meanwhile = laps,
      .variants = 2, .kill = true)
SCENE(killed_kept, .prepare = two_records, .operate = operate_kept, .meanwhile = laps,
      .variants = 2, .kill = true)
SCENE(killed_crossed_publish, .operate = operate_crossed_publish, .meanwhile = laps, .variants = 2,
      .kill = true)
SCENE(killed_take, .prepare = four_records, .operate = operate_take, .meanwhile = laps,
      .variants = 2, .kill = true)
SCENE(killed_close, .prepare = two_records, .operate = operate_close, .meanwhile = laps,
      .variants = 2, .kill = true)
SCENE(killed_recover, .prepare = a_dead_participant, .operate = operate_recover, .meanwhile = laps,
      .variants = 2, .kill = true)
SCENE(woken_by_put, .operate = operate_wait_for_one, .meanwhile = put_one, .waits = true,
      .answer = RF_OK)
SCENE(woken_by_the_last_of_three, .operate = operate_wait_for_three, .meanwhile = put_one,
      .later = put_two, .waits = true, .answer = RF_OK)
SCENE(woken_by_release, .prepare = full_ring, .operate = operate_wait_claim,
      .meanwhile = release_one, .waits = true, .answer = RF_OK)
SCENE(woken_by_finish, .operate = operate_wait_for_one, .meanwhile = only_finish, .waits = true,
      .answer = RF_FINISHED)
SCENE(claimer_woken_by_finish, .prepare = full_ring, .operate = operate_wait_claim,
      .meanwhile = only_finish, .waits = true, .answer = RF_FINISHED)
SCENE(woken_by_discard, .prepare = finished_but_for_a_claim, .operate = operate_wait_for_one,
      .meanwhile = drop_held, .waits = true, .answer = RF_FINISHED)
SCENE(woken_by_close, .warm_up = helper_will_close, .operate = operate_wait_for_one,
      .meanwhile = helper_closes, .waits = true, .answer = RF_CLOSED)

static const test tests[] = {
    {"a put that stands still at any instruction stops nobody", stopped_put},
    {"a claim or publish that stands still at any instruction stops nobody", stopped_claim},
    {"a kept publish that stands still at any instruction stops nobody", stopped_kept},
    {"a take or release that stands still at any instruction stops nobody", stopped_take},
    {"a take of crossed records that stands still at any instruction keeps the order",
     stopped_crossed_take},
    {"records published crosswise by one that stands still at any instruction keep the order",
     stopped_crossed_publish},
    {"a handle that stands still while it closes stops nobody", stopped_close},
    {"two may recover the same dead participant, at any instruction", stopped_recover},
    {"a kept record that is taken at any instruction of a recovery leaves no slot behind",
     take_beside_recover},
    {"a record that is no longer kept at any instruction of a recovery is delivered",
     unkeep_beside_recover},
    {"a ring that is finished at any instruction of a put loses nothing", finished_put},
    {"a ring that is finished at any instruction of a claim loses nothing", finished_claim},
    {"a ring that is finished at any instruction of a take loses nothing", finished_take},
    {"a finish that stands still at any instruction stops nobody", stopped_finish},
    {"threads of one process keep their order when one stands still in a put", threads_put},
    {"a put that is killed at any instruction is whole or gone", killed_put},
    {"a claim or publish that is killed at any instruction is whole or gone", killed_claim},
    {"a kept publish that is killed at any instruction leaves no slot behind", killed_kept},
    {"records published crosswise by one that is killed at any instruction keep the order",
     killed_crossed_publish},
    {"the rows of a taker that is killed at any instruction are delivered", killed_take},
    {"a handle that is killed while it closes leaves its entry to others", killed_close},
    {"a recovery that is killed at any instruction is completed by the next", killed_recover},
    {"a taker on its way to sleep notices a put", woken_by_put},
    {"a taker on its way to sleep notices the first of three records and wakes at the last",
     woken_by_the_last_of_three},
    {"a claimer on its way to sleep notices a release", woken_by_release},
    {"a taker on its way to sleep notices the finish", woken_by_finish},
    {"a claimer on its way to sleep notices the finish", claimer_woken_by_finish},
    {"a taker on its way to sleep notices the discard of the last claim", woken_by_discard},
    {"a taker on its way to sleep notices that another thread closes", woken_by_close},
};

#else

static void skipped(void)
{
    skip("this test knows the debug registers of x86-64 only");
}

static const test tests[] = {{"operations may stand still or be killed anywhere", skipped}};

#endif

MAIN(tests)
