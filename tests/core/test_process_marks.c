/* The mark of a process: a second sign that it lives, beside its record lock. */
#include "roles.h"
#include "segment/process_mark.h"

/* Foreign code can unmap the mapping that holds the lock. Then the process's mark still shows that it lives. */
static void lose_the_lock(rf_ring *ring)
{
    claim_two(ring);
    rf_lock_mapping_end(&ring->lock_mapping);
}

static void test_a_process_that_lost_its_lock_lives(void)
{
    role *writer;
    rf_ring *ring = create_ring(4);
    pid_t child = start_role(&writer, lose_the_lock, publish_and_go_on);
    CHECK_EQUAL(rf_recover(ring), 0);
    atomic_store(&writer->may_continue, 1);
    expect_success(child);
    take_expecting(ring, 70);
    close_ring(ring);
}

static void publish_too_late(rf_ring *ring)
{
    (void)ring;
    uint64_t tags[2] = {1, 1};
    CHECK_EQUAL(rf_publish(kept, 2, tags, 0), RF_SLOT_LOST);
    rf_lease_drop(kept);
}

static void lose_lock_and_mark(rf_ring *ring)
{
    lose_the_lock(ring);
    rf_mark_withdraw(&ring->participants[rf_self(ring) - 1].mark);
}

static void test_late_writers_are_fenced(void)
{
    role *writer;
    rf_ring *ring = create_ring(2);
    pid_t child = start_role(&writer, lose_lock_and_mark, publish_too_late);
    CHECK_EQUAL(rf_recover(ring), 1); /* neither lock nor mark shows a living process */
    rf_lease *next = claim(ring, 2);
    CHECK_EQUAL(rf_lease_rows(next), 2);
    atomic_store(&writer->may_continue, 1);
    expect_success(child);
    publish(next, 2, 30);
    take_expecting(ring, 30);
    take_expecting(ring, 31);
    expect_all_free(ring);
    close_ring(ring);
}

static _Atomic uint32_t ended;

static void *hold_and_end(void *ring)
{
    claim_two(ring);
    atomic_store(&ended, 1);
    for (;;)
        pause();
    return NULL;
}

/* After its first thread has ended, a process looks like a zombie in /proc. */
static void end_the_first_thread(void *argument)
{
    role *own = argument;
    rf_ring *ring = attach_ring();
    start_thread(hold_and_end, ring);
    await(&ended, 1);
    rf_lock_mapping_end(&ring->lock_mapping); /* only the mark is left */
    atomic_store(&own->ready, 1);
    pthread_exit(NULL);
}

static void test_a_process_without_its_first_thread_lives(void)
{
    role *own = shared_memory(sizeof *own);
    rf_ring *ring = create_ring(4);
    pid_t child = spawn(end_the_first_thread, own);
    await(&own->ready, 1);
    char path[64], text[512] = "";
    snprintf(path, sizeof path, "/proc/%d/stat", (int)child);
    while (!strstr(text, ") Z ")) {
        int fd = open(path, O_RDONLY);
        CHECK(read(fd, text, sizeof text - 1) > 0);
        close(fd);
        rest();
    }
    CHECK_EQUAL(rf_recover(ring), 0);
    kill_and_reap(child);
    CHECK_EQUAL(rf_recover(ring), 1);
    close_ring(ring);
}

static void test_a_zombie_is_dead(void)
{
    role *writer;
    siginfo_t how;
    rf_ring *ring = create_ring(4);
    pid_t child = start_role(&writer, claim_two, NULL);
    CHECK_EQUAL(kill(child, SIGKILL), 0);
    CHECK_EQUAL(waitid(P_PID, (id_t)child, &how, WEXITED | WNOWAIT), 0);
    CHECK_EQUAL(rf_recover(ring), 1);
    kill_and_reap(child);
    close_ring(ring);
}

static void become_another_program(rf_ring *ring)
{
    (void)ring;
    execlp("sleep", "sleep", "1000", (char *)NULL);
    _exit(FAILED);
}

static void test_exec_is_death(void)
{
    role *child;
    rf_ring *ring = create_ring(4);
    pid_t program = start_role(&child, claim_two, become_another_program);
    CHECK_EQUAL(rf_recover(ring), 0);
    atomic_store(&child->may_continue, 1);
    while (rf_recover(ring) == 0)
        rest();
    expect_all_free(ring);
    kill_and_reap(program);
    close_ring(ring);
}

static const test tests[] = {
    {"a participant that lost its lock is alive while its process lives",
     test_a_process_that_lost_its_lock_lives},
    {"a process whose first thread has ended lives", test_a_process_without_its_first_thread_lives},
    {"a killed process that its parent has not reaped is dead", test_a_zombie_is_dead},
    {"a living writer that was declared dead is fenced", test_late_writers_are_fenced},
    {"a process that becomes another program is dead to the ring", test_exec_is_death},
};

MAIN(tests)
