/*
 * Replies: the answers to clients' requests, and how they come back.
 *
 * A reply pool is a segment of its own (rf_pool_create), whose slots are reply cells. A client claims a cell (rf_claim
 * on the pool), asks, and publishes a request that names the cell. An engine takes the request, holds the cell, writes
 * the answer into it and wakes the client. The client reads the answer in place and drops the lease.
 *
 *     FREE --claim--> ASKED(client) --hold--> HELD(engine) --answer--> ANSWERED(client) --drop--> FREE
 *
 * The cells that a client has claimed limit its requests under way. A process that dies leaves a word in each cell that
 * tells recovery what to undo. The cells of a dead client become FREE. A cell that a dead engine held is asked again,
 * because its request is READY again. Where rows of the dead are dropped, the cell is answered with RF_ENGINE_DIED.
 */
#ifndef RF_REPLIES_H
#define RF_REPLIES_H

#include "ringfeed.h"

/* As rf_ring_create, for a pool; `options->ring_inode` names its ring. */
RF_API rf_status rf_pool_create(int fd, const rf_options *options, const rf_geometry *geometry,
                                rf_ring **pool);
/* As rf_ring_attach, for a pool. The pool may outlive the engine that made it. RF_OTHER_KIND: the segment is a ring. */
RF_API rf_status rf_pool_attach(int fd, rf_ring **pool);

/* The result of a request. */
typedef enum rf_outcome {
    RF_PENDING = 0, /* no answer yet */
    RF_OUTPUTS,     /* the cell holds the outputs */
    RF_FAILED,      /* the cell holds the text of an error */
    RF_LATE,        /* its deadline passed before the model ran */
    RF_STOPPED,     /* the engine stopped before it ran the request */
    RF_ENGINE_DIED, /* the engine that held it died, and the ring does not deliver it again */
    RF_OUTCOMES,    /* one past the last */
} rf_outcome;

/* ---- The client's side ---------------------------------------------------------------------- */

/* The threads that an answer wakes. The values are bits; both may be set. */
typedef enum rf_waiter {
    RF_WAITER_NONE = 0,   /* rf_cell_wait sets RF_WAITER_THREAD itself before it sleeps */
    RF_WAITER_THREAD = 1, /* the thread that sleeps at the cell */
    RF_WAITER_CLIENT = 2, /* the threads that sleep in rf_answers_sleep */
} rf_waiter;

/* Ask with a claimed cell. Returns the link by which the request names the cell. The engine may skip a request that has
 * not begun at `answer_by_ns` (CLOCK_MONOTONIC, or RF_FOREVER). 0 in a forked child, because the cell is the parent's: a
 * request with this link wants no answer. */
RF_API uint64_t rf_cell_ask(rf_lease *cells, uint32_t row, int64_t answer_by_ns, rf_waiter waiter);

/* Keep the first rows of a lease on cells, and give the others back. */
RF_API void rf_cells_keep(rf_lease *cells, uint32_t rows);

typedef struct rf_reply {
    rf_outcome outcome;
    uint32_t held;       /* 1: pending, and an engine holds it */
    uint32_t text_bytes; /* of the error; checked */
    int64_t asked_ns, held_ns, answered_ns;
} rf_reply;

/* Read the state of a request. RF_SLOT_LOST: this process lost the cell, because it was found dead or was forked. */
RF_API rf_status rf_cell_inspect(const rf_lease *cells, uint32_t row, rf_reply *reply);

/* Wait for an answer. RF_OK: the answer is there. RF_AGAIN: as in every wait; also: inspect the engines (rf_pool_engines).
 * RF_EMPTY: no answer before `deadline_ns`. RF_SLOT_LOST, RF_CLOSED. */
RF_API rf_status rf_cell_wait(rf_lease *cells, uint32_t row, int64_t deadline_ns);

/* For one thread that waits for many answers. Prepare the wait, inspect the cells, then sleep with the key.
 * RF_OK: inspect them again; RF_AGAIN. */
RF_API uint32_t rf_answers_prepare(rf_ring *pool);
RF_API rf_status rf_answers_sleep(rf_ring *pool, uint32_t key, int64_t until_ns);
/* Wake that thread. */
RF_API void rf_answers_wake(rf_ring *pool);

