/* Who is dead, who only stands still, and what becomes of the slots of either. */
#include <sys/syscall.h>

#include "check.h"
#include "segment/owner.h"
#include "segment/process_mark.h"

/* What a child does before it tells that it is ready and waits to be killed or told to go on. */
typedef struct role {
    void (*begin)(rf_ring *);
    void (*go_on)(rf_ring *);
    _Atomic uint32_t ready, told;
} role;

static void act(void *argument)
{
    role *own = argument;
    rf_ring *ring = attach_ring();
    if (own->begin)
        own->begin(ring);
    atomic_store(&own->ready, 1);
    await(&own->told, 1);
    if (own->go_on)
        own->go_on(ring);
    close_ring(ring);
}

static pid_t start_role(role **shared, void (*begin)(rf_ring *), void (*go_on)(rf_ring *))
{
    *shared = shared_memory(sizeof **shared);
    (*shared)->begin = begin;
    (*shared)->go_on = go_on;
    pid_t child = spawn(act, *shared);
    await(&(*shared)->ready, 1);
    return child;
}

static rf_lease *kept; /* by the child in which it is set */

static void claim_two(rf_ring *ring)
{
    kept = claim(ring, 2);
    CHECK_EQUAL(rf_lease_rows(kept), 2);
    set_number(kept, 0, 70);
    set_number(kept, 1, 71);
}

static void take_two(rf_ring *ring)
{
    kept = take(ring, 2);
    CHECK_EQUAL(rf_lease_rows(kept), 2);
}

static rf_counts counts_of(rf_ring *ring)
{
    rf_stats stats;
    rf_ring_stats(ring, &stats);
    return stats.counts;
}

static uint32_t participants_of(rf_ring *ring)
{
    rf_stats stats;
    rf_ring_stats(ring, &stats);
    return stats.participants;
}

/* ---- Killed --------------------------------------------------------------------------------- */

static void test_killed_claimer(void)
{
    role *claimer;
    rf_ring *ring = create_ring(4);
    pid_t child = start_role(&claimer, claim_two, NULL);
    CHECK_EQUAL(rf_recover(ring), 0); /* it lives */
    CHECK_EQUAL(state_of(ring, 0), RF_STATE_CLAIMED);
    kill_and_reap(child);
    CHECK_EQUAL(rf_recover(ring), 1);
    CHECK_EQUAL(rf_recover(ring), 0);
    expect_all_free(ring);
    CHECK_EQUAL(counts_of(ring).reclaimed, 2);
    CHECK_EQUAL(participants_of(ring), 1);
    close_ring(ring);
}

static void test_killed_taker(void)
{
    role *taker;
    rf_ring *ring = create_ring(4);
    for (uint64_t i = 0; i < 4; i++)
        put(ring, i);
    pid_t child = start_role(&taker, take_two, NULL);
    CHECK_EQUAL(rf_recover(ring), 0);
    kill_and_reap(child);
    CHECK_EQUAL(rf_recover(ring), 1);
    /* What a taker died over comes alone: should it kill the next one, too, nothing else comes with it. */
    for (uint64_t number = 0, rows = 1; number < 4; number += rows, rows = number < 2 ? 1 : 2) {
        rf_lease *batch = take(ring, 4);
        rf_record records[4];
        CHECK_EQUAL(rf_lease_rows(batch), rows);
        rf_lease_records(batch, records);
        CHECK_EQUAL(number_at(batch, 0), number);
        CHECK_EQUAL(records[0].deliveries, number < 2 ? 2 : 1);
        CHECK_EQUAL(records[0].failures, number < 2 ? 1 : 0);
        rf_lease_drop(batch);
    }
    CHECK_EQUAL(counts_of(ring).redelivered, 2);
    CHECK_EQUAL(counts_of(ring).dropped, 0);
    expect_all_free(ring);
    close_ring(ring);
}

