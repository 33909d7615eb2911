/*
 * What lies in the shared segment, byte for byte.
 *
 * It may not know who maps it: no pointers, no handles. Whatever is read from here may have been
 * written by a broken peer; geometry is copied at attach (segment.c), indices are checked at use.
 *
 *     header | participants | words, links | slot records, uses | field 0 | field 1 | ...
 *
 * Each part starts on a page. A field's region is mapped twice in a row.
 */
#ifndef RF_LAYOUT_H
#define RF_LAYOUT_H

#include <stddef.h>

#include "atomics.h"
#include "ringfeed.h"

#define RF_MAGIC UINT64_C(0x44454546474e4952) /* "RINGFEED" */
#define RF_LAYOUT_VERSION RF_READS_VERSION

enum { RF_CACHE_LINE = 64, RF_CACHE_PAIR = 128 /* lines are fetched in pairs */ };

/* ---- The word of a slot: state, pin, owner, epoch ------------------------------------------- */

/*
 *   63            16 15       4   3   2     0
 *  +----------------+----------+-----+-------+
 *  |     epoch      |  owner   | pin | state |
 *  +----------------+----------+-----+-------+
 *
 * owner: participant index + 1, 0 for nobody (FREE, READY).
 * pin:   the producer still has a view of the published slot: on release it becomes PINNED
 *        (owner: that producer) instead of FREE, until the view is gone.
 * epoch: + 1 at each return to FREE; so a word seen once is never seen again, but for those of a
 *        record that is delivered again, because its taker died or gave it back. Only who made a
 *        TAKEN word, or whoever buries them, swaps it for another state, and once: so that it may
 *        come again harms nobody.
 */
typedef enum rf_state {
    RF_STATE_FREE = 0,
    RF_STATE_CLAIMED = 1,
    RF_STATE_READY = 2,
    RF_STATE_TAKEN = 3,
    RF_STATE_PINNED = 4,
} rf_state;

#define RF_PIN UINT64_C(8)
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

/* ---- The order of one producer's records ---------------------------------------------------- */

/*
 * A record's link names the record that its producer published before: slot in the upper 24
 * bits, the low 40 bits of its epoch below. A taker takes a record only when the slot that its
 * link names no longer holds that record READY. 0 is no link (epochs start at 1).
 */
#define RF_LINK_EPOCH_MASK ((UINT64_C(1) << 40) - 1)

static inline uint64_t rf_link(uint32_t slot, uint64_t epoch)
{
    return (uint64_t)slot << 40 | (epoch & RF_LINK_EPOCH_MASK);
}

static inline uint32_t rf_link_slot(uint64_t link)
{
    return (uint32_t)(link >> 40);
}

/* Does `word` say that the record which `link` names is still waiting to be taken? */
static inline bool rf_link_is_ready(uint64_t link, uint64_t word)
{
    return rf_word_state(word) == RF_STATE_READY &&
           ((rf_word_epoch(word) ^ link) & RF_LINK_EPOCH_MASK) == 0;
}

/* ---- The parts ------------------------------------------------------------------------------ */

/*
 * What a slot knows beside its word lies in three parts, each written from one side alone: what the line of a
 * part holds moves from core to core only when somebody wants to know it. Links are packed, behind the words,
 * for every taker reads them. All are atomic because a taker that lost the race for the slot may still be
 * reading while its next owner writes.
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

/* So many deliveries of the record of that epoch; a producer need not set them back. */
static inline uint64_t rf_delivered(uint64_t epoch, uint32_t count)
{
    return epoch << 16 | (count > UINT16_MAX ? UINT16_MAX : count);
}

static inline uint32_t rf_deliveries(uint64_t delivered, uint64_t epoch)
{
    return delivered >> 16 == epoch ? (uint32_t)delivered & UINT16_MAX : 0;
}

