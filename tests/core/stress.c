/*
 * Many processes and threads publish and take at random. The first argument is the number of records. No record may
 * be lost, doubled, torn or out of order.
 *
 * Every record names its producer and its number, and carries a checksum. Each thread of each producer process
 * counts as a producer with an order of its own. Takers mark each record in a shared bitmap. A taker that finds a
 * mark has found a double. Two sound checks cover order: a single taker must see every producer's records one after
 * the other, and each of several takers must see rising numbers.
 */
#include "records.h"

enum { MAX_PRODUCERS = 16, MAX_ROWS = 24, MAX_HELD = 3 };

typedef struct plan {
    uint32_t slots;
    uint32_t producers, producer_threads; /* processes, and threads in each */
    uint32_t takers, taker_threads;
    bool kills;
} plan;

typedef struct shared_state {
    plan plan;
    uint64_t records; /* of each producer thread */
    _Atomic uint64_t published[MAX_PRODUCERS];
    _Atomic uint64_t marks[]; /* a bit per record of each producer */
} shared_state;

static uint64_t total_records;
static shared_state *shared;
static uint64_t marks_per_producer;

/* ---- Producers ------------------------------------------------------------------------------ */

typedef struct worker {
    rf_ring *ring;
    uint64_t id;
} worker;

static uint32_t put_one(worker *own, uint64_t number)
{
    payload record;
    const void *sources[1] = {&record};
    rf_status status;
    fill(&record, own->id, number);
    while ((status = rf_put(own->ring, sources, number, RF_FOREVER)) == RF_AGAIN)
        ;
    CHECK_EQUAL(status, RF_OK);
    return 1;
}

/* Claim some rows, publish some of them, and discard the others. Keep some claims for a while. */
static uint32_t put_rows(worker *own, uint64_t number, uint64_t most, rf_lease **kept)
{
    rf_lease *lease;
    uint64_t tags[MAX_ROWS];
    CHECK_EQUAL(claim_until(own->ring, 1 + random_below(MAX_ROWS), RF_FOREVER, &lease), RF_OK);
    uint32_t rows = random_below(rf_lease_rows(lease) + 1);
    if (rows > most)
        rows = (uint32_t)most;
    payload *records = rf_lease_data(lease, 0);
    for (uint32_t row = 0; row < rows; row++) {
        fill(&records[row], own->id, number + row);
        tags[row] = number + row;
    }
    bool keep = !*kept && random_below(8) == 0;
    CHECK_EQUAL(rf_publish(lease, rows, tags, keep), RF_OK);
    if (keep)
        *kept = lease;
    else
        rf_lease_drop(lease);
    return rows;
}

static void *produce(void *argument)
{
    worker *own = argument;
    uint64_t first = atomic_load(&shared->published[own->id]), number = first;
    rf_lease *kept = NULL;
    seed(own->id + 100 * number + 1);
    while (number < shared->records) {
        if (random_below(2))
            number += put_one(own, number);
        else
            number += put_rows(own, number, shared->records - number, &kept);
        if (kept && random_below(4) == 0) {
            rf_lease_drop(kept);
            kept = NULL;
        }
        /* A producer that is killed before it reports its last records leaves a count that is too low. Its
         * successor finds the true count from the marks. */
        atomic_store(&shared->published[own->id], number);
    }
    if (kept)
        rf_lease_drop(kept);
    return NULL;
}

static void run_threads(uint32_t count, uint64_t first_id, void *(*run)(void *))
{
    worker workers[MAX_PRODUCERS];
    pthread_t threads[MAX_PRODUCERS];
    rf_ring *ring = attach_ring_with_window();
    for (uint32_t i = 0; i < count; i++) {
        workers[i] = (worker){ring, first_id + i};
        threads[i] = start_thread(run, &workers[i]);
    }
    for (uint32_t i = 0; i < count; i++)
        join_thread(threads[i]);
    close_ring(ring);
}

static void producer_process(void *argument)
{
    uint64_t index = (uint64_t)(uintptr_t)argument;
    run_threads(shared->plan.producer_threads, index * shared->plan.producer_threads, produce);
}

/* ---- Takers --------------------------------------------------------------------------------- */

typedef struct batch {
    rf_lease *lease;
    uint64_t sums[MAX_ROWS];
} batch;

/* True the first time. */
static bool mark(uint64_t producer, uint64_t number)
{
    _Atomic uint64_t *word = &shared->marks[producer * marks_per_producer + number / 64];
    uint64_t bit = UINT64_C(1) << number % 64;
    return !(atomic_fetch_or(word, bit) & bit);
}

