/*
 * Takers fail over records, are killed over them, give them back and split their batches. Some takers wait for
 * several rows, others take one. Producers publish claims crosswise, discard some, and are killed in between. The
 * first argument is the number of kills.
 *
 *     chaos_failures 10000 [seed]
 *
 * Each published record is released once, or becomes a dead letter once. The test compares each delivery with the
 * ledger: how often the record came, how many takers failed over it, whether it comes alone, and whether it is a
 * dead letter.
 *
 * A victim is stopped before it is killed. The rows that the slot words show as taken die with it, and the
 * controller enters in the ledger how many takers have failed over them. A victim inside a call may have failed over
 * one more row or not. The next delivery decides.
 *
 * Out of order. A record has the counts that its producer's threads had published before it was claimed. The taker
 * that holds the record inspects the slot words: none of these earlier records may still be READY and undelivered.
 * The check does not use links, because they may be wrong.
 *
 * Stalled: as in chaos_workers.h. Slots of a dead process may stay for LATE_CHECKS slices, because the process that
 * recovers them may be killed, too.
 *
 * An expected kind of event that never happened fails the run.
 */
#include "chaos_crossing.h"

enum { PHASES = 10, HANG_SECONDS = 10 };

/* ---- The controller ------------------------------------------------------------------------- */

static pid_t workers[WORKERS];
static uint64_t total_kills = 200, first_seed = 1;

static void start_worker(uint32_t index)
{
    atomic_store(&shared->owner[index], 0);
    atomic_store(&shared->taking[index], 0);
    atomic_store(&shared->stopped[index], 0);
    workers[index] =
        spawn(index < PRODUCERS ? producer_process : taker_process, (void *)(uintptr_t)index);
}

/* The record's taker is stopped, and will not continue. */
static void note_death_over(const payload *record, bool taking)
{
    entry *its = entry_of(record);
    if (!its)
        return;
    mark known = atomic_load(&its->mark);
    bool in_hand = known.fate == IN_HAND, unseen = known.fate == UNSEEN;
    if (taking && !in_hand && !unseen && !may_come(known))
        note(&shared->doubled);
    known.fewest += in_hand;
    known.most += !unseen && (known.fate != FAILED_OVER || taking);
    known.uncertain += taking && !in_hand && !unseen;
    known.fate = AVAILABLE;
    atomic_store(&its->mark, known);
    note(in_hand ? &shared->killed_over : unseen ? &shared->killed_unseen : &shared->killed_taking);
}

/* A record that a stopped producer has published is still in the ring, or already gone. */
static void note_published(const rf_ring *ring, uint32_t index, uint32_t slot, uint64_t word)
{
    payload record = *record_in(ring, slot);
    uint64_t producer = index + PRODUCERS * (uint64_t)atomic_load(&shared->generation[index]);
    if (rf_word_epoch(word_of(ring, slot)) != rf_word_epoch(word))
        return;
    entry *its = entry_of(&record);
    if (its && record.producer == producer)
        atomic_store(&its->published, 1);
}

static void note_held_slots(const rf_ring *ring, uint32_t index)
{
    uint32_t owner = atomic_load(&shared->owner[index]);
    for (uint32_t slot = 0; slot < ring->slot_count; slot++) {
        uint64_t word = word_of(ring, slot);
        rf_state state = rf_word_state(word);
        bool its_own = owner && rf_word_owner(word) == owner;
        if (state == RF_STATE_CLAIMED && its_own)
            note(&shared->killed_claims);
        else if (state == RF_STATE_TAKEN && its_own)
            note_death_over(record_in(ring, slot), atomic_load(&shared->taking[index]));
        else if (index < PRODUCERS && (state == RF_STATE_READY || state == RF_STATE_TAKEN))
            note_published(ring, index, slot, word);
    }
}

static void kill_worker(rf_ring *ring, uint32_t index)
{
    stop_and_wait(workers[index]);
    note_held_slots(ring, index);
    kill_and_reap(workers[index]);
    for (uint32_t thread = 0; index < PRODUCERS && thread < THREADS; thread++)
        atomic_fetch_add(&shared->reported[index * THREADS + thread], MAX_ROWS);
    if (index < PRODUCERS)
        atomic_fetch_add(&shared->generation[index], 1);
    if (random_below(2))
        rf_recover(ring); /* otherwise survivors recover */
    start_worker(index);
}

