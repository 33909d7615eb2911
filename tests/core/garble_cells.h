/*
 * A hostile peer in a pool of reply cells, and honest clients and engines that must survive its writes.
 *
 * This file extends garble.h. garble_cells() writes the fields that only cells and requests have. behave_at_cells()
 * does anything that a client or an engine may do, with waits that end.
 */
#ifndef RF_GARBLE_CELLS_H
#define RF_GARBLE_CELLS_H

#include "garble.h"

#include "cells.h"

typedef struct cell_garbler {
    garbler ring, pool;
} cell_garbler;

static inline void begin_garbling_cells(cell_garbler *own, const endpoint *at)
{
    begin_garbling(&own->ring, at->ring);
    begin_garbling(&own->pool, at->pool);
}

static inline void restore_headers(const cell_garbler *own)
{
    restore_header(&own->ring);
    restore_header(&own->pool);
}

static inline uint32_t garble_cell_record(const garbler *pool)
{
    rf_cell *record = (rf_cell *)&pool->ring->slots[any_slot(pool)];
    switch (random_below(4)) {
    case 0:
        atomic_store(&record->client, random_below(2) ? random_below(6) : (uint32_t)odd_number());
        return 1;
    case 1: atomic_store(&record->waiter, (uint32_t)odd_number()); return 1;
    case 2: atomic_store(&record->answer_by_ns, (int64_t)odd_number()); return 1;
    default:
        atomic_store(&record->outcome, random_below(2) ? random_below(8) : (uint32_t)odd_number());
        atomic_store(&record->text_bytes, (uint32_t)odd_number());
        return 2;
    }
}

/* Make a request name another client's cell, an old cell, or a missing cell. */
static inline uint32_t garble_request(const cell_garbler *own)
{
    uint32_t slot = any_slot(&own->ring), cell = any_slot(&own->pool);
    atomic_store(&own->ring.ring->slots[slot].reply,
                 random_below(4) ? link_to(&own->pool, cell) : odd_number());
    atomic_store(&own->ring.ring->uses[slot].deliveries,
                 rf_delivered(rf_word_epoch(word_of(own->ring.ring, slot)), random_below(3),
                              random_below(3)));
    return 2;
}

static inline uint32_t garble_cells(const cell_garbler *own)
{
    rf_event *event;
    switch (random_below(8)) {
    case 0:
    case 1: return garble_cell_record(&own->pool);
    case 2: return garble_request(own);
    case 3:
        event = &own->pool.ring->participants[random_below(own->pool.ring->geometry.participants)]
                     .answered;
        atomic_store(&event->wanted, (uint32_t)odd_number());
        return 1;
    case 4: return garble(&own->ring);
    default: return garble(&own->pool);
    }
}

/* ---- Operations of honest clients and engines ----------------------------------------------- */

typedef struct reply_peer {
    endpoint at;
    rf_lease *asked[HELD];
    job jobs[HELD];
    uint64_t sum, granted;
} reply_peer;

static inline int64_t soon(void)
{
    return random_below(16) ? 0 : in_ms(random_below(3));
}

static inline void read_answer(reply_peer *own, const rf_lease *cells, uint32_t row)
{
    rf_reply reply;
    if (rf_cell_inspect(cells, row, &reply) != RF_OK)
        return;
    CHECK(reply.outcome < RF_OUTCOMES && reply.text_bytes <= SAMPLE_BYTES);
    own->granted += reply.outcome != RF_PENDING;
    const uint8_t *text = (const uint8_t *)text_of(cells, row);
    for (uint32_t byte = 0; byte < reply.text_bytes; byte += 64)
        own->sum += text[byte];
    own->sum += *(uint8_t *)rf_lease_data(cells, 0) + (uint64_t)reply.answered_ns;
}

