/*
 * Reply cells, the engine's side: holding, answering, letting go. The protocol stands in cell.c.
 *
 * It may not know what a model is, or how a client waits.
 */
#define _GNU_SOURCE
#include <string.h>

#include "replies/cell.h"

#define NAP_NS INT64_C(1000000)

/* False in a forked child: it cannot answer what its parent holds. */
static bool is_ours(const rf_ring *pool, const rf_held *held)
{
    /* A7 <- R7 (rf_join), as in rf_enter. Unlike there, an engine may answer held cells while the handle closes. */
    return held->word &&
           rf_load_acquire(&((rf_ring *)pool)->generation) ==
               rf_load_relaxed(&rf_fork_generation) &&
           rf_word_owner(held->word) == rf_self(pool);
}

/* True: this engine may write into the cell. An engine that was found dead, or has let the cell go, may not. If that
 * happens between this test and the swap, the swap fails, and at most the cell is garbled. */
static bool is_held(const rf_ring *pool, const rf_held *held)
{
    return is_ours(pool, held) && (rf_load_relaxed(&pool->words[held->cell]) & ~GONE) == held->word;
}

/* HELD by us -> ANSWERED. False: the client has withdrawn the request. */
static bool hand_over(rf_ring *pool, const rf_held *held, rf_outcome outcome, int64_t now)
{
    rf_cell *record = record_of(pool, held->cell);
    rf_store_relaxed(&record->answered_ns, now);
    rf_store_relaxed(&record->outcome, (uint32_t)outcome);
    RF_STEP("answer: written, still held");
    uint64_t answered = rf_word(ANSWERED, client_of(pool, held->cell), rf_word_epoch(held->word));
    /* R12 -> A12 (read_word): outputs, text and times are complete before the client sees them. */
    if (rf_cas_release(&pool->words[held->cell], held->word, answered)) {
        RF_STEP("answer: out, client not told");
        return true;
    }
    /* GONE is the only change that another process may make to a cell that we hold. */
    rf_free_cell(pool, held->cell, held->word | GONE);
    return false;
}

/* Another participant holds the cell. True: no longer, try again.
 *
 * A living holder will answer: the request lies in two rings. But the engine that held a redelivered row may be dying.
 * The kernel drops the locks of a dying process file by file, perhaps the ring's before the pool's. So we wait for the
 * cell of such a row. */
static bool holder_is_gone(rf_ring *pool, uint32_t cell, uint64_t word, int64_t until_ns)
{
    uint32_t holder = rf_word_owner(word);
    if (holder == rf_self(pool))
        return false;
    RF_STEP("hold: cell found held by another");
    for (int64_t now; rf_participant_lives(pool, holder);) {
        /* Test the word again: the dead may have been recovered in the meantime, and a living participant may have
         * their number. */
        if ((now = rf_now_ns()) >= until_ns)
            return rf_load_relaxed(&pool->words[cell]) != word;
        RF_STEP("hold: waiting for who may be dying");
        rf_sleep_on_word(&pool->words[cell], word, now + NAP_NS);
        if (rf_load_relaxed(&pool->words[cell]) != word)
            return true;
    }
    rf_recover(pool);
    return rf_load_relaxed(&pool->words[cell]) != word;
}

/* ASKED -> HELD by us. */
static bool hold_cell(rf_ring *pool, uint64_t link, int64_t until_ns, rf_held *held)
{
    uint32_t cell = rf_link_slot(link), self = rf_self(pool);
    if (cell >= pool->slot_count)
        return false;
    for (int attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
        uint64_t word = rf_load_relaxed(&pool->words[cell]);
        if ((rf_word_epoch(word) ^ link) & RF_LINK_EPOCH_MASK)
            return false; /* withdrawn, and perhaps claimed again */
        if (rf_word_state(word) == HELD && holder_is_gone(pool, cell, word, until_ns))
            continue;
        if (rf_word_state(word) != ASKED)
            return false;
        uint64_t ours = rf_word(HELD, self, rf_word_epoch(word));
        /* Acquire and release: a process that recovers this engine sees the client of the cell. */
        if (rf_cas_acq_rel(&pool->words[cell], word, ours)) {
            RF_STEP("hold: cell held");
            *held = (rf_held){.word = ours, .cell = cell, .verdict = RF_RUNNABLE};
            return true;
        }
    }
    return false;
}