static void check_batch(batch *now, uint64_t *next, bool alone)
{
    rf_record records[MAX_ROWS];
    const payload *rows = rf_lease_data(now->lease, 0);
    rf_lease_records(now->lease, records);
    for (uint32_t row = 0; row < rf_lease_rows(now->lease); row++) {
        const payload *record = &rows[row];
        uint64_t producer = record->producer, number = record->number;
        CHECK(producer < MAX_PRODUCERS && number < shared->records);
        CHECK(record->checksum == checksum_of(record));
        CHECK_EQUAL(records[row].tag, number);
        CHECK(mark(producer, number) || records[row].deliveries > 1);
        /* A redelivered record comes late. A producer's successor has an order of its own. */
        if (!shared->plan.kills) {
            CHECK(alone ? number == next[producer] : number >= next[producer]);
            next[producer] = number + 1;
        }
        now->sums[row] = record->checksum;
    }
}

static void release(batch *now)
{
    const payload *rows = rf_lease_data(now->lease, 0);
    for (uint32_t row = 0; row < rf_lease_rows(now->lease); row++)
        CHECK(now->sums[row] ==
              checksum_of(&rows[row])); /* no process wrote into it while we held it */
    rf_lease_drop(now->lease);
    now->lease = NULL;
}

static void *take_all(void *argument)
{
    worker *own = argument;
    batch held[MAX_HELD] = {0};
    uint64_t next[MAX_PRODUCERS] = {0};
    bool alone = shared->plan.takers * shared->plan.taker_threads == 1;
    seed(own->id + 1000 + (uint64_t)getpid());
    for (;;) {
        batch *now = &held[random_below(MAX_HELD)];
        if (now->lease)
            release(now);
        uint32_t most = 1 + random_below(MAX_ROWS);
        rf_take_request request = {.max_rows = most,
                                   .min_rows = random_below(4) ? 1 : 1 + random_below(most),
                                   .deadline_ns = RF_FOREVER,
                                   .linger_ns = random_below(8) ? 0 : random_below(200000)};
        rf_status status;
        while ((status = rf_take(own->ring, &request, &now->lease)) == RF_AGAIN)
            ;
        if (status == RF_FINISHED)
            break;
        CHECK_EQUAL(status, RF_OK);
        check_batch(now, next, alone);
    }
    for (int i = 0; i < MAX_HELD; i++)
        if (held[i].lease)
            release(&held[i]);
    return NULL;
}

static void taker_process(void *argument)
{
    (void)argument;
    run_threads(shared->plan.taker_threads, 0, take_all);
}

/* ---- Kills ---------------------------------------------------------------------------------- */

/* A producer with one thread continues after the last record that it has published, reported or not. This record
 * is in the ring, or has been taken and marked. */
static void recover_published_count(const rf_ring *ring, uint64_t producer)
{
    uint64_t number = atomic_load(&shared->published[producer]);
    uint64_t stride = rf_ring_geometry(ring)->field[0].stride_bytes;
    for (uint32_t slot = 0; slot < ring->slot_count; slot++) {
        const payload *record = (const payload *)(ring->region[0] + slot * stride);
        rf_state state = state_of(ring, slot);
        if ((state == RF_STATE_READY || state == RF_STATE_TAKEN) && record->producer == producer &&
            record->number >= number && record->checksum == checksum_of(record))
            number = record->number + 1;
    }
    while (number < shared->records &&
           atomic_load(&shared->marks[producer * marks_per_producer + number / 64]) >> number % 64 &
               1)
        number++;
    atomic_store(&shared->published[producer], number);
}

/* Returns a random producer that has records left; `producers` if none has. */
static uint32_t choose_producer(void)
{
    uint32_t producers = shared->plan.producers, from = random_below(producers);
    for (uint32_t i = 0; i < producers; i++)
        if (atomic_load(&shared->published[(from + i) % producers]) < shared->records)
            return (from + i) % producers;
    return producers;
}

static void replace_producer(rf_ring *ring, uintptr_t index, pid_t *producers, const pid_t *takers)
{
    kill(producers[index], SIGKILL); /* the process may just have finished */
    waitpid(producers[index], NULL, 0);
    rf_recover(ring);
    /* Takers are stopped during this search, so that no record is between ring and mark. */
    for (uint32_t i = 0; i < shared->plan.takers; i++)
        stop_and_wait(takers[i]);
    recover_published_count(ring, index);
    for (uint32_t i = 0; i < shared->plan.takers; i++)
        kill(takers[i], SIGCONT);
    producers[index] = spawn(producer_process, (void *)index);
}

