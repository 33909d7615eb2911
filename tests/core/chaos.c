/*
 * Producers and takers are killed, stopped and continued at random while records flow. The first argument is the
 * number of kills. Afterwards the ledger must show no record lost, doubled, torn or out of order, and no survivor
 * that waited although there was work for it.
 *
 *     chaos 10000 [seed]
 *
 * Lost. A producer reports a record when it is published. When a producer is killed, the records after its last
 * report may be published or not, so its successor skips these numbers. If the controller sees them in the ring
 * right after the kill, they were published, and have to arrive as well.
 *
 * Doubled, out of order. A record may come twice, or after a newer one of its producer, only if its taker died. Its
 * count of deliveries must then show this.
 *
 * Stalled: see chaos_workers.h.
 *
 * The end. Producers work in blocks. The controller has one block open until it ends the phase. Then the last
 * producer that leaves finishes the ring, and takers must see that the ring is finished.
 */
#include "chaos_workers.h"

enum { PHASES = 10, MOST_KILLS = 1 << 20, HANG_SECONDS = 30 };

typedef struct gap { /* numbers that a killed producer had not reported */
    uint32_t lane, seen;
    uint64_t from;
} gap;

static gap *gaps;
static size_t gap_count;

/* ---- The controller ------------------------------------------------------------------------- */

typedef struct worker {
    pid_t pid;      /* 0: the worker is dead */
    uint32_t index; /* the worker's index, and the lane of a producer */
    bool produces;
    int64_t until_ns; /* the worker is stopped or dead until then; 0: it runs */
} worker;

/* The slots that a killed worker held, kept until every word has changed. */
typedef struct leftover {
    int64_t since_ns; /* 0: unused */
    uint32_t count, slots[MAX_SLOTS];
    uint64_t words[MAX_SLOTS];
} leftover;

enum {
    LEFTOVERS = 64,
    BUCKETS = 1024 /* of one millisecond; the last also counts all longer times */
};

typedef struct control {
    rf_ring *ring;
    rf_block block;
    worker workers[2 * MOST];
    uint32_t count;
    uint64_t kills, stops;
    leftover leftovers[LEFTOVERS];
    uint64_t given_back[BUCKETS]; /* how many leftovers were empty after how many milliseconds */
} control;

static uint64_t total_kills = 200, first_seed = 1;

static void start_worker(worker *one)
{
    one->until_ns = 0;
    one->pid = one->produces ? spawn(producer_process, (void *)(uintptr_t)one->index)
                             : spawn(taker_process, (void *)(uintptr_t)one->index);
}

/* Records of a killed producer that are in the ring were published. If the word is the same before and after the
 * copy, the copied record is complete. */
static uint32_t numbers_in_the_ring(const rf_ring *ring, uint32_t lane, uint64_t from)
{
    uint64_t stride = rf_ring_geometry(ring)->field[0].stride_bytes;
    uint32_t seen = 0;
    for (uint32_t slot = 0; slot < ring->slot_count; slot++) {
        uint64_t word = word_of(ring, slot);
        payload record;
        if (rf_word_state(word) != RF_STATE_READY && rf_word_state(word) != RF_STATE_TAKEN)
            continue;
        memcpy(&record, ring->region[0] + slot * stride, sizeof record);
        if (word_of(ring, slot) == word && record.checksum == checksum_of(&record) &&
            record.producer % MOST == lane && record.number >= from &&
            record.number < from + MAX_ROWS)
            seen |= 1u << (record.number - from);
    }
    return seen;
}

static void record_held_slots(control *own, pid_t pid)
{
    const rf_ring *ring = own->ring;
    uint32_t owner = 1, place = 0;
    while (owner <= ring->geometry.participants &&
           atomic_load(&ring->participants[owner - 1].mark.pid) != (uint32_t)pid)
        owner++;
    while (place < LEFTOVERS && own->leftovers[place].since_ns)
        place++;
    if (place == LEFTOVERS)
        return;
    leftover *now = &own->leftovers[place];
    now->count = 0;
    for (uint32_t slot = 0; slot < ring->slot_count; slot++) {
        uint64_t word = word_of(ring, slot);
        if (rf_word_owner(word) != owner || rf_word_state(word) == RF_STATE_READY)
            continue; /* a READY slot has no owner */
        now->slots[now->count] = slot;
        now->words[now->count++] = word;
    }
    now->since_ns = now->count ? rf_now_ns() : 0;
}