static void test_dropped_rows(void)
{
    role *taker;
    rf_options options = options_for(4);
    options.redeliver = 0;
    rf_ring *ring = create_ring_as(&options, SAMPLE_BYTES);
    for (uint64_t i = 0; i < 3; i++)
        put(ring, i);
    kill_and_reap(start_role(&taker, take_two, NULL));
    CHECK_EQUAL(rf_recover(ring), 1);
    take_expecting(ring, 2);
    CHECK_EQUAL(counts_of(ring).dropped, 2);
    CHECK_EQUAL(counts_of(ring).redelivered, 0);
    expect_all_free(ring);
    close_ring(ring);
}

static void publish_and_keep(rf_ring *ring)
{
    kept = claim(ring, 2);
    CHECK_EQUAL(rf_publish(kept, 2, NULL, 1), RF_OK);
}

static void test_killed_with_a_pin(void)
{
    role *producer;
    rf_ring *ring = create_ring(4);
    pid_t child = start_role(&producer, publish_and_keep, NULL);
    rf_lease *batch = take(ring, 1);
    rf_lease_drop(take(ring, 1));
    CHECK_EQUAL(state_of(ring, 1), RF_STATE_KEPT);
    kill_and_reap(child);
    CHECK_EQUAL(rf_recover(ring), 1);
    CHECK_EQUAL(state_of(ring, 0), RF_STATE_TAKEN);
    CHECK_EQUAL(state_of(ring, 1), RF_STATE_FREE);
    rf_lease_drop(batch);
    expect_all_free(ring);
    close_ring(ring);
}

/* ---- Found by whoever waits ----------------------------------------------------------------- */

static void claim_all(rf_ring *ring)
{
    kept = claim(ring, ring->slot_count);
    CHECK_EQUAL(rf_lease_rows(kept), ring->slot_count);
}

static void take_all(rf_ring *ring)
{
    kept = take(ring, ring->slot_count);
    CHECK_EQUAL(rf_lease_rows(kept), ring->slot_count);
}

static void test_waiters_recover(void)
{
    role *child;
    rf_lease *lease;
    rf_ring *ring = create_ring(3);
    kill_and_reap(start_role(&child, claim_all, NULL));
    CHECK_EQUAL(claim_until(ring, 1, RF_FOREVER, &lease), RF_OK);
    rf_lease_drop(lease);
    for (uint64_t i = 0; i < 3; i++)
        put(ring, i);
    kill_and_reap(start_role(&child, take_all, NULL));
    /* Who insists on so many rows gets them together, also those over which one died. */
    CHECK_EQUAL(take_until(ring, 3, 3, RF_FOREVER, &lease), RF_OK);
    CHECK_EQUAL(rf_lease_rows(lease), 3);
    CHECK_EQUAL(rf_lease_failures(lease), 1);
    rf_lease_drop(lease);
    expect_all_free(ring);
    close_ring(ring);
}

/* Whoever only looks in, again and again, has to find the dead as well. */
static void test_short_waits_recover(void)
{
    role *child;
    rf_lease *lease;
    rf_ring *ring = create_ring(2);
    kill_and_reap(start_role(&child, claim_all, NULL));
    while (put_until(ring, 0, in_ms(3)) == RF_FULL)
        ;
    put(ring, 1);
    kill_and_reap(start_role(&child, take_all, NULL));
    while (take_until(ring, 2, 1, 0, &lease) == RF_EMPTY)
        rest();
    CHECK_EQUAL(number_at(lease, 0), 0);
    rf_lease_drop(lease);
    close_ring(ring);
}

static void *wait_for_the_end(void *ring)
{
    rf_lease *lease;
    CHECK_EQUAL(take_until(ring, 1, 1, RF_FOREVER, &lease), RF_FINISHED);
    return NULL;
}

static void test_finish_waits_for_no_dead_claim(void)
{
    role *child;
    rf_ring *ring = create_ring(3);
    pid_t claimer = start_role(&child, claim_two, NULL);
    rf_finish(ring);
    pthread_t taker = start_thread(wait_for_the_end, ring);
    rest();
    kill_and_reap(claimer);
    join_thread(taker);
    expect_all_free(ring);
    close_ring(ring);
}

static void wait_in_take(rf_ring *ring)
{
    rf_lease *lease;
    take_until(ring, 1, 1, RF_FOREVER, &lease);
}

