/*
 * Replies: a client's answers, and how they come back to it.
 *
 * A reply pool is a segment of its own, made as a ring is (rf_options.ring_inode), whose slots are reply
 * cells. A client claims a cell (rf_claim on the pool), asks, and publishes a request that names the cell;
 * an engine that has taken the request holds the cell, writes the answer into it and wakes the client, who
 * reads it in place and drops the lease.
 *
 *     FREE --claim--> ASKED(client) --hold--> HELD(engine) --answer--> ANSWERED(client) --drop--> FREE
 *
 * A client has never more requests under way than it has claimed cells. Whoever goes away leaves a word
 * that says what to undo: the cells of a dead client become FREE; a cell that a dead engine held is asked
 * again, since its request is READY again, or, where rows of the dead are dropped, answered by its death.
 */
#ifndef RF_REPLIES_H
#define RF_REPLIES_H

#include "ringfeed.h"

/* As rf_ring_create, of a pool: `options->ring_inode` names the ring. */
RF_API rf_status rf_pool_create(int fd, const rf_options *options, const rf_geometry *geometry,
                                rf_ring **pool);
/* As rf_ring_attach, of a pool. It outlives the engine that made it. RF_OTHER_KIND: the segment is a ring. */
RF_API rf_status rf_pool_attach(int fd, rf_ring **pool);

/* What became of a request. */
typedef enum rf_outcome {
    RF_PENDING = 0, /* not answered yet */
    RF_OUTPUTS,     /* the cell holds the outputs */
    RF_FAILED,      /* it holds the text of an error */
    RF_LATE,        /* its time was over before the model saw it */
    RF_STOPPED,     /* the engine stopped without having run it */
    RF_ENGINE_DIED, /* whoever held it is dead, and it is not delivered again */
    RF_OUTCOMES,    /* one past the last */
} rf_outcome;

/* ---- The client's side ---------------------------------------------------------------------- */

/* How a client wants to hear of an answer. */
typedef enum rf_waiter {
    RF_TELL_NOBODY = 0, /* rf_cell_wait says so itself when it goes to sleep */
    RF_TELL_THREAD = 1, /* the thread that sleeps at the cell */
    RF_TELL_CLIENT = 2, /* whoever sleeps in rf_answers_sleep; both may */
} rf_waiter;

/* Say what is asked with a claimed cell; returns how the request names the cell. The model need not see
 * what is not begun at `answer_by_ns` (CLOCK_MONOTONIC, or RF_FOREVER). 0 in a forked child, for the cell is
 * its parent's: a request with that wants no answer. */
RF_API uint64_t rf_cell_ask(rf_lease *cells, uint32_t row, int64_t answer_by_ns, rf_waiter waiter);

/* Give all but the first rows of a lease on cells back. */
RF_API void rf_cells_keep(rf_lease *cells, uint32_t rows);

typedef struct rf_reply {
    rf_outcome outcome;
    uint32_t held;       /* pending, and an engine is at it */
    uint32_t text_bytes; /* of the error; checked */
    int64_t asked_ns, held_ns, answered_ns;
} rf_reply;

/* How does it stand with a request? RF_SLOT_LOST: the cell was taken back, for this process had been found
 * dead, or was forked. */
RF_API rf_status rf_cell_look(const rf_lease *cells, uint32_t row, rf_reply *reply);

/* Wait for an answer. RF_OK: it is there. RF_AGAIN as every wait; RF_EMPTY: not before `deadline_ns`.
 * RF_SLOT_LOST, RF_CLOSED. */
RF_API rf_status rf_cell_wait(rf_lease *cells, uint32_t row, int64_t deadline_ns);

/* For one thread that waits for many: leave word, look at the cells, then sleep on the key. RF_OK: look
 * again; RF_AGAIN. */
RF_API uint32_t rf_answers_prepare(rf_ring *pool);
RF_API rf_status rf_answers_sleep(rf_ring *pool, uint32_t key, int64_t until_ns);
/* Wake that thread. */
RF_API void rf_answers_wake(rf_ring *pool);

