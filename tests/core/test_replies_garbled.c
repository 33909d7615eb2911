/* A faulty or hostile peer may write anything into a pool of reply cells. No other process crashes or hangs. */
#include "garble_cells.h"

static const uint64_t oddities[] = {
    0, 1, 2, 7, 15, 16, 17, 0x7fff, UINT32_MAX, UINT64_MAX, INT64_MAX, 0xfff0,
};

/* A client and an engine do their work; any result is accepted. */
static void work_on(endpoint *own, rf_lease *cell)
{
    job now;
    rf_reply reply;
    ask_with(own, cell, 0, 1, RF_FOREVER, RF_WAITER_CLIENT);
    if (take_job(own, HELD_ROWS, &now))
        answer_job(own, &now);
    rf_cell_wait(cell, 0, 0);
    if (rf_cell_inspect(cell, 0, &reply) == RF_OK)
        CHECK(reply.outcome < RF_OUTCOMES && reply.text_bytes <= SAMPLE_BYTES);
}

/* Each odd word, written at each point of a request's way. */
static void test_words(void)
{
    endpoint own = create_endpoint(4, 2);
    uint64_t states[] = {0, 1, 2, 3, 4, 7, 8 | 2, 8 | 3};
    for (size_t i = 0; i < COUNT(oddities); i++)
        for (size_t state = 0; state < COUNT(states); state++)
            for (int point = 0; point < 3; point++) {
                rf_lease *cell = claim(own.pool, 1);
                uint32_t slot = rf_lease_first(cell);
                uint64_t epoch = rf_word_epoch(cell->words[0]),
                         word = epoch << 16 | (oddities[i] & 0xfff) << 4 | states[state];
                job now = {0};
                rf_reply reply;
                ask_with(&own, cell, 0, 1, RF_FOREVER, RF_WAITER_THREAD);
                if (point == 0)
                    atomic_store(&own.pool->words[slot], word);
                take_job(&own, 1, &now);
                if (point == 1)
                    atomic_store(&own.pool->words[slot], word);
                answer_job(&own, &now);
                if (point == 2)
                    atomic_store(&own.pool->words[slot], word);
                rf_cell_wait(cell, 0, 0);
                rf_recover(own.pool);
                if (rf_cell_inspect(cell, 0, &reply) == RF_OK)
                    CHECK(reply.text_bytes <= SAMPLE_BYTES);
                rf_lease_drop(cell);
                atomic_store(&own.pool->words[slot],
                             rf_word(RF_STATE_FREE, RF_NO_OWNER, epoch + 1));
            }
    close_endpoint(&own);
}

static void test_records(void)
{
    endpoint own = create_endpoint(4, 1);
    for (size_t i = 0; i < COUNT(oddities); i++)
        for (int field = 0; field < 5; field++) {
            rf_lease *cell = ask(&own, 1);
            rf_cell *record = (rf_cell *)&own.pool->slots[rf_lease_first(cell)];
            uint64_t odd = oddities[i];
            job now;
            switch (field) {
            case 0: atomic_store(&record->client, (uint32_t)odd); break;
            case 1: atomic_store(&record->waiter, (uint32_t)odd); break;
            case 2: atomic_store(&record->answer_by_ns, (int64_t)odd); break;
            default: break;
            }
            CHECK(take_job(&own, 1, &now));
            answer_job(&own, &now);
            if (field >= 3) {
                atomic_store(&record->outcome, field == 3 ? (uint32_t)odd : RF_FAILED);
                atomic_store(&record->text_bytes, (uint32_t)odd);
            }
            rf_reply reply = inspect_cell(cell, 0);
            CHECK(reply.outcome > RF_PENDING && reply.outcome < RF_OUTCOMES);
            CHECK(reply.text_bytes <= SAMPLE_BYTES);
            rf_lease_drop(cell);
            expect_all_free(own.pool);
        }
    close_endpoint(&own);
}

