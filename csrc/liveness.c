/*
 * Who lives: one POSIX record lock per participant, and one for the owner (owner.c), on bytes far
 * behind the segment's end. The kernel drops them with the process, whatever kills it; a forked child
 * does not inherit them; they are seen from every PID namespace that can open the segment.
 *
 * Two properties of these locks shape this file. A process never conflicts with itself, so its
 * own entries are known from a list of its handles. And closing any descriptor of a file drops
 * all locks of the process on that file, so descriptors are parked until the last handle on the
 * segment goes.
 *
 * A participant holds its byte by a write lock. Whoever gives back what a dead one held reads the
 * byte meanwhile: so nobody can become that participant, and several may do it side by side. Were
 * there one at a time, one that stands still would keep the slots of the dead from all others.
 *
 * The list is private to the process and guarded by a mutex; the mutex is never held while shared
 * memory is waited for, and a forked child starts with a fresh one.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "locks.h"

typedef struct parked {
    int fd;
    dev_t device;
    ino_t inode;
    struct parked *next;
} parked;

_Atomic uint32_t rf_fork_generation = 1;

static pthread_mutex_t list_mutex = PTHREAD_MUTEX_INITIALIZER;
static rf_ring *handles;
static parked *parked_fds;
static pthread_once_t watch_forks = PTHREAD_ONCE_INIT;

static void in_forked_child(void)
{
    rf_add_relaxed(&rf_fork_generation, 1u);
    list_mutex = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
}

static void install_fork_watch(void)
{
    pthread_atfork(NULL, NULL, in_forked_child);
}

/* ---- This process's handles ----------------------------------------------------------------- */

static bool is_current(const rf_ring *ring)
{
    return rf_load_relaxed(&((rf_ring *)ring)->generation) == rf_load_relaxed(&rf_fork_generation);
}

static bool same_segment(const rf_ring *ring, dev_t device, ino_t inode)
{
    return ring->device == device && ring->inode == inode;
}

/* With the mutex held: is this entry one of our own handles? */
static bool is_ours(const rf_ring *ring, uint32_t owner)
{
    for (const rf_ring *other = handles; other; other = other->next)
        if (same_segment(other, ring->device, ring->inode) && is_current(other) &&
            rf_self(other) == owner)
            return true;
    return false;
}

void rf_lock_list(void)
{
    pthread_mutex_lock(&list_mutex);
}

void rf_unlock_list(void)
{
    pthread_mutex_unlock(&list_mutex);
}

bool rf_we_own(dev_t device, ino_t inode)
{
    for (const rf_ring *ring = handles; ring; ring = ring->next)
        if (same_segment(ring, device, inode) && rf_load_relaxed(&((rf_ring *)ring)->owner) &&
            is_current(ring) && !rf_load_relaxed(&((rf_ring *)ring)->closing))
            return true;
    return false;
}

bool rf_we_are(dev_t device, ino_t inode, uint32_t owner)
{
    const rf_ring any = {.device = device, .inode = inode};
    pthread_mutex_lock(&list_mutex);
    bool ours = is_ours(&any, owner);
    pthread_mutex_unlock(&list_mutex);
    return ours;
}

bool rf_participant_lives(rf_ring *ring, uint32_t owner)
{
    return owner != RF_NO_OWNER && owner <= ring->geometry.participants &&
           (locked_elsewhere(ring->fd, participant_byte(owner), F_RDLCK) != 0 ||
            rf_we_are(ring->device, ring->inode, owner));
}

void rf_enlist(rf_ring *ring)
{
    pthread_once(&watch_forks, install_fork_watch);
    pthread_mutex_lock(&list_mutex);
    ring->next = handles;
    handles = ring;
    pthread_mutex_unlock(&list_mutex);
}

static bool any_handle_on(dev_t device, ino_t inode)
{
    for (const rf_ring *ring = handles; ring; ring = ring->next)
        if (same_segment(ring, device, inode))
            return true;
    return false;
}

/* With the mutex held: close `fd`, or keep it while a handle on its segment needs the locks. */
static void close_or_park(int fd, dev_t device, ino_t inode)
{
    if (any_handle_on(device, inode)) {
        parked *entry = malloc(sizeof *entry);
        if (!entry)
            return; /* a descriptor left open is better than a lock lost */
        *entry = (parked){.fd = fd, .device = device, .inode = inode, .next = parked_fds};
        parked_fds = entry;
        return;
    }
    close(fd);
    for (parked **link = &parked_fds; *link;) {
        parked *entry = *link;
        if (entry->device == device && entry->inode == inode) {
            *link = entry->next;
            close(entry->fd);
            free(entry);
        } else {
            link = &entry->next;
        }
    }
}

void rf_delist(rf_ring *ring)
{
    pthread_mutex_lock(&list_mutex);
    for (rf_ring **link = &handles; *link; link = &(*link)->next)
        if (*link == ring) {
            *link = ring->next;
            break;
        }
    close_or_park(ring->fd, ring->device, ring->inode);
    pthread_mutex_unlock(&list_mutex);
}

