/*
 * The takers of chaos_failures.c, which fail, give back and split batches, and check each delivery against a ledger.
 *
 * The ledger has an entry for each record. The process that holds a record writes there what it will do with the
 * record, before it does it. For a taker that is stopped and then killed, the controller writes the entry.
 */
#ifndef RF_CHAOS_FAILING_H
#define RF_CHAOS_FAILING_H

#include "records.h"

enum { PRODUCERS = 3, THREADS = 2, LANES = PRODUCERS * THREADS, TAKERS = 4 };
enum { WORKERS = PRODUCERS + TAKERS, MAX_ROWS = 6, MAX_SLOTS = 64, HELD = 2, LATE_CHECKS = 5 };
/* The first taker: it is never killed, and reads the notes of dead letters. */
enum { LETTER_READER = PRODUCERS };
#define NUMBERS_PER_LANE (UINT64_C(1) << 22)

/* The last entry about a record. BETWEEN: a death now may count as a failure, or not. */
typedef enum fate { AVAILABLE, IN_HAND, UNSEEN, BETWEEN, FAILED_OVER, RELEASED, SET_ASIDE } fate;

typedef struct mark {
    uint8_t fate;
    uint8_t fewest, most; /* takers that have failed over it */
    uint8_t uncertain;    /* deaths inside a take, which may have been deliveries */
    uint32_t deliveries;
} mark;

typedef struct entry {
    _Atomic mark mark; /* changed in one store, because its writer may be killed */
    _Atomic uint32_t published, discarded;
} entry;

static entry *entries; /* by tag */

typedef struct shared_state {
    _Atomic uint64_t
        reported[LANES]; /* of each thread: numbers below it are published, or skipped */
    _Atomic uint32_t generation[PRODUCERS], stop;
    _Atomic uint32_t owner[WORKERS]; /* the worker's participant number */
    _Atomic uint32_t taking[WORKERS], stopped[WORKERS];
    _Atomic uint64_t takes, unsaid;
    /* Counts of what happened, and of what must not happen. */
    _Atomic uint64_t killed_over, killed_unseen, killed_taking, killed_claims;
    _Atomic uint64_t failed_over, given_back, split, alone, together, patient;
    _Atomic uint64_t letters, letters_given_back, letters_read;
    _Atomic uint64_t crossed, discarded, compared, ready_again;
    _Atomic uint64_t released, set_aside;
    _Atomic uint64_t lost, doubled, torn, disordered, miscounted, not_alone, misjudged;
    _Atomic uint64_t kept, stalled, overcounted;
} shared_state;

static shared_state *shared;
static uint32_t limit; /* rf_options.max_deliveries of the ring */

static void note(_Atomic uint64_t *count)
{
    atomic_fetch_add(count, 1);
}

/* Cursors are hints, so any value must be correct. */
static void garble_cursor(const rf_ring *ring, _Atomic uint32_t *cursor)
{
    if (random_below(16) == 0)
        atomic_store(cursor, random_below(ring->slot_count));
}

static void rest_at_times(void)
{
    if (random_below(16) == 0)
        rest();
}

/* ---- Records -------------------------------------------------------------------------------- */

/* `producer` is a process + PRODUCERS * its generation. `filling` begins with the thread's index. Then comes, for
 * each thread, the count that it had reported when the record was claimed. */
static uint64_t tag_of(const payload *record)
{
    return (record->producer % PRODUCERS * THREADS + record->filling[0]) * NUMBERS_PER_LANE +
           record->number;
}

/* NULL: the record is torn. */
static entry *entry_of(const payload *record)
{
    if (record->checksum == checksum_of(record) && record->filling[0] < THREADS &&
        record->number < NUMBERS_PER_LANE)
        return &entries[tag_of(record)];
    note(&shared->torn);
    return NULL;
}

static const payload *record_in(const rf_ring *ring, uint32_t slot)
{
    return (payload *)(ring->region[0] + slot * ring->geometry.field[0].stride_bytes);
}