static void kill_now_and_then(rf_ring *ring, pid_t *producers, pid_t *takers)
{
    uint32_t index;
    while ((index = choose_producer()) < shared->plan.producers) {
        for (uint32_t i = random_below(10); i > 0; i--)
            rest();
        if (random_below(2)) {
            replace_producer(ring, index, producers, takers);
            continue;
        }
        index = random_below(shared->plan.takers);
        kill_and_reap(takers[index]);
        takers[index] = spawn(taker_process, NULL);
    }
}

/* ---- Running -------------------------------------------------------------------------------- */

/* Returns how many different records were taken. A count beside the marks would miss those of a taker that was
 * killed between the two. */
static uint64_t count_marks(void)
{
    uint64_t producers = shared->plan.producers * shared->plan.producer_threads, sum = 0;
    for (uint64_t i = 0; i < producers * marks_per_producer; i++)
        sum += (uint64_t)__builtin_popcountll(atomic_load(&shared->marks[i]));
    return sum;
}

static void share_state(const plan *wanted)
{
    uint32_t producers = wanted->producers * wanted->producer_threads;
    uint64_t records = (total_records + producers - 1) / producers;
    marks_per_producer = records / 64 + 1;
    shared = shared_memory(sizeof *shared + producers * marks_per_producer * sizeof(uint64_t));
    shared->plan = *wanted;
    shared->records = records;
}

static void run(const plan *wanted)
{
    alarm(0); /* the caller chose the number of records, so no watchdog; Ctrl-C ends the runner */
    if (total_records <= 1000000)
        alarm(WATCHDOG_SECONDS);
    share_state(wanted);
    rf_options options = options_for(wanted->slots);
    rf_ring *ring = create_ring_as(&options, sizeof(payload));
    pid_t producers[MAX_PRODUCERS], takers[MAX_PRODUCERS];
    seed(5);
    for (uint32_t i = 0; i < wanted->takers; i++)
        takers[i] = spawn(taker_process, NULL);
    for (uintptr_t i = 0; i < wanted->producers; i++)
        producers[i] = spawn(producer_process, (void *)i);
    if (wanted->kills)
        kill_now_and_then(ring, producers, takers);
    for (uint32_t i = 0; i < wanted->producers; i++)
        expect_success(producers[i]);
    rf_finish(ring);
    for (uint32_t i = 0; i < wanted->takers; i++)
        expect_success(takers[i]);
    rf_recover(ring);
    rf_lease *rest_of_it; /* the rows of a taker that was killed at the very end */
    while (take_until(ring, MAX_ROWS, 1, 0, &rest_of_it) == RF_OK) {
        batch last = {.lease = rest_of_it};
        check_batch(&last, (uint64_t[MAX_PRODUCERS]){0}, false);
        release(&last);
    }
    uint64_t all = shared->records * wanted->producers * wanted->producer_threads;
    CHECK_EQUAL(count_marks(), all);
    expect_all_free(ring);
    rf_stats stats;
    rf_ring_stats(ring, &stats);
    CHECK_EQUAL(stats.participants, 1);
    if (!wanted->kills) {
        CHECK_EQUAL(stats.counts.taken, all);
        CHECK_EQUAL(stats.counts.published, all);
        CHECK_EQUAL(stats.counts.released, all);
    }
    close_ring(ring);
}

static void test_one_taker(void)
{
    run(&(plan){
        .slots = 64, .producers = 3, .producer_threads = 2, .takers = 1, .taker_threads = 1});
}

static void test_large_ring(void)
{
    run(&(plan){
        .slots = 1024, .producers = 2, .producer_threads = 1, .takers = 1, .taker_threads = 1});
}

static void test_many_takers(void)
{
    run(&(plan){
        .slots = 128, .producers = 2, .producer_threads = 2, .takers = 2, .taker_threads = 2});
}

static void test_oversubscribed(void)
{
    run(&(plan){
        .slots = 256, .producers = 5, .producer_threads = 3, .takers = 4, .taker_threads = 2});
}

static void test_kills(void)
{
    run(&(plan){.slots = 128,
                .producers = 3,
                .producer_threads = 1,
                .takers = 2,
                .taker_threads = 1,
                .kills = true});
}

static const test tests[] = {
    {"producers and one taker: nothing lost, doubled or torn, all in order", test_one_taker},
    {"a large ring that is mostly empty or mostly full", test_large_ring},
    {"many producers and takers: nothing lost, doubled or torn, order kept", test_many_takers},
    {"more processes and threads than the machine has cores", test_oversubscribed},
    {"producers and takers are killed and replaced: every published record is taken", test_kills},
};

int main(int argc, char **argv)
{
    total_records = SANITIZED ? 30000 : 300000;
    if (argc > 1 && atof(argv[1]) >= 1) {
        total_records = (uint64_t)atof(argv[1]);
        argv++;
        argc--;
    }
    return run_tests(argc, argv, tests, COUNT(tests));
}