/* Prefer a taker that is stopped over a record. */
static uint32_t choose_victim(void)
{
    uint32_t index = PRODUCERS + random_below(TAKERS);
    if (!atomic_load(&shared->stopped[index]))
        index = random_below(WORKERS);
    return index == LETTER_READER ? LETTER_READER + 1 : index;
}

/* ---- The ledger ----------------------------------------------------------------------------- */

static shared_state all; /* the sum of all phases */

/* Dead letters that were only counted are not lost. A taker that is killed after a release has not counted it. */
static void add_up(rf_ring *ring)
{
    rf_stats stats;
    uint64_t lost = 0, unsaid = atomic_load(&shared->unsaid);
    for (uint64_t lane = 0; lane < LANES; lane++)
        for (uint64_t number = 0; number < atomic_load(&shared->reported[lane]); number++) {
            entry *its = &entries[lane * NUMBERS_PER_LANE + number];
            mark known = atomic_load(&its->mark);
            if (known.fate == RELEASED || known.fate == SET_ASIDE)
                note(known.fate == SET_ASIDE ? &shared->set_aside : &shared->released);
            else
                lost += known.deliveries || atomic_load(&its->published);
        }
    rf_ring_stats(ring, &stats);
    atomic_store(&shared->lost, lost - (lost < unsaid ? lost : unsaid));
    atomic_store(&shared->overcounted,
                 stats.counts.released > atomic_load(&shared->released) ||
                     stats.counts.dead_letters > atomic_load(&shared->set_aside) + unsaid ||
                     stats.counts.dropped > 0);
    _Atomic uint64_t *from = &shared->takes, *into = &all.takes;
    while (into <= &all.overcounted)
        *into++ += *from++;
}

/* Returns how many counts break their rule. */
static uint32_t show_ledger(void)
{
    const struct {
        const char *what;
        uint64_t count;
        enum { PLAIN, MUST, MUST_NOT } rule;
    } rows[] = {
        {"batches", all.takes, PLAIN},
        {"records released", all.released, MUST},
        {"dead letters", all.set_aside, MUST},
        {"rows killed over", all.killed_over, MUST},
        {"rows killed over, not shown yet", all.killed_unseen, PLAIN},
        {"rows killed over in a call", all.killed_taking, PLAIN},
        {"slots in killed producers' claims", all.killed_claims, MUST},
        {"batches failed over", all.failed_over, MUST},
        {"batches given back", all.given_back, MUST},
        {"batches split", all.split, MUST},
        {"came alone behind a failure", all.alone, MUST},
        {"came together, as requested", all.together, MUST},
        {"batches as long as requested", all.patient, MUST},
        {"dead letters handed out", all.letters, MUST},
        {"dead letters given back", all.letters_given_back, MUST},
        {"dead letters set aside, and noted", all.letters_read, MUST},
        {"claims published crosswise", all.crossed, MUST},
        {"claims discarded meanwhile", all.discarded, MUST},
        {"compared with undelivered records", all.compared, MUST},
        {"compared with records READY again", all.ready_again, MUST},
        {"lost", all.lost, MUST_NOT},
        {"doubled, or never published", all.doubled, MUST_NOT},
        {"torn", all.torn, MUST_NOT},
        {"out of order", all.disordered, MUST_NOT},
        {"deliveries, failures miscounted", all.miscounted, MUST_NOT},
        {"failed over, but not alone", all.not_alone, MUST_NOT},
        {"dead letters misjudged", all.misjudged, MUST_NOT},
        {"kept, although it was dropped", all.kept, MUST_NOT},
        {"stalled despite work", all.stalled, MUST_NOT},
        {"phases with odd statistics", all.overcounted, MUST_NOT},
    };
    uint32_t wrong = 0;
    for (size_t i = 0; i < COUNT(rows); i++) {
        bool bad = rows[i].rule != PLAIN && (rows[i].count != 0) != (rows[i].rule == MUST);
        printf("    %-38s %12llu%s\n", rows[i].what, (unsigned long long)rows[i].count,
               bad ? "   <--" : "");
        wrong += bad;
    }
    fflush(stdout);
    return wrong;
}

