/*
 * Reply cells: the engine's side, holding and answering; and what becomes of the cells of the dead. The protocol
 * stands in client_side.c.
 *
 * It may not know what a model is, nor how clients wait.
 */
#define _GNU_SOURCE
#include <string.h>

#include "replies/cell.h"

#define NAP_NS INT64_C(1000000)

/* ---- Engines -------------------------------------------------------------------------------- */

static char *name_at(rf_ring *pool, uint32_t from)
{
    return pool->header->engine_names[from % RF_ENGINE_NAMES];
}

void rf_pool_serve_as(rf_ring *pool, const rf_service *service)
{
    if (rf_enter(pool) != RF_OK)
        return;
    rf_participant *self = &pool->participants[rf_self(pool) - 1];
    if (service == NULL) {
        bool served = rf_state_serves(rf_load_relaxed(&self->state));
        rf_store_relaxed(&self->state, (uint32_t)RF_PRESENT);
        if (served) /* clients may have nobody left to wait for, and sleep for long */
            rf_wake_for_departure(pool);
        return;
    }
    uint32_t from = service->from & RF_FROM_FIRST, bytes = service->name_bytes;
    if (bytes) {
        char *name = name_at(pool, from);
        memset(name, 0, RF_ENGINE_NAME_BYTES);
        memcpy(name, service->name, bytes < RF_ENGINE_NAME_BYTES ? bytes : RF_ENGINE_NAME_BYTES);
    }
    rf_store_relaxed(&self->onward, service->onward & RF_FROM_FIRST);
    rf_store_relaxed(&self->model, service->model);
    /* R20 -> A20 (engine_from): who sees that we serve sees which model, and where to. */
    rf_store_release(&self->state, from << RF_STATE_BITS | (uint32_t)RF_SERVING);
    rf_fence_full(); /* F9 with F9: of two that begin at once one at least sees the other (rf_pool_has_other_model) */
}

void rf_pool_serve(rf_ring *pool, uint32_t serves)
{
    rf_service whole = {.from = RF_FROM_FIRST};
    rf_pool_serve_as(pool, serves ? &whole : NULL);
}

/* Where an engine takes from; 0 where the participant is none, or dead, which is noted. */
static uint32_t engine_from(rf_ring *pool, uint32_t owner, bool *dead)
{
    uint32_t state = rf_load_acquire(&pool->participants[owner - 1].state); /* A20 <- R20 */
    if ((state & ((1u << RF_STATE_BITS) - 1)) != RF_SERVING)
        return 0;
    if (rf_participant_lives(pool, owner))
        return state >> RF_STATE_BITS;
    *dead = true;
    return 0;
}

/* One way that requests go, and how many living engines are on it. */
typedef struct way {
    uint32_t from, onward, engines;
} way;
enum { MOST_WAYS = 64 };

/* Find the ways of the living engines. Returns how many engines there are in all. */
static uint32_t find_ways(rf_ring *pool, way ways[MOST_WAYS], uint32_t *count)
{
    uint32_t all = 0;
    bool dead = false;
    *count = 0;
    for (uint32_t owner = 1; owner <= pool->geometry.participants; owner++) {
        uint32_t from = engine_from(pool, owner, &dead), place = 0;
        if (from == 0)
            continue;
        all++;
        uint32_t onward = rf_load_relaxed(&pool->participants[owner - 1].onward);
        while (place < *count && (ways[place].from != from || ways[place].onward != onward))
            place++;
        if (place == *count && *count < MOST_WAYS)
            ways[(*count)++] = (way){.from = from, .onward = onward};
        if (place < *count)
            ways[place].engines++;
    }
    if (dead)
        rf_recover(pool);
    return all;
}

static uint32_t widest_from(const way *ways, const uint32_t *width, uint32_t count, uint32_t from)
{
    uint32_t best = 0;
    for (uint32_t place = 0; place < count; place++)
        if (ways[place].from == from && width[place] > best)
            best = width[place];
    return best;
}

