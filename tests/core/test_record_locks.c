/* Record locks show that a participant is alive. Other code in its process may close descriptors of the segment. */
#include <sys/syscall.h>

#include "roles.h"
#include "segment/owner.h"

/* ---- Record locks --------------------------------------------------------------------------- */

/* Check from another process that none of our participants is found dead. */
static void expect_alive_elsewhere(uint32_t participants)
{
    pid_t child = fork();
    if (child == 0) {
        rf_ring *own = attach_ring();
        CHECK_EQUAL(rf_recover(own), 0);
        CHECK_EQUAL(participants_of(own), participants + 1);
        CHECK_EQUAL(rf_segment_has_owner(own->fd), 1);
        close_ring(own);
        _exit(PASSED);
    }
    expect_success(child);
}

static void test_two_handles_in_one_process(void)
{
    rf_ring *ring = create_ring(4), *second = attach_ring(), *third = attach_ring();
    rf_lease *written = claim(second, 1);
    CHECK(rf_self(ring) != rf_self(second) && rf_self(second) != rf_self(third));
    CHECK_EQUAL(rf_recover(ring), 0); /* our own handles are not dead */
    expect_alive_elsewhere(3);
    close_ring(third);
    expect_alive_elsewhere(2);
    CHECK_EQUAL(state_of(ring, 0), RF_STATE_CLAIMED);
    publish(written, 1, 1);
    close_ring(second);
    expect_alive_elsewhere(1);
    take_expecting(ring, 1);
    close_ring(ring);
}

static void test_a_second_open_keeps_the_locks(void)
{
    rf_ring *ring = create_ring(4), *none;
    close(open_segment(0));
    expect_alive_elsewhere(1);
    ring->header->layout_version++;
    CHECK_EQUAL(rf_ring_attach(open_segment(0), &none), RF_WRONG_VERSION);
    ring->header->layout_version--;
    expect_alive_elsewhere(1);
    int fd = open_segment(0);
    CHECK_EQUAL(rf_segment_has_owner(fd), 1);
    close(fd);
    expect_alive_elsewhere(1);
    close_ring(ring);
}

/* ---- Descriptors that other code closes ------------------------------------------------------ */

static void close_a_copy(rf_ring *ring)
{
    close(dup(rf_ring_descriptor(ring)));
}

static void close_another_open(rf_ring *ring)
{
    (void)ring;
    close(open_segment(0));
}

static void map_and_unmap(rf_ring *ring)
{
    void *page = mmap(NULL, 4096, PROT_READ, MAP_SHARED, rf_ring_descriptor(ring), 0);
    CHECK(page != MAP_FAILED && munmap(page, 4096) == 0);
    close(dup(rf_ring_descriptor(ring)));
}

static void close_the_descriptor(rf_ring *ring)
{
    close(rf_ring_descriptor(ring));
}

static void close_every_descriptor(rf_ring *ring)
{
    (void)ring;
    for (int fd = 3; fd < 4096; fd++)
        close(fd);
}

/* As in a daemon: its log file gets the ring's former descriptor number. */
static void reuse_every_number(rf_ring *ring)
{
    close_every_descriptor(ring);
    for (int fd = 3; fd < 64; fd++)
        CHECK(open("/dev/null", O_RDWR | O_CLOEXEC) >= 3);
}

static void lock_and_unlock_everything(rf_ring *ring)
{
    struct flock all = {.l_type = F_UNLCK, .l_whence = SEEK_SET};
    int fd = rf_ring_descriptor(ring);
    CHECK_EQUAL(fcntl(fd, F_SETLK, &all), 0);
    CHECK_EQUAL(fcntl(fd, F_OFD_SETLK, &all), 0);
}

