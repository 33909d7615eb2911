/*
 * Clients and engines are killed, stopped and continued at random while requests and answers flow. The first
 * argument is the number of kills. The ledger shows the requests of each client and their outcomes. No request is
 * answered twice, and none is lost while engines come. No answer is torn or belongs to another request. At the end
 * every cell is free.
 *
 *     chaos_replies 1000 [seed]
 *
 * Each second phase drops the rows that dead engines had taken. A client then learns that its engine died, or sees
 * that its request is gone. It must not wait forever in this case either.
 */
#include "cells.h"
#include "chance.h"

enum {
    PHASES = 6,
    CLIENTS = 3,
    ENGINES = 3,
    WORKERS = CLIENTS + ENGINES,
    MOST_NUMBERS = 1 << 22,
    LOST_SECONDS = 15,
    ROWS = 3
};

typedef struct shared_state {
    _Atomic uint64_t asked[CLIENTS]; /* the next number of each client */
    _Atomic uint32_t stop;
    _Atomic uint64_t answers, failures, late, withdrawn, died, gone, handed_on, given_back;
    _Atomic uint64_t lost, torn, doubled;
    _Atomic uint64_t answered[MOST_NUMBERS / 64]; /* a bit for each number of each client */
} shared_state;

static shared_state *shared;
static bool redeliver;
static uint64_t total_kills = 250, first_seed = 1;

#define COUNT_ONE(what) atomic_fetch_add(&shared->what, 1)

/* ---- Clients -------------------------------------------------------------------------------- */

typedef struct request {
    uint64_t number, link;
    rf_waiter waiter;
} request;

static bool is_gone(const endpoint *own, const rf_lease *cells, uint32_t row, uint64_t link)
{
    rf_reply reply;
    bool gone = rf_record_is_gone(own->ring, link);
    CHECK_EQUAL(rf_cell_inspect(cells, row, &reply), RF_OK);
    return gone && reply.outcome == RF_PENDING && !reply.held;
}

/* True: there is still a request to wait for. */
static bool wait_for_one(endpoint *own, rf_lease *cells, uint32_t row, const request *asked)
{
    if (asked->waiter != RF_WAITER_CLIENT || random_below(2)) {
        rf_status status = rf_cell_wait(cells, row, in_ms(60));
        CHECK(status == RF_OK || status == RF_AGAIN || status == RF_EMPTY);
    } else {
        uint32_t key = rf_answers_prepare(own->pool);
        rf_reply reply;
        CHECK_EQUAL(rf_cell_inspect(cells, row, &reply), RF_OK);
        if (reply.outcome == RF_PENDING)
            rf_answers_sleep(own->pool, key, in_ms(60));
    }
    rf_reply reply;
    CHECK_EQUAL(rf_cell_inspect(cells, row, &reply), RF_OK);
    if (reply.outcome != RF_PENDING)
        return false;
    rf_recover(own->ring);
    if (!redeliver && is_gone(own, cells, row, asked->link)) {
        COUNT_ONE(gone);
        return false;
    }
    return true;
}

static void read_reply(rf_lease *cells, uint32_t row, uint64_t number)
{
    rf_reply reply;
    uint64_t ends[2];
    const char *sample = (char *)rf_lease_data(cells, 0) + row * (uint64_t)SAMPLE_BYTES;
    CHECK_EQUAL(rf_cell_inspect(cells, row, &reply), RF_OK);
    switch (reply.outcome) {
    case RF_OUTPUTS:
        memcpy(&ends[0], sample, sizeof ends[0]);
        memcpy(&ends[1], sample + SAMPLE_BYTES - sizeof ends[1], sizeof ends[1]);
        if (ends[0] != answer_to(number) || ends[1] != answer_to(number))
            COUNT_ONE(torn);
        COUNT_ONE(answers);
        break;
    case RF_FAILED:
        if (reply.text_bytes != sizeof number ||
            memcmp(text_of(cells, row), &number, sizeof number) != 0)
            COUNT_ONE(torn);
        COUNT_ONE(failures);
        break;
    case RF_LATE: COUNT_ONE(late); break;
    case RF_ENGINE_DIED:
        CHECK(!redeliver);
        COUNT_ONE(died);
        break;
    case RF_PENDING: break;
    default: CHECK(!"an outcome that no engine gave");
    }
}

