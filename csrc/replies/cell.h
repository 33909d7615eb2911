/*
 * Reply cells, as the files of this folder share them: the states of a cell's word, and access to its record.
 *
 * The folder may not know how a request travels, or what a model is.
 */
#ifndef RF_CELL_H
#define RF_CELL_H

#include "replies.h"
#include "ring/lease.h"
#include "ring/reaper.h"

#define ASKED RF_STATE_CLAIMED
#define HELD RF_STATE_TAKEN
#define ANSWERED RF_STATE_READY
/* The other side is gone: the client of a held cell has withdrawn the request, or the engine of an answered cell died. */
#define GONE RF_KEEP

enum {
    MAX_ATTEMPTS =
        64 /* the word of one request changes a few times; a hostile peer may change it forever */
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

/* Free a cell. False: its word has changed. (cell.c) */
bool rf_free_cell(rf_ring *pool, uint32_t cell, uint64_t word);

/* True: the `state` of an entry says that its participant is an engine. */
static inline bool rf_state_serves(uint32_t state)
{
    return (state & ((1u << RF_STATE_BITS) - 1)) == RF_SERVING;
}

/* Undo the part of a participant in a cell: the participant is dead, or leaves. (cell.c) */
void rf_recover_cell(rf_ring *pool, uint32_t cell, uint32_t dead);
/* Wake the threads that wait for the answer in a cell. (wake.c) */
void rf_notify_client(rf_ring *pool, uint32_t cell);
/* The lease on cells ends: the client withdraws the requests without an answer. (client_side.c) */
void rf_withdraw(rf_lease *cells);

/* rf_kind.wake_patient of a pool. (wake.c) */
void rf_wake_clients(rf_ring *pool, bool ready_only);
/* Tell every waiting client that an engine has left or was found dead. (wake.c) */
void rf_wake_for_departure(rf_ring *pool);

#endif