static void test_killed_while_waiting(void)
{
    rf_ring *ring = create_ring(2);
    for (uint64_t round = 0; round < 10; round++) {
        role *child;
        pid_t taker = start_role(&child, NULL, wait_in_take);
        atomic_store(&child->told, 1);
        for (uint64_t i = 0; i < round; i++)
            rest();
        kill_and_reap(taker);
        put(ring, round);
        rf_recover(ring);
        take_expecting(ring, round);
    }
    expect_all_free(ring);
    close_ring(ring);
}

/* ---- The owner ------------------------------------------------------------------------------ */

typedef struct owner {
    _Atomic uint32_t ready;
} owner;

static void own_a_ring(void *argument)
{
    owner *own = argument;
    rf_ring *ring = create_ring(2);
    put(ring, 5);
    atomic_store(&own->ready, 1);
    for (;;)
        pause();
}

static pid_t start_owner(void)
{
    owner *own = shared_memory(sizeof *own);
    segment_name(0); /* the name is ours, whoever creates */
    pid_t child = spawn(own_a_ring, own);
    await(&own->ready, 1);
    return child;
}

static void test_killed_owner(void)
{
    pid_t child = start_owner();
    rf_ring *ring = attach_ring(), *late;
    CHECK(!rf_ring_is_owner(ring));
    CHECK_EQUAL(rf_segment_has_owner(ring->fd), 1);
    kill_and_reap(child);
    CHECK_EQUAL(rf_segment_has_owner(ring->fd), 0);
    CHECK_EQUAL(rf_ring_attach(open_segment(0), &late), RF_CLOSED);
    put(ring, 6); /* nobody has noticed yet */
    CHECK_EQUAL(put_until(ring, 7, RF_FOREVER), RF_CLOSED);
    take_expecting(ring, 5);
    take_expecting(ring, 6);
    rf_lease *lease;
    CHECK_EQUAL(take_until(ring, 1, 1, RF_FOREVER, &lease), RF_CLOSED);
    close_ring(ring);
}

static void lock_removal_expecting(void *answer)
{
    int fd = open_segment(0);
    rf_status expected = (rf_status)(uintptr_t)answer;
    CHECK_EQUAL(rf_segment_removal_is_locked(fd), expected == RF_AGAIN);
    CHECK_EQUAL(rf_segment_lock_removal(fd), expected);
}

static void test_removal_locked_once(void)
{
    pid_t child = start_owner();
    int fd = open_segment(0);
    CHECK_EQUAL(rf_segment_has_owner(fd), 1);
    kill_and_reap(child);
    CHECK_EQUAL(rf_segment_has_owner(fd), 0);
    CHECK_EQUAL(rf_segment_lock_removal(fd), RF_OK);
    expect_success(spawn(lock_removal_expecting, (void *)RF_AGAIN));
    close(fd);
    expect_success(spawn(lock_removal_expecting, (void *)RF_OK));
}

/* ---- Standing still ------------------------------------------------------------------------- */

static void publish_kept(rf_ring *ring)
{
    (void)ring;
    CHECK_EQUAL(rf_publish(kept, 2, NULL, 0), RF_OK);
    rf_lease_drop(kept);
}

static void test_stopped_keeps_its_slots(void)
{
    role *claimer;
    rf_ring *ring = create_ring(4);
    pid_t child = start_role(&claimer, claim_two, publish_kept);
    stop_and_wait(child);
    for (uint64_t i = 0; i < 50; i++) {
        CHECK_EQUAL(rf_recover(ring), 0);
        put(ring, i);
        take_expecting(ring, i);
    }
    CHECK_EQUAL(put_until(ring, 1, in_ms(60)), RF_OK); /* two slots are the others' */
    CHECK_EQUAL(put_until(ring, 2, in_ms(60)), RF_OK);
    CHECK_EQUAL(put_until(ring, 3, in_ms(120)), RF_FULL); /* longer than a slice: still its own */
    take_expecting(ring, 1);
    take_expecting(ring, 2);
    CHECK_EQUAL(kill(child, SIGCONT), 0);
    atomic_store(&claimer->told, 1);
    expect_success(child);
    take_expecting(ring, 70);
    take_expecting(ring, 71);
    expect_all_free(ring);
    close_ring(ring);
}

