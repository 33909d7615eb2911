/*
 * What this process knows of a ring, in private memory: the handle and its leases.
 * Between the C files only.
 */
#ifndef RF_HANDLE_H
#define RF_HANDLE_H

#include <sys/types.h>

#include "segment/layout.h"
#include "segment/lock_file.h"
#include "segment/step.h"

#define RF_HUGE_PAGE_BYTES (UINT64_C(2) << 20)

/* What of the payload is registered with a GPU's driver (page_lock.c). */
typedef struct rf_pin {
    rf_pin_driver driver;
    uint8_t way[RF_MAX_FIELDS]; /* rf_pin_way of each region */
    uint32_t count;             /* of rf_ring_pin, less rf_ring_unpin */
    uint32_t generation;        /* rf_fork_generation of who registered */
    bool stuck;                 /* the driver would not let go of something */
} rf_pin;

/* What this handle published last, in the order in which takers get it (order.c). Between begin_ and end_publishing,
 * but for `published`. */
enum { RF_CHAIN_ENTRIES = 64, RF_CHAIN_KNOWN = RF_CHAIN_ENTRIES - 2 };

typedef struct rf_chained {
    uint64_t first, last; /* links that name the first and the last row of a publication */
    uint64_t number;      /* the how-manieth it was */
} rf_chained;

typedef struct rf_chain {
    _Atomic uint64_t
        published; /* publications so far; behind the last entry is the place for the next */
    uint64_t base; /* so many of them were a parent's */
    rf_chained entries[RF_CHAIN_ENTRIES];
} rf_chain;

/* What takes through this handle set aside, and nobody has said yet (dead_letters.c). */
enum { RF_MOST_LETTERS = 16 };

typedef struct rf_letters {
    _Atomic uint32_t count; /* 0: there is none */
    _Atomic uint32_t busy;
    uint32_t first, unsaid;
    rf_letter letters[RF_MOST_LETTERS];
} rf_letters;

/* What a handle knows of its copies into slots (streaming.h). Hints, which threads share. */
enum { RF_COPY_STREAMED = 1, RF_COPY_HOT = 2, RF_COPY_WAYS = 4 };
typedef struct rf_copies {
    uint64_t least_bytes;      /* of a record whose copies are timed */
    _Atomic uint64_t written;  /* the slots that were written last: the first and the last */
    _Atomic uint32_t turns[2]; /* of copies into cold slots, and into hot ones */
    _Atomic uint32_t ns_per_mib[RF_COPY_WAYS]; /* 0: not measured yet */
} rf_copies;

struct rf_ring {
    rf_geometry geometry; /* copied and checked once: shared memory can not change it */
    rf_header *header;
    rf_participant *participants;
    _Atomic uint64_t *words;
    _Atomic uint64_t *links;
    rf_slot *slots;
    rf_use *uses;
    uint8_t *region[RF_MAX_FIELDS];
    uint8_t *mapping;
    size_t mapped_bytes;

    int fd; /* others may close it, and use its number for another file: rf_is_file */
    dev_t device;
    ino_t inode;
    rf_stake stake, owner_stake; /* keep our locks (lock_file.c) */

    bool is_pool;   /* of reply cells (client_side.c) */
    bool is_padded; /* the regions do not follow on themselves (plan.c): runs_end, always */
    _Atomic bool owner;
    _Atomic bool runs_end; /* no claim and no batch passes the ring's end (plan.c, page_lock.c) */
    int numa_errno;
    rf_pin pin;
    rf_pin_report pin_report;
    uint32_t slot_count;
    uint64_t record_bytes;       /* the samples of all fields */
    _Atomic uint32_t self;       /* our owner number: participant index + 1 */
    _Atomic uint32_t generation; /* rf_fork_generation when `self` joined; written after it */
    _Atomic uint32_t closing;
    _Atomic uint32_t references; /* the handle until it is retired, and each lease */
    _Atomic uint32_t lives;      /* of this struct: the handle, and entry and memory (handle.c) */
    _Atomic uint32_t retired;    /* nobody is inside an operation of this handle, nor comes in */
    size_t kept_bytes;           /* what is left of the mapping when the memory is given back */
    _Atomic uint32_t publishing; /* a thread of this process is at it, the others wait */
    _Atomic uint64_t last_link;  /* names the last record of our chain */
    rf_chain chain;
    rf_letters letters;
    _Atomic int64_t looked_ns;   /* when a thread of this handle looked after the dead last, */
    _Atomic uint32_t looked_by;  /* and which (reaper.c) */
    _Atomic uint32_t claim_spin; /* how long a wait is worth spinning; learnt */
    _Atomic uint32_t take_spin;
    uint32_t window; /* slots that are used again while takers keep up (window.h); 0: all */
    bool restarts;   /* a claim begins anew where everything was taken (window.h) */
    rf_copies copies;
    /* Of a pool: our first cell, + 1, and the one of our newest claim (claim.c). */
    _Atomic uint32_t home, last_cell;
    _Atomic uint32_t patrol, patrol_rows; /* does the next look go around; rows since the last */
    _Atomic uint32_t trail,
        trail_rows; /* where links led (look_from): slot + 1, or 0; rows taken there */
};

