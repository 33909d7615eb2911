/*
 * What this process knows of a ring, in private memory: the handle and its leases.
 * Between the C files only.
 */
#ifndef RF_HANDLE_H
#define RF_HANDLE_H

#include <sys/types.h>

#include "layout.h"
#include "step.h"

#define RF_HUGE_PAGE_BYTES (UINT64_C(2) << 20)

/* What of the payload is registered with a GPU's driver (pin.c). */
typedef struct rf_pin {
    rf_pin_driver driver;
    uint8_t way[RF_MAX_FIELDS]; /* rf_pin_way of each region */
    uint32_t count;             /* of rf_ring_pin, less rf_ring_unpin */
    uint32_t generation;        /* rf_fork_generation of who registered */
    bool stuck;                 /* the driver would not let go of something */
} rf_pin;

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

    int fd;
    dev_t device; /* device and inode tell handles on one segment in one process */
    ino_t inode;
    struct rf_ring *next; /* in the process's list of handles (liveness.c) */

    bool is_pool; /* of reply cells (replies.c) */
    _Atomic bool owner;
    _Atomic bool runs_end; /* no claim and no batch passes the ring's end (pin.c) */
    int numa_errno;
    rf_pin pin;
    rf_pin_report pin_report;
    uint32_t slot_count;
    uint64_t record_bytes;       /* the samples of all fields */
    _Atomic uint32_t self;       /* our owner number: participant index + 1 */
    _Atomic uint32_t generation; /* rf_fork_generation when `self` joined; written after it */
    _Atomic uint32_t closing;
    _Atomic uint32_t references; /* the handle itself and each lease */
    _Atomic uint32_t publishing; /* a thread of this process is at it, the others wait */
    _Atomic uint64_t last_link;  /* names the record that we published last */
    _Atomic int64_t looked_ns;   /* when we last looked for dead participants */
    _Atomic uint32_t claim_spin; /* how long a wait is worth spinning; learnt */
    _Atomic uint32_t take_spin;
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
    _Atomic uint32_t references;
    int64_t claimed_ns;
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

/* RF_OK, or why no operation may start on this handle now. Joins anew after a fork. */
rf_status rf_enter(rf_ring *ring);
/* RF_OK while records may still be published into the ring. */
rf_status rf_still_open(const rf_ring *ring);
/* Once in a slice, whoever finds nothing to do looks after the dead, however short its own wait
 * is. True: something came of it, look again. */
bool rf_look_after_the_dead(rf_ring *ring, int64_t now_ns);
/* Before a wait goes on: RF_OK, or why it is over. */
rf_status rf_wait_on(int64_t *started, int64_t now_ns, int64_t deadline_ns, rf_status out_of_time);
rf_census rf_count_states(const rf_ring *ring);

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

/* ---- segment.c ------------------------------------------------------------------------------ */

void rf_ring_retain(rf_ring *ring);
void rf_ring_unref(rf_ring *ring); /* the last one unmaps */
/* The layout that a header claims is the one that we compute, or RF_DAMAGED. */
rf_status rf_check_geometry(const rf_geometry *claimed, uint64_t file_bytes, rf_geometry *checked);

/* ---- liveness.c ----------------------------------------------------------------------------- */

extern _Atomic uint32_t rf_fork_generation; /* + 1 in each child of a fork */

rf_status rf_join(rf_ring *ring); /* become a participant, unless we are one */
void rf_leave(rf_ring *ring);     /* hand the entry back; the counters stay */
void rf_enlist(rf_ring *ring);    /* into this process's list of handles */
void rf_delist(rf_ring *ring);    /* and out of it, with its descriptor */
void rf_lock_list(void);          /* keep other threads from opening and closing handles */
void rf_unlock_list(void);
/* With the list locked: does a handle of this very process own the segment? */
bool rf_we_own(dev_t device, ino_t inode);
/* Is that participant of the segment a handle of this process? */
bool rf_we_are(dev_t device, ino_t inode, uint32_t owner);

/* Is that participant a living process's? Also one of this process's handles. */
bool rf_participant_lives(rf_ring *ring, uint32_t owner);

/* ---- replies.c, answering.c ----------------------------------------------------------------- */

/* Undo what a participant that is dead, or leaves, was doing with a cell. */
void rf_recover_cell(rf_ring *pool, uint32_t cell, uint32_t dead);
/* The lease on cells ends: what was not answered is not wanted any more. */
void rf_withdraw(rf_lease *cells);

/* ---- owner.c -------------------------------------------------------------------------------- */

rf_status rf_lock_owner(int fd); /* say that this process owns the segment */
void rf_unlock_owner(rf_ring *ring);
bool rf_owner_lives(const rf_ring *ring);

/* ---- pin.c ---------------------------------------------------------------------------------- */

void rf_pin_end(rf_ring *ring); /* unregister what is registered, then unmap */

/* ---- waiter.c ------------------------------------------------------------------------------- */

/* Tell waiters that `rows` more rows are there; UINT32_MAX wakes them whatever they want. */
void rf_notify(rf_event *event, uint32_t rows);
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