/* ---- Phases --------------------------------------------------------------------------------- */

/* If there is no progress, show the ledger, which helps to find the cause. */
static void expect_progress(rf_ring *ring, int64_t since_ns)
{
    if (rf_now_ns() - since_ns < HANG_SECONDS * 1000 * NS_PER_MS)
        return;
    add_up(ring);
    show_ledger();
    CHECK(!"there is progress");
}

/* A worker that exits by itself has found an error. */
static void kill_at_random(rf_ring *ring, uint64_t kills)
{
    uint64_t takes = 0;
    int64_t moved_ns = rf_now_ns();
    siginfo_t ended = {0};
    for (uint64_t killed = 0; killed < kills; killed++) {
        nanosleep(&(struct timespec){.tv_nsec = random_below(2000000)}, NULL);
        CHECK_EQUAL(waitid(P_ALL, 0, &ended, WEXITED | WNOHANG | WNOWAIT), 0);
        CHECK_EQUAL(ended.si_pid, 0);
        kill_worker(ring, choose_victim());
        if (atomic_load(&shared->takes) != takes)
            moved_ns = rf_now_ns();
        takes = atomic_load(&shared->takes);
        expect_progress(ring, moved_ns);
    }
}

/* Producers end, then takers. Then the parent takes the rows that they left. */
static void drain_and_join(rf_ring *ring)
{
    taker own = {.index = LETTER_READER + 2, .ring = ring};
    int64_t since_ns = rf_now_ns();
    atomic_store(&shared->stop, 1);
    for (uint32_t index = 0; index < WORKERS; index++) {
        int status;
        if (index == PRODUCERS)
            rf_finish(ring);
        for (; waitpid(workers[index], &status, WNOHANG) == 0; rest())
            expect_progress(ring, since_ns);
        CHECK_EQUAL(status, 0);
    }
    rf_recover(ring);
    while (rf_ring_ready(ring))
        take_all(&own);
}

static void play_phase(uint32_t phase, uint64_t kills)
{
    size_t bytes =
        LANES * NUMBERS_PER_LANE * sizeof *entries; /* far more memory than the test touches */
    memset(shared, 0, sizeof *shared);
    entries = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    CHECK(entries != MAP_FAILED);
    rf_options options = options_for(8u << random_below(4));
    options.max_deliveries = limit = 1 + phase % 3;
    rf_ring *ring = create_ring_as(&options, sizeof(payload));
    CHECK(rf_ring_geometry(ring)->slots <= MAX_SLOTS);
    for (uint32_t index = 0; index < WORKERS; index++)
        start_worker(index);
    kill_at_random(ring, kills);
    drain_and_join(ring);
    add_up(ring);
    if (atomic_load(&shared->kept) == 0)
        expect_all_free(ring);
    close_ring(ring);
    shm_unlink(segment_name(0));
    munmap(entries, bytes);
}

static void chaos(void)
{
    int64_t began = rf_now_ns();
    alarm(0); /* kill_at_random() itself notices a lack of progress */
    shared = shared_memory(sizeof *shared);
    seed(first_seed);
    for (uint32_t phase = 0; phase < PHASES; phase++)
        play_phase(phase, (total_kills + PHASES - 1) / PHASES);
    printf("    %.1f s\n", (double)(rf_now_ns() - began) / 1e9);
    CHECK_EQUAL(show_ledger(), 0);
}

static const test tests[] = {
    {"only records that takers fail over are set aside; claims that cross keep their order", chaos},
};

int main(int argc, char **argv)
{
    if (argc > 1)
        total_kills = (uint64_t)atof(argv[1]);
    if (argc > 2)
        first_seed = (uint64_t)atof(argv[2]);
    return run_tests(1, argv, tests, COUNT(tests));
}
