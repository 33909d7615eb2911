/*
 * Producing blocks: which producers are at work, and the end of the ring when the last one has left.
 *
 * It may not know records.
 *
 * Each participant counts its open blocks in its own entry. The header's `finished` counts the producers that have
 * ever entered, above the bit that says that the ring is finished. One rule decides, and any process may apply it at
 * any time: the producers have come, and no entry has an open block. A producer that ends its block applies the
 * rule, and so does a process that reaps a dead producer or waits for long. So each step may be the last of its
 * process, or take long.
 *
 * A producer opens its block first and enters then. A process that ends a block reads `finished`, reads all entries,
 * and finishes by a compare-and-swap from the value read. If a producer has entered meanwhile, the swap fails; that
 * producer applies the rule when it leaves, so nobody tries again. If the swap was first, the producer reads that
 * the ring is finished.
 */
#include "ring/producers.h"

#include <string.h>

#include "ring/ring.h"

/* ---- Blocks --------------------------------------------------------------------------------- */

/* rf_participant.producing: the lower half counts open blocks, the upper half is the
 * incarnation of the entry, + 1 each time its participant is reaped. A block that was ended
 * for a producer found dead does not end again, and does not end another producer's block in
 * the same entry. */
static uint32_t incarnation_of(uint64_t producing)
{
    return (uint32_t)(producing >> 32);
}

static uint32_t blocks_in(uint64_t producing)
{
    return (uint32_t)producing;
}

/* End a block of that incarnation, or all of them. False: there is none (any more). */
static bool end_blocks(rf_participant *entry, uint32_t incarnation, bool all)
{
    uint64_t seen = rf_load_relaxed(&entry->producing);
    while (blocks_in(seen) && (all || incarnation_of(seen) == incarnation)) {
        uint64_t fewer = all ? (uint64_t)(incarnation_of(seen) + 1) << 32 : seen - 1;
        /* R14 -> A14 (rf_finish_if_left): a process that finds no open block, and finishes the
         * ring, hands on all records of our block to the takers that it wakes. */
        if (atomic_compare_exchange_weak_explicit(&entry->producing, &seen, fewer,
                                                  memory_order_release, memory_order_relaxed))
            return true;
    }
    return false;
}

/* ---- The end -------------------------------------------------------------------------------- */

bool rf_finish_if_left(rf_ring *ring)
{
    rf_header *header = ring->header;
    rf_fence_full(); /* F8 with F8: of two processes that end their blocks, one sees that the other has */
    uint64_t seen = rf_load_acquire(&header->finished); /* A15 <- R15 (rf_producing_begin) */
    uint64_t entered = rf_producers_entered(seen);
    if (entered == 0 || entered < header->producers || rf_still_open(ring) != RF_OK)
        return false;
    for (uint32_t index = 0; index < ring->geometry.participants; index++)
        if (blocks_in(rf_load_acquire(&ring->participants[index].producing))) /* A14 <- R14 */
            return false;
    RF_STEP("producing: nobody left, not finished");
    /* R16 -> A16 (try_take): a taker that sees the end also sees every record published before
     * it. */
    if (!rf_cas_acq_rel(&header->finished, seen, seen | RF_IS_FINISHED))
        return false; /* a producer has entered since and will check when it leaves; or the ring is finished */
    RF_STEP("producing: finished, nobody told");
    rf_notify(&header->readable, UINT32_MAX);
    rf_notify(&header->writable, UINT32_MAX);
    return true;
}

void rf_end_blocks(rf_ring *ring, uint32_t owner)
{
    _Atomic uint64_t *word = &ring->header->failure.word;
    uint64_t seen = rf_load_relaxed(word);
    /* The part of a text that it wrote does not count. The dead producer writes no more:
     * relaxed is enough. */
    if (rf_word_state(seen) == RF_STATE_CLAIMED && rf_word_owner(seen) == owner)
        rf_cas_acq_rel(word, seen,
                       rf_word(RF_STATE_FREE, RF_NO_OWNER, rf_word_epoch(seen) + 1) |
                           (seen & RF_KEEP));
    RF_STEP("producing: text of the dead taken back");
    end_blocks(&ring->participants[owner - 1], 0, true);
    RF_STEP("producing: blocks of the dead ended, nobody looked");
    /* Also if it had no open block: it may have died between the end of its last block and its
     * check. */
    rf_finish_if_left(ring);
}

/* ---- Beginning and ending ------------------------------------------------------------------- */