/* ---- fork ----------------------------------------------------------------------------------- */

static void test_a_child_is_a_participant_of_its_own(void)
{
    rf_ring *ring = create_ring(8);
    rf_lease *written = claim(ring, 1), *batch;
    rf_lease *kept_claim = claim(ring, 1);
    set_number(kept_claim, 0, 4);
    CHECK_EQUAL(rf_publish(kept_claim, 1, NULL, 1), RF_OK);
    batch = take(ring, 1);
    uint64_t words[3] = {word_of(ring, 0), word_of(ring, 1), word_of(ring, 2)};
    pid_t child = fork();
    if (child == 0) {
        CHECK(!rf_ring_is_owner(ring));
        CHECK_EQUAL(rf_publish(written, 1, NULL, 0), RF_SLOT_LOST);
        rf_lease_drop(written);
        rf_lease_drop(kept_claim);
        CHECK_EQUAL(number_at(batch, 0), 4); /* it may read what its parent holds */
        rf_lease_drop(batch);
        put(ring, 44);
        CHECK(rf_self(ring) > 1);
        CHECK(!rf_ring_is_owner(ring));
        rf_lease *left_behind = claim(ring, 1);
        CHECK(left_behind != NULL);
        close_ring(ring); /* not the owner's close */
        _exit(PASSED);
    }
    expect_success(child);
    for (uint32_t slot = 0; slot < 2; slot++)
        CHECK_EQUAL(word_of(ring, slot), words[slot]);
    CHECK(!rf_ring_is_closed(ring) && rf_ring_is_owner(ring));
    CHECK_EQUAL(rf_recover(ring), 1); /* the child left a claim behind */
    CHECK_EQUAL(participants_of(ring), 1);
    rf_lease_drop(batch);
    rf_lease_drop(kept_claim);
    publish(written, 1, 3);
    take_expecting(ring, 44);
    take_expecting(ring, 3);
    expect_all_free(ring);
    close_ring(ring);
}

static void test_a_child_takes_no_locks_along(void)
{
    role *witness;
    rf_ring *ring = create_ring(4);
    rf_lease *written = claim(ring, 1);
    for (int i = 0; i < 5; i++) {
        pid_t child = fork();
        if (child == 0) {
            if (i % 2)
                close_ring(ring); /* closes its copies of the parent's descriptors */
            _exit(PASSED);
        }
        expect_success(child);
    }
    pid_t other = start_role(&witness, NULL, NULL);
    pid_t child = fork();
    if (child == 0) {
        rf_ring *own = attach_ring();
        CHECK_EQUAL(rf_recover(own), 0); /* seen from elsewhere, we live */
        CHECK_EQUAL(rf_segment_has_owner(own->fd), 1);
        close_ring(own);
        _exit(PASSED);
    }
    expect_success(child);
    atomic_store(&witness->told, 1);
    expect_success(other);
    publish(written, 1, 1);
    take_expecting(ring, 1);
    close_ring(ring);
}

static _Atomic uint32_t go;

static void *put_at_once(void *ring)
{
    await(&go, 1);
    put(ring, 1);
    return NULL;
}

static void test_threads_of_a_child_join_once(void)
{
    enum { THREADS = 8 };
    rf_ring *ring = create_ring(64);
    for (int round = 0; round < 20; round++) {
        pid_t child = fork();
        if (child == 0) {
            pthread_t threads[THREADS];
            for (int i = 0; i < THREADS; i++)
                threads[i] = start_thread(put_at_once, ring);
            atomic_store(&go, 1);
            for (int i = 0; i < THREADS; i++)
                join_thread(threads[i]);
            CHECK_EQUAL(participants_of(ring), 2);
            close_ring(ring);
            _exit(PASSED);
        }
        expect_success(child);
        CHECK_EQUAL(participants_of(ring), 1);
        rf_lease *lease;
        for (uint32_t rows = 0; rows < THREADS; rows += rf_lease_rows(lease), rf_lease_drop(lease))
            CHECK((lease = take(ring, THREADS)) != NULL);
    }
    expect_all_free(ring);
    close_ring(ring);
}

