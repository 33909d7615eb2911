/*
 * The participants of a segment: one lock each, beside the owner's lock (owner.c), on bytes far behind the segment's
 * end (locks.h).
 *
 * It may not know what a participant holds: the handle's kind gives that back (rf_kind).
 *
 * The kernel drops a lock with its process, however the process dies. A forked child does not inherit it. Every PID
 * namespace that can open the segment sees it. No close of a descriptor takes it away (lock_file.c).
 *
 * Beside its lock each participant leaves a mark of its process (process_mark.h). A participant is dead if its byte
 * is free and the mark does not say that it lives. It is also dead if its process is certainly gone, even if a copy
 * of its description holds the byte.
 *
 * A participant holds its byte by a write lock. A process that gives back what a dead one held read-locks the reap
 * byte meanwhile, and a process that becomes a participant write-locks that byte first. So nobody can become the
 * dead participant meanwhile, and several processes may reap side by side. If only one could, a process that stands
 * still would keep the slots of the dead from all others.
 *
 * A mutex keeps the threads of a process from joining twice through one handle. No thread holds it while it waits
 * for shared memory, and a forked child starts with a new one.
 */
#define _GNU_SOURCE
#include <pthread.h>

#include "segment/event.h"
#include "segment/locks.h"
#include "segment/participants.h"

_Atomic uint32_t rf_fork_generation = 1;

static pthread_mutex_t join_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t watch_forks = PTHREAD_ONCE_INIT;

static void in_forked_child(void)
{
    rf_add_relaxed(&rf_fork_generation, 1u);
    join_mutex = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
}

static void install_fork_watch(void)
{
    pthread_atfork(NULL, NULL, in_forked_child);
}

void rf_watch_forks(void)
{
    pthread_once(&watch_forks, install_fork_watch);
}

static bool is_current(const rf_ring *ring)
{
    /* A7 <- R7 (rf_join): a thread that sees the new generation also sees the new `self` and
     * lock mapping. */
    return rf_load_acquire(&((rf_ring *)ring)->generation) == rf_load_relaxed(&rf_fork_generation);
}

bool rf_open_for_locks(const rf_ring *ring, rf_own_file *own)
{
    /* In a forked child the page is its parent's. */
    return rf_own_file_open(own, ring->fd, ring->device, ring->inode,
                            is_current(ring) ? &ring->lock_mapping : NULL);
}

/* Is that participant dead? `fd`: any descriptor of the segment, or -1. */
static bool is_dead(const rf_ring *ring, uint32_t owner, int fd)
{
    int held = fd == -1 ? -1 : locked_elsewhere(fd, participant_byte(owner), F_RDLCK);
    return !rf_lives(held, &ring->participants[owner - 1].mark);
}

/* A descriptor for asking about locks: the handle's own if it still is one, else a new one in
 * `own`. */
static int fd_to_ask_by(const rf_ring *ring, rf_own_file *own)
{
    own->fd = -1;
    if (rf_is_file(ring->fd, ring->device, ring->inode))
        return ring->fd;
    return rf_open_for_locks(ring, own) ? own->fd : -1;
}

static void done_asking(rf_own_file *own)
{
    if (own->fd != -1)
        rf_own_file_close(own);
}

bool rf_participant_lives(rf_ring *ring, uint32_t owner)
{
    if (owner == RF_NO_OWNER || owner > ring->geometry.participants)
        return false;
    if (owner == rf_self(ring) && is_current(ring))
        return true;
    rf_own_file own;
    bool dead = is_dead(ring, owner, fd_to_ask_by(ring, &own));
    done_asking(&own);
    return !dead;
}

uint32_t rf_participant_pid(const rf_ring *ring, uint32_t participant)
{
    if (participant == RF_NO_OWNER || participant > ring->geometry.participants)
        return 0;
    return rf_load_relaxed(&ring->participants[participant - 1].mark.pid);
}

/* ---- Participants --------------------------------------------------------------------------- */

static void fold(_Atomic uint64_t *from, _Atomic uint64_t *into)
{
    rf_add_relaxed(into, rf_exchange_relaxed(from, 0));
}

/* The caller holds the entry's lock or its reap byte. Keep the counters of the entry and make
 * it free. */
static void clear_entry(rf_ring *ring, uint32_t owner)
{
    rf_participant *entry = &ring->participants[owner - 1];
    _Atomic uint64_t *from = (_Atomic uint64_t *)&entry->counters;
    _Atomic uint64_t *into = (_Atomic uint64_t *)&ring->header->departed;
    for (size_t i = 0; i < sizeof(rf_counters) / sizeof(uint64_t); i++)
        fold(from + i, into + i);
    RF_STEP("entry: counters folded, entry not cleared");
    /* R13 -> A13 (rf_recover): a process that finds nobody to reap finds all that they held
     * given back. */
    rf_store_release(&entry->state, RF_ABSENT);
    RF_STEP("entry: cleared, lock held");
}
/* The caller holds the reap byte, so the participant is dead and nobody can become it. Give
 * back what it held, and make its entry free. Others may do the same at once: each swap
 * succeeds for one of them. */
static void reap(rf_ring *ring, uint32_t dead)
{
    RF_STEP("recover: entry of the dead locked");
    uint32_t state = rf_load_relaxed(&ring->participants[dead - 1].state);
    ring->kind->recover(ring, dead);
    RF_STEP("recover: all given back, entry not cleared");
    clear_entry(ring, dead);
    RF_STEP("recover: entry cleared, nobody told");
    /* Takers may have waited for a claim that will not be published, or may find records given
     * back. */
    rf_notify(&ring->header->readable, UINT32_MAX);
    ring->kind->departed(ring, state);
}

