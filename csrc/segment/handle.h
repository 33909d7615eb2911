/*
 * The handle: what this process knows of a segment, in private memory. Shared by the C files of the core only.
 *
 * It may not declare functions of the folders above; a handle calls them through its kind.
 */
#ifndef RF_HANDLE_H
#define RF_HANDLE_H

#include <sys/types.h>

#include "segment/handle_lifetime.h"
#include "segment/layout.h"
#include "segment/lock_file.h"
#include "segment/step.h"

/* What a GPU's driver has registered of the payload (page_lock.c). */
typedef struct rf_pin {
    rf_pin_driver driver;
    uint8_t way[RF_MAX_FIELDS]; /* rf_pin_way of each region */
    uint32_t count;             /* calls of rf_ring_pin minus calls of rf_ring_unpin */
    uint32_t generation;        /* rf_fork_generation of the process that registered */
    bool stuck;                 /* the driver refused to unregister something */
} rf_pin;

/* What this handle published last, in the order in which takers get it (order.c). Only the
 * publishing thread reads and writes it, except for `published`. */
enum { RF_CHAIN_ENTRIES = 64, RF_CHAIN_KNOWN = RF_CHAIN_ENTRIES - 2 };

typedef struct rf_chained {
    uint64_t first, last; /* links that name the first and the last row of a publication */
    uint64_t number;      /* the number of this publication, from 1 */
} rf_chained;

typedef struct rf_chain {
    _Atomic uint64_t published; /* publications so far; the next entry goes behind the last one */
    uint64_t base;              /* how many of them a parent process made */
    rf_chained entries[RF_CHAIN_ENTRIES];
} rf_chain;

/* The records that takes through this handle set aside and nobody has reported yet
 * (dead_letters.c). */
enum { RF_MOST_DEAD_LETTERS = 16 };

typedef struct rf_dead_letters {
    _Atomic uint32_t count; /* 0: there is none */
    _Atomic uint32_t busy;
    uint32_t first, unsaid;
    rf_dead_letter letters[RF_MOST_DEAD_LETTERS];
} rf_dead_letters;

/* What a handle has measured of its copies into slots (streaming.h). These are hints, which
 * threads share. */
enum { RF_COPY_STREAMED = 1, RF_COPY_HOT = 2, RF_COPY_WAYS = 4 };
typedef struct rf_copies {
    uint64_t least_bytes;      /* of a record whose copies are timed */
    _Atomic uint64_t written;  /* the slots that were written last: the first and the last */
    _Atomic uint32_t turns[2]; /* copies into cold slots, and into hot ones */
    _Atomic uint32_t ns_per_mib[RF_COPY_WAYS]; /* 0: not measured yet */
} rf_copies;

/* What differs between a ring and a reply pool. The code that creates or attaches one sets it. */
typedef struct rf_kind {
    bool is_pool;
    /* Give back what a dead participant held. Several processes may do this at once. */
    void (*recover)(rf_ring *ring, uint32_t dead);
    /* Give back what this participant still holds, before its entry becomes free. */
    void (*leave)(rf_ring *ring);
    /* A participant is gone, and its entry is free. `state` is the one that the entry had. */
    void (*departed)(rf_ring *ring, uint32_t state);
    /* Is something under way on this handle that no lease stands for? */
    bool (*is_engaged)(const rf_ring *ring);
    /* The last reference to a lease of this process is gone: give its slots back. */
    void (*drop)(rf_lease *lease);
    /* Set the bit of each participant that holds something that others want. */
    void (*list_holders)(const rf_ring *ring, uint64_t *owners);
    /* Wake every thread that sleeps patiently; with `ready_only`, only those whose change has come. */
    void (*wake_patient)(rf_ring *ring, bool ready_only);
} rf_kind;

struct rf_ring {
    const rf_kind *kind;
    rf_geometry geometry; /* copied and checked once: shared memory cannot change it */
    rf_header *header;
    rf_participant *participants;
    _Atomic uint64_t *words;
    _Atomic uint64_t *links;
    rf_slot *slots;
    rf_use *uses;
    uint8_t *region[RF_MAX_FIELDS];
    uint8_t *mapping;
    size_t mapped_bytes;

    int fd; /* other code may close it and use its number for another file: rf_is_file */
    dev_t device;
    ino_t inode;
    rf_lock_mapping lock_mapping, owner_lock_mapping; /* keep our locks (lock_file.c) */

    bool is_padded; /* the regions do not follow on themselves (plan.c): `runs_end` stays true */
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
    _Atomic uint32_t references; /* one of the handle until it is retired, and one of each lease */
    /* Of this struct: one of the handle, one of entry and memory (handle.c). */
    _Atomic uint32_t lives;
    _Atomic uint32_t retired; /* no thread is inside an operation of this handle, nor enters one */
    size_t kept_bytes;        /* what stays of the mapping when the memory is given back */
    _Atomic uint32_t publishing; /* a thread of this process is publishing; the others wait */
    _Atomic uint64_t last_link;  /* names the last record of our chain */
    rf_chain chain;
    rf_dead_letters dead_letters;
    _Atomic int64_t reaped_ns;   /* when a thread of this handle last looked for the dead, */
    _Atomic uint32_t reaped_by;  /* and which thread (reaper.c) */
    _Atomic uint32_t claim_spin; /* how long a wait is worth spinning; learned */
    _Atomic uint32_t take_spin;
    uint32_t window; /* slots that are used again while takers keep up (window.h); 0: all */
    /* A claim starts again at the first slots when everything was taken (window.h). */
    bool restarts;
    rf_copies copies;
    /* Of a pool: our first cell + 1, and the cell of our newest claim (claim.c). */
    _Atomic uint32_t home, last_cell;
    /* Does the next search go around; rows since the last that did. */
    _Atomic uint32_t full_search, full_search_rows;
    /* Where links led (search_from): slot + 1, or 0; rows taken there. */
    _Atomic uint32_t trail, trail_rows;
};

static inline uint32_t rf_self(const rf_ring *ring)
{
    return rf_load_relaxed(&((rf_ring *)ring)->self);
}

#endif