static _Atomic uint32_t enough;

static void *work_on(void *ring)
{
    for (uint64_t i = 0; !atomic_load(&enough); i++) {
        put(ring, i);
        take_expecting(ring, i);
        if (i % 16 == 0 && i < 16 * 200) /* each leaves a descriptor open while `ring` is */
            close_ring(attach_ring());
    }
    return NULL;
}

static void test_fork_beside_working_threads(void)
{
    if (SANITIZED)
        skip("a sanitizer's own allocator may be locked by another thread at the fork: gcc 12 "
             "hangs there");
    rf_ring *ring = create_ring(4);
    pthread_t thread = start_thread(work_on, ring);
    for (int round = 0; round < 100; round++) {
        pid_t child = fork();
        if (child == 0) {
            rf_lease *lease = NULL;
            while (claim_until(ring, 1, RF_FOREVER, &lease) != RF_OK)
                ;
            rf_lease_drop(lease);
            close_ring(ring);
            _exit(PASSED);
        }
        expect_success(child);
    }
    atomic_store(&enough, 1);
    join_thread(thread);
    rf_recover(ring);
    expect_all_free(ring);
    close_ring(ring);
}

/* ---- Record locks --------------------------------------------------------------------------- */

/* Does another process find any of ours dead? */
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

/* ---- What other code of a process closes ----------------------------------------------------- */

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

/* As a daemon does: its log file gets the number that was the ring's. */
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

/* None of the two: what comes of a child depends on who makes it. */
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

static void (*closing)(rf_ring *); /* of the child in which it is set */

static void claim_and_close(rf_ring *ring)
{
    claim_two(ring);
    closing(ring);
}

static void publish_and_go_on(rf_ring *ring)
{
    CHECK_EQUAL(rf_publish(kept, 2, NULL, 0), RF_OK);
    rf_lease_drop(kept);
    put(ring, 72);
}