static bool put_request(endpoint *own, uint64_t number, uint64_t reply, uint64_t *link)
{
    _Alignas(64) uint8_t sample[SAMPLE_BYTES] = {0};
    const void *sources[1] = {sample};
    rf_status status;
    memcpy(sample, &number, sizeof number);
    while ((status = rf_put_request(own->ring, sources, number, reply, RF_FOREVER, link)) ==
           RF_AGAIN)
        ;
    CHECK_EQUAL(status, RF_OK);
    return true;
}

static void ask_and_wait(endpoint *own, uint64_t lane)
{
    request asked[ROWS];
    rf_lease *cells;
    rf_status status;
    while ((status = rf_claim(own->pool, 1 + random_below(ROWS), RF_FOREVER, &cells)) == RF_AGAIN)
        ;
    CHECK_EQUAL(status, RF_OK);
    uint32_t rows = rf_lease_rows(cells);
    bool withdraws = random_below(8) == 0;
    for (uint32_t row = 0; row < rows; row++) {
        asked[row].number = atomic_fetch_add(&shared->asked[lane], 1) * CLIENTS + lane;
        CHECK(asked[row].number < MOST_NUMBERS);
        int64_t until = random_below(16) ? RF_FOREVER : rf_now_ns();
        asked[row].waiter = (rf_waiter)random_below(3);
        uint64_t reply = rf_cell_ask(cells, row, until, asked[row].waiter);
        put_request(own, asked[row].number, reply, &asked[row].link);
        /* Put the request twice, as if the engine that handed it on had died. The link names one of the two
         * records, so it cannot show whether the request itself is gone. */
        if (redeliver && random_below(16) == 0)
            put_request(own, asked[row].number, reply, &asked[row].link);
    }
    if (withdraws) {
        atomic_fetch_add(&shared->withdrawn, rows);
        for (uint32_t naps = random_below(4); naps > 0; naps--)
            rest(); /* an engine holds some of them by then */
    }
    for (uint32_t row = 0; row < rows && !withdraws; row++) {
        int64_t patience = in_ms(LOST_SECONDS * 1000);
        while (wait_for_one(own, cells, row, &asked[row]))
            if (rf_now_ns() > patience) {
                COUNT_ONE(lost);
                break;
            }
        read_reply(cells, row, asked[row].number);
    }
    rf_lease_drop(cells);
}

static void client_process(void *lane)
{
    endpoint own = attach_endpoint();
    seed((uint64_t)getpid());
    while (!atomic_load(&shared->stop))
        ask_and_wait(&own, (uint64_t)(uintptr_t)lane);
    close_endpoint(&own);
}

/* ---- Engines -------------------------------------------------------------------------------- */

static void mark_answered(uint64_t number)
{
    CHECK(number < MOST_NUMBERS);
    uint64_t bit = UINT64_C(1) << number % 64;
    if (atomic_fetch_or(&shared->answered[number / 64], bit) & bit)
        COUNT_ONE(doubled);
}

/* Answer row by row, so that the ledger shows which row was answered. */
static void answer_each(endpoint *own, const job *now, uint32_t from, const rf_lease *batch)
{
    for (uint32_t row = 0; row < rf_lease_rows(batch); row++) {
        const rf_held *held = &now->held[from + row];
        uint64_t number = number_at(batch, row), answer = answer_to(number);
        uint8_t sample[SAMPLE_BYTES];
        const void *outputs[1] = {sample};
        const uint64_t strides[1] = {0};
        uint32_t done;
        memcpy(sample, &answer, sizeof answer);
        memcpy(sample + SAMPLE_BYTES - sizeof answer, &answer, sizeof answer);
        if (random_below(8))
            done = rf_answer_rows(own->pool, held, 1, outputs, strides);
        else
            done = rf_answer_without(own->pool, held, 1, RF_FAILED, (char *)&number, sizeof number);
        if (done)
            mark_answered(number);
    }
}