static bool is_absent(const rf_ring *ring, uint32_t owner)
{
    return rf_load_acquire(&ring->participants[owner - 1].state) == RF_ABSENT; /* A13 <- R13 */
}

/* Check once more with the reap byte held: the entry may have been reaped and used again since
 * the last check. */
static bool reap_if_dead(rf_ring *ring, uint32_t owner, int fd)
{
    if (!set_lock(fd, reap_byte(owner), F_RDLCK))
        return false;
    bool dead = !is_absent(ring, owner) && is_dead(ring, owner, fd);
    if (dead)
        reap(ring, owner);
    set_lock(fd, reap_byte(owner), F_UNLCK);
    return dead;
}

/* Lock both bytes of a free entry, so that it can become ours. */
static bool lock_entry(rf_ring *ring, uint32_t owner, int fd)
{
    if (!is_absent(ring, owner) || !set_lock(fd, participant_byte(owner), F_WRLCK))
        return false;
    if (set_lock(fd, reap_byte(owner), F_WRLCK)) {
        if (is_absent(ring, owner))
            return true;
        set_lock(fd, reap_byte(owner), F_UNLCK);
    }
    set_lock(fd, participant_byte(owner), F_UNLCK);
    return false;
}

/* Find and lock an entry of our own; 0 when every entry is in use. */
static uint32_t find_entry(rf_ring *ring, int fd)
{
    for (uint32_t owner = 1; owner <= ring->geometry.participants; owner++)
        if (lock_entry(ring, owner, fd))
            return owner;
    for (uint32_t owner = 1; owner <= ring->geometry.participants; owner++)
        if (is_dead(ring, owner, fd) && reap_if_dead(ring, owner, fd) &&
            lock_entry(ring, owner, fd))
            return owner;
    return 0;
}

/* The caller holds the mutex. Become a participant, with locks in the description `own`. */
static rf_status take_entry(rf_ring *ring, rf_own_file *own)
{
    uint32_t owner = find_entry(ring, own->fd);
    if (!owner)
        return RF_CROWDED;
    RF_STEP("join: entry locked, still absent");
    rf_store_relaxed(&ring->lock_mapping.page, NULL); /* in a forked child it is not there */
    if (!rf_lock_mapping_make(&ring->lock_mapping, own))
        return RF_SYSTEM;
    rf_participant *entry = &ring->participants[owner - 1];
    rf_mark_leave(&entry->mark);
    rf_store_relaxed(&entry->waits, 0u);
    rf_store_relaxed(&entry->state, RF_PRESENT);
    RF_STEP("join: present, not ourselves yet");
    set_lock(own->fd, reap_byte(owner), F_UNLCK);
    if (rf_self(ring) != 0 && !is_current(ring))
        rf_store_relaxed(&ring->owner, false); /* we are a forked child; our parent is the owner */
    rf_store_relaxed(&ring->self, owner);
    rf_store_relaxed(&ring->last_link, 0);
    rf_store_relaxed(&ring->publishing,
                     0u); /* a thread that the child does not have may have been publishing */
    /* R7 -> A7 (rf_enter): a thread that enters by this generation does so as `self`. */
    rf_store_release(&ring->generation, rf_load_relaxed(&rf_fork_generation));
    return RF_OK;
}

rf_status rf_join(rf_ring *ring)
{
    rf_status status = RF_OK;
    rf_own_file own;
    pthread_mutex_lock(&join_mutex);
    if (rf_self(ring) == 0 || !is_current(ring)) { /* else another thread was faster */
        if (rf_open_for_locks(ring, &own)) {
            status = take_entry(ring, &own);
            rf_own_file_close(&own);
        } else {
            status = rf_no_description();
        }
    }
    pthread_mutex_unlock(&join_mutex);
    return status;
}

rf_status rf_no_description(void)
{
    return errno == ENOENT || errno == EBADF ? RF_NO_DESCRIPTOR : RF_SYSTEM;
}

void rf_leave(rf_ring *ring)
{
    if (rf_self(ring) == 0 || !is_current(ring))
        return; /* we are a forked child that never joined: the entry is our parent's */
    uint32_t state = rf_load_relaxed(&ring->participants[rf_self(ring) - 1].state);
    ring->kind->leave(ring);
    clear_entry(ring, rf_self(ring));
    ring->kind->departed(ring, state);
    rf_lock_mapping_end(&ring->lock_mapping);
    RF_STEP("leave: lock dropped");
}

/* ---- Recovery ------------------------------------------------------------------------------- */

/* Give back what a participant held that was found dead. */
static uint32_t reap_found(rf_ring *ring, uint32_t owner, rf_own_file *own)
{
    if (own->fd == -1 && !rf_open_for_locks(ring, own))
        return 0; /* no description can be had here: another process has to reap */
    return reap_if_dead(ring, owner, own->fd);
}

uint32_t rf_recover(rf_ring *ring)
{
    return rf_recover_some(ring, NULL);
}

uint32_t rf_recover_some(rf_ring *ring, const uint64_t *owners)
{
    uint32_t found = 0;
    if (rf_enter(ring) != RF_OK)
        return 0;
    rf_own_file own;
    int fd = fd_to_ask_by(ring, &own);
    for (uint32_t owner = 1; owner <= ring->geometry.participants; owner++)
        if ((!owners || owners[owner / 64] >> owner % 64 & 1) && !is_absent(ring, owner) &&
            owner != rf_self(ring) && is_dead(ring, owner, fd))
            found += reap_found(ring, owner, &own);
    done_asking(&own);
    return found;
}