static void test_no_close_takes_life_away(void)
{
    for (size_t i = 0; i < COUNT(closings); i++) {
        role *writer;
        rf_ring *ring = create_ring(4);
        closing = closings[i];
        pid_t child = start_role(&writer, claim_and_close, publish_and_go_on);
        CHECK_EQUAL(rf_recover(ring), 0);
        CHECK_EQUAL(state_of(ring, 0), RF_STATE_CLAIMED);
        CHECK_EQUAL(state_of(ring, 1), RF_STATE_CLAIMED);
        atomic_store(&writer->told, 1);
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

static void test_no_close_takes_the_owner_away(void)
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

static void recover_as(rf_ring *ring)
{
    role *other;
    kill_and_reap(start_role(&other, claim_two, NULL));
    CHECK_EQUAL(rf_recover(ring), 1);
}

static void test_who_closed_everything_still_recovers(void)
{
    for (size_t i = 0; i < COUNT(closings); i++) {
        rf_ring *ring = create_ring(4);
        closings[i](ring);
        recover_as(ring);
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
    CHECK_EQUAL(pipes[0], number); /* the lowest that is free */
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
    recover_as(ring);
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
    CHECK(fcntl(number, F_OFD_GETLK, &lock) == -1 || lock.l_type == F_UNLCK);
    close_ring(ring);
    CHECK_EQUAL(write(pipes[1], "x", 1), 1);
    char byte;
    CHECK_EQUAL(read(number, &byte, 1), 1);
}

/* A lock that is lost all the same: code that unmaps what is not its own. Then the mark of the process tells. */
static void lose_the_lock(rf_ring *ring)
{
    claim_two(ring);
    rf_lock_mapping_end(&ring->lock_mapping);
}

static void test_the_mark_of_a_process_is_a_second_witness(void)
{
    role *writer;
    rf_ring *ring = create_ring(4);
    pid_t child = start_role(&writer, lose_the_lock, publish_and_go_on);
    CHECK_EQUAL(rf_recover(ring), 0);
    atomic_store(&writer->told, 1);
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
    CHECK_EQUAL(rf_recover(ring), 1); /* both witnesses are silent */
    rf_lease *next = claim(ring, 2);
    CHECK_EQUAL(rf_lease_rows(next), 2);
    atomic_store(&writer->told, 1);
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

/* The first thread ends, and the process looks like a zombie to who reads /proc. */
static void end_the_first_thread(void *argument)
{
    role *own = argument;
    rf_ring *ring = attach_ring();
    start_thread(hold_and_end, ring);
    await(&ended, 1);
    rf_lock_mapping_end(&ring->lock_mapping); /* the mark alone is to tell */
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
    atomic_store(&child->told, 1);
    while (rf_recover(ring) == 0)
        rest();
    expect_all_free(ring);
    kill_and_reap(program);
    close_ring(ring);
}

/* ---- Entries -------------------------------------------------------------------------------- */

static void test_entries_of_the_dead_are_reused(void)
{
    rf_options options = options_for(9);
    options.participants = 2;
    rf_ring *ring = create_ring_as(&options, SAMPLE_BYTES), *third;
    put(ring, 5);
    for (int round = 0; round < 20; round++) {
        role *child;
        pid_t pid = start_role(&child, round % 2 ? claim_two : NULL, NULL);
        CHECK_EQUAL(rf_ring_attach(open_segment(0), &third), RF_CROWDED);
        kill_and_reap(pid);
    }
    third = attach_ring();
    CHECK_EQUAL(rf_self(third), 2);
    take_expecting(third, 5);
    expect_all_free(ring);
    close_ring(third);
    for (int round = 0; round < 20; round++)
        close_ring(attach_ring());
    CHECK_EQUAL(participants_of(ring), 1);
    close_ring(ring);
}

static const test tests[] = {
    {"the claims of a killed producer are freed", test_killed_claimer},
    {"the rows of a killed taker are delivered again, in order", test_killed_taker},
    {"the rows of a killed taker are dropped and counted where that is asked for",
     test_dropped_rows},
    {"the pins of a killed producer go, the batch of a taker stays", test_killed_with_a_pin},
    {"who waits finds the dead", test_waiters_recover},
    {"who waits only for short finds the dead", test_short_waits_recover},
    {"a finished ring waits for no dead claim", test_finish_waits_for_no_dead_claim},
    {"a taker that is killed while it waits leaves nothing behind", test_killed_while_waiting},
    {"when the owner is killed everyone is told", test_killed_owner},
    {"a segment without an owner is locked for removal by one process at a time",
     test_removal_locked_once},
    {"a stopped process keeps its slots and delays nobody", test_stopped_keeps_its_slots},
    {"a forked child is a participant of its own and gives back nothing of its parent's",
     test_a_child_is_a_participant_of_its_own},
    {"a forked child takes no locks along and drops none", test_a_child_takes_no_locks_along},
    {"threads of a forked child join as one participant", test_threads_of_a_child_join_once},
    {"a fork beside working threads leaves the child able to work",
     test_fork_beside_working_threads},
    {"two handles in one process live and close apart", test_two_handles_in_one_process},
    {"a second open of the same segment keeps the process's locks",
     test_a_second_open_keeps_the_locks},
    {"no close of a descriptor takes the life of a process away", test_no_close_takes_life_away},
    {"nothing that is closed or left behind keeps the dead alive",
     test_no_close_keeps_the_dead_alive},
    {"no close of a descriptor takes the owner away", test_no_close_takes_the_owner_away},
    {"who has closed every descriptor still finds the dead",
     test_who_closed_everything_still_recovers},
    {"a number that is another file's by now is neither locked nor closed",
     test_a_reused_number_is_left_alone},
    {"who lost its lock is not dead while its process lives",
     test_the_mark_of_a_process_is_a_second_witness},
    {"a process whose first thread has ended lives", test_a_process_without_its_first_thread_lives},
    {"a killed process that nobody has reaped is dead", test_a_zombie_is_dead},
    {"a writer that was taken for dead is fenced", test_late_writers_are_fenced},
    {"a process that becomes another program is dead to the ring", test_exec_is_death},
    {"the entries of killed participants are used again", test_entries_of_the_dead_are_reused},
};

MAIN(tests)