static rf_held hold_row(rf_ring *pool, const rf_lease *batch, uint32_t row, int64_t now)
{
    uint32_t slot = rf_lease_slot(batch, row);
    uint64_t link = rf_load_relaxed(&batch->ring->slots[slot].reply);
    bool again = rf_deliveries(rf_load_relaxed(&batch->ring->uses[slot].deliveries),
                               rf_word_epoch(batch->words[row])) > 1;
    rf_held held = {.verdict = RF_RUNNABLE};
    if (link == 0)
        return held;
    if (!hold_cell(pool, link, again ? now + 2 * RF_SLICE_NS : 0, &held)) {
        held.verdict = RF_WITHDRAWN;
        return held;
    }
    rf_cell *record = record_of(pool, held.cell);
    rf_store_relaxed(&record->held_ns, now);
    if (now < rf_load_relaxed(&record->answer_by_ns))
        return held;
    rf_answer_without(pool, &held, 1, RF_LATE, NULL, 0);
    return (rf_held){.verdict = RF_EXPIRED};
}

uint32_t rf_hold(rf_ring *pool, const rf_lease *batch, rf_held *held)
{
    uint32_t runnable = 0;
    int64_t now = rf_now_ns();
    /* A forked child enters as itself, but the rows of such a batch are the parent's. */
    bool entered =
        rf_enter(pool) == RF_OK && batch->generation == rf_load_relaxed(&rf_fork_generation);
    for (uint32_t row = 0; row < batch->rows; row++) {
        held[row] = entered ? hold_row(pool, batch, row, now) : (rf_held){.verdict = RF_WITHDRAWN};
        runnable += held[row].verdict == RF_RUNNABLE;
    }
    rf_notify_some(&pool->header->readable, batch->rows); /* rf_room_sleep */
    return runnable;
}

static void write_outputs(rf_ring *pool, uint32_t cell, uint32_t row, const void *const *outputs,
                          const uint64_t *strides)
{
    for (uint32_t field = 0; field + 1 < pool->geometry.fields; field++) {
        const rf_field *layout = &pool->geometry.field[field];
        memcpy(pool->region[field] + cell * layout->stride_bytes,
               (const uint8_t *)outputs[field] + row * strides[field], layout->sample_bytes);
    }
    RF_STEP("answer: outputs copied, not said");
}

static void write_text(rf_ring *pool, uint32_t cell, const char *text, uint32_t bytes)
{
    uint32_t last = pool->geometry.fields - 1;
    const rf_field *layout = &pool->geometry.field[last];
    if (bytes >
        layout->sample_bytes) /* cut between two characters: inside one, bytes are 10xxxxxx */
        for (bytes = (uint32_t)layout->sample_bytes; bytes && (text[bytes] & 0xc0) == 0x80;)
            bytes--;
    if (bytes)
        memcpy(pool->region[last] + cell * layout->stride_bytes, text, bytes);
    rf_store_relaxed(&record_of(pool, cell)->text_bytes, bytes);
}

/* Wake the clients that sleep for answers. All of the answers are complete. */
static void notify_clients(rf_ring *pool, const rf_held *held, uint32_t rows)
{
    rf_fence_full(); /* F5 with F6 (rf_cell_wait): we see the client's wait, or it sees our answer */
    for (uint32_t row = 0; row < rows; row++)
        if (is_ours(pool, &held[row]))
            rf_notify_client(pool, held[row].cell);
}

uint32_t rf_answer_rows(rf_ring *pool, const rf_held *held, uint32_t rows,
                        const void *const *outputs, const uint64_t *strides)
{
    uint32_t answered = 0;
    int64_t now = rf_now_ns();
    for (uint32_t row = 0; row < rows; row++) {
        if (!is_held(pool, &held[row]))
            continue;
        write_outputs(pool, held[row].cell, row, outputs, strides);
        answered += hand_over(pool, &held[row], RF_OUTPUTS, now);
    }
    notify_clients(pool, held, rows);
    rf_count(pool, published, answered);
    return answered;
}

uint32_t rf_answer_without(rf_ring *pool, const rf_held *held, uint32_t rows, rf_outcome outcome,
                           const char *text, uint32_t text_bytes)
{
    uint32_t answered = 0;
    int64_t now = rf_now_ns();
    for (uint32_t row = 0; row < rows; row++) {
        if (!is_held(pool, &held[row]))
            continue;
        write_text(pool, held[row].cell, text, text_bytes);
        answered += hand_over(pool, &held[row], outcome, now);
    }
    notify_clients(pool, held, rows);
    rf_count(pool, published, answered);
    return answered;
}

uint64_t rf_held_link(const rf_held *held)
{
    return held->word ? rf_link(held->cell, rf_word_epoch(held->word)) : 0;
}

void rf_let_go(rf_ring *pool, const rf_held *held, uint32_t rows)
{
    for (uint32_t row = 0; row < rows; row++) {
        if (!is_ours(pool, &held[row]))
            continue;
        uint32_t cell = held[row].cell;
        uint64_t asked = rf_word(ASKED, client_of(pool, cell), rf_word_epoch(held[row].word));
        /* Acquire and release, as in rf_hold. */
        if (!rf_cas_acq_rel(&pool->words[cell], held[row].word, asked))
            rf_free_cell(pool, cell, held[row].word | GONE);
        RF_STEP("let go: cell is asked again");
    }
}