int rf_segment_borrow(uint64_t device, uint64_t inode)
{
    int fd = -1;
    pthread_mutex_lock(&list_mutex);
    for (parked **link = &parked_fds; *link; link = &(*link)->next) {
        parked *entry = *link;
        if (entry->device == device && entry->inode == inode) {
            *link = entry->next;
            fd = entry->fd;
            free(entry);
            break;
        }
    }
    pthread_mutex_unlock(&list_mutex);
    return fd;
}

void rf_segment_discard(int fd)
{
    struct stat status;
    if (fstat(fd, &status) == -1) {
        close(fd);
        return;
    }
    pthread_mutex_lock(&list_mutex);
    close_or_park(fd, status.st_dev, status.st_ino);
    pthread_mutex_unlock(&list_mutex);
}

/* ---- Participants --------------------------------------------------------------------------- */

static void fold(_Atomic uint64_t *from, _Atomic uint64_t *into)
{
    rf_add_relaxed(into, rf_exchange_relaxed(from, 0));
}

/* With the entry's lock held: keep what it counted, make it free for others. */
static void clear_entry(rf_ring *ring, uint32_t owner)
{
    rf_participant *entry = &ring->participants[owner - 1];
    _Atomic uint64_t *from = (_Atomic uint64_t *)&entry->counters;
    _Atomic uint64_t *into = (_Atomic uint64_t *)&ring->header->departed;
    for (size_t i = 0; i < sizeof(rf_counters) / sizeof(uint64_t); i++)
        fold(from + i, into + i);
    RF_STEP("entry: counters folded, entry not cleared");
    rf_store_relaxed(&entry->pid, 0u);
    /* R13 -> A13 (rf_recover): who finds nobody to bury finds given back what they held. */
    rf_store_release(&entry->state, RF_ABSENT);
    RF_STEP("entry: cleared, lock held");
}

/* One step of undoing what the word says that `dead` was doing; the counter of what it did, or NULL
 * when the word changed under our hands. */
static _Atomic uint64_t *undo(rf_ring *ring, uint32_t slot, uint64_t seen, rf_counters *counters)
{
    if (rf_word_state(seen) != RF_STATE_TAKEN)
        return rf_free_slot(ring, slot, seen) ? &counters->reclaimed : NULL;
    if (!ring->header->redeliver)
        return rf_free_slot(ring, slot, seen) ? &counters->dropped : NULL;
    uint64_t ready = rf_word(RF_STATE_READY, RF_NO_OWNER, rf_word_epoch(seen)) | (seen & RF_PIN);
    /* It comes late, perhaps behind newer records of its producer. The count tells whoever gets it,
     * also where the dead did not come to counting. */
    _Atomic uint64_t *deliveries = &ring->uses[slot].deliveries;
    uint64_t before = rf_load_relaxed(deliveries), epoch = rf_word_epoch(seen);
    if (rf_deliveries(before, epoch) == 0)
        atomic_compare_exchange_strong_explicit(deliveries, &before, rf_delivered(epoch, 1),
                                                memory_order_relaxed, memory_order_relaxed);
    /* Acquire and release: the swap goes on with R1 for the next taker. */
    return rf_cas_acq_rel(&ring->words[slot], seen, ready) ? &counters->redelivered : NULL;
}

/* Each step is one compare-and-swap, so whoever recovers may itself be killed anywhere: the next
 * one goes on. Others may change the word meanwhile: take or release a record that `dead` has
 * pinned, or unpin one that it had taken. Then there is another look. */
static void recover_slot(rf_ring *ring, uint32_t slot, uint32_t dead)
{
    if (ring->is_pool) {
        rf_recover_cell(ring, slot, dead);
        return;
    }
    for (;;) {
        uint64_t seen = rf_load_acquire(&ring->words[slot]); /* A1 <- R1, for `producer` */
        rf_state state = rf_word_state(seen);
        if (seen & RF_PIN && rf_load_relaxed(&ring->slots[slot].producer) == dead) {
            rf_cas_acq_rel(&ring->words[slot], seen, seen & ~RF_PIN);
            RF_STEP("recover: pin of the dead removed");
            continue;
        }
        if (rf_word_owner(seen) != dead ||
            (state != RF_STATE_CLAIMED && state != RF_STATE_TAKEN && state != RF_STATE_PINNED))
            return;
        _Atomic uint64_t *counter = undo(ring, slot, seen, &ring->header->departed);
        RF_STEP("recover: slot given back, not counted");
        if (counter)
            rf_add_relaxed(counter, 1u);
    }
}

/* With the entry's lock held, so that its participant is dead and nobody can become it: give back
 * what it held, and make its entry free. Others may be at the same: each swap succeeds for one. */
