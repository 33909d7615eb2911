/*
 * What both sides of reply cells share: how the states of a slot's word read, and small looks at a record.
 * Between client_side.c and engine_side.c only.
 */
#ifndef RF_CELL_H
#define RF_CELL_H

#include "replies.h"
#include "ring/lease.h"
#include "ring/reaper.h"

#define ASKED RF_STATE_CLAIMED
#define HELD RF_STATE_TAKEN
#define ANSWERED RF_STATE_READY
/* Of a held cell: nobody waits for it. Of an answered one: its engine died. */
#define GONE RF_KEEP

enum {
    MOST_ATTEMPTS = 64 /* a word of one request changes a few times; of a garbled one, for ever */
};

static inline rf_cell *record_of(const rf_ring *pool, uint32_t cell)
{
    return (rf_cell *)&pool->slots[cell];
}

static inline uint32_t client_of(const rf_ring *pool, uint32_t cell)
{
    uint32_t client = rf_load_relaxed(&record_of(pool, cell)->client);
    return client <= pool->geometry.participants ? client : RF_NO_OWNER;
}

static inline uint64_t freed(uint64_t word)
{
    return rf_word(RF_STATE_FREE, RF_NO_OWNER, rf_word_epoch(word) + 1);
}

/* Free a cell. False when its word is another by now. (client_side.c) */
bool rf_free_cell(rf_ring *pool, uint32_t cell, uint64_t word);

/* Does the `state` of an entry say that its participant serves? */
static inline bool rf_state_serves(uint32_t state)
{
    return (state & ((1u << RF_STATE_BITS) - 1)) == RF_SERVING;
}

/* Undo what a participant that is dead, or leaves, was doing with a cell. */
void rf_recover_cell(rf_ring *pool, uint32_t cell, uint32_t dead);
/* Wake whoever waits for that answered cell. */
void rf_tell(rf_ring *pool, uint32_t cell);
/* The lease on cells ends: what was not answered is not wanted any more. */
void rf_withdraw(rf_lease *cells);

/* rf_kind.wake_patient of a pool. */
void rf_wake_clients(rf_ring *pool, bool ready_only);
/* Say to every waiting client that an engine has left or was found dead. */
void rf_wake_for_departure(rf_ring *pool);

#endif