static inline void ask_any(reply_peer *own)
{
    static const uint8_t sample[SAMPLE_BYTES];
    const void *sources[1] = {sample};
    uint32_t place = random_below(HELD);
    uint64_t link;
    rf_lease **cells = &own->asked[place];
    if (*cells)
        rf_lease_drop(*cells);
    *cells = NULL;
    if (rf_claim(own->at.pool, 1 + random_below(3), soon(), cells) != RF_OK)
        return;
    for (uint32_t row = 0; row < rf_lease_rows(*cells); row++) {
        int64_t until = random_below(8) ? RF_FOREVER : in_ms(0);
        uint64_t reply = rf_cell_ask(*cells, row, until, (rf_waiter)random_below(4));
        if (rf_put_request(own->at.ring, sources, 1, reply, soon(), &link) == RF_OK)
            own->sum += (uint64_t)rf_record_is_gone(own->at.ring, link);
    }
}

static inline void await_any(reply_peer *own)
{
    rf_lease *cells = own->asked[random_below(HELD)];
    if (cells) {
        uint32_t row = random_below(rf_lease_rows(cells));
        rf_cell_wait(cells, row, soon());
        read_answer(own, cells, row);
    } else {
        uint32_t key = rf_answers_prepare(own->at.pool);
        rf_answers_sleep(own->at.pool, key, soon());
    }
}

static inline void take_any_job(reply_peer *own)
{
    job *now = &own->jobs[random_below(HELD)];
    rf_take_request request = {
        .max_rows = 1 + random_below(HELD_ROWS), .min_rows = 1, .deadline_ns = soon()};
    if (now->batch || rf_take(own->at.ring, &request, &now->batch) != RF_OK)
        return;
    CHECK(rf_lease_rows(now->batch) <= HELD_ROWS);
    CHECK(rf_hold(own->at.pool, now->batch, now->held) <= rf_lease_rows(now->batch));
    own->granted++;
}

static inline void answer_any(reply_peer *own)
{
    job *now = &own->jobs[random_below(HELD)];
    if (!now->batch)
        return;
    uint32_t rows = rf_lease_rows(now->batch);
    switch (random_below(4)) {
    case 0: rf_answer_without(own->at.pool, now->held, rows, RF_FAILED, "garbled", 7); break;
    case 1:
        rf_let_go(own->at.pool, now->held, rows);
        rf_lease_give_back(now->batch);
        break;
    default: answer_rows(&own->at, now->batch, now->held, rows);
    }
    rf_lease_drop(now->batch);
    now->batch = NULL;
}

static inline void die_at_work(void *argument)
{
    reply_peer *own = argument;
    reply_peer next = {.at = own->at};
    seed(random_word());
    ask_any(&next);
    take_any_job(&next);
    raise(SIGKILL);
}

static const char *const cell_acts[] = {"ask", "await", "hold", "answer", "inspect", "die"};

static inline uint32_t choose_cell_act(void)
{
    uint32_t choice = random_below(1024);
    return choice == 0    ? 5
           : choice < 300 ? 0
           : choice < 500 ? 1
           : choice < 730 ? 2
           : choice < 970 ? 3
                          : 4;
}

static inline void behave_at_cells(reply_peer *own, uint32_t act)
{
    int status;
    switch (act) {
    case 0: ask_any(own); break;
    case 1: await_any(own); break;
    case 2: take_any_job(own); break;
    case 3: answer_any(own); break;
    case 4:
        own->sum += rf_pool_engines(own->at.pool) + rf_recover(own->at.pool);
        own->sum += rf_recover(own->at.ring);
        rf_pool_serve(own->at.pool, (int)random_below(2));
        break;
    default: waitpid(spawn(die_at_work, own), &status, 0);
    }
}

static inline void stop_behaving_at_cells(reply_peer *own)
{
    for (int i = 0; i < HELD; i++) {
        if (own->asked[i])
            rf_lease_drop(own->asked[i]);
        if (own->jobs[i].batch)
            rf_lease_drop(own->jobs[i].batch);
    }
    close_endpoint(&own->at);
}

#endif
