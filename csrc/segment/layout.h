/*
 * The contents of the shared segment, byte for byte.
 *
 * It may not know how the segment is mapped: no pointers, no handles. A broken peer may have written anything that
 * is read from here. Geometry is copied and checked at attach (segment.c), and indices are checked at use.
 *
 *     header | participants | words, links | slot records, uses | field 0 | field 1 | ...
 *
 * Each part starts on a page. A field's region is mapped twice in a row.
 */
#ifndef RF_LAYOUT_H
#define RF_LAYOUT_H

#include <stddef.h>

#include "ringfeed.h"
#include "segment/atomics.h"

#define RF_MAGIC UINT64_C(0x44454546474e4952) /* "RINGFEED" */
#define RF_LAYOUT_VERSION RF_READS_VERSION

enum { RF_CACHE_LINE = 64, RF_CACHE_PAIR = 128 /* lines are fetched in pairs */ };

/* ---- The word of a slot: state, keep, owner, epoch ------------------------------------------ */

/*
 *   63            16 15       4   3    2     0
 *  +----------------+----------+------+-------+
 *  |     epoch      |  owner   | keep | state |
 *  +----------------+----------+------+-------+
 *
 * owner: participant index + 1; 0 is nobody (FREE). A READY word has no owner there, but what takers must know before they
 *        take the record: how many takers failed over it, and how often its link was written anew (rf_word_failures,
 *        rf_word_relinks).
 * keep:  the producer still has a view of the published slot. On release the slot becomes KEPT (owner: that producer)
 *        instead of FREE, until the view is gone.
 * epoch: + 1 at each return to FREE. So a word seen once never comes back, except for the words of a record that is delivered
 *        again, because its taker died or gave it back. Only the process that made a TAKEN word, or one that reaps it, swaps
 *        it for another state, and only once. So its return does no harm.
 */
typedef enum rf_state {
    RF_STATE_FREE = 0,
    RF_STATE_CLAIMED = 1,
    RF_STATE_READY = 2,
    RF_STATE_TAKEN = 3,
    RF_STATE_KEPT = 4,
} rf_state;

#define RF_KEEP UINT64_C(8)
#define RF_NO_OWNER 0u
#define RF_EPOCH_MASK ((UINT64_C(1) << 48) - 1)

static inline uint64_t rf_word(rf_state state, uint32_t owner, uint64_t epoch)
{
    return (epoch & RF_EPOCH_MASK) << 16 | (uint64_t)owner << 4 | (uint64_t)state;
}

static inline rf_state rf_word_state(uint64_t word)
{
    return (rf_state)(word & 7);
}

static inline uint32_t rf_word_owner(uint64_t word)
{
    return (uint32_t)(word >> 4) & 0xfff;
}

static inline uint64_t rf_word_epoch(uint64_t word)
{
    return word >> 16;
}

/* A READY word has these two numbers in place of the owner. The lower 8 bits count the takers
 * that failed over the record, by dying or by saying so. The upper 4 bits count how often its
 * link was written anew; they are at their maximum when the record is READY again. */
enum { RF_MOST_FAILURES = UINT8_MAX, RF_MOST_RELINKS = 15 };
#define RF_ONE_RELINK (UINT64_C(1) << 12)

/* The READY word of a record that was taken before. Its relinks are at their maximum: a record
 * behind it may have been taken, so no other record is put in front of it any more (order.c). */
static inline uint64_t rf_ready_again(uint64_t epoch, uint32_t failures)
{
    return rf_word(RF_STATE_READY, failures > RF_MOST_FAILURES ? RF_MOST_FAILURES : failures,
                   epoch) |
           RF_MOST_RELINKS * RF_ONE_RELINK;
}

static inline uint32_t rf_word_failures(uint64_t word)
{
    return (uint32_t)(word >> 4) & RF_MOST_FAILURES;
}

/* READY, without a failure and without a new link, as almost every record is found. */
static inline bool rf_is_ready_as_put(uint64_t word)
{
    return (word & 0xfff7) == RF_STATE_READY;
}

static inline uint32_t rf_word_relinks(uint64_t word)
{
    return (uint32_t)(word >> 12) & RF_MOST_RELINKS;
}

/* ---- The order of one producer's records ---------------------------------------------------- */

/*
 * A record's link names the record before it in the chain of its producer (order.c). The upper 24 bits are the slot,
 * then comes a bit that is always set, and the lower 39 bits are of its epoch. A taker takes a record only when the
 * slot that the link names no longer holds that record READY. 0 is no link; the bit keeps slot 0 from having that
 * value at any epoch.
 */
#define RF_LINK_EPOCH_MASK ((UINT64_C(1) << 39) - 1)
#define RF_LINK_BIT (UINT64_C(1) << 39)