/* ---- Waiting, and checking for work --------------------------------------------------------- */

typedef struct watch {
    uint32_t checks[MAX_SLOTS]; /* how many checks in a row found this slot unchanged, with work */
    uint64_t words[MAX_SLOTS], deliveries[MAX_SLOTS];
} watch;

static bool is_of_the_dead(const rf_ring *ring, uint64_t word)
{
    rf_state state = rf_word_state(word);
    uint32_t owner = rf_word_owner(word);
    if ((state != RF_STATE_CLAIMED && state != RF_STATE_TAKEN) || owner == RF_NO_OWNER)
        return false;
    uint32_t pid = atomic_load(&ring->participants[owner - 1].mark.pid);
    return pid != 0 && kill((pid_t)pid, 0) == -1 && errno == ESRCH;
}

/* Called at the end of a slice of a wait for `least` slots in a state. Enough slots that were in this state one
 * slice ago are a stall. So is one slot of a dead process that stays for LATE_CHECKS slices. */
static void inspect_slots(const rf_ring *ring, watch *own, rf_state wanted, uint32_t least)
{
    uint32_t left = 0, late = 0;
    for (uint32_t slot = 0; slot < ring->slot_count; slot++) {
        uint64_t word = word_of(ring, slot);
        uint64_t deliveries = atomic_load(&ring->uses[slot].deliveries);
        bool work = rf_word_state(word) == wanted, dead = is_of_the_dead(ring, word);
        if (own->words[slot] != word || own->deliveries[slot] != deliveries || !(work || dead))
            own->checks[slot] = 0;
        own->checks[slot] += work || dead;
        left += work && own->checks[slot] == 2;
        late += dead && own->checks[slot] == LATE_CHECKS;
        own->words[slot] = word;
        own->deliveries[slot] = deliveries;
    }
    if (left >= least || late)
        note(&shared->stalled);
}

/* ---- Takers --------------------------------------------------------------------------------- */

typedef struct taker {
    rf_ring *ring;
    uint32_t index;
    rf_lease *held[HELD];
    watch watch;
} taker;

/* Every taker fails over these records. It reports the failure, or stops there until it is killed. */
static bool is_deadly(const payload *record)
{
    return record->number % 512 == 7;
}

static bool is_bad(const payload *record)
{
    return record->number % 64 == 13 || is_deadly(record);
}

/* No record may be READY and undelivered if it was published before one of these records was claimed. */
static void check_order(const rf_ring *ring, const payload *records, uint32_t rows)
{
    for (uint32_t slot = 0; slot < ring->slot_count; slot++) {
        uint64_t word = word_of(ring, slot);
        if (rf_word_state(word) != RF_STATE_READY)
            continue;
        payload left = *record_in(ring, slot);
        uint64_t delivered = atomic_load(&ring->uses[slot].deliveries);
        if (word_of(ring, slot) != word || left.filling[0] >= THREADS)
            continue;
        bool again = rf_deliveries(delivered, rf_word_epoch(word)) != 0;
        for (uint32_t row = 0; row < rows; row++) {
            if (left.producer != records[row].producer)
                continue;
            note(again ? &shared->ready_again : &shared->compared);
            if (!again && left.number < records[row].filling[1 + left.filling[0]])
                note(&shared->disordered);
        }
    }
}

static void check_counts(const rf_lease *lease, const rf_record *about, mark known, bool together)
{
    uint32_t times = known.deliveries + 1, rows = rf_lease_rows(lease);
    bool letter = rf_lease_is_dead_letter(lease);
    if (about->failures < known.fewest || about->failures > known.most ||
        about->deliveries < times || about->deliveries > times + known.uncertain)
        note(&shared->miscounted);
    if (about->failures && rows > 1 && !together)
        note(&shared->not_alone);
    if (letter != (about->failures >= limit) || (letter && rows > 1))
        note(&shared->misjudged);
    if (letter)
        note(&shared->letters);
    else if (about->failures)
        note(rows > 1 ? &shared->together : &shared->alone);
}

