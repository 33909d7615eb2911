/*
 * Reply cells, the client's side: asking, waiting, withdrawing. The protocol stands in cell.c.
 *
 * It may not know how a request travels, or how an engine answers.
 */
#include "replies/cell.h"

uint64_t rf_cell_ask(rf_lease *cells, uint32_t row, int64_t answer_by_ns, rf_waiter waiter)
{
    uint32_t cell = rf_lease_slot(cells, row);
    rf_cell *record = record_of(cells->ring, cell);
    if (cells->generation != rf_load_relaxed(&rf_fork_generation))
        return 0; /* in a forked child the cell is the parent's */
    /* The client publishes the request that names the cell after this: R1 brings these stores to the engine. */
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

/* The cell's word, if it still belongs to the request of this lease. */
static rf_status read_word(const rf_lease *cells, uint32_t row, uint64_t *word)
{
    if (cells->generation != rf_load_relaxed(&rf_fork_generation))
        return RF_SLOT_LOST;
    /* A12 <- R12 (hand_over): a client that sees the answer sees all of it. */
    *word = rf_load_acquire(&cells->ring->words[rf_lease_slot(cells, row)]);
    return rf_word_epoch(*word) == rf_word_epoch(cells->words[row]) ? RF_OK : RF_SLOT_LOST;
}

rf_status rf_cell_inspect(const rf_lease *cells, uint32_t row, rf_reply *reply)
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
    if (word & GONE) { /* the engine died, so the rest of the record may be incomplete */
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

/* True: an engine has left since the caller last inspected the engines. The caller must inspect them now. */
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
        rf_store_relaxed(waiter, rf_load_relaxed(waiter) | (uint32_t)RF_WAITER_THREAD);
        rf_fence_full(); /* F6 with F5 (notify_clients): the engine sees our wait, or we see its answer */
        RF_STEP("wait for an answer: wish left");
        word = rf_load_relaxed(&pool->words[cell]);
        if (is_answered(word) ||
            rf_load_relaxed(&pool->header->departures) != rf_load_relaxed(&cells->departures))
            continue;
        int64_t until = rf_patience_ends(pool, started);
        /* If the state of the request changes now, the kernel sees another word and returns at once. */
        rf_begin_patience(pool);
        bool woken =
            rf_sleep_on_word(&pool->words[cell], word, until < deadline_ns ? until : deadline_ns);
        rf_end_patience(pool);
        /* Woken without an answer: the caller must inspect whether an engine is left that could answer. */
        if (!woken || rf_load_relaxed(&pool->words[cell]) == word)
            return rf_now_ns() >= deadline_ns ? RF_EMPTY : RF_AGAIN;
    }
}

uint32_t rf_answers_prepare(rf_ring *pool)
{
    (void)rf_enter(pool); /* a forked child joins as itself; rf_answers_sleep reports a failure */
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

/* No process takes records from a pool. So its event count `readable` is free for clients that wait for room. */
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

/* The client no longer wants the answer in this cell, or has read it. */
static void withdraw(rf_ring *pool, uint32_t cell, uint64_t epoch)
{
    for (int attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
        uint64_t word = rf_load_relaxed(&pool->words[cell]);
        if (rf_word_epoch(word) != epoch || word & (rf_word_state(word) == HELD ? GONE : 0))
            return;
        if (rf_word_state(word) == HELD) {
            /* Acquire and release: this continues R12's chain for the engine that holds the cell. */
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
        return; /* in a forked child the cells are the parent's */
    for (uint32_t row = rows; row < cells->rows; row++)
        withdraw(cells->ring, rf_lease_slot(cells, row), rf_word_epoch(cells->words[row]));
    cells->rows = rows < cells->rows ? rows : cells->rows;
}

void rf_withdraw(rf_lease *cells)
{
    for (uint32_t row = 0; row < cells->rows; row++)
        withdraw(cells->ring, rf_lease_slot(cells, row), rf_word_epoch(cells->words[row]));
}