/* For clients that wait until the ring has fewer requests. Prepare the wait, inspect the ring, then sleep with the key.
 * Each row that an engine holds wakes one client. RF_OK: inspect it again; RF_AGAIN. */
RF_API uint32_t rf_room_prepare(rf_ring *pool);
RF_API rf_status rf_room_sleep(rf_ring *pool, uint32_t key, int64_t until_ns);

/* The number of living engines that answer whole requests. Where a model is split into stages: the number of engines of
 * the stage that has the fewest. 0: no engine would answer a request. Recovers the dead. */
RF_API uint32_t rf_pool_engines(rf_ring *pool);

/* ---- The engine's side ---------------------------------------------------------------------- */

/* What an engine does. A request enters through the pool's ring. Engines hand it on from ring to ring, until one of
 * them answers. */
typedef struct rf_service {
    uint32_t
        from; /* names the ring it takes from, in 30 bits, not 0; RF_FROM_FIRST: the pool's ring */
    uint32_t onward; /* names the ring it hands requests on to; 0: it answers them */
    uint64_t model;  /* equal for engines of the same model; 0: unknown */
    const char *name;
    uint32_t name_bytes;
} rf_service;
#define RF_FROM_FIRST UINT32_C(0x3fffffff)

/* Register this participant as an engine. NULL: it is no engine any more. */
RF_API void rf_pool_serve_as(rf_ring *pool, const rf_service *service);
/* Register an engine that takes from the pool's ring and answers. 0: it is no engine any more. */
RF_API void rf_pool_serve(rf_ring *pool, uint32_t serves);
/* The number of living engines of all stages. Recovers the dead. */
RF_API uint32_t rf_pool_all_engines(rf_ring *pool);
/* The number of other living engines that take from the same ring. */
RF_API uint32_t rf_pool_peers(rf_ring *pool, uint32_t from);
/* True: another living engine takes from the same ring and has another model; `pid` is its process. */
RF_API int rf_pool_has_other_model(rf_ring *pool, const rf_service *service, uint32_t *pid);
/* The name of the engine that last registered for a ring. Returns its bytes, at most RF_NAME_ROOM. */
#define RF_NAME_ROOM 64
RF_API uint32_t rf_pool_name(rf_ring *pool, uint32_t from, char name[RF_NAME_ROOM]);

typedef enum rf_verdict {
    RF_RUNNABLE = 0, /* the model runs on the row */
    RF_WITHDRAWN,    /* no client waits for it, or it was answered before */
    RF_EXPIRED,      /* its deadline has passed; rf_hold has answered it with RF_LATE */
} rf_verdict;

/* A request that an engine holds. */
typedef struct rf_held {
    uint64_t word; /* of the cell, as rf_hold made it; 0: the row wants no answer, or is not ours */
    uint32_t cell;
    uint32_t verdict;
} rf_held;

/* Hold the cells of a batch's rows. Returns the number of runnable rows. If a row was delivered before and another
 * participant holds its cell, that participant may be dying: the call waits for it, up to two slices in all. If the
 * handle is closed, all rows are RF_WITHDRAWN: give them back. */
RF_API uint32_t rf_hold(rf_ring *pool, const rf_lease *batch, rf_held *held);

/* Write outputs into the cells and wake the clients. Row r of output f lies at outputs[f] + r * strides[f], and has the
 * field's sample_bytes. Returns the number of answered rows: clients have withdrawn the others. */
RF_API uint32_t rf_answer_rows(rf_ring *pool, const rf_held *held, uint32_t rows,
                               const void *const *outputs, const uint64_t *strides);

/* Answer with an outcome without outputs, and with `text` in UTF-8. A text that is too long for the cell is cut. */
RF_API uint32_t rf_answer_without(rf_ring *pool, const rf_held *held, uint32_t rows,
                                  rf_outcome outcome, const char *text, uint32_t text_bytes);

/* The link by which the request named the held cell; 0: it wants no answer. */
RF_API uint64_t rf_held_link(const rf_held *held);

/* Let go of cells: they are asked again. Do this before the requests are given back or handed on, because an engine that
 * takes a request with a held cell drops it. If a handle goes while it holds cells, they are recovered as those of a
 * dead engine. */
RF_API void rf_let_go(rf_ring *pool, const rf_held *held, uint32_t rows);

#endif