struct rf_lease {
    rf_ring *ring;
    uint32_t first;
    uint32_t rows;
    uint32_t published; /* of a claim: rows handed to takers */
    uint32_t generation;
    bool is_claim;
    bool pinned;
    bool settled; /* nothing is left to give back */
    bool unseen;  /* rf_lease_give_back */
    bool failed;  /* rf_lease_fail */
    bool dead_letter;
    uint8_t failures; /* over these rows, of other takers */
    uint64_t since;   /* of a claim: rf_chain_now when it began */
    _Atomic uint32_t
        departures; /* of cells: engines that had left when their client last could see who lives */
    _Atomic uint32_t references;
    int64_t claimed_ns;
    uint32_t room;    /* for so many words */
    uint64_t words[]; /* each slot's word as we made it */
};

/* ---- Small helpers -------------------------------------------------------------------------- */

static inline uint32_t rf_wrap(const rf_ring *ring, uint32_t slot)
{
    return slot >= ring->slot_count ? slot - ring->slot_count : slot;
}

/* How many of `rows` rows from a slot on may be one run. */
static inline uint32_t rf_rows_from(const rf_ring *ring, uint32_t slot, uint32_t rows)
{
    /* Relaxed: it is set before a run that may not pass the end is asked for. */
    if (!rf_load_relaxed(&((rf_ring *)ring)->runs_end) || rows <= ring->slot_count - slot)
        return rows;
    return ring->slot_count - slot;
}

/* May the words of this slot and the next be swapped with one operation (rf_cas_pair), of a run of so many rows? */
static inline bool rf_is_pair(const rf_ring *ring, uint32_t slot, uint32_t rows)
{
    return rows >= 2 && slot % 2 == 0 && slot + 1 < ring->slot_count;
}

/* Have the lines of a run's words or links come at once, to be written: each swap would else wait for one by itself. */
static inline void rf_fetch(const rf_ring *ring, _Atomic uint64_t *of_slots, uint32_t slot,
                            uint32_t rows)
{
    uint32_t end = slot + rows < ring->slot_count ? slot + rows : ring->slot_count;
    for (; slot < end; slot += RF_CACHE_LINE / sizeof of_slots[0])
        __builtin_prefetch((const void *)&of_slots[slot], 1);
}

/* A cursor as read from shared memory is a hint that anyone may have garbled. */
static inline uint32_t rf_cursor(const rf_ring *ring, _Atomic uint32_t *cursor)
{
    uint32_t slot = rf_load_relaxed(cursor);
    return slot < ring->slot_count ? slot : 0;
}

static inline uint32_t rf_self(const rf_ring *ring)
{
    return rf_load_relaxed(&((rf_ring *)ring)->self);
}

/* Does a participant of a pool say that it serves? */
static inline bool rf_serves(rf_participant *entry)
{
    return (rf_load_relaxed(&entry->state) & ((1u << RF_STATE_BITS) - 1)) == RF_SERVING;
}

static inline rf_counters *rf_own_counters(rf_ring *ring)
{
    return &ring->participants[rf_self(ring) - 1].counters;
}

/* Only this process writes its counters; an addition keeps its threads apart. */
#define rf_count(ring, counter, n) rf_add_relaxed(&rf_own_counters(ring)->counter, (uint64_t)(n))

/* ---- ring.c --------------------------------------------------------------------------------- */

/* A word that is as wished, but of no use, is not worth spinning on more often than this. */
enum { RF_MOST_SPINS = 16 };

/* How many slots are in which state; of a garbled word, in none. */
typedef struct rf_census {
    uint32_t free, claimed, ready, taken, pinned;
} rf_census;

