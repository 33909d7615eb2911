/*
 * The order of one handle's records. For claim.c, claim_copy.c, publish.c and order.c only; the reasons are in
 * order.c.
 */
#ifndef RF_ORDER_H
#define RF_ORDER_H

#include "segment/handle.h"

/* The moment when a claim begins: records published by then go before its records. */
static inline uint64_t rf_chain_now(const rf_ring *ring)
{
    /* Relaxed: whatever the claimer knows of, it learned from the publisher, after the
     * publication. */
    return rf_load_relaxed(&((rf_ring *)ring)->chain.published);
}

uint64_t rf_chain_find_place(rf_ring *ring, uint32_t slot, uint64_t since, uint32_t *passed);

/* The link that the first of the rows from `slot` on is to get, of a claim that began at
 * `since`. `passed` of the chain's last entries will come behind them. */
static inline uint64_t rf_chain_place(rf_ring *ring, uint32_t slot, uint64_t since,
                                      uint32_t *passed)
{
    rf_chain *chain = &ring->chain;
    uint64_t last = rf_load_relaxed(&ring->last_link);
    *passed = 0;
    if (last == 0)
        chain->base = rf_load_relaxed(&chain->published); /* nothing yet, or by our parent alone */
    if (last == 0 || rf_load_relaxed(&chain->published) <= since)
        return last; /* nothing overlaps */
    return rf_chain_find_place(ring, slot, since, passed);
}

/* The rows from `slot` on are READY: put them into the chain, so that `passed` entries come
 * behind them. `words` are those of the claim. A row that was taken back is not READY in that
 * epoch. */
void rf_chain_enter(rf_ring *ring, const rf_chained *own, uint32_t slot, const uint64_t *words,
                    uint32_t rows, uint32_t passed);

/* Write the next entry, of a publication from row `first` to row `last`; it counts from
 * rf_chain_append on. The caller does this before the rows are READY: behind the swap of a
 * word the processor would have to wait. */
static inline void rf_chain_prepare(rf_ring *ring, uint64_t first, uint64_t last)
{
    rf_chain *chain = &ring->chain;
    uint64_t end = rf_load_relaxed(&chain->published);
    chain->entries[end % RF_CHAIN_ENTRIES] = (rf_chained){first, last, end + 1};
}

/* Make the prepared entry the chain's last; `last` is its last row. */
static inline void rf_chain_append(rf_ring *ring, uint64_t last)
{
    rf_chain *chain = &ring->chain;
    rf_store_relaxed(&ring->last_link, last);
    rf_store_relaxed(&chain->published, rf_load_relaxed(&chain->published) + 1);
}

#endif
