/*
 * Which waiter looks for dead participants, and when: one of all that wait, once in a slice.
 *
 * It may not know how a participant is found dead (participants.c), nor what a waiter waits for.
 *
 * No process is elected, and none has a role that could be lost with it. A word of the header holds the time at
 * which a process last began to look. A waiter that wakes a slice after that moves the word to now, by a
 * compare-and-swap, and looks. If it is stopped or killed while it looks, its slice passes, and the next waiter to
 * wake takes the next slice.
 *
 * The waiter that looked last sleeps for a slice, and so goes on looking. If only a few wait, all do the same. If
 * many wait, the others take turns: each wakes at its own place in a round, and the places lie TURN_NS apart. When
 * the waiter that looked has left, was killed or stands still, the next to wake goes on (csrc/model/looking.pml says
 * how soon). Each look counts the waiters anew.
 *
 * A look asks the kernel only about participants that hold something that others could want. About the others it
 * asks once in LAPS slices whether the process exists, which costs little, and once in LOCK_LAPS whether the lock is
 * held. A look also notifies waiters in place of a notifier that was killed or stands still.
 */
#define _GNU_SOURCE
#include <time.h>

#include "ring/producers.h"
#include "ring/reaper.h"
#include "ring/ring.h"
#include "segment/owner.h"
#include "segment/process_mark.h"

enum { FEW = 5, LAPS = 16, LOCK_LAPS = 128, OWNER_WORDS = (RF_MAX_PARTICIPANTS + 64) / 64 };

/* The distance between the turns of waiters that sleep for longer. */
#define TURN_NS (RF_SLICE_NS / 2)
#define MOST_TURNS (RF_MOST_PATIENCE_NS / TURN_NS)

/* ---- How long to sleep ---------------------------------------------------------------------- */

/* A number for each thread of the process: the threads of one handle share an entry, and
 * should not share a turn. */
static uint32_t thread_number(void)
{
    static _Atomic uint32_t threads;
    static _Thread_local uint32_t own; /* from 1 on */
    if (!own)
        own = rf_add_relaxed(&threads, 1u) + 1;
    return own - 1;
}

/* Was it this thread that looked last? */
static bool reaped_last(const rf_ring *ring)
{
    rf_ring *handle = (rf_ring *)ring;
    return rf_load_relaxed(&handle->reaped_ns) == rf_load_relaxed(&handle->header->reaped_ns) &&
           rf_load_relaxed(&handle->reaped_by) == thread_number();
}

bool rf_many_wait(const rf_ring *ring)
{
    return rf_load_relaxed(&((rf_ring *)ring)->header->waiters) > FEW;
}

int64_t rf_patience_ends(const rf_ring *ring, int64_t now_ns)
{
    /* Relaxed: it only steers how often we look. */
    uint32_t waiters = rf_load_relaxed(&((rf_ring *)ring)->header->waiters);
    if (waiters <= FEW || reaped_last(ring))
        return now_ns + RF_SLICE_NS;
    int64_t turns = waiters < MOST_TURNS ? waiters : MOST_TURNS;
    uint32_t first = rf_load_relaxed(&ring->participants[rf_self(ring) - 1].turn);
    int64_t own = (first + thread_number()) % turns;
    int64_t earliest = (now_ns + RF_SLICE_NS) / TURN_NS;
    return (earliest + 1 + (own + turns - (earliest + 1) % turns) % turns) * TURN_NS;
}

int rf_another_reaps(const rf_ring *ring)
{
    int64_t since = rf_now_ns() - rf_load_relaxed(&((rf_ring *)ring)->header->reaped_ns);
    return rf_many_wait(ring) && !reaped_last(ring) && since >= 0 && since < 2 * RF_SLICE_NS;
}

int64_t rf_patience_until(const rf_ring *ring)
{
    return rf_patience_ends(ring, rf_now_ns());
}

void rf_begin_patience(rf_ring *ring)
{
    rf_add_relaxed(&ring->participants[rf_self(ring) - 1].waits, 1u);
}

void rf_end_patience(rf_ring *ring)
{
    rf_add_relaxed(&ring->participants[rf_self(ring) - 1].waits, UINT32_MAX);
}

/* Give the waiters that sleep patiently their turns; count them. */
static uint32_t give_turns(rf_ring *ring)
{
    uint32_t count = 0;
    for (uint32_t index = 0; index < ring->geometry.participants; index++) {
        rf_participant *entry = &ring->participants[index];
        uint32_t waits = rf_load_relaxed(&entry->waits);
        if (waits == 0 || rf_load_relaxed(&entry->state) == RF_ABSENT)
            continue;
        if (rf_load_relaxed(&entry->turn) != count)
            rf_store_relaxed(&entry->turn, count);
        count += waits;
    }
    return count;
}

/* Waiters that sleep for as long as many may are woken when few are left: they then sleep for
 * less. Until they have been woken, the next process that looks knows that it has to wake
 * them. */
