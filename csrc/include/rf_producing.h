/*
 * Producing: claim, fill, publish; and the blocks that finish a ring when the last producer has left.
 */
#ifndef RINGFEED_PRODUCING_H
#define RINGFEED_PRODUCING_H

#include "rf_lease.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Claim up to `rows` contiguous free slots: at least one, as many as lie free in a row.
 * `deadline_ns`: CLOCK_MONOTONIC; 0 does not wait. RF_AGAIN, RF_FULL, RF_FINISHED, RF_CLOSED,
 * RF_INVALID, RF_NO_MEMORY. */
RF_API rf_status rf_claim(rf_ring *ring, uint32_t rows, int64_t deadline_ns, rf_lease **lease);

/* Write zeros into every slot of a claim, padding included. */
RF_API void rf_claim_zero(rf_lease *claim);

/* Hand the first `rows` rows to takers, in order, and discard the others. With `kept` (other
 * code may still look at the slots through this claim) they are not reused before the lease is
 * dropped. RF_SLOT_LOST: the claim was taken back meanwhile. */
RF_API rf_status rf_publish(rf_lease *lease, uint32_t rows, const uint64_t *tags, int kept);
/* The same for rows that want an answer: `replies[row]` from rf_cell_ask, or 0. */
RF_API rf_status rf_publish_requests(rf_lease *lease, uint32_t rows, const uint64_t *tags,
                                     const uint64_t *replies, int kept);

/* For a claim that other code may still write into: claim up to `rows` slots and copy its rows
 * from `row` on into them, to be published in their place, even if the ring was finished
 * meanwhile. Does not wait. RF_FULL, RF_SLOT_LOST, RF_INVALID, RF_NO_MEMORY. */
RF_API rf_status rf_claim_copy(rf_lease *claim, uint32_t row, uint32_t rows, rf_lease **copy);
/* The slots of that claim become KEPT: nobody gets them before the lease is dropped. */
RF_API void rf_set_apart(rf_lease *claim);

/* Claim one slot, copy one sample per field from `sources`, publish. Statuses of rf_claim and
 * rf_publish. A small record has one time for both. */
RF_API rf_status rf_put(rf_ring *ring, const void *const *sources, uint64_t tag,
                        int64_t deadline_ns);
/* The same for a request. `link`, if not NULL, receives the name of the record. */
RF_API rf_status rf_put_request(rf_ring *ring, const void *const *sources, uint64_t tag,
                                uint64_t reply, int64_t deadline_ns, uint64_t *link);
/* Is that record out of the ring, because it was released or dropped? */
RF_API int rf_record_is_gone(const rf_ring *ring, uint64_t link);

/*
 * Producing blocks. The ring is finished when the last open block has ended and `rf_options.producers` of them were
 * begun. The open blocks of a dead producer end, too: a waiting taker finds that out.
 */

typedef struct rf_block {
    /* Whose it is: not a forked child's, nor that of a later participant in the same entry. */
    uint32_t generation, incarnation;
} rf_block;

/* Begin a block. `inside`: within an open block of the same handle; it counts as open, but not
 * as another producer. RF_FINISHED: the ring was finished, perhaps by the last block just now.
 * RF_CLOSED, RF_CROWDED; RF_INVALID: it is a reply pool. */
RF_API rf_status rf_producing_begin(rf_ring *ring, int inside, rf_block *block);
/* Say, before the block ends, that its producer failed. Takers that find the ring finished
 * then get RF_PRODUCER_FAILED. The first text is kept, up to RF_FAILURE_BYTES of it. Of a
 * parent's block: no effect. */
RF_API void rf_producing_fail(rf_ring *ring, rf_block block, const char *text, size_t bytes);
/* End a block, also on a handle that was closed. Of a parent's block, in a forked child: no
 * effect. */
RF_API void rf_producing_end(rf_ring *ring, rf_block block);

/* Has a producer failed? */
RF_API int rf_ring_has_failed(const rf_ring *ring);
/* Copy the text of the first producer that failed, RF_FAILURE_BYTES at most, and a NUL.
 * Returns its bytes. If a producer failed while another wrote its text and died over it, the
 * text says that it was lost. */
RF_API uint32_t rf_ring_failure(const rf_ring *ring, char *text);

RF_API uint32_t rf_ring_producers_wanted(const rf_ring *ring); /* rf_options.producers */
/* Blocks that were ever begun, not counting those inside another. */
RF_API uint64_t rf_ring_producers_entered(const rf_ring *ring);
/* Open blocks, also those inside another. */
RF_API uint32_t rf_ring_open_blocks(const rf_ring *ring);

#ifdef __cplusplus
}
#endif
#endif
