/*
 * Reply cells: the protocol, and the client's side: asking, waiting, withdrawing. The engine's is in
 * engine_side.c; what it is for stands in replies.h.
 *
 * It may not know how a request travels (claim.c, take.c): a cell is named by a link, its slot and epoch.
 * As with slots, every step is one compare-and-swap on the cell's word:
 *
 *     who        from                   to
 *     client     FREE(e)                ASKED(client, e)       rf_claim
 *     engine     ASKED(client, e)       HELD(engine, e)        rf_hold
 *     engine     HELD(engine, e)        ANSWERED(client, e)    rf_answer_rows
 *     engine     HELD(engine, e)        ASKED(client, e)       rf_let_go
 *     client     ASKED, ANSWERED        FREE(e + 1)            rf_withdraw
 *     client     HELD                   HELD, not wanted       rf_withdraw; its engine frees it
 *     anyone     of the dead: see rf_recover_cell
 *
 * An engine writes into a cell only while it holds it, and nobody claims a cell that is held: so a late
 * engine never writes into another request's cell. A request that is there twice (its engine died
 * between handing it on and releasing it) is held, and answered, once: the epoch says so.
 *
 * Nobody takes a cell from the dead but by burying them, for that keeps their entry from being used
 * again: a word that was seen held by the dead may else be, in the same request, one of the living.
 */
#include "replies/cell.h"

bool rf_free_cell(rf_ring *pool, uint32_t cell, uint64_t word)
{
    /* R2 -> A2 (claim_slot): our reads and writes of the cell are over before anyone claims it. */
    if (!rf_cas_release(&pool->words[cell], word, freed(word)))
        return false;
    RF_STEP("cell: free, nobody told");
    rf_notify(&pool->header->writable, 1);
    return true;
}

/* ---- The client's side ---------------------------------------------------------------------- */

uint64_t rf_cell_ask(rf_lease *cells, uint32_t row, int64_t answer_by_ns, rf_waiter waiter)
{
    uint32_t cell = rf_lease_slot(cells, row);
    rf_cell *record = record_of(cells->ring, cell);
    if (cells->generation != rf_load_relaxed(&rf_fork_generation))
        return 0; /* in a forked child the cell is its parent's */
    /* The request that names the cell is published behind this: R1 brings it to the engine. */
    rf_store_relaxed(&record->client, rf_word_owner(cells->words[row]));
    rf_store_relaxed(&record->answer_by_ns, answer_by_ns);
    rf_store_relaxed(&record->asked_ns, rf_now_ns());
    rf_store_relaxed(&record->held_ns, 0);
    rf_store_relaxed(&record->answered_ns, 0);
    rf_store_relaxed(&record->text_bytes, 0u);
    rf_store_relaxed(&record->outcome, (uint32_t)RF_PENDING);
    rf_store_relaxed(&record->waiter, (uint32_t)waiter);
    rf_store_relaxed(&cells->departures, rf_load_relaxed(&cells->ring->header->departures));
    RF_STEP("ask: record written, no request yet");
    return rf_link(cell, rf_word_epoch(cells->words[row]));
}

static bool is_answered(uint64_t word)
{
    return rf_word_state(word) == ANSWERED;
}

/* The cell's word, as long as it is about the request that this lease made. */
static rf_status read_word(const rf_lease *cells, uint32_t row, uint64_t *word)
{
    if (cells->generation != rf_load_relaxed(&rf_fork_generation))
        return RF_SLOT_LOST;
    /* A12 <- R12 (hand_over): who sees the answer sees all of it. */
    *word = rf_load_acquire(&cells->ring->words[rf_lease_slot(cells, row)]);
    return rf_word_epoch(*word) == rf_word_epoch(cells->words[row]) ? RF_OK : RF_SLOT_LOST;
}

rf_status rf_cell_look(const rf_lease *cells, uint32_t row, rf_reply *reply)
{
    uint64_t word;
    rf_status status = read_word(cells, row, &word);
    *reply = (rf_reply){.outcome = RF_PENDING};
    if (status != RF_OK)
        return status;
    const rf_ring *pool = cells->ring;
    rf_cell *record = record_of(pool, rf_lease_slot(cells, row));
    reply->asked_ns = rf_load_relaxed(&record->asked_ns);
    reply->held = rf_word_state(word) == HELD;
    if (!is_answered(word))
        return RF_OK;
    reply->held_ns = rf_load_relaxed(&record->held_ns);
    if (word & GONE) { /* what else the record says, its engine died over */
        reply->outcome = RF_ENGINE_DIED;
        return RF_OK;
    }
    reply->answered_ns = rf_load_relaxed(&record->answered_ns);
    uint32_t outcome = rf_load_relaxed(&record->outcome),
             bytes = rf_load_relaxed(&record->text_bytes);
    uint64_t most = pool->geometry.field[pool->geometry.fields - 1].sample_bytes;
    reply->outcome =
        outcome > RF_PENDING && outcome < RF_OUTCOMES ? (rf_outcome)outcome : RF_FAILED;
    reply->text_bytes = reply->outcome == RF_OUTPUTS ? 0 : bytes < most ? bytes : (uint32_t)most;
    return RF_OK;
}

/* Has an engine left since the caller could see who lives? It sees that now. */
static bool has_departure(rf_lease *cells)
{
    uint32_t now = rf_load_relaxed(&cells->ring->header->departures);
    if (now == rf_load_relaxed(&cells->departures))
        return false;
    rf_store_relaxed(&cells->departures, now);
    return true;
}