rf_status rf_producing_begin(rf_ring *ring, int inside, rf_block *block)
{
    if (ring->kind->is_pool)
        return RF_INVALID;
    rf_status status = rf_enter(ring);
    if (status == RF_OK)
        status = rf_still_open(ring);
    if (status != RF_OK)
        return status;
    rf_participant *entry = &ring->participants[rf_self(ring) - 1];
    block->generation = rf_load_relaxed(&rf_fork_generation);
    block->incarnation = incarnation_of(rf_add_relaxed(&entry->producing, UINT64_C(1)));
    RF_STEP("producing: block open, not entered");
    /* R15 -> A15 (rf_finish_if_left): a process that reads that we have entered finds our
     * block open. */
    if (!inside && rf_add_acq_rel(&ring->header->finished, RF_ONE_PRODUCER) & RF_IS_FINISHED)
        status = RF_FINISHED;
    RF_STEP("producing: entered");
    if (status == RF_OK)
        status = rf_still_open(ring);
    if (status != RF_OK)
        rf_producing_end(ring, *block);
    return status;
}

void rf_producing_end(rf_ring *ring, rf_block block)
{
    if (block.generation != rf_load_relaxed(&rf_fork_generation))
        return; /* it is our parent's */
    if (!end_blocks(&ring->participants[rf_self(ring) - 1], block.incarnation, false))
        return;
    RF_STEP("producing: block ended, nobody looked");
    rf_finish_if_left(ring);
}

/* ---- Failures ------------------------------------------------------------------------------- */

/* Claim the room for a text: our word, or 0 if there is nothing (more) to say. */
static uint64_t claim_text(rf_ring *ring)
{
    enum { MOST_ATTEMPTS = 64 }; /* only a peer that garbles the word causes more */
    _Atomic uint64_t *word = &ring->header->failure.word;
    for (int attempt = 0; attempt < MOST_ATTEMPTS; attempt++) {
        uint64_t seen = rf_load_relaxed(word);
        rf_state state = rf_word_state(seen);
        if (state == RF_STATE_FREE) {
            uint64_t mine = rf_word(RF_STATE_CLAIMED, rf_self(ring), rf_word_epoch(seen));
            if (rf_cas_acquire(word, seen, mine | (seen & RF_KEEP)))
                return mine;
        } else if (state != RF_STATE_CLAIMED || seen & RF_KEEP ||
                   rf_cas_acq_rel(word, seen, seen | RF_KEEP)) {
            return 0;
        }
    }
    return 0;
}

void rf_producing_fail(rf_ring *ring, rf_block block, const char *text, size_t bytes)
{
    rf_failure *failure = &ring->header->failure;
    if (block.generation != rf_load_relaxed(&rf_fork_generation))
        return; /* it is our parent's */
    uint64_t mine = claim_text(ring);
    if (!mine)
        return;
    RF_STEP("fail: room for the text claimed");
    uint32_t kept = bytes < RF_FAILURE_BYTES ? (uint32_t)bytes : RF_FAILURE_BYTES;
    memcpy(failure->text, text, kept);
    rf_store_relaxed(&failure->bytes, kept);
    RF_STEP("fail: text written, not whole");
    /* R17 -> A17 (rf_ring_failure): the text is complete. Another producer may have marked our
     * claim meanwhile. */
    uint64_t ready = rf_word(RF_STATE_READY, RF_NO_OWNER, rf_word_epoch(mine));
    if (!rf_cas_release(&failure->word, mine, ready))
        rf_cas_release(&failure->word, mine | RF_KEEP, ready);
    RF_STEP("fail: text whole, block open");
}

int rf_ring_has_failed(const rf_ring *ring)
{
    uint64_t seen = rf_load_relaxed(&((rf_ring *)ring)->header->failure.word);
    return rf_word_state(seen) == RF_STATE_READY || seen & RF_KEEP;
}

uint32_t rf_ring_failure(const rf_ring *ring, char *text)
{
    static const char lost[] = "Its text was lost with another producer, which died over its own.";
    rf_failure *failure = &((rf_ring *)ring)->header->failure;
    const char *source = lost;
    uint32_t bytes = sizeof lost - 1;
    if (rf_word_state(rf_load_acquire(&failure->word)) == RF_STATE_READY) { /* A17 <- R17 */
        bytes = rf_load_relaxed(&failure->bytes);
        bytes = bytes < RF_FAILURE_BYTES ? bytes : RF_FAILURE_BYTES;
        source = failure->text;
    }
    memcpy(text, source, bytes);
    text[bytes] = 0;
    return bytes;
}

uint32_t rf_ring_producers_wanted(const rf_ring *ring)
{
    return ring->header->producers;
}

uint64_t rf_ring_producers_entered(const rf_ring *ring)
{
    return rf_producers_entered(rf_load_relaxed(&((rf_ring *)ring)->header->finished));
}

uint32_t rf_ring_open_blocks(const rf_ring *ring)
{
    rf_participant *entries = ((rf_ring *)ring)->participants;
    uint32_t open = 0;
    for (uint32_t index = 0; index < ring->geometry.participants; index++)
        open += blocks_in(rf_load_relaxed(&entries[index].producing));
    return open;
}