static bool may_come(mark known)
{
    return known.fate == AVAILABLE || known.fate == BETWEEN || known.fate == FAILED_OVER;
}

static void check_batch(const rf_lease *lease, const rf_take_request *request)
{
    rf_record about[MAX_ROWS];
    const payload *records = rf_lease_data(lease, 0);
    uint32_t rows = rf_lease_rows(lease);
    rf_lease_records(lease, about);
    for (uint32_t row = 0; row < rows; row++) {
        entry *its = entry_of(&records[row]);
        if (!its)
            continue;
        mark known = atomic_load(&its->mark);
        if (about[row].tag != tag_of(&records[row]))
            note(&shared->torn);
        if (atomic_load(&its->discarded) || !may_come(known))
            note(&shared->doubled);
        check_counts(lease, &about[row], known, request->min_rows > 1);
        known.fewest = known.most = (uint8_t)about[row].failures;
        known.deliveries++;
        known.fate = request->unseen && rows == 1 && about[row].failures ? UNSEEN : IN_HAND;
        atomic_store(&its->mark, known);
    }
    check_order(lease->ring, records, rows);
    if (request->min_rows > 1 && rows >= request->min_rows)
        note(&shared->patient);
    note(&shared->takes);
}

static mark mark_of(const rf_lease *lease)
{
    entry *its = entry_of(rf_lease_data(lease, 0));
    return its ? atomic_load(&its->mark) : (mark){0};
}

static void note_fate(const rf_lease *lease, fate now)
{
    const payload *records = rf_lease_data(lease, 0);
    for (uint32_t row = 0; row < rf_lease_rows(lease); row++) {
        entry *its = entry_of(&records[row]);
        if (!its)
            continue;
        mark known = atomic_load(&its->mark);
        if (known.fate != IN_HAND && known.fate != UNSEEN && known.fate != BETWEEN)
            note(&shared->torn); /* another record has overwritten it */
        known.fewest += now == FAILED_OVER;
        known.most += now == FAILED_OVER;
        known.fate = (uint8_t)now;
        atomic_store(&its->mark, known);
    }
}

static void show(rf_lease *lease, int shown)
{
    note_fate(lease, BETWEEN);
    rf_lease_show(lease, shown);
    note_fate(lease, shown ? IN_HAND : UNSEEN);
}

/* The ledger already has the fate of these rows. Afterwards no word may still name this taker as the owner. */
static void drop(rf_lease *lease)
{
    const rf_ring *ring = lease->ring;
    uint32_t first = rf_lease_first(lease), rows = rf_lease_rows(lease);
    uint64_t words[MAX_ROWS];
    memcpy(words, lease->words, rows * sizeof words[0]);
    rf_lease_drop(lease);
    for (uint32_t row = 0; row < rows; row++)
        if (word_of(ring, rf_wrap(ring, first + row)) == words[row])
            note(&shared->kept);
}

static void let_go(rf_lease *lease)
{
    bool letter = rf_lease_is_dead_letter(lease), bad = false;
    uint32_t chance = atomic_load(&shared->stop) ? 16 : random_below(16);
    for (uint32_t row = 0; row < rf_lease_rows(lease); row++)
        bad |= is_bad((const payload *)rf_lease_data(lease, 0) + row);
    if (letter ? chance < 8 : chance == 0) {
        note(letter ? &shared->letters_given_back : &shared->given_back);
        note_fate(lease, BETWEEN);
        rf_lease_give_back(lease);
    } else if (!letter && (bad || chance == 1)) {
        if (mark_of(lease).fate == UNSEEN)
            show(lease, 1);
        note(&shared->failed_over);
        note_fate(lease, FAILED_OVER);
        rf_lease_fail(lease);
    } else {
        note_fate(lease, letter ? SET_ASIDE : RELEASED);
    }
    drop(lease);
}