/* Engines on the best way from the pool's ring to an answer, of its narrowest place. A hostile table may lead in
 * circles: so widths grow from the answers backwards, once for each way at most. */
static uint32_t widest_way(const way *ways, uint32_t count)
{
    uint32_t width[MOST_WAYS] = {0};
    bool changed = true;
    for (uint32_t round = 0; changed && round < count; round++) {
        changed = false;
        for (uint32_t place = 0; place < count; place++) {
            uint32_t behind = ways[place].onward
                                  ? widest_from(ways, width, count, ways[place].onward)
                                  : ways[place].engines;
            uint32_t here = behind < ways[place].engines ? behind : ways[place].engines;
            changed = changed || here != width[place];
            width[place] = here;
        }
    }
    return widest_from(ways, width, count, RF_FROM_FIRST);
}

uint32_t rf_pool_engines(rf_ring *pool)
{
    way ways[MOST_WAYS];
    uint32_t count;
    find_ways(pool, ways, &count);
    return widest_way(ways, count);
}

uint32_t rf_pool_all_engines(rf_ring *pool)
{
    way ways[MOST_WAYS];
    uint32_t count;
    return find_ways(pool, ways, &count);
}

uint32_t rf_pool_peers(rf_ring *pool, uint32_t from)
{
    bool dead = false;
    uint32_t peers = 0, self = rf_enter(pool) == RF_OK ? rf_self(pool) : 0;
    for (uint32_t owner = 1; owner <= pool->geometry.participants; owner++)
        peers += owner != self && engine_from(pool, owner, &dead) == from;
    return peers;
}

int rf_pool_has_other_model(rf_ring *pool, const rf_service *service, uint32_t *pid)
{
    bool dead = false;
    uint32_t self = rf_enter(pool) == RF_OK ? rf_self(pool) : 0;
    for (uint32_t owner = 1; owner <= pool->geometry.participants; owner++) {
        if (owner == self || engine_from(pool, owner, &dead) != service->from)
            continue;
        uint64_t model = rf_load_relaxed(&pool->participants[owner - 1].model);
        if (model == 0 || model == service->model)
            continue;
        *pid = rf_load_relaxed(&pool->participants[owner - 1].mark.pid);
        return 1;
    }
    return 0;
}

uint32_t rf_pool_name(rf_ring *pool, uint32_t from, char name[RF_NAME_ROOM])
{
    memcpy(name, name_at(pool, from & RF_FROM_FIRST), RF_NAME_ROOM);
    return (uint32_t)strnlen(name, RF_NAME_ROOM);
}

/* ---- Holding and answering ------------------------------------------------------------------ */

/* What a forked child has of its parent's is not its own to answer. */
static bool is_ours(const rf_ring *pool, const rf_held *held)
{
    /* A7 <- R7 (rf_join), as rf_enter; but what is held may be answered while the handle is closing. */
    return held->word &&
           rf_load_acquire(&((rf_ring *)pool)->generation) ==
               rf_load_relaxed(&rf_fork_generation) &&
           rf_word_owner(held->word) == rf_self(pool);
}

/* May we write there? Who was found dead, or has let go, may not; what slips in between this look and the
 * swap is caught by that, and the cell is garbled at most. */
static bool is_held(const rf_ring *pool, const rf_held *held)
{
    return is_ours(pool, held) && (rf_load_relaxed(&pool->words[held->cell]) & ~GONE) == held->word;
}

/* HELD by us -> ANSWERED. False when nobody waited any more. */
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
    /* The one change that others may make to a cell that we hold. */
    rf_free_cell(pool, held->cell, held->word | GONE);
    return false;
}

/* A cell is held by another. True: not any more, look again. Who lives has the request in good hands,
 * for it is there twice. But the taker of a row that comes again may be on its way out: the kernel drops the
 * locks of the dying file by file, the ring's perhaps before the pool's. So for its cell we wait. */
