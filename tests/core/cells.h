/*
 * Requests and answers, for the tests of reply cells: a ring and its pool, clients and engines.
 *
 * A request is a number. Its answer is another number, written at both ends of a sample that fills a page, so that a
 * torn answer shows.
 */
#ifndef RF_CELLS_H
#define RF_CELLS_H

#include "check.h"
#include "replies.h"

enum { POOL = 1 /* the number of the pool's segment */, HELD_ROWS = 16 };

/* One participant's handles of the ring and of its pool. */
typedef struct endpoint {
    rf_ring *ring, *pool;
} endpoint;

static inline rf_ring *create_pool(const rf_ring *ring, uint32_t cells, uint32_t redeliver)
{
    uint64_t sample_bytes = SAMPLE_BYTES;
    rf_geometry *geometry = geometry_of(RF_UINT8, 1, &sample_bytes);
    rf_options options = options_for(cells);
    rf_ring *pool;
    options.redeliver = redeliver;
    options.ring_inode = rf_ring_inode(ring);
    geometry->fields = 2;
    geometry->field[1] = geometry->field[0];
    snprintf(geometry->field[1].name, sizeof geometry->field[1].name, "error");
    CHECK_EQUAL(rf_plan(&options, geometry), RF_OK);
    CHECK_EQUAL(rf_pool_create(create_segment(POOL), &options, geometry, &pool), RF_OK);
    CHECK_EQUAL(rf_ring_geometry(pool)->slots, cells);
    free(geometry);
    return pool;
}

static inline rf_ring *attach_pool(void)
{
    rf_ring *pool;
    CHECK_EQUAL(rf_pool_attach(open_segment(POOL), &pool), RF_OK);
    return pool;
}

static inline endpoint create_endpoint_as(uint32_t slots, uint32_t cells, uint32_t redeliver)
{
    rf_options options = options_for(slots);
    options.redeliver = redeliver;
    rf_ring *ring = create_ring_as(&options, SAMPLE_BYTES);
    return (endpoint){ring, create_pool(ring, cells, redeliver)};
}

static inline endpoint create_endpoint(uint32_t slots, uint32_t cells)
{
    return create_endpoint_as(slots, cells, 1);
}

static inline endpoint attach_endpoint(void)
{
    return (endpoint){attach_ring(), attach_pool()};
}

static inline void close_endpoint(endpoint *own)
{
    close_ring(own->pool);
    close_ring(own->ring);
}

/* ---- Clients -------------------------------------------------------------------------------- */

static inline uint64_t answer_to(uint64_t number)
{
    return number * 3 + 1;
}

/* Ask with a claimed cell. Returns the link that names the request's record. */
static inline uint64_t ask_with(endpoint *own, rf_lease *cell, uint32_t row, uint64_t number,
                                int64_t answer_by_ns, rf_waiter waiter)
{
    _Alignas(64) uint8_t sample[SAMPLE_BYTES] = {0};
    const void *sources[1] = {sample};
    uint64_t link = 0, reply = rf_cell_ask(cell, row, answer_by_ns, waiter);
    memcpy(sample, &number, sizeof number);
    CHECK(reply != 0);
    CHECK_EQUAL(rf_put_request(own->ring, sources, number, reply, 0, &link), RF_OK);
    CHECK(link != 0);
    return link;
}

static inline rf_lease *ask(endpoint *own, uint64_t number)
{
    rf_lease *cell = claim(own->pool, 1);
    ask_with(own, cell, 0, number, RF_FOREVER, RF_WAITER_NONE);
    return cell;
}

static inline rf_reply inspect_cell(const rf_lease *cells, uint32_t row)
{
    rf_reply reply;
    CHECK_EQUAL(rf_cell_inspect(cells, row, &reply), RF_OK);
    return reply;
}

static inline rf_status wait_until(rf_lease *cells, uint32_t row, int64_t deadline)
{
    rf_status status;
    while ((status = rf_cell_wait(cells, row, deadline)) == RF_AGAIN)
        ;
    return status;
}

static inline const char *text_of(const rf_lease *cells, uint32_t row)
{
    return (char *)rf_lease_data(cells, 1) + row * (uint64_t)SAMPLE_BYTES;
}

/* Expect that the cell holds the complete answer to this request. */
static inline void expect_answer(const rf_lease *cells, uint32_t row, uint64_t number)
{
    uint64_t ends[2];
    const char *sample = (char *)rf_lease_data(cells, 0) + row * (uint64_t)SAMPLE_BYTES;
    CHECK_EQUAL(inspect_cell(cells, row).outcome, RF_OUTPUTS);
    memcpy(&ends[0], sample, sizeof ends[0]);
    memcpy(&ends[1], sample + SAMPLE_BYTES - sizeof ends[1], sizeof ends[1]);
    CHECK_EQUAL(ends[0], answer_to(number));
    CHECK_EQUAL(ends[1], answer_to(number));
}

/* ---- Engines -------------------------------------------------------------------------------- */

/* The rows that an engine has taken, and the cells that it holds for these rows. */
typedef struct job {
    rf_lease *batch;
    uint32_t to_run;
    rf_held held[HELD_ROWS];
} job;

static inline bool take_job(endpoint *own, uint32_t rows, job *now)
{
    now->batch = take(own->ring, rows);
    now->to_run = now->batch ? rf_hold(own->pool, now->batch, now->held) : 0;
    return now->batch != NULL;
}

/* Answer rows of a batch. `held` and the answers begin with the batch's first row. */
static inline uint32_t answer_rows(endpoint *own, const rf_lease *batch, const rf_held *held,
                                   uint32_t rows)
{
    static _Thread_local uint8_t outputs[HELD_ROWS][SAMPLE_BYTES];
    const void *fields[1] = {outputs};
    const uint64_t strides[1] = {SAMPLE_BYTES};
    for (uint32_t row = 0; row < rows; row++) {
        uint64_t answer = answer_to(number_at(batch, row));
        memcpy(outputs[row], &answer, sizeof answer);
        memcpy(outputs[row] + SAMPLE_BYTES - sizeof answer, &answer, sizeof answer);
    }
    return rf_answer_rows(own->pool, held, rows, fields, strides);
}

static inline uint32_t answer_job(endpoint *own, job *now)
{
    uint32_t answered = answer_rows(own, now->batch, now->held, rf_lease_rows(now->batch));
    rf_lease_drop(now->batch);
    return answered;
}

/* Take the ready requests and answer them. Returns the number of rows that the model ran. */
static inline uint32_t serve(endpoint *own, uint32_t rows)
{
    job now;
    if (!take_job(own, rows, &now))
        return 0;
    answer_job(own, &now);
    return now.to_run;
}

#endif