static void check_leftovers(control *own)
{
    for (leftover *now = own->leftovers; now < own->leftovers + LEFTOVERS; now++) {
        if (!now->since_ns)
            continue;
        while (now->count &&
               word_of(own->ring, now->slots[now->count - 1]) != now->words[now->count - 1])
            now->count--;
        if (now->count)
            continue;
        int64_t took = (rf_now_ns() - now->since_ns) / NS_PER_MS;
        own->given_back[took < BUCKETS ? took : BUCKETS - 1]++;
        now->since_ns = 0;
    }
}

static void kill_worker(control *own, worker *one)
{
    pid_t pid = one->pid;
    kill_and_reap(pid);
    record_held_slots(own, pid);
    own->kills++;
    if (one->produces) {
        uint64_t reported = atomic_load(&shared->reported[one->index]);
        CHECK(gap_count < MOST_KILLS);
        gaps[gap_count++] =
            (gap){one->index, numbers_in_the_ring(own->ring, one->index, reported), reported};
        atomic_store(&shared->reported[one->index], reported + MAX_ROWS);
        atomic_fetch_add(&shared->generation[one->index], 1);
    }
    /* A successor recovers the dead as soon as it waits. In half of the cases the survivors have to. */
    one->pid = 0;
    one->until_ns = random_below(2) ? 1 : in_ms(random_below(300));
}

static void stop_worker(control *own, worker *one)
{
    atomic_fetch_add(&shared->stopped[one->index], 1);
    CHECK_EQUAL(kill(one->pid, SIGSTOP), 0);
    one->until_ns = in_ms(random_below(8) ? random_below(20) : random_below(200));
    own->stops++;
}

static void let_go_on(worker *one)
{
    if (one->pid)
        CHECK_EQUAL(kill(one->pid, SIGCONT), 0);
    else
        start_worker(one);
    one->until_ns = 0;
}

/* A worker that exits by itself has found an error, or should never have exited. */
static void expect_no_end(void)
{
    siginfo_t ended = {0};
    if (waitid(P_ALL, 0, &ended, WEXITED | WNOHANG | WNOWAIT) == -1)
        CHECK_EQUAL(errno, ECHILD); /* all workers are dead at this moment */
    CHECK_EQUAL(ended.si_pid, 0);
}

static uint64_t progress(void)
{
    uint64_t sum = atomic_load(&shared->takes);
    for (int lane = 0; lane < MOST; lane++)
        sum += atomic_load(&shared->reported[lane]);
    return sum;
}

static void kill_at_random(control *own, uint64_t kills)
{
    uint64_t before = 0;
    int64_t moved_ns = rf_now_ns();
    while (own->kills < kills) {
        for (int64_t until = rf_now_ns() + random_below(6000000); rf_now_ns() < until; rest())
            check_leftovers(own);
        int64_t now = rf_now_ns();
        for (uint32_t i = 0; i < own->count; i++)
            if (own->workers[i].until_ns && now >= own->workers[i].until_ns)
                let_go_on(&own->workers[i]);
        expect_no_end();
        worker *one = &own->workers[random_below(own->count)];
        if (one->pid && (random_below(3) || one->until_ns))
            kill_worker(own, one); /* even if the worker is stopped */
        else if (one->pid)
            stop_worker(own, one);
        if (progress() != before) {
            before = progress();
            moved_ns = now;
        }
        CHECK(now - moved_ns < HANG_SECONDS * 1000 * NS_PER_MS);
    }
}