static bool holder_is_gone(rf_ring *pool, uint32_t cell, uint64_t word, int64_t until_ns)
{
    uint32_t holder = rf_word_owner(word);
    if (holder == rf_self(pool))
        return false;
    RF_STEP("hold: cell found held by another");
    for (int64_t now; rf_participant_lives(pool, holder);) {
        /* Still? The dead may have been buried since, and who lives have got their number. */
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
    for (int attempt = 0; attempt < MOST_ATTEMPTS; attempt++) {
        uint64_t word = rf_load_relaxed(&pool->words[cell]);
        if ((rf_word_epoch(word) ^ link) & RF_LINK_EPOCH_MASK)
            return false; /* withdrawn, and perhaps claimed anew */
        if (rf_word_state(word) == HELD && holder_is_gone(pool, cell, word, until_ns))
            continue;
        if (rf_word_state(word) != ASKED)
            return false;
        uint64_t ours = rf_word(HELD, self, rf_word_epoch(word));
        /* Acquire and release: whoever recovers us sees who asked. */
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
    uint32_t to_run = 0;
    int64_t now = rf_now_ns();
    /* After a fork as ourselves, but not for rows that are our parent's. */
    bool entered =
        rf_enter(pool) == RF_OK && batch->generation == rf_load_relaxed(&rf_fork_generation);
    for (uint32_t row = 0; row < batch->rows; row++) {
        held[row] = entered ? hold_row(pool, batch, row, now) : (rf_held){.verdict = RF_WITHDRAWN};
        to_run += held[row].verdict == RF_RUNNABLE;
    }
    rf_notify_some(&pool->header->readable, batch->rows); /* rf_room_sleep */
    return to_run;
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
    if (bytes > layout->sample_bytes) /* not within a character: those go on with 10xxxxxx */
        for (bytes = (uint32_t)layout->sample_bytes; bytes && (text[bytes] & 0xc0) == 0x80;)
            bytes--;
    if (bytes)
        memcpy(pool->region[last] + cell * layout->stride_bytes, text, bytes);
    rf_store_relaxed(&record_of(pool, cell)->text_bytes, bytes);
}

/* Behind answers: whoever sleeps for one of them is woken. */
static void tell_all(rf_ring *pool, const rf_held *held, uint32_t rows)
{
    rf_fence_full(); /* F5 with F6 (rf_cell_wait): we see who sleeps, or it sees our answer */
    for (uint32_t row = 0; row < rows; row++)
        if (is_ours(pool, &held[row]))
            rf_tell(pool, held[row].cell);
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
    tell_all(pool, held, rows);
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
    tell_all(pool, held, rows);
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
        /* Acquire and release, as rf_hold. */
        if (!rf_cas_acq_rel(&pool->words[cell], held[row].word, asked))
            rf_free_cell(pool, cell, held[row].word | GONE);
        RF_STEP("let go: cell is asked again");
    }
}

/* ---- The dead ------------------------------------------------------------------------------- */

/* What a cell's word becomes when `dead` is dead; the word itself where that is no business of his. */
static uint64_t without(const rf_ring *pool, uint32_t cell, uint64_t word, uint32_t dead)
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
    for (int attempt = 0; attempt < MOST_ATTEMPTS; attempt++) {
        uint64_t word = rf_load_acquire(&pool->words[cell]); /* for `client`, behind rf_hold */
        uint64_t next = without(pool, cell, word, dead);
        if (next == word)
            return;
        /* Nothing but the word is written: whoever recovers late writes nothing. */
        if (!rf_cas_acq_rel(&pool->words[cell], word, next))
            continue; /* its engine, its client or another recoverer was faster */
        RF_STEP("recover: cell of the dead undone, nobody told");
        if (rf_word_state(next) == RF_STATE_FREE)
            rf_notify(&pool->header->writable, 1);
        rf_fence_full(); /* F5 with F6 (rf_cell_wait) */
        rf_tell(pool, cell);
        rf_add_relaxed(&pool->header->departed.redelivered,
                       (uint64_t)(rf_word_state(next) == ASKED));
        return;
    }
}