/* A clone without fork(): no fork handler of the library runs in parent or child. */
static pid_t bare_clone(void)
{
    return (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
}

static void leave_a_bare_clone_behind(rf_ring *ring)
{
    (void)ring;
    pid_t child = bare_clone();
    CHECK(child != -1);
    while (child == 0)
        pause();
}

static void leave_a_forked_child_behind(rf_ring *ring)
{
    (void)ring;
    pid_t child = fork();
    CHECK(child != -1);
    while (child == 0)
        pause();
}

static void (*const closings[])(rf_ring *) = {close_a_copy,
                                              close_another_open,
                                              map_and_unmap,
                                              close_the_descriptor,
                                              close_every_descriptor,
                                              reuse_every_number,
                                              lock_and_unlock_everything,
                                              leave_a_bare_clone_behind,
                                              leave_a_forked_child_behind};

static void (*closing)(rf_ring *); /* set before the fork, called by the child */

static void claim_and_close(rf_ring *ring)
{
    claim_two(ring);
    closing(ring);
}

static void test_no_close_makes_a_process_look_dead(void)
{
    for (size_t i = 0; i < COUNT(closings); i++) {
        role *writer;
        rf_ring *ring = create_ring(4);
        closing = closings[i];
        pid_t child = start_role(&writer, claim_and_close, publish_and_go_on);
        CHECK_EQUAL(rf_recover(ring), 0);
        CHECK_EQUAL(state_of(ring, 0), RF_STATE_CLAIMED);
        CHECK_EQUAL(state_of(ring, 1), RF_STATE_CLAIMED);
        atomic_store(&writer->may_continue, 1);
        expect_success(child);
        for (uint64_t number = 70; number < 73; number++)
            take_expecting(ring, number);
        close_ring(ring);
        remove_segments(getpid());
    }
}

static void test_no_close_keeps_the_dead_alive(void)
{
    for (size_t i = 0; i < COUNT(closings); i++) {
        role *writer;
        rf_ring *ring = create_ring(4);
        closing = closings[i];
        pid_t child = start_role(&writer, claim_and_close, NULL);
        kill_and_reap(child);
        CHECK_EQUAL(rf_recover(ring), 1);
        expect_all_free(ring);
        close_ring(ring);
        remove_segments(getpid());
    }
}

static void own_and_close(void *argument)
{
    owner *own = argument;
    rf_ring *ring = create_ring(2);
    closing(ring);
    atomic_store(&own->ready, 1);
    for (;;)
        pause();
}

static void test_no_close_makes_the_owner_look_dead(void)
{
    segment_name(0);
    for (size_t i = 0; i < COUNT(closings); i++) {
        owner *own = shared_memory(sizeof *own);
        closing = closings[i];
        pid_t child = spawn(own_and_close, own);
        await(&own->ready, 1);
        rf_ring *ring = attach_ring();
        int fd = open_segment(0);
        CHECK_EQUAL(rf_segment_has_owner(fd), 1);
        CHECK(rf_owner_lives(ring));
        kill_and_reap(child);
        CHECK_EQUAL(rf_segment_has_owner(fd), 0);
        CHECK(!rf_owner_lives(ring));
        close(fd);
        close_ring(ring);
        remove_segments(getpid());
    }
}

static void recover_a_dead_process(rf_ring *ring)
{
    role *other;
    kill_and_reap(start_role(&other, claim_two, NULL));
    CHECK_EQUAL(rf_recover(ring), 1);
}

static void test_recovery_after_every_descriptor_was_closed(void)
{
    for (size_t i = 0; i < COUNT(closings); i++) {
        rf_ring *ring = create_ring(4);
        closings[i](ring);
        recover_a_dead_process(ring);
        expect_all_free(ring);
        int fd = rf_ring_descriptor(ring);
        CHECK(rf_is_file(fd, ring->device, ring->inode));
        close_ring(ring);
        remove_segments(getpid());
    }
}

static void test_a_reused_number_is_left_alone(void)
{
    rf_ring *ring = create_ring(4);
    int number = rf_ring_descriptor(ring), pipes[2];
    close(number);
    CHECK_EQUAL(pipe(pipes), 0);
    CHECK_EQUAL(pipes[0], number); /* the lowest free number */
    pid_t child = fork();
    if (child == 0) {
        CHECK(fcntl(number, F_GETFD) != -1);
        put(ring, 1); /* joins anew */
        CHECK(fcntl(number, F_GETFD) != -1);
        close_ring(ring);
        CHECK(fcntl(number, F_GETFD) != -1);
        _exit(PASSED);
    }
    expect_success(child);
    recover_a_dead_process(ring);
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
    CHECK(fcntl(number, F_OFD_GETLK, &lock) == -1 || lock.l_type == F_UNLCK);
    close_ring(ring);
    CHECK_EQUAL(write(pipes[1], "x", 1), 1);
    char byte;
    CHECK_EQUAL(read(number, &byte, 1), 1);
}

static const test tests[] = {
    {"two handles in one process live and close independently", test_two_handles_in_one_process},
    {"a second open of the same segment keeps the process's locks",
     test_a_second_open_keeps_the_locks},
    {"no close of a descriptor makes a living process look dead",
     test_no_close_makes_a_process_look_dead},
    {"no closed descriptor and no child makes a dead process look alive",
     test_no_close_keeps_the_dead_alive},
    {"no close of a descriptor makes a living owner look dead",
     test_no_close_makes_the_owner_look_dead},
    {"a process that closed every descriptor still finds dead processes",
     test_recovery_after_every_descriptor_was_closed},
    {"a descriptor number that now belongs to another file is neither locked nor closed",
     test_a_reused_number_is_left_alone},
};

MAIN(tests)