/* What a request names is at most another request's cell of the same time; and never beyond the pool. */
static void test_links(void)
{
    endpoint own = create_endpoint(32, 2);
    rf_lease *cell = ask(&own, 3);
    job now;
    for (size_t i = 0; i < COUNT(oddities); i++) {
        put(own.ring, 9);
        rf_lease *batch = take(own.ring, 1);
        CHECK(batch != NULL);
        if (number_at(batch, 0) == 3) { /* the valid request; it is given back and taken again */
            rf_lease_give_back(batch);
            rf_lease_drop(batch);
            batch = take(own.ring, 2);
        }
        for (uint32_t row = 0; row < rf_lease_rows(batch); row++)
            if (number_at(batch, row) != 3)
                atomic_store(&own.ring->slots[rf_lease_slot(batch, row)].reply, oddities[i] << 34);
        rf_hold(own.pool, batch, now.held);
        rf_let_go(own.pool, now.held, rf_lease_rows(batch));
        rf_lease_give_back(batch);
        rf_lease_drop(batch);
    }
    while (take_job(&own, HELD_ROWS, &now))
        answer_job(&own, &now);
    expect_answer(cell, 0, 3);
    rf_lease_drop(cell);
    expect_all_free(own.pool);
    close_endpoint(&own);
}

/* The cell's owner does not exist, so no process frees the cell. The request is skipped in time. */
static void test_owners_that_do_not_exist(void)
{
    endpoint own = create_endpoint(4, 2);
    for (uint32_t owner = 0; owner < 4096; owner += owner < 20 ? 1 : 509) {
        rf_lease *cell = claim(own.pool, 1);
        uint32_t slot = rf_lease_first(cell);
        uint64_t epoch = rf_word_epoch(cell->words[0]);
        ask_with(&own, cell, 0, 1, RF_FOREVER, RF_WAITER_NONE);
        atomic_store(&own.pool->words[slot], rf_word(RF_STATE_TAKEN, owner, epoch));
        rf_lease *batch = take(own.ring, 1);
        rf_lease_give_back(batch);
        rf_lease_drop(batch);
        job now;
        if (take_job(&own, 1, &now))
            answer_job(&own, &now);
        rf_lease_drop(cell);
        atomic_store(&own.pool->words[slot], rf_word(RF_STATE_FREE, RF_NO_OWNER, epoch + 1));
        while (take_job(&own, HELD_ROWS, &now))
            answer_job(&own, &now);
    }
    for (uint32_t i = 0; i < 16; i++)
        if (i + 1 != rf_self(own.pool))
            atomic_store(&own.pool->participants[i].state, i % 4);
    CHECK_EQUAL(rf_pool_engines(own.pool), 0);
    rf_lease *cell = claim(own.pool, 1);
    work_on(&own, cell);
    expect_answer(cell, 0, 1);
    rf_lease_drop(cell);
    close_endpoint(&own);
}

/* ---- Everything at once --------------------------------------------------------------------- */

static _Atomic uint32_t *stop;

static void vandalise(void *unused)
{
    (void)unused;
    cell_garbler garbles;
    endpoint at = attach_endpoint();
    begin_garbling_cells(&garbles, &at);
    seed(1);
    while (!atomic_load(stop)) {
        garble_cells(&garbles);
        if (random_below(64) == 0)
            sched_yield();
    }
    restore_headers(&garbles);
}

static void test_random_writes(void)
{
    stop = shared_memory(sizeof *stop);
    reply_peer own = {.at = create_endpoint(8, 6)};
    pid_t child = spawn(vandalise, NULL);
    seed(2);
    int64_t until = in_ms(SANITIZED ? 400 : 600);
    while (rf_now_ns() < until)
        behave_at_cells(&own, random_below(5));
    atomic_store(stop, 1);
    expect_success(child);
    CHECK(own.granted > 0);
    stop_behaving_at_cells(&own);
}

static const test tests[] = {
    {"any content of a cell's word does no harm", test_words},
    {"any content of a cell's record does no harm", test_records},
    {"any link in a request does no harm", test_links},
    {"cells held by owners that do not exist block no process", test_owners_that_do_not_exist},
    {"a peer that writes at random into ring and pool does no harm", test_random_writes},
};

MAIN(tests)