extern _Atomic uint32_t rf_fork_generation; /* + 1 in each child of a fork (participants.c) */
rf_status rf_join(rf_ring *ring); /* become a participant, unless we are one (participants.c) */

/* RF_OK, or why no operation may start on this handle now. Joins anew after a fork. */
static inline rf_status rf_enter(rf_ring *ring)
{
    if (rf_load_acquire(&ring->closing)) /* A6 <- R6 (rf_ring_close) */
        return RF_CLOSED;
    /* A7 <- R7 (rf_join): who sees the new generation also sees the new `self`. */
    if (rf_load_acquire(&ring->generation) == rf_load_relaxed(&rf_fork_generation))
        return RF_OK;
    /* A forked child: what the parent holds is the parent's; the child joins as itself. */
    return rf_join(ring);
}

/* RF_OK while records may still be published into the ring. */
static inline rf_status rf_still_open(const rf_ring *ring)
{
    if (rf_load_relaxed(&ring->header->finished) & RF_IS_FINISHED)
        return RF_FINISHED;
    return rf_load_relaxed(&ring->header->closed) ? RF_CLOSED : RF_OK;
}
/* Before a wait goes on: RF_OK, or why it is over. */
rf_status rf_wait_on(int64_t *started, int64_t now_ns, int64_t deadline_ns, rf_status out_of_time);
rf_census rf_count_states(const rf_ring *ring);

/* ---- reaper.c ------------------------------------------------------------------------------ */

/* Once in a slice one of all who find nothing to do looks after the dead, however short its own wait
 * is. True: something came of it, look again. */
bool rf_look_after_the_dead(rf_ring *ring, int64_t now_ns);
/* When a patient waiter looks again at the latest: at the end of a slice, or later where many wait. */
int64_t rf_patience_ends(const rf_ring *ring, int64_t now_ns);
/* Do so many wait that they sleep for longer? */
bool rf_many_wait(const rf_ring *ring);
/* Around a patient sleep. */
void rf_begin_patience(rf_ring *ring);
void rf_end_patience(rf_ring *ring);
/* Wake all who sleep patiently, whatever for. */
void rf_wake_patient(rf_ring *ring);
/* The same when an engine of a pool has left, or was found dead: who waits for its answers is to see who is left. */
void rf_wake_for_departure(rf_ring *pool);

/* ---- lease.c -------------------------------------------------------------------------------- */

/* A lease with room for `rows`, and one reference; NULL without memory. */
rf_lease *rf_new_lease(rf_ring *ring, uint32_t rows);
/* Free a lease that holds nothing (any more). */
void rf_free_lease(rf_lease *lease);
/* Give a slot of our own back for reuse. False when the word is not `word` (pin aside). */
bool rf_free_slot(rf_ring *ring, uint32_t slot, uint64_t word);
/* Give claimed slots back unpublished. Returns how many were still ours. */
uint32_t rf_unclaim(rf_ring *ring, uint32_t first, uint32_t count, const uint64_t *words);
/* The same for the rows of a claim `from` one on, and count them as discarded. */
void rf_discard_rows(rf_lease *lease, uint32_t from);

static inline uint32_t rf_lease_slot(const rf_lease *lease, uint32_t row)
{
    return rf_wrap(lease->ring, lease->first + row);
}

/* ---- plan.c --------------------------------------------------------------------------------- */

/* As rf_plan, for the very number of slots that is asked for. */
rf_status rf_plan_exactly(const rf_options *options, rf_geometry *geometry);
/* Does one region follow on itself without a gap, so that a run may pass the ring's end? */
bool rf_is_mirrored(const rf_geometry *geometry);

/* ---- dead_letters.c ------------------------------------------------------------------------------ */

/* Is a record over which so many takers failed to be set aside? */
bool rf_is_dead_letter(const rf_ring *ring, uint32_t failures);
/* Set aside a batch that is a dead letter, and leave a letter about it. */
void rf_put_aside(rf_lease *lease);

/* ---- segment.c ------------------------------------------------------------------------------ */

/* Close the segment's descriptor, unless other code has done so. */
void rf_close_descriptor(const rf_ring *ring);
/* The layout that a header claims is the one that we compute, or RF_DAMAGED. */
rf_status rf_check_geometry(const rf_geometry *claimed, uint64_t file_bytes, rf_geometry *checked);

/* ---- handle.c ---------------------------------------------------------------------------------- */

