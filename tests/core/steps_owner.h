/* The owner's steps: a ring that its owner closes, that a dead owner left, or that is not complete yet. */
#ifndef RF_STEPS_OWNER_H
#define RF_STEPS_OWNER_H

#include "steps.h"

static inline void signal_and_wait(void)
{
    atomic_store(&shared->helper_asked, 1);
    await(&shared->helper_done, 1);
}

static inline void closing_owner(void *unused)
{
    (void)unused;
    rf_ring *ring = create_ring(SLOTS);
    signal_and_wait();
    watched = true;
    close_ring(ring);
    watched = false;
}

/* The owner holds a slot, so that a waiter checks the owner in each slice, and not in one of many. */
static inline void owner_to_be_killed(void *unused)
{
    (void)unused;
    claim(create_ring(SLOTS), 1);
    signal_and_wait();
}

/* If the owner is killed, the victim is the waiter. If the owner closes, the victim is the owner. */
static inline void await_the_close(void *is_victim)
{
    rf_ring *ring = attach_ring();
    atomic_fetch_add(&shared->helper_asked, 1);
    if (is_victim)
        await(&shared->helper_done, 1);
    watched = is_victim != NULL;
    CHECK_EQUAL(bounded_take(ring, 1, 1), RF_CLOSED);
    watched = false;
    close_ring(ring);
}

/* Each process that waits already or comes later learns that the ring is closed. */
static inline bool play_owner(uint32_t step, uint32_t visit, int signal, bool closes)
{
    segment_name(0); /* the parent sets the name before a child creates the segment */
    arm(step, visit, signal);
    memset(shared, 0, sizeof *shared);
    pid_t owner = spawn(closes ? closing_owner : owner_to_be_killed, NULL);
    await(&shared->helper_asked, 1);
    rf_ring *ours = attach_ring();
    pid_t waiter = spawn(await_the_close, closes ? NULL : ours), victim = closes ? owner : waiter;
    await(&shared->helper_asked, 2);
    while (closes && !atomic_load(&ours->header->readable.wanted))
        rest();
    if (!closes)
        kill_and_reap(owner);
    atomic_store(&shared->helper_done, 1);
    bool reached = await_victim(victim);
    victim_is_gone(ours, NULL);
    if (closes)
        expect_success(waiter);
    CHECK_EQUAL(bounded_take(ours, 1, 1), RF_CLOSED);
    if (reached && signal == SIGSTOP) {
        CHECK_EQUAL(kill(victim, SIGCONT), 0);
        expect_success(victim);
    }
    rf_recover(ours);
    expect_all_free(ours);
    close_ring(ours);
    shm_unlink(segment_name(0));
    return reached;
}

static inline bool play_closing_owner(uint32_t step, uint32_t visit, int signal)
{
    return play_owner(step, visit, signal, true);
}

static inline bool play_killed_owner(uint32_t step, uint32_t visit, int signal)
{
    return play_owner(step, visit, signal, false);
}

static inline void creator(void *unused)
{
    (void)unused;
    watched = true;
    rf_ring *ring = create_ring(SLOTS);
    watched = false;
    await(&shared->helper_done, 1);
    close_ring(ring);
}

/* No process may attach to an incomplete segment. A process that finds it without an owner may replace it. */
static inline bool play_create(uint32_t step, uint32_t visit, int signal)
{
    segment_name(0);
    arm(step, visit, signal);
    memset(shared, 0, sizeof *shared);
    atomic_store(&shared->helper_done, step == NO_STEP);
    pid_t victim = spawn(creator, NULL);
    if (!await_victim(victim)) {
        shm_unlink(segment_name(0));
        return false;
    }
    int fd = open_segment(0);
    CHECK_EQUAL(rf_segment_has_owner(fd), signal == SIGSTOP);
    close(fd);
    rf_ring *ring;
    rf_status status = rf_ring_attach(open_segment(0), &ring);
    if (status == RF_OK) {
        CHECK_EQUAL(signal, SIGSTOP);
        CHECK(strncmp(__start_rf_steps[step], "create: ", 8) != 0 ||
              strncmp(__start_rf_steps[step], "create: whole", 13) == 0);
        put(ring, 1);
        take_expecting(ring, 1);
        close_ring(ring);
    } else {
        CHECK(status == RF_UNFINISHED || (signal == SIGKILL && status == RF_CLOSED));
    }
    if (signal == SIGSTOP) {
        CHECK_EQUAL(kill(victim, SIGCONT), 0);
        while (rf_ring_attach(open_segment(0), &ring) != RF_OK)
            rest();
        close_ring(ring);
        atomic_store(&shared->helper_done, 1);
        expect_success(victim);
        shm_unlink(segment_name(0));
        return true;
    }
    fd = open_segment(0);
    CHECK_EQUAL(rf_segment_lock_removal(fd), RF_OK);
    shm_unlink(segment_name(0));
    close(fd);
    ring = create_ring(SLOTS);
    put(ring, 1);
    take_expecting(ring, 1);
    close_ring(ring);
    shm_unlink(segment_name(0));
    return true;
}

#endif