/* Hand the request on to the end of the same ring. If the engine is killed in between, the request is there twice. */
static bool hand_on(endpoint *own, job *now)
{
    rf_lease *next;
    uint32_t rows = rf_lease_rows(now->batch);
    if (!redeliver || rows != 1 || !now->held[0].word || rf_claim(own->ring, 1, 0, &next) != RF_OK)
        return false;
    uint64_t reply = atomic_load(&own->ring->slots[rf_lease_first(now->batch)].reply);
    set_number(next, 0, number_at(now->batch, 0));
    rf_let_go(own->pool, now->held, 1);
    CHECK_EQUAL(rf_publish_requests(next, 1, NULL, &reply, 0), RF_OK);
    rf_lease_drop(next);
    rf_lease_drop(now->batch);
    COUNT_ONE(handed_on);
    return true;
}

static void work_on(endpoint *own, job *now)
{
    uint32_t rows = rf_lease_rows(now->batch);
    switch (random_below(8)) {
    case 0:
        rf_let_go(own->pool, now->held, rows);
        rf_lease_give_back(now->batch);
        COUNT_ONE(given_back);
        break;
    case 1: /* in two parts, the last part first */
        if (rows > 1) {
            rf_lease *rest_of_it = rf_lease_split(now->batch, 1);
            answer_each(own, now, 1, rest_of_it);
            rf_lease_drop(rest_of_it);
        }
        answer_each(own, now, 0, now->batch);
        break;
    case 2:
        if (hand_on(own, now))
            return;
        /* fall through */
    default: answer_each(own, now, 0, now->batch);
    }
    rf_lease_drop(now->batch);
}

static void engine_process(void *unused)
{
    (void)unused;
    endpoint own = attach_endpoint();
    seed((uint64_t)getpid());
    rf_pool_serve(own.pool, 1);
    for (;;) {
        rf_take_request wanted = {
            .max_rows = 1 + random_below(6), .min_rows = 1, .deadline_ns = RF_FOREVER};
        job now;
        rf_status status = rf_take(own.ring, &wanted, &now.batch);
        if (status == RF_FINISHED)
            break;
        if (status != RF_OK)
            continue;
        rf_hold(own.pool, now.batch, now.held);
        if (random_below(2))
            rest();
        work_on(&own, &now);
    }
    close_endpoint(&own);
}

/* ---- The controller ------------------------------------------------------------------------- */

typedef struct worker {
    pid_t pid;        /* 0: the worker is dead */
    int64_t until_ns; /* the worker is stopped or dead until then; 0: it runs */
} worker;

static worker workers[WORKERS];

static void go_on(uint32_t index)
{
    worker *one = &workers[index];
    one->until_ns = 0;
    if (one->pid)
        CHECK_EQUAL(kill(one->pid, SIGCONT), 0);
    else
        one->pid = index < CLIENTS ? spawn(client_process, (void *)(uintptr_t)index)
                                   : spawn(engine_process, NULL);
}

static void expect_no_end(void)
{
    siginfo_t ended = {0};
    if (waitid(P_ALL, 0, &ended, WEXITED | WNOHANG | WNOWAIT) == -1)
        CHECK_EQUAL(errno, ECHILD);
    CHECK_EQUAL(ended.si_pid, 0);
}