/* Let all workers finish, and take the rows that a dead taker may have left. */
static void drain_and_join(control *own)
{
    alarm(WATCHDOG_SECONDS); /* a worker that waits forever shows here */
    atomic_store(&shared->stop, 1);
    rf_producing_end(own->ring, own->block);
    for (uint32_t i = 0; i < own->count; i++)
        let_go_on(&own->workers[i]);
    for (uint32_t i = 0; i < own->count; i++)
        if (own->workers[i].produces)
            expect_success(own->workers[i].pid);
    for (uint32_t i = 0; i < own->count; i++)
        if (!own->workers[i].produces)
            expect_success(own->workers[i].pid);
    CHECK(rf_ring_is_finished(own->ring) && !rf_ring_has_failed(own->ring));
    rf_recover(own->ring);
    CHECK_EQUAL(rf_ring_open_blocks(own->ring), 0);
    static taker last;
    memset(&last, 0, sizeof last);
    batch rest_of_it;
    while (take_until(own->ring, MAX_ROWS, 1, 0, &rest_of_it.lease) == RF_OK) {
        check_batch(&last, &rest_of_it);
        release(&rest_of_it);
    }
    expect_all_free(own->ring);
    alarm(0);
}

/* ---- The ledger ----------------------------------------------------------------------------- */

typedef struct sums {
    uint64_t kills, stops, records, batches, lost, redelivered, reclaimed;
    uint64_t doubled, torn, disordered, stalled, long_waits, again;
    uint64_t given_back[BUCKETS];
    int64_t longest_ns;
} sums;

/* Count the records that were reported or seen and never came. */
static void count_records(sums *sum)
{
    for (uint32_t lane = 0; lane < MOST; lane++) {
        uint64_t reported = atomic_load(&shared->reported[lane]);
        for (uint64_t number = 0; number < reported; number++) {
            sum->records += is_marked(marks, lane, number);
            sum->lost += !is_marked(marks, lane, number);
        }
    }
    for (size_t i = 0; i < gap_count; i++)
        for (uint32_t row = 0; row < MAX_ROWS; row++)
            if (!is_marked(marks, gaps[i].lane, gaps[i].from + row))
                sum->lost -= !(gaps[i].seen >> row & 1);
}

static void add_up(sums *sum, const control *own)
{
    rf_stats stats;
    rf_ring_stats(own->ring, &stats);
    CHECK_EQUAL(stats.participants, 1);
    count_records(sum);
    sum->kills += own->kills;
    sum->stops += own->stops;
    for (int i = 0; i < BUCKETS; i++)
        sum->given_back[i] += own->given_back[i];
    sum->batches += atomic_load(&shared->takes);
    sum->redelivered += stats.counts.redelivered;
    sum->reclaimed += stats.counts.reclaimed;
    sum->doubled += atomic_load(&shared->doubled);
    sum->torn += atomic_load(&shared->torn);
    sum->disordered += atomic_load(&shared->disordered);
    sum->stalled += atomic_load(&shared->stalled);
    sum->long_waits += atomic_load(&shared->long_waits);
    sum->again += atomic_load(&shared->again);
    if (atomic_load(&shared->longest_ns) > sum->longest_ns)
        sum->longest_ns = atomic_load(&shared->longest_ns);
}

/* Maps far more memory than the test touches. */
static void *map_bits(size_t bytes)
{
    void *bits = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(bits != MAP_FAILED);
    return bits;
}

