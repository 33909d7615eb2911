/*
 * Leases: the run of slots that a producer or a taker holds (lease.c), and how it goes back (release.c).
 */
#ifndef RF_LEASE_H
#define RF_LEASE_H

#include "ring/ring.h"

struct rf_lease {
    rf_ring *ring;
    uint32_t first;
    uint32_t rows;
    uint32_t published; /* of a claim: rows handed to takers */
    uint32_t generation;
    bool is_claim;
    bool kept;
    bool settled; /* nothing is left to give back */
    bool unseen;  /* rf_lease_give_back */
    bool failed;  /* rf_lease_fail */
    bool dead_letter;
    uint8_t failures; /* of other takers, over these rows */
    uint64_t since;   /* of a claim: rf_chain_now when it began */
    /* Of cells: how many engines had left when the client last could check which ones live. */
    _Atomic uint32_t departures;
    _Atomic uint32_t references;
    int64_t claimed_ns;
    uint32_t room;    /* for so many words */
    uint64_t words[]; /* each slot's word as we made it */
};

/* A lease with room for `rows` and one reference; NULL without memory. */
rf_lease *rf_new_lease(rf_ring *ring, uint32_t rows);
/* Free a lease that holds nothing (any more). */
void rf_free_lease(rf_lease *lease);
/* Write the failures that the READY word of one of our rows is to have if we die or give it
 * back. */
void rf_note_failures(rf_lease *lease, uint32_t row, uint32_t failures);
/* How many takers failed over one of our rows before us. The count in the slot already
 * includes us (take_run). */
uint32_t rf_failures_before(const rf_lease *lease, uint32_t row);

/* ---- Giving slots back (release.c) ---------------------------------------------------------- */

/* Free a slot of our own. False if its word is not `word` (RF_KEEP aside). */
bool rf_free_slot(rf_ring *ring, uint32_t slot, uint64_t word);
/* Free claimed slots without publishing them. Returns how many were still ours. */
uint32_t rf_unclaim(rf_ring *ring, uint32_t first, uint32_t count, const uint64_t *words);
/* The same for the rows of a claim from `from` on, counted as discarded. */
void rf_discard_rows(rf_lease *lease, uint32_t from);
/* rf_kind.drop of a ring. */
void rf_give_slots_back(rf_lease *lease);

static inline uint32_t rf_lease_slot(const rf_lease *lease, uint32_t row)
{
    return rf_wrap(lease->ring, lease->first + row);
}

#endif
