/*
 * Claiming slots, without a lease or with one (claim.c).
 */
#ifndef RF_CLAIM_H
#define RF_CLAIM_H

#include "segment/handle.h"

/* Claim up to `rows` slots in a row, from the claim cursor on. Returns how many. */
uint32_t rf_claim_run(rf_ring *ring, uint32_t rows, uint32_t *first, uint64_t *words);
/* The same, repeated until it succeeds or ends, the deadline comes, or a slice is over. */
rf_status rf_wait_to_claim(rf_ring *ring, uint32_t rows, int64_t deadline_ns, uint32_t *first,
                           uint32_t *count, uint64_t *words);

#endif