static void play_phase(uint32_t phase, uint64_t kills, sums *sum)
{
    static control own;
    size_t mark_bytes = MOST * NUMBERS_PER_LANE / 8;
    memset(&own, 0, sizeof own);
    memset(shared, 0, sizeof *shared);
    gap_count = 0;
    marks = map_bits(mark_bytes);
    released = map_bits(mark_bytes);
    rf_options options = options_for(8u << random_below(6));
    own.ring = create_ring_as(&options, sizeof(payload));
    CHECK(rf_ring_geometry(own.ring)->slots <= MAX_SLOTS);
    CHECK_EQUAL(rf_producing_begin(own.ring, 0, &own.block), RF_OK);
    uint32_t producers = 2 + random_below(3), takers = 2 + random_below(3);
    own.count = producers + takers;
    for (uint32_t i = 0; i < own.count; i++) {
        own.workers[i] = (worker){.produces = i < producers, .index = i};
        start_worker(&own.workers[i]);
    }
    kill_at_random(&own, kills);
    drain_and_join(&own);
    uint64_t records = sum->records;
    add_up(sum, &own);
    printf(
        "    phase %u: %u producers, %u takers, %u slots: %llu kills, %llu stops, %llu records\n",
        phase + 1, producers, takers, own.ring->slot_count, (unsigned long long)own.kills,
        (unsigned long long)own.stops, (unsigned long long)(sum->records - records));
    fflush(stdout);
    close_ring(own.ring);
    shm_unlink(segment_name(0));
    munmap(marks, mark_bytes);
    munmap(released, mark_bytes);
}

/* Of the killed workers that held slots, the given part had them recovered within this many milliseconds. */
static uint64_t given_back_ms(const sums *sum, double part)
{
    uint64_t all = 0, so_far = 0, bucket = 0;
    for (int i = 0; i < BUCKETS; i++)
        all += sum->given_back[i];
    while (bucket < BUCKETS - 1 && (double)(so_far += sum->given_back[bucket]) < part * (double)all)
        bucket++;
    return bucket;
}

static void show(const sums *sum, double seconds)
{
    const struct {
        const char *what;
        uint64_t count;
    } rows[] = {
        {"kills", sum->kills},
        {"stops", sum->stops},
        {"records taken", sum->records},
        {"batches", sum->batches},
        {"rows given back by recovery", sum->redelivered},
        {"rows taken again", sum->again},
        {"claims and kept slots given back", sum->reclaimed},
        {"given back after ms, half of the dead", given_back_ms(sum, 0.5)},
        {"99 of 100", given_back_ms(sum, 0.99)},
        {"all, even if no process waited", given_back_ms(sum, 1)},
        {"waits over 100 ms without work", sum->long_waits},
        {"longest wait, ms", (uint64_t)(sum->longest_ns / NS_PER_MS)},
        {"lost", sum->lost},
        {"doubled", sum->doubled},
        {"torn", sum->torn},
        {"out of order", sum->disordered},
        {"stalled despite work", sum->stalled},
    };
    for (size_t i = 0; i < COUNT(rows); i++)
        printf("    %-38s %12llu\n", rows[i].what, (unsigned long long)rows[i].count);
    printf("    %.0f s, %.0f kills/s, %.0f records/s\n", seconds, (double)sum->kills / seconds,
           (double)sum->records / seconds);
    fflush(stdout);
}

static void chaos(void)
{
    sums sum = {0};
    int64_t began = rf_now_ns();
    alarm(0); /* kill_at_random() itself notices a lack of progress */
    shared = shared_memory(sizeof *shared);
    gaps = calloc(MOST_KILLS, sizeof *gaps);
    CHECK(gaps);
    seed(first_seed);
    for (uint32_t phase = 0; phase < PHASES; phase++)
        play_phase(phase, (total_kills + PHASES - 1) / PHASES, &sum);
    show(&sum, (double)(rf_now_ns() - began) / 1e9);
    CHECK_EQUAL(sum.lost, 0);
    CHECK_EQUAL(sum.doubled, 0);
    CHECK_EQUAL(sum.torn, 0);
    CHECK_EQUAL(sum.disordered, 0);
    CHECK_EQUAL(sum.stalled, 0);
}

static const test tests[] = {
    {"nothing is lost, doubled, torn, out of order or stalled by kills and stops", chaos},
};

int main(int argc, char **argv)
{
    if (argc > 1)
        total_kills = (uint64_t)atof(argv[1]);
    if (argc > 2)
        first_seed = (uint64_t)atof(argv[2]);
    return run_tests(1, argv, tests, COUNT(tests));
}