static void part_with(rf_lease **lease)
{
    if (!*lease)
        return;
    uint32_t rows = rf_lease_rows(*lease);
    if (rows > 1 && random_below(4) == 0) {
        rf_lease *behind = rf_lease_split(*lease, 1 + random_below(rows - 1));
        CHECK(behind);
        note(&shared->split);
        let_go(behind);
    }
    let_go(*lease);
    *lease = NULL;
}

static void work_on(const taker *own, rf_lease *lease)
{
    bool deadly = false;
    for (uint32_t row = 0; row < rf_lease_rows(lease); row++)
        deadly |= is_deadly((const payload *)rf_lease_data(lease, 0) + row);
    if (mark_of(lease).fate == UNSEEN && random_below(4)) {
        show(lease, 1);
        if (random_below(4) == 0)
            show(lease, 0);
    }
    if (deadly && own->index != LETTER_READER && !rf_lease_is_dead_letter(lease)) {
        atomic_store(&shared->stopped[own->index], 1);
        while (!atomic_load(&shared->stop))
            rest();
    }
    rest_at_times();
}

static void read_letters(rf_ring *ring)
{
    rf_dead_letter letter;
    while (rf_next_dead_letter(ring, &letter)) {
        CHECK(letter.tag < LANES * NUMBERS_PER_LANE);
        mark known = atomic_load(&entries[letter.tag].mark);
        if (letter.failures < known.fewest || letter.failures > known.most)
            note(&shared->miscounted);
        if (letter.failures < limit)
            note(&shared->misjudged);
        if (!may_come(known))
            note(&shared->doubled);
        known.fate = SET_ASIDE;
        atomic_store(&entries[letter.tag].mark, known);
        note(&shared->letters_read);
        atomic_fetch_add(&shared->unsaid, letter.unsaid);
    }
}

/* False: the ring is finished. While the taker waits, it holds no row for which others may wait. */
static bool take_one(taker *own, rf_lease **lease)
{
    rf_take_request request = {.max_rows = MAX_ROWS,
                               .min_rows = own->index % 2 ? 1 : 2 + random_below(MAX_ROWS - 1),
                               .deadline_ns = RF_FOREVER,
                               .linger_ns = random_below(4) ? 0 : random_below(1000000),
                               .unseen = random_below(2),
                               .dead_letters = own->index != LETTER_READER};
    rf_status status;
    garble_cursor(own->ring, &own->ring->header->take_cursor);
    for (;;) {
        atomic_store(&shared->taking[own->index], 1);
        if ((status = rf_take(own->ring, &request, lease)) == RF_OK)
            check_batch(*lease, &request);
        atomic_store(&shared->taking[own->index], 0);
        read_letters(own->ring);
        if (status != RF_AGAIN)
            break;
        inspect_slots(own->ring, &own->watch, RF_STATE_READY, request.min_rows);
        for (int i = 0; i < HELD; i++)
            part_with(&own->held[i]);
    }
    memset(&own->watch, 0, sizeof own->watch);
    CHECK(status == RF_OK || status == RF_FINISHED);
    return status == RF_OK;
}

static void take_all(taker *own)
{
    for (;;) {
        rf_lease **lease = &own->held[random_below(HELD)];
        part_with(lease);
        if (!take_one(own, lease))
            break;
        work_on(own, *lease);
    }
    for (int i = 0; i < HELD; i++)
        part_with(&own->held[i]);
}

static void taker_process(void *argument)
{
    taker own = {.index = (uint32_t)(uintptr_t)argument, .ring = attach_ring_with_window()};
    atomic_store(&shared->owner[own.index], rf_self(own.ring));
    seed((uint64_t)getpid());
    take_all(&own);
    close_ring(own.ring);
}

#endif
