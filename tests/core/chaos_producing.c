/*
 * Producers enter, put, fail and leave, and are killed and stopped at random. The first argument is the number of
 * kills. Each round has a ring of its own and ends when no producer is left. However the producers ended, every
 * taker must see the end within a counted number of slices. If a producer reported a failure, every taker must see
 * it, with a complete text. Every published record must have been taken.
 *
 *     chaos_producing 10000 [seed]
 */
#include "records.h"

enum { MOST = 4, TAKERS = 2, MOST_RECORDS = 64, MOST_SLICES = 2, MOST_TEXT = 3000 };

typedef struct lane {
    _Atomic uint32_t reported;        /* numbers below it are published */
    _Atomic uint32_t failing, failed; /* the producer began, and completed, its failure report */
    _Atomic uint32_t taken[MOST_RECORDS + 1];
} lane;

typedef struct shared_state {
    lane lanes[MOST];
    _Atomic int64_t gone_ns; /* since when no producer is left; 0: some are */
    _Atomic uint32_t failures_seen, most_slices;
    uint64_t seed;
} shared_state;

static shared_state *shared;
static uint64_t total_kills = 200, first_seed = 1;

typedef struct sums {
    uint64_t rounds, kills, stops, records, failures, lost_texts;
    uint32_t most_slices;
} sums;

/* ---- Producers ------------------------------------------------------------------------------ */

/* Write a text that consists of one letter, which names its producer. */
static size_t write_text(char *text, uint32_t index)
{
    size_t bytes = 1 + random_below(MOST_TEXT);
    memset(text, 'a' + (int)index, bytes);
    return bytes;
}

static void put_some(rf_ring *ring, uint32_t index, uint32_t count)
{
    for (uint32_t number = 0; number < count; number++) {
        payload record;
        const void *sources[1] = {&record};
        rf_status status;
        fill(&record, index, number);
        while ((status = rf_put(ring, sources, number, RF_FOREVER)) == RF_AGAIN)
            ;
        CHECK_EQUAL(status, RF_OK); /* the ring cannot end while this producer has a block open */
        atomic_store(&shared->lanes[index].reported, number + 1);
    }
}

static void produce(void *argument)
{
    uint32_t index = (uint32_t)(uintptr_t)argument;
    lane *own = &shared->lanes[index];
    rf_ring *ring = attach_ring_with_window();
    rf_block block, inner;
    seed(shared->seed * 31 + index);
    CHECK_EQUAL(rf_producing_begin(ring, 0, &block), RF_OK);
    put_some(ring, index, random_below(MOST_RECORDS));
    if (random_below(2)) {
        CHECK_EQUAL(rf_producing_begin(ring, 1, &inner), RF_OK);
        rf_producing_end(ring, inner);
    }
    if (random_below(2)) {
        char text[MOST_TEXT];
        size_t bytes = write_text(text, index);
        atomic_store(&own->failing, 1);
        rf_producing_fail(ring, block, text, bytes);
        atomic_store(&own->failed, 1);
    }
    if (random_below(4))
        rf_producing_end(ring, block);
    close_ring(ring); /* this also ends an open block */
}

/* ---- Takers --------------------------------------------------------------------------------- */

static void check_text(const rf_ring *ring)
{
    char text[RF_FAILURE_BYTES + 1];
    uint32_t bytes = rf_ring_failure(ring, text), index = (uint32_t)(text[0] - 'a');
    CHECK(bytes > 0 && strlen(text) == bytes);
    if (strncmp(text, "Its text was lost", 17) == 0)
        return;
    CHECK(index < MOST && atomic_load(&shared->lanes[index].failing));
    for (uint32_t at = 0; at < bytes; at++)
        CHECK_EQUAL(text[at], text[0]);
}

static void mark_rows(const rf_lease *lease)
{
    const payload *rows = rf_lease_data(lease, 0);
    for (uint32_t row = 0; row < rf_lease_rows(lease); row++) {
        CHECK_EQUAL(rows[row].checksum, checksum_of(&rows[row]));
        CHECK(rows[row].producer < MOST && rows[row].number <= MOST_RECORDS);
        atomic_fetch_add(&shared->lanes[rows[row].producer].taken[rows[row].number], 1);
    }
}

static rf_status take_or_end(rf_ring *ring, rf_lease **lease, uint32_t *slices)
{
    rf_take_request request = {.max_rows = 8, .min_rows = 1, .deadline_ns = RF_FOREVER};
    rf_status status;
    while ((status = rf_take(ring, &request, lease)) == RF_AGAIN)
        if (atomic_load(&shared->gone_ns))
            CHECK(++*slices <= MOST_SLICES);
    return status;
}

static void take_all(void *unused)
{
    (void)unused;
    rf_ring *ring = attach_ring_with_window();
    rf_lease *lease;
    rf_status status;
    uint32_t slices = 0;
    while ((status = take_or_end(ring, &lease, &slices)) == RF_OK) {
        mark_rows(lease);
        rf_lease_drop(lease);
    }
    if (status == RF_PRODUCER_FAILED) {
        atomic_fetch_add(&shared->failures_seen, 1);
        check_text(ring);
    } else {
        CHECK_EQUAL(status, RF_FINISHED);
    }
    if (slices > atomic_load(&shared->most_slices))
        atomic_store(&shared->most_slices, slices);
    close_ring(ring);
}

