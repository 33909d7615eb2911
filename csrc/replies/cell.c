/*
 * The protocol of reply cells, and what both sides need of it: freeing a cell, and recovering one from the dead.
 * client_side.c and engine_side.c have the other steps; replies.h says what cells are for.
 *
 * This folder may not know how a request travels (ring/): a link, a slot's number and epoch, names a cell.
 * As with slots, each step is one compare-and-swap on the cell's word:
 *
 *     by           from                   to
 *     client       FREE(e)                ASKED(client, e)       rf_claim
 *     engine       ASKED(client, e)       HELD(engine, e)        rf_hold
 *     engine       HELD(engine, e)        ANSWERED(client, e)    rf_answer_rows
 *     engine       HELD(engine, e)        ASKED(client, e)       rf_let_go
 *     client       ASKED, ANSWERED        FREE(e + 1)            rf_withdraw
 *     client       HELD                   HELD, client gone      rf_withdraw; the engine frees the cell
 *     any process  cells of the dead                             rf_recover_cell
 *
 * An engine writes into a cell only while it holds the cell, and no client can claim a held cell. So a late engine never
 * writes into the cell of another request. A request may lie in two rings, if its engine died after it handed the request
 * on and before it released its own record. The epoch ensures that such a request is held and answered once.
 *
 * A process takes a cell from a dead participant only by recovering that participant. Until then the participant's entry
 * cannot be used again. Otherwise a word that was seen as held by the dead could, in the same request, belong to a living
 * participant with the same number.
 */
#include "replies/cell.h"

bool rf_free_cell(rf_ring *pool, uint32_t cell, uint64_t word)
{
    /* R2 -> A2 (claim_slot): our reads and writes of the cell end before another client claims it. */
    if (!rf_cas_release(&pool->words[cell], word, freed(word)))
        return false;
    RF_STEP("cell: free, nobody told");
    rf_notify(&pool->header->writable, 1);
    return true;
}

/* The word of a cell after the participant `dead` has died. The same word: that participant had no part in it. */
static uint64_t word_without(const rf_ring *pool, uint32_t cell, uint64_t word, uint32_t dead)
{
    uint32_t owner = rf_word_owner(word), client = client_of(pool, cell);
    uint64_t epoch = rf_word_epoch(word);
    switch (rf_word_state(word)) {
    case ASKED:
    case ANSWERED: return owner == dead ? freed(word) : word;
    case HELD:
        if (owner != dead)
            return client == dead ? word | GONE : word;
        if (word & GONE || client == RF_NO_OWNER || client == dead)
            return freed(word);
        return pool->header->redeliver ? rf_word(ASKED, client, epoch)
                                       : rf_word(ANSWERED, client, epoch) | GONE;
    default: return word;
    }
}

void rf_recover_cell(rf_ring *pool, uint32_t cell, uint32_t dead)
{
    for (int attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
        uint64_t word =
            rf_load_acquire(&pool->words[cell]); /* after rf_hold: `client` is complete */
        uint64_t next = word_without(pool, cell, word, dead);
        if (next == word)
            return;
        /* Recovery writes the word alone: a process that recovers late writes nothing. */
        if (!rf_cas_acq_rel(&pool->words[cell], word, next))
            continue; /* its engine, its client or another process that recovers was faster */
        RF_STEP("recover: cell of the dead undone, nobody told");
        if (rf_word_state(next) == RF_STATE_FREE)
            rf_notify(&pool->header->writable, 1);
        rf_fence_full(); /* F5 with F6 (rf_cell_wait) */
        rf_notify_client(pool, cell);
        rf_add_relaxed(&pool->header->departed.redelivered,
                       (uint64_t)(rf_word_state(next) == ASKED));
        return;
    }
}