static void kill_at_random(uint64_t kills, uint64_t *stops)
{
    for (uint64_t killed = 0; killed < kills;) {
        int64_t now;
        for (int64_t until = rf_now_ns() + random_below(6000000); (now = rf_now_ns()) < until;)
            rest();
        for (uint32_t i = 0; i < WORKERS; i++)
            if (workers[i].until_ns && now >= workers[i].until_ns)
                go_on(i);
        expect_no_end();
        worker *one = &workers[random_below(WORKERS)];
        if (one->pid && (random_below(3) || one->until_ns)) {
            kill_and_reap(one->pid);
            one->pid = 0;
            one->until_ns = random_below(2) ? 1 : in_ms(random_below(100));
            killed++;
        } else if (one->pid) {
            CHECK_EQUAL(kill(one->pid, SIGSTOP), 0);
            one->until_ns = in_ms(random_below(8) ? random_below(20) : random_below(200));
            ++*stops;
        }
    }
}

static void drain_and_join(endpoint *own)
{
    alarm(WATCHDOG_SECONDS);
    atomic_store(&shared->stop, 1);
    for (uint32_t i = 0; i < WORKERS; i++)
        go_on(i);
    for (uint32_t i = 0; i < CLIENTS; i++)
        expect_success(workers[i].pid);
    rf_finish(own->ring);
    for (uint32_t i = CLIENTS; i < WORKERS; i++)
        expect_success(workers[i].pid);
    rf_recover(own->ring);
    rf_recover(own->pool);
    rf_lease *left; /* left by dead clients */
    while (take_until(own->ring, HELD_ROWS, 1, 0, &left) == RF_OK) {
        rf_held held[HELD_ROWS];
        CHECK_EQUAL(rf_hold(own->pool, left, held), 0);
        rf_lease_drop(left);
    }
    expect_all_free(own->pool);
    expect_all_free(own->ring);
    alarm(0);
}

static void play_phase(uint32_t phase, uint64_t kills)
{
    uint64_t stops = 0, asked = 0;
    memset(shared, 0, sizeof *shared);
    memset(workers, 0, sizeof workers);
    redeliver = phase % 2 == 0;
    uint32_t cells = ROWS + random_below(9), slots = 4 + random_below(12);
    endpoint own = create_endpoint_as(slots, cells, redeliver);
    for (uint32_t i = 0; i < WORKERS; i++)
        go_on(i);
    kill_at_random(kills, &stops);
    drain_and_join(&own);
    for (int lane = 0; lane < CLIENTS; lane++)
        asked += atomic_load(&shared->asked[lane]);
    printf("    phase %u: %u cells, %u slots, rows of the dead %s: %llu kills, %llu stops; %llu "
           "asked, %llu "
           "answered, %llu failed, %llu late, %llu withdrawn, %llu handed on, %llu given back, "
           "%llu engine died, "
           "%llu seen gone\n",
           phase + 1, cells, slots, redeliver ? "come again" : "are dropped",
           (unsigned long long)kills, (unsigned long long)stops, (unsigned long long)asked,
           (unsigned long long)shared->answers, (unsigned long long)shared->failures,
           (unsigned long long)shared->late, (unsigned long long)shared->withdrawn,
           (unsigned long long)shared->handed_on, (unsigned long long)shared->given_back,
           (unsigned long long)shared->died, (unsigned long long)shared->gone);
    fflush(stdout);
    close_endpoint(&own);
    shm_unlink(segment_name(0));
    shm_unlink(segment_name(POOL));
    CHECK_EQUAL(atomic_load(&shared->lost), 0);
    CHECK_EQUAL(atomic_load(&shared->torn), 0);
    CHECK_EQUAL(atomic_load(&shared->doubled), 0);
}

static void chaos(void)
{
    alarm(0);
    shared = shared_memory(sizeof *shared);
    seed(first_seed);
    for (uint32_t phase = 0; phase < PHASES; phase++)
        play_phase(phase, (total_kills + PHASES - 1) / PHASES);
}

static const test tests[] = {
    {"no request is lost, answered twice or wrongly, and no cell leaks, by kills and stops", chaos},
};

int main(int argc, char **argv)
{
    if (argc > 1)
        total_kills = (uint64_t)atof(argv[1]);
    if (argc > 2)
        first_seed = (uint64_t)atof(argv[2]);
    return run_tests(1, argv, tests, COUNT(tests));
}