rf_status rf_cell_wait(rf_lease *cells, uint32_t row, int64_t deadline_ns)
{
    rf_ring *pool = cells->ring;
    uint32_t cell = rf_lease_slot(cells, row);
    _Atomic uint32_t *waiter = &record_of(pool, cell)->waiter;
    int64_t started = 0;
    for (int turn = 0;; turn++) {
        uint64_t word;
        rf_status status = read_word(cells, row, &word);
        if (status != RF_OK || is_answered(word))
            return status;
        if (has_departure(cells))
            return RF_AGAIN;
        if ((status = rf_enter(pool)) != RF_OK)
            return status;
        int64_t now = rf_now_ns();
        if (rf_reap_in_turn(pool, now))
            continue;
        if ((status = rf_wait_on(&started, now, deadline_ns, RF_EMPTY)) != RF_OK)
            return status;
        if (turn == 0 && rf_spin(&pool->take_spin, &pool->words[cell], ANSWERED))
            continue;
        rf_store_relaxed(waiter, rf_load_relaxed(waiter) | (uint32_t)RF_TELL_THREAD);
        rf_fence_full(); /* F6 with F5 (tell): the engine sees that we sleep, or we its answer */
        RF_STEP("wait for an answer: wish left");
        word = rf_load_relaxed(&pool->words[cell]);
        if (is_answered(word) ||
            rf_load_relaxed(&pool->header->departures) != rf_load_relaxed(&cells->departures))
            continue;
        int64_t until = rf_patience_ends(pool, started);
        /* Another state of the same request: the kernel sees that, too, and returns at once. */
        rf_begin_patience(pool);
        bool woken =
            rf_sleep_on_word(&pool->words[cell], word, until < deadline_ns ? until : deadline_ns);
        rf_end_patience(pool);
        /* Woken without an answer: the caller is to see whether anybody is left who could give one. */
        if (!woken || rf_load_relaxed(&pool->words[cell]) == word)
            return rf_now_ns() >= deadline_ns ? RF_EMPTY : RF_AGAIN;
    }
}

uint32_t rf_answers_prepare(rf_ring *pool)
{
    (void)rf_enter(pool); /* after a fork, as ourselves; rf_answers_sleep says what is wrong */
    return rf_prepare_wait(&pool->participants[rf_self(pool) - 1].answered, 1);
}

rf_status rf_answers_sleep(rf_ring *pool, uint32_t key, int64_t until_ns)
{
    int64_t slice = rf_patience_until(pool);
    rf_status status = rf_enter(pool);
    if (status != RF_OK)
        return status;
    rf_begin_patience(pool);
    bool woken = rf_sleep(&pool->participants[rf_self(pool) - 1].answered, key,
                          until_ns < slice ? until_ns : slice);
    rf_end_patience(pool);
    rf_reap_in_turn(pool, rf_now_ns());
    return woken ? RF_OK : RF_AGAIN;
}

void rf_answers_wake(rf_ring *pool)
{
    rf_notify(&pool->participants[rf_self(pool) - 1].answered, UINT32_MAX);
}

/* Nobody takes records from a pool, so of its two event counts `readable` is free for those who wait for room. */
uint32_t rf_room_prepare(rf_ring *pool)
{
    return rf_prepare_wait(&pool->header->readable, 1);
}

rf_status rf_room_sleep(rf_ring *pool, uint32_t key, int64_t until_ns)
{
    int64_t slice = rf_now_ns() + RF_SLICE_NS;
    if (rf_ring_is_closed(pool))
        return RF_CLOSED;
    bool woken = rf_sleep(&pool->header->readable, key, until_ns < slice ? until_ns : slice);
    return woken ? RF_OK : RF_AGAIN;
}

/* What the client asked with this cell is not wanted any more, or was read. */
static void withdraw(rf_ring *pool, uint32_t cell, uint64_t epoch)
{
    for (int attempt = 0; attempt < MOST_ATTEMPTS; attempt++) {
        uint64_t word = rf_load_relaxed(&pool->words[cell]);
        if (rf_word_epoch(word) != epoch || word & (rf_word_state(word) == HELD ? GONE : 0))
            return;
        if (rf_word_state(word) == HELD) {
            /* Acquire and release: it goes on with R12's chain for whoever holds the cell. */
            if (rf_cas_acq_rel(&pool->words[cell], word, word | GONE)) {
                RF_STEP("withdraw: held cell is not wanted");
                return;
            }
        } else if (rf_free_cell(pool, cell, word)) {
            return;
        }
    }
}

void rf_cells_keep(rf_lease *cells, uint32_t rows)
{
    if (cells->generation != rf_load_relaxed(&rf_fork_generation))
        return; /* in a forked child the cells are its parent's */
    for (uint32_t row = rows; row < cells->rows; row++)
        withdraw(cells->ring, rf_lease_slot(cells, row), rf_word_epoch(cells->words[row]));
    cells->rows = rows < cells->rows ? rows : cells->rows;
}

void rf_withdraw(rf_lease *cells)
{
    for (uint32_t row = 0; row < cells->rows; row++)
        withdraw(cells->ring, rf_lease_slot(cells, row), rf_word_epoch(cells->words[row]));
}