static inline uint64_t rf_link(uint32_t slot, uint64_t epoch)
{
    return (uint64_t)slot << 40 | RF_LINK_BIT | (epoch & RF_LINK_EPOCH_MASK);
}

static inline uint32_t rf_link_slot(uint64_t link)
{
    return (uint32_t)(link >> 40);
}

/* Does `word` say that the record named by `link` still waits to be taken? */
static inline bool rf_link_is_ready(uint64_t link, uint64_t word)
{
    return rf_word_state(word) == RF_STATE_READY &&
           ((rf_word_epoch(word) ^ link) & RF_LINK_EPOCH_MASK) == 0;
}

/* ---- The parts ------------------------------------------------------------------------------ */

/*
 * Beside its word a slot has data in three parts, and one side alone writes each part. So a cache line moves from
 * core to core only when somebody wants its contents. Links are packed behind the words, because every taker reads
 * them. All are atomic, because a taker that lost the race for the slot may still read while its next owner writes.
 */

/* What the producer says of its record. One cache line. */
typedef struct rf_slot {
    _Alignas(RF_CACHE_LINE) _Atomic uint64_t tag;
    _Atomic uint64_t reply; /* rf_link of the cell that waits for an answer; 0: none is wanted */
    _Atomic int64_t claimed_ns;
    _Atomic int64_t published_ns;
    _Atomic uint32_t producer;
} rf_slot;

/* What takers say of it; behind the slot records. */
typedef struct rf_use {
    _Alignas(RF_CACHE_LINE / 2) _Atomic int64_t taken_ns;
    _Atomic int64_t released_ns;
    _Atomic uint64_t deliveries; /* rf_delivered; of another epoch: none */
} rf_use;

/* The deliveries of the record of that epoch, and the failures that its READY word is to have
 * if its taker dies now. A taker to which the record was not shown has not failed. A producer
 * need not reset them: the epoch tells. */
static inline uint64_t rf_delivered(uint64_t epoch, uint32_t count, uint32_t failures)
{
    return epoch << 16 |
           (uint64_t)(failures > RF_MOST_FAILURES ? RF_MOST_FAILURES : failures) << 8 |
           (count > UINT8_MAX ? UINT8_MAX : count);
}

static inline uint32_t rf_deliveries(uint64_t delivered, uint64_t epoch)
{
    return delivered >> 16 == epoch ? (uint32_t)delivered & UINT8_MAX : 0;
}

static inline uint32_t rf_failures(uint64_t delivered, uint64_t epoch)
{
    return delivered >> 16 == epoch ? (uint32_t)(delivered >> 8) & UINT8_MAX : 0;
}

/* In a reply pool, what a cell has beside its word. The states are those of a slot, read as
 *
 *   FREE --claim--> CLAIMED(client) --hold--> TAKEN(engine) --answer--> READY(client) --> FREE, epoch + 1
 *                   asked                     held                      answered
 *
 * RF_KEEP says of a held cell that its client no longer waits, and of an answered cell that its engine died over it. The client
 * writes the record before it asks; the engine writes it while it holds the cell. */
typedef struct rf_cell {
    /* After this time the model need not see it. */
    _Alignas(RF_CACHE_LINE) _Atomic int64_t answer_by_ns;
    _Atomic int64_t asked_ns;
    _Atomic int64_t held_ns;
    _Atomic int64_t answered_ns;
    _Atomic uint32_t client;  /* the participant that asked */
    _Atomic uint32_t waiter;  /* rf_waiter */
    _Atomic uint32_t outcome; /* rf_outcome */
    _Atomic uint32_t text_bytes;
} rf_cell;

/* An event count. A waiter leaves in it how much change it needs. */
typedef struct rf_event {
    _Atomic uint32_t sequence; /* the futex: + 1 at each wake-up */
    _Atomic uint32_t wanted;   /* 0: nobody waits; n: wake when n more rows have come */
} rf_event;

/* The counters of one participant. Only this participant writes them, so they cost no sharing. */
typedef struct rf_counters {
    _Atomic uint64_t published, discarded, taken, released, batches;
    _Atomic uint64_t redelivered, dropped, reclaimed, dead_letters;
    _Atomic uint64_t claim_wait_ns, take_wait_ns;
} rf_counters;

/* The state of an entry in the participant table. Of an engine, the upper bits say where it
 * takes from. */
enum { RF_ABSENT = 0, RF_PRESENT = 1, RF_SERVING = 2, RF_STATE_BITS = 2 };
enum { RF_ENGINE_NAMES = 16, RF_ENGINE_NAME_BYTES = 64 };

/* The mark of a process (process_mark.c). */
typedef struct rf_process_mark {
    _Atomic uint64_t start; /* when it started, in the kernel's ticks */
    _Atomic uint32_t pid;   /* as its own PID namespace knows it; 0: no mark */
    _Atomic uint32_t pid_namespace, time_namespace; /* inodes of /proc/self/ns; 0: not known */
    _Atomic uint32_t stack;                         /* where its program's stack began, / 16 */
} rf_process_mark;