void rf_ring_retain(rf_ring *ring);
void rf_ring_unref(rf_ring *ring); /* the last one unmaps */

/* ---- reserve.c -------------------------------------------------------------------------------- */

/* Does the file system of the segment have room for it? */
bool rf_has_space(const rf_ring *ring);
/* Reserve every page now: what is missing shows here, not as SIGBUS at a write. RF_NO_SPACE, RF_SYSTEM. */
rf_status rf_reserve(rf_ring *ring);
/* Nobody may change the size of a segment without a name any more: a peer that could shrink it could end all. */
void rf_seal_size(int fd);

/* ---- participants.c ----------------------------------------------------------------------------- */

void rf_watch_forks(void);    /* before the first handle of a process */
void rf_leave(rf_ring *ring); /* hand the entry back; the counters stay */
/* A description of our own for locks on the segment, until rf_own_file_close. */
bool rf_open_for_locks(const rf_ring *ring, rf_own_file *own);
/* What to say when that fails, by errno. */
rf_status rf_no_description(void);

/* As rf_recover, of those whose number has its bit set alone. */
uint32_t rf_recover_some(rf_ring *ring, const uint64_t *owners);
/* Is that participant a living process's, or a handle of our own? */
bool rf_participant_lives(rf_ring *ring, uint32_t owner);

/* ---- client_side.c, engine_side.c ----------------------------------------------------------------- */

/* Undo what a participant that is dead, or leaves, was doing with a cell. */
void rf_recover_cell(rf_ring *pool, uint32_t cell, uint32_t dead);
/* Wake whoever waits for that answered cell. */
void rf_tell(rf_ring *pool, uint32_t cell);
/* The lease on cells ends: what was not answered is not wanted any more. */
void rf_withdraw(rf_lease *cells);

/* ---- producers.c ---------------------------------------------------------------------------- */

/* End what blocks a participant has open that is dead, or leaves, and finish the ring if they were the last. */
void rf_end_blocks(rf_ring *ring, uint32_t owner);
/* Finish the ring if its producers have come and none is left: behind the end of a block, or at any time. */
bool rf_finish_if_left(rf_ring *ring);

/* ---- owner.c -------------------------------------------------------------------------------- */

rf_status rf_lock_owner(rf_ring *ring); /* say that this process owns the segment */
void rf_unlock_owner(rf_ring *ring);
bool rf_owner_lives(const rf_ring *ring);

/* ---- page_lock.c ---------------------------------------------------------------------------------- */

/* Unregister what is registered, then unmap what lies behind the first so many bytes. */
void rf_pin_end(rf_ring *ring, size_t kept_bytes);

/* ---- event.c ------------------------------------------------------------------------------- */

/* Tell waiters that `rows` more rows are there; UINT32_MAX wakes them whatever they want. */
void rf_notify(rf_event *event, uint32_t rows);
/* The same behind F1. */
void rf_tell_waiters(rf_event *event, uint32_t rows);

/* As rf_notify, where what is told of was written by a compare-and-swap. */
static inline void rf_notify_behind_swap(rf_event *event, uint32_t rows)
{
    rf_fence_behind_swap(); /* F1 with F2 (rf_prepare_wait) */
    if (rf_load_relaxed(&event->wanted) != 0)
        rf_tell_waiters(event, rows);
}

/* As many of those who wait for one row each; the others sleep on. */
void rf_notify_some(rf_event *event, uint32_t count);
/* Leave word that we wait for `rows`; the caller looks once more, then sleeps on the key. */
uint32_t rf_prepare_wait(rf_event *event, uint32_t rows);
/* A taker that goes to sleep: wake the producers that wait for more room than was given back, if there is
 * any. (Where there is none they would wake us for nothing, and we them, without end.) */
void rf_leave_no_room_unused(rf_ring *ring);
/* Sleep until notified or `until_ns`. True: worth looking again; false: a signal came. */
bool rf_sleep(rf_event *event, uint32_t key, int64_t until_ns);
/* Sleep while the lower half of a word is what was seen there. False: a signal came. */
bool rf_sleep_on_word(_Atomic uint64_t *word, uint64_t seen, int64_t until_ns);
void rf_wake_at_word(_Atomic uint64_t *word);
/* Spin until the word leaves / reaches a state; learns from its success. */
bool rf_spin(_Atomic uint32_t *budget, _Atomic uint64_t *word, rf_state state);

#endif