/* In a reply pool, what a cell knows beside its word: the states are those of a slot, read as
 *
 *   FREE --claim--> CLAIMED(client) --hold--> TAKEN(engine) --answer--> READY(client) --> FREE, epoch + 1
 *                   asked                     held                      answered
 *
 * RF_PIN says of a held cell that nobody waits for it any more, of an answered one that its engine died
 * over it. Written by the client before it asks, by the engine while it holds the cell. */
typedef struct rf_cell {
    _Alignas(RF_CACHE_LINE) _Atomic int64_t answer_by_ns; /* later, the model need not see it */
    _Atomic int64_t asked_ns;
    _Atomic int64_t held_ns;
    _Atomic int64_t answered_ns;
    _Atomic uint32_t client;  /* participant that asked */
    _Atomic uint32_t waiter;  /* rf_waiter */
    _Atomic uint32_t outcome; /* rf_outcome */
    _Atomic uint32_t text_bytes;
} rf_cell;

/* An event count: whoever waits for a change leaves here how much change it needs. */
typedef struct rf_event {
    _Atomic uint32_t sequence; /* the futex: + 1 at each wake-up */
    _Atomic uint32_t wanted;   /* 0: nobody waits; n: wake when n more rows have come */
} rf_event;

/* The counters of one participant; only it writes them, so they cost no sharing. */
typedef struct rf_counters {
    _Atomic uint64_t published, discarded, taken, released, batches;
    _Atomic uint64_t redelivered, dropped, reclaimed;
    _Atomic uint64_t claim_wait_ns, take_wait_ns;
} rf_counters;

/* What an entry of the participant table says; of an engine, the stage that it serves is in the upper bits. */
enum { RF_ABSENT = 0, RF_PRESENT = 1, RF_SERVING = 2, RF_STATE_BITS = 2 };
enum { RF_MOST_STAGES = 16 };

/* Alive is who holds the record lock of its entry (liveness.c), whatever this says. */
typedef struct rf_participant {
    _Alignas(RF_CACHE_PAIR) _Atomic uint32_t state;
    _Atomic uint32_t pid; /* for people; never used to decide anything */
    rf_counters counters;
    rf_event answered; /* of a client in a reply pool: it waits here for any of its answers */
} rf_participant;

typedef struct rf_header {
    uint64_t magic;
    uint32_t layout_version;
    _Atomic uint32_t whole; /* 1 once everything else stands */
    uint64_t creator_pid;
    uint32_t redeliver;
    uint64_t note;    /* of the creator's, for whoever attaches */
    uint64_t answers; /* 0; or the inode of the ring for which this is a pool of reply cells */
    _Alignas(RF_CACHE_PAIR) _Atomic uint32_t claim_cursor; /* where the next claim starts to look */
    _Alignas(RF_CACHE_PAIR) _Atomic uint32_t take_cursor;  /* where the next take starts to look */
    _Alignas(RF_CACHE_PAIR) _Atomic uint32_t finished;
    _Atomic uint32_t closed;
    _Alignas(RF_CACHE_PAIR) rf_event readable; /* takers wait here for READY */
    _Alignas(RF_CACHE_PAIR) rf_event writable; /* producers wait here for FREE */
    /* Of a pool: the stages that ever had an engine, each 0 or what rf_pool_serve was given. */
    _Alignas(RF_CACHE_PAIR) _Atomic uint32_t stages[RF_MOST_STAGES];
    _Alignas(RF_CACHE_PAIR) rf_counters departed; /* counters of participants that left */
    _Alignas(RF_CACHE_PAIR) rf_geometry geometry;
} rf_header;

_Static_assert(sizeof(rf_slot) == RF_CACHE_LINE, "a slot record is one cache line");
_Static_assert(sizeof(rf_participant) == RF_CACHE_PAIR, "a participant is one pair of lines");
_Static_assert(sizeof(rf_cell) == sizeof(rf_slot), "a cell's record lies where a slot's does");
_Static_assert(offsetof(rf_header, writable) - offsetof(rf_header, readable) == RF_CACHE_PAIR,
               "an event count has its lines for itself");

#endif