/* For clients that wait until fewer requests wait: leave word, look at the ring, then sleep on the key. Each row
 * that an engine holds wakes one of them. RF_OK: look again; RF_AGAIN. */
RF_API uint32_t rf_room_prepare(rf_ring *pool);
RF_API rf_status rf_room_sleep(rf_ring *pool, uint32_t key, int64_t until_ns);

/* Living engines that answer whole requests, and, where a model is cut into stages, those of the stage that has the
 * fewest: 0 where a request would not be answered. Buries the dead. */
RF_API uint32_t rf_pool_engines(rf_ring *pool);

/* ---- The engine's side ---------------------------------------------------------------------- */

/* What an engine does. Requests go from the ring that the pool is for from engine to engine, until one answers. */
typedef struct rf_service {
    uint32_t
        from; /* names the ring it takes from, in 30 bits, not 0; RF_FROM_FIRST: that of the pool */
    uint32_t onward; /* names the ring it hands requests on to; 0: it answers them */
    uint64_t model;  /* what is the same for engines of the same model; 0: not told */
    const char *name;
    uint32_t name_bytes;
} rf_service;
#define RF_FROM_FIRST UINT32_C(0x3fffffff)

/* Say what this participant does as an engine; NULL: no longer anything. */
RF_API void rf_pool_serve_as(rf_ring *pool, const rf_service *service);
/* The same for an engine that answers what it takes from the pool's ring; 0: no longer anything. */
RF_API void rf_pool_serve(rf_ring *pool, uint32_t serves);
/* Living engines of all stages together. Buries the dead. */
RF_API uint32_t rf_pool_all_engines(rf_ring *pool);
/* Other living engines that take from the same ring. */
RF_API uint32_t rf_pool_peers(rf_ring *pool, uint32_t from);
/* Does another engine live that takes from the same ring, of another model? Its process in `pid`. The name is that of
 * whoever came there last; returns its bytes, at most RF_NAME_ROOM. */
#define RF_NAME_ROOM 64
RF_API int rf_pool_has_other_model(rf_ring *pool, const rf_service *service, uint32_t *pid);
RF_API uint32_t rf_pool_name(rf_ring *pool, uint32_t from, char name[RF_NAME_ROOM]);

typedef enum rf_verdict {
    RF_RUNNABLE = 0, /* the model is to see the row */
    RF_WITHDRAWN,    /* nobody waits for it, or it was answered before */
    RF_EXPIRED,      /* its time was over; that is answered */
} rf_verdict;

/* A request in an engine's hands. */
typedef struct rf_held {
    uint64_t word; /* of the cell, as we made it; 0: the row wants no answer, or is not ours */
    uint32_t cell;
    uint32_t verdict;
} rf_held;

/* Hold the cells of a batch's rows. Returns how many rows the model is to see. A row that was delivered before
 * and whose cell another holds may be the row of a process that is dying just now: that is waited for, up to
 * two slices for all. With the handle closed all rows are RF_WITHDRAWN: give them back. */
RF_API uint32_t rf_hold(rf_ring *pool, const rf_lease *batch, rf_held *held);

/* Write outputs into the cells and wake the clients. Row r of output f lies at
 * outputs[f] + r * strides[f]; it has the field's sample_bytes. Returns how many were answered: the others
 * were withdrawn meanwhile. */
RF_API uint32_t rf_answer_rows(rf_ring *pool, const rf_held *held, uint32_t rows,
                               const void *const *outputs, const uint64_t *strides);

/* Answer with an outcome that has no outputs, and with `text`, UTF-8, cut to what a cell holds. */
RF_API uint32_t rf_answer_without(rf_ring *pool, const rf_held *held, uint32_t rows,
                                  rf_outcome outcome, const char *text, uint32_t text_bytes);

/* How a request named the cell that is held; 0 where it wants no answer. */
RF_API uint64_t rf_held_link(const rf_held *held);

/* Let go of cells whose requests are given back or handed on: they are asked again. Before that: whoever gets
 * the request while its cell is held drops it. Of what is still held when the handle goes, the same becomes as
 * of a dead engine's. */
RF_API void rf_let_go(rf_ring *pool, const rf_held *held, uint32_t rows);

#endif