static void count_waiters(rf_ring *ring)
{
    rf_header *header = ring->header;
    uint32_t now = give_turns(ring), planned = rf_load_relaxed(&header->planned);
    /* Raised before a waiter can plan by it; lowered when all that planned by it were woken. */
    if (now > planned)
        rf_store_relaxed(&header->planned, now);
    rf_store_relaxed(&header->waiters, now);
    if (now < planned / 2 && planned > FEW) {
        RF_STEP("look: fewer wait, nobody woken");
        ring->kind->wake_patient(ring, false);
    }
    if (now < planned / 2)
        rf_store_relaxed(&header->planned, now);
}

/* ---- Which participants to check ------------------------------------------------------------------------ */

void rf_add_owner(const rf_ring *ring, uint64_t *owners, uint32_t owner)
{
    if (owner != RF_NO_OWNER && owner <= ring->geometry.participants)
        owners[owner / 64] |= UINT64_C(1) << owner % 64;
}

static void list_candidates(const rf_ring *ring, int64_t now_ns, uint64_t *owners)
{
    uint32_t lap = (uint32_t)(now_ns / RF_SLICE_NS % LOCK_LAPS);
    ring->kind->list_holders(ring, owners);
    for (uint32_t owner = 1; owner <= ring->geometry.participants; owner++) {
        rf_participant *entry = &ring->participants[owner - 1];
        if (rf_load_relaxed(&entry->state) == RF_ABSENT)
            continue;
        if (owner % LOCK_LAPS == lap ||
            (owner % LAPS == lap % LAPS && rf_mark_is_gone(&entry->mark)))
            rf_add_owner(ring, owners, owner);
    }
}

/* ---- Notifying in place of a stopped process ------------------------------------------------------- */

/* The READY words as one number, and how many there are. */
static uint64_t ready_words_digest(const rf_ring *ring, uint32_t *count)
{
    uint64_t sum = 1;
    for (uint32_t slot = 0; slot < ring->slot_count; slot++) {
        uint64_t word = rf_load_relaxed(&ring->words[slot]);
        if (rf_word_state(word) != RF_STATE_READY)
            continue;
        sum = sum * UINT64_C(0x9e3779b97f4a7c15) + word + slot;
        (*count)++;
    }
    return sum;
}

/* A notifier may be killed, or stand still, between its change and the wake-up. Waiters are
 * notified here once for each state of the READY words. */
static void notify_in_place(rf_ring *ring)
{
    rf_header *header = ring->header;
    if (rf_still_open(ring) != RF_OK)
        ring->kind->wake_patient(ring, false);
    uint32_t ready = 0, wanted = rf_load_relaxed(&header->readable.wanted);
    uint64_t lies = ready_words_digest(ring, &ready);
    if (!ready || lies == rf_load_relaxed(&header->notified) ||
        (!ring->kind->is_pool && (!wanted || ready < wanted)))
        return;
    rf_store_relaxed(&header->notified, lies);
    ring->kind->wake_patient(ring, true);
}

/* ---- The look ------------------------------------------------------------------------------- */

/* Take the slice, so that no other process looks in it. Without a descriptor this process
 * cannot reap, and leaves the slice to others. */
static bool take_slice(rf_ring *ring, int64_t now_ns)
{
    int64_t before = rf_load_relaxed(&ring->header->reaped_ns), since = now_ns - before;
    /* A time from another time namespace may lie in the future, and is useless. */
    if (since >= 0 && since < RF_SLICE_NS)
        return false;
    if (!rf_is_file(ring->fd, ring->device, ring->inode))
        return true;
    /* Relaxed: it only spares others the same look. */
    if (!atomic_compare_exchange_strong_explicit(&ring->header->reaped_ns, &before, now_ns,
                                                 memory_order_relaxed, memory_order_relaxed))
        return false;
    rf_store_relaxed(&ring->reaped_ns, now_ns);
    rf_store_relaxed(&ring->reaped_by, thread_number());
    return true;
}

bool rf_reap_in_turn(rf_ring *ring, int64_t now_ns)
{
    uint64_t owners[OWNER_WORDS] = {0};
    if (!take_slice(ring, now_ns))
        return false;
    RF_STEP("look: slice taken, nobody looked at");
    list_candidates(ring, now_ns, owners);
    uint32_t found = rf_recover_some(ring, owners);
    found += rf_finish_if_left(
        ring); /* the producer that ended the last block may stand still before its check */
    count_waiters(ring);
    notify_in_place(ring);
    if (ring->kind->is_pool || rf_load_relaxed(&ring->header->closed) || rf_owner_lives(ring))
        return found;
    RF_STEP("close: owner found dead, nothing said");
    rf_store_relaxed(&ring->header->closed, 1u);
    RF_STEP("close: said for a dead owner, nobody told");
    rf_notify(&ring->header->readable, UINT32_MAX);
    rf_notify(&ring->header->writable, UINT32_MAX);
    return true;
}

void rf_reap(rf_ring *ring)
{
    if (rf_enter(ring) == RF_OK)
        rf_reap_in_turn(ring, rf_now_ns());
}