/* A participant is alive if it holds its record lock, with `mark` as a second opinion
 * (participants.c), regardless of `state`. */
typedef struct rf_participant {
    _Alignas(RF_CACHE_PAIR) _Atomic uint32_t state;
    _Atomic uint32_t waits; /* how many of its threads sleep patiently (reaper.c) */
    rf_counters counters;
    rf_event answered; /* of a client in a reply pool: it waits here for any of its answers */
    _Atomic uint64_t producing; /* its open producing blocks (producers.c) */
    _Atomic uint64_t model;     /* of an engine in a reply pool: rf_service.model */
    _Atomic uint32_t onward;    /* rf_service.onward */
    _Atomic uint32_t turn;      /* the turn of the first of its threads that sleep patiently */
    rf_process_mark mark;
} rf_participant;

/* rf_header.finished: the lowest bit says that the ring is finished, and the bits above count
 * the producers that have entered. One word holds both, so that no producer can enter between
 * the last look for producers and the end. */
#define RF_IS_FINISHED UINT64_C(1)
#define RF_ONE_PRODUCER UINT64_C(2)

static inline uint64_t rf_producers_entered(uint64_t finished)
{
    return finished / RF_ONE_PRODUCER;
}

/* The text of the first producer that failed. Its word is like that of a slot:
 *
 *   FREE --claim--> CLAIMED(producer) --the text is complete--> READY, for good
 *
 * RF_KEEP says that another producer failed while the text was being written, and found no room for its own. If the text is never
 * completed, takers are told at least that. The claim of a dead producer becomes FREE, epoch + 1. */
typedef struct rf_failure {
    _Alignas(RF_CACHE_PAIR) _Atomic uint64_t word;
    _Atomic uint32_t bytes; /* of the text, UTF-8, without a NUL */
    char text[RF_FAILURE_BYTES];
} rf_failure;

typedef struct rf_header {
    uint64_t magic;
    uint32_t layout_version;
    _Atomic uint32_t initialized; /* 1 once everything else is written */
    uint64_t creator_pid;
    uint32_t redeliver;
    uint32_t max_deliveries; /* 0: no limit */
    uint64_t user_data;      /* of the creator, for all that attach */
    uint64_t ring_inode;     /* 0; or the inode of the ring that this pool of reply cells is for */
    rf_process_mark owner;   /* of the owner, beside its lock (owner.c) */
    uint64_t inode;          /* the segment's own: in a copy of the file no mark counts */
    /* Where the next claim starts to search. */
    _Alignas(RF_CACHE_PAIR) _Atomic uint32_t claim_cursor;
    _Alignas(RF_CACHE_PAIR) _Atomic uint32_t take_cursor; /* where the next take starts to search */
    _Alignas(RF_CACHE_PAIR) _Atomic uint64_t finished;    /* RF_IS_FINISHED, rf_producers_entered */
    _Atomic uint32_t closed;
    uint32_t producers; /* rf_options.producers */
    /* A taker has waited for this many records, which are to lie in a row. */
    _Atomic uint32_t contiguous_rows;
    _Alignas(RF_CACHE_PAIR) rf_event readable; /* takers wait here for READY */
    _Alignas(RF_CACHE_PAIR) rf_event writable; /* producers wait here for FREE */
    /* Of a pool: the name of the model whose engine came last to each place, UTF-8, for
     * messages. `from` gives the place. */
    char engine_names[RF_ENGINE_NAMES][RF_ENGINE_NAME_BYTES];
    /* Looking for the dead (reaper.c): the time at which a process last began; the READY words
     * that waiters were last told of; how many threads then slept patiently; and the larger
     * number by which some may still sleep. */
    _Alignas(RF_CACHE_PAIR) _Atomic int64_t reaped_ns;
    _Atomic uint64_t notified;
    _Atomic uint32_t waiters, planned;
    _Atomic uint32_t departures;                  /* of a pool: how many engines have left */
    _Alignas(RF_CACHE_PAIR) rf_counters departed; /* the counters of participants that left */
    rf_failure failure;
    _Alignas(RF_CACHE_PAIR) rf_geometry geometry;
} rf_header;

_Static_assert(sizeof(rf_slot) == RF_CACHE_LINE, "a slot record is one cache line");
_Static_assert(sizeof(rf_participant) == 2 * RF_CACHE_PAIR, "a participant is two pairs of lines");
_Static_assert(sizeof(rf_cell) == sizeof(rf_slot), "a cell's record lies where a slot's does");
_Static_assert(offsetof(rf_header, writable) - offsetof(rf_header, readable) == RF_CACHE_PAIR,
               "an event count has its lines for itself");

#endif