static void bury(rf_ring *ring, uint32_t dead)
{
    RF_STEP("recover: entry of the dead locked");
    for (uint32_t slot = 0; slot < ring->slot_count; slot++)
        recover_slot(ring, slot, dead);
    RF_STEP("recover: slots given back, entry not cleared");
    clear_entry(ring, dead);
    RF_STEP("recover: entry cleared, nobody told");
    /* Takers may have waited for a claim that will not be published, or have got records back. */
    rf_notify(&ring->header->readable, UINT32_MAX);
}

/* With the mutex held: lock an entry that is free or, with `of_the_dead`, was left by someone who
 * died. A write lock is for who will be this participant. */
static bool lock_entry(rf_ring *ring, uint32_t owner, bool of_the_dead, short type)
{
    _Atomic uint32_t *state = &ring->participants[owner - 1].state;
    if (is_ours(ring, owner) || (rf_load_relaxed(state) != RF_ABSENT) != of_the_dead ||
        !set_lock(ring->fd, participant_byte(owner), type))
        return false;
    /* The lock is ours: nobody else makes this entry, nor clears it unless to bury the same dead. It
     * may have been made or cleared between our look and the lock. */
    if ((rf_load_relaxed(state) != RF_ABSENT) == of_the_dead)
        return true;
    set_lock(ring->fd, participant_byte(owner), F_UNLCK);
    return false;
}

/* With the mutex held: an entry of our own, locked; 0 when every entry is in use. The dead are buried
 * under a read lock here, too: under a write lock, and should we stand still, they would pass for living. */
static uint32_t find_entry(rf_ring *ring)
{
    for (uint32_t owner = 1; owner <= ring->geometry.participants; owner++)
        if (lock_entry(ring, owner, false, F_WRLCK))
            return owner;
    for (uint32_t owner = 1; owner <= ring->geometry.participants; owner++)
        if (lock_entry(ring, owner, true, F_RDLCK)) {
            bury(ring, owner);
            set_lock(ring->fd, participant_byte(owner), F_UNLCK);
            if (lock_entry(ring, owner, false, F_WRLCK))
                return owner;
        }
    return 0;
}

rf_status rf_join(rf_ring *ring)
{
    rf_status status = RF_OK;
    pthread_once(&watch_forks, install_fork_watch);
    pthread_mutex_lock(&list_mutex);
    if (rf_self(ring) != 0 && is_current(ring))
        goto out; /* another thread was faster */
    uint32_t owner = find_entry(ring);
    if (!owner) {
        status = RF_CROWDED;
        goto out;
    }
    RF_STEP("join: entry locked, still absent");
    rf_participant *entry = &ring->participants[owner - 1];
    rf_store_relaxed(&entry->pid, (uint32_t)getpid());
    rf_store_relaxed(&entry->state, RF_PRESENT);
    RF_STEP("join: present, not ourselves yet");
    if (rf_self(ring) != 0)
        rf_store_relaxed(&ring->owner, false); /* we are a forked child: our parent is */
    rf_store_relaxed(&ring->self, owner);
    rf_store_relaxed(&ring->last_link, 0);
    rf_store_relaxed(&ring->publishing,
                     0u); /* a thread that the child does not have may have been */
    /* R7 -> A7 (rf_enter): whoever enters by this generation does so as `self`. */
    rf_store_release(&ring->generation, rf_load_relaxed(&rf_fork_generation));
out:
    pthread_mutex_unlock(&list_mutex);
    return status;
}

void rf_leave(rf_ring *ring)
{
    if (!is_current(ring))
        return; /* we are a forked child that never joined: the entry is our parent's */
    pthread_mutex_lock(&list_mutex);
    /* An engine may not have answered; a lease would have kept the handle. */
    for (uint32_t slot = 0; ring->is_pool && slot < ring->slot_count; slot++)
        rf_recover_cell(ring, slot, rf_self(ring));
    clear_entry(ring, rf_self(ring));
    set_lock(ring->fd, participant_byte(rf_self(ring)), F_UNLCK);
    RF_STEP("leave: lock dropped");
    pthread_mutex_unlock(&list_mutex);
}

/* ---- Recovery ------------------------------------------------------------------------------- */

uint32_t rf_recover(rf_ring *ring)
{
    uint32_t found = 0;
    if (rf_enter(ring) != RF_OK)
        return 0;
    for (uint32_t owner = 1; owner <= ring->geometry.participants; owner++) {
        if (rf_load_acquire(&ring->participants[owner - 1].state) == RF_ABSENT || /* A13 <- R13 */
            owner == rf_self(ring) ||
            locked_elsewhere(ring->fd, participant_byte(owner), F_RDLCK) != 0)
            continue;
        /* Nobody else is this participant: it is one of our handles, or dead. */
        pthread_mutex_lock(&list_mutex);
        if (lock_entry(ring, owner, true, F_RDLCK)) {
            bury(ring, owner);
            set_lock(ring->fd, participant_byte(owner), F_UNLCK);
            found++;
        }
        pthread_mutex_unlock(&list_mutex);
    }
    return found;
}