/* ---- Rounds --------------------------------------------------------------------------------- */

static bool is_over(pid_t *pid)
{
    int status;
    if (*pid && waitpid(*pid, &status, WNOHANG) == *pid) {
        CHECK(WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : WEXITSTATUS(status) == PASSED);
        *pid = 0;
    }
    return *pid == 0;
}

static void kill_at_random(pid_t *pids, uint32_t producers, sums *sum)
{
    for (uint32_t left = producers; left;) {
        nanosleep(&(struct timespec){.tv_nsec = random_below(400000)}, NULL);
        uint32_t victim = random_below(producers);
        if (pids[victim] && random_below(3) == 0) {
            sum->kills += kill(pids[victim], SIGKILL) == 0;
        } else if (pids[victim] && random_below(8) == 0) {
            sum->stops += kill(pids[victim], SIGSTOP) == 0;
            nanosleep(&(struct timespec){.tv_nsec = random_below(2000000)}, NULL);
            kill(pids[victim], SIGCONT);
        }
        left = 0;
        for (uint32_t i = 0; i < producers; i++)
            left += !is_over(&pids[i]);
    }
}

/* Enter and leave in place of the producers that were killed before they entered. */
static void supply_producers(rf_ring *ring, uint32_t producers)
{
    rf_block block;
    for (uint32_t i = 0; i < producers; i++)
        if (rf_producing_begin(ring, 0, &block) == RF_OK)
            rf_producing_end(ring, block);
    atomic_store(&shared->gone_ns, rf_now_ns());
}

static void check_round(const rf_ring *ring, uint32_t producers, sums *sum)
{
    uint32_t failing = 0, failed = 0, seen = atomic_load(&shared->failures_seen);
    for (uint32_t i = 0; i < producers; i++) {
        lane *own = &shared->lanes[i];
        failing += atomic_load(&own->failing);
        failed += atomic_load(&own->failed);
        for (uint32_t number = 0; number <= MOST_RECORDS; number++) {
            uint32_t taken = atomic_load(&own->taken[number]),
                     published = atomic_load(&own->reported);
            CHECK(number < published ? taken == 1 : taken <= (number == published));
            sum->records += taken;
        }
    }
    CHECK(seen == 0 || seen == TAKERS);
    CHECK(failed ? seen == TAKERS : failing || seen == 0);
    sum->failures += seen != 0;
    char text[RF_FAILURE_BYTES + 1];
    sum->lost_texts += seen && rf_ring_failure(ring, text) && text[0] == 'I';
    CHECK_EQUAL(rf_ring_open_blocks(ring), 0);
}

static void play_round(uint64_t round, sums *sum)
{
    pid_t pids[MOST], takers[TAKERS];
    uint32_t producers = 1 + random_below(MOST);
    rf_options options = options_for(8);
    memset(shared, 0, sizeof *shared);
    shared->seed = first_seed * 1000003 + round;
    options.producers = producers;
    alarm(WATCHDOG_SECONDS);
    rf_ring *ring = create_ring_as(&options, sizeof(payload));
    for (uint32_t i = 0; i < TAKERS; i++)
        takers[i] = spawn(take_all, NULL);
    for (uint32_t i = 0; i < producers; i++)
        pids[i] = spawn(produce, (void *)(uintptr_t)i);
    kill_at_random(pids, producers, sum);
    supply_producers(ring, producers);
    for (uint32_t i = 0; i < TAKERS; i++)
        expect_success(takers[i]);
    rf_recover(ring);
    check_round(ring, producers, sum);
    expect_all_free(ring);
    if (atomic_load(&shared->most_slices) > sum->most_slices)
        sum->most_slices = atomic_load(&shared->most_slices);
    sum->rounds++;
    close_ring(ring);
    shm_unlink(segment_name(0));
}

static void chaos(void)
{
    sums sum = {0};
    shared = shared_memory(sizeof *shared);
    seed(first_seed);
    while (sum.kills < total_kills)
        play_round(sum.rounds, &sum);
    printf("    %llu rounds, %llu kills, %llu stops, %llu records; %llu failures seen, %llu "
           "without their text; the "
           "end came after %u slices at most\n",
           (unsigned long long)sum.rounds, (unsigned long long)sum.kills,
           (unsigned long long)sum.stops, (unsigned long long)sum.records,
           (unsigned long long)sum.failures, (unsigned long long)sum.lost_texts, sum.most_slices);
}

static const test tests[] = {
    {"takers see the end, and a failure, however producers ended", chaos},
};

int main(int argc, char **argv)
{
    if (argc > 1)
        total_kills = (uint64_t)atof(argv[1]);
    if (argc > 2)
        first_seed = (uint64_t)atof(argv[2]);
    return run_tests(1, argv, tests, COUNT(tests));
}
