/*
 * The producers and takers of chaos.c, and the checks by which they detect an error.
 *
 * Stalled. Time alone cannot tell a ring that delays a survivor from a machine that gives the survivor no processor.
 * So each waiting survivor inspects the words itself at the end of each slice of 50 ms. Work for it is a slot in the
 * state that it waits for, or any slot that a dead process owns. A stall is the same word, still with work, at two
 * inspections in a row. The survivor has then waited for 100 ms, and half of this time there was work. The ring's
 * code has run in between and did not get the work. Waits over 100 ms without any work are counted separately. Waits
 * during which the survivor itself was stopped are not counted.
 */
#ifndef RF_CHAOS_WORKERS_H
#define RF_CHAOS_WORKERS_H

#include "closings.h"
#include "records.h"

enum { MOST = 4, MAX_ROWS = 8, HELD = 3, MAX_SLOTS = 256, RECENT = 64 };
#define NUMBERS_PER_LANE (UINT64_C(1) << 28)

/* A producer's successor has the same lane, and an order of its own: producer = lane + MOST * generation. */
typedef struct shared_state {
    _Atomic uint64_t reported[MOST]; /* of each lane: numbers below it are published, or skipped */
    _Atomic uint32_t generation[MOST];
    _Atomic uint32_t stop;
    _Atomic uint32_t stopped[2 * MOST]; /* of each worker: how often it was stopped */
    _Atomic uint64_t takes;
    _Atomic uint64_t doubled, torn, disordered, stalled, long_waits, again;
    _Atomic int64_t longest_ns;
} shared_state;

static shared_state *shared;
/* A bit per number of each lane. `marks`: the record was taken. `released`: it was released, so it cannot come
 * again. */
static _Atomic uint64_t *marks, *released;

/* ---- Waiting, and checking for work --------------------------------------------------------- */

typedef struct watch {
    rf_ring *ring;
    bool produces;
    uint32_t worker;
    uint32_t checks[MAX_SLOTS]; /* how many inspections in a row found this work */
    uint64_t words[MAX_SLOTS];  /* the words that were work for this worker */
} watch;

static bool is_dead(const rf_ring *ring, uint32_t owner)
{
    if (owner == 0 || owner > ring->geometry.participants)
        return false;
    uint32_t pid = atomic_load(&ring->participants[owner - 1].mark.pid);
    return pid != 0 && kill((pid_t)pid, 0) == -1 && errno == ESRCH;
}

static bool is_work(const watch *own, uint64_t word)
{
    rf_state state = rf_word_state(word);
    if (state == (own->produces ? RF_STATE_FREE : RF_STATE_READY))
        return true;
    if (state ==
        RF_STATE_READY) /* a READY slot has no owner: its word has the number of failures there */
        return false;
    return rf_word_owner(word) && is_dead(own->ring, rf_word_owner(word));
}

/* Called at the end of each slice of a wait. */
static void inspect_slots(watch *own)
{
    bool stalled = false;
    for (uint32_t slot = 0; slot < own->ring->slot_count; slot++) {
        uint64_t word = word_of(own->ring, slot);
        if (!is_work(own, word))
            own->checks[slot] = 0;
        else if (own->checks[slot] && own->words[slot] == word)
            stalled |= ++own->checks[slot] == 2;
        else
            own->checks[slot] = 1;
        own->words[slot] = word;
    }
    if (stalled)
        atomic_fetch_add(&shared->stalled, 1);
}

typedef struct wait_start {
    int64_t since_ns;
    uint32_t stopped;
} wait_start;

static wait_start begin_wait(const watch *own)
{
    return (wait_start){rf_now_ns(), atomic_load(&shared->stopped[own->worker])};
}

static void end_wait(watch *own, wait_start start)
{
    int64_t took = rf_now_ns() - start.since_ns, longest = atomic_load(&shared->longest_ns);
    memset(own->checks, 0, sizeof own->checks);
    if (atomic_load(&shared->stopped[own->worker]) != start.stopped)
        return; /* this worker itself was stopped */
    if (took > 100 * NS_PER_MS)
        atomic_fetch_add(&shared->long_waits, 1);
    while (took > longest && !atomic_compare_exchange_weak(&shared->longest_ns, &longest, took))
        ;
}

/* ---- Producers ------------------------------------------------------------------------------ */

static void put_one(watch *own, uint64_t producer, uint64_t number)
{
    payload record;
    const void *sources[1] = {&record};
    wait_start start = begin_wait(own);
    rf_status status;
    fill(&record, producer, number);
    while ((status = rf_put(own->ring, sources, number, RF_FOREVER)) == RF_AGAIN)
        inspect_slots(own);
    end_wait(own, start);
    CHECK_EQUAL(status, RF_OK);
}

/* Publish or discard some rows, and sometimes keep them for a while. Returns the number of published rows. */
static uint32_t put_rows(watch *own, uint64_t producer, uint64_t number, rf_lease **kept)
{
    rf_lease *lease;
    uint64_t tags[MAX_ROWS];
    wait_start start = begin_wait(own);
    rf_status status;
    uint32_t wanted = 1 + random_below(MAX_ROWS);
    while ((status = rf_claim(own->ring, wanted, RF_FOREVER, &lease)) == RF_AGAIN)
        inspect_slots(own);
    end_wait(own, start);
    CHECK_EQUAL(status, RF_OK);
    uint32_t rows = random_below(rf_lease_rows(lease) + 1);
    payload *records = rf_lease_data(lease, 0);
    for (uint32_t row = 0; row < rows; row++) {
        fill(&records[row], producer, number + row);
        close_something(own->ring);
        tags[row] = number + row;
    }
    bool keep = !*kept && random_below(8) == 0;
    CHECK_EQUAL(rf_publish(lease, rows, tags, keep),
                RF_OK); /* a stopped producer finds its slots again */
    if (keep)
        *kept = lease;
    else
        rf_lease_drop(lease);
    return rows;
}

/* Enter as a producer. Another block stays open until the end, so the ring is open. False: the ring is finished. */
static bool enter(watch *own, rf_block *block)
{
    rf_status status = rf_producing_begin(own->ring, 0, block);
    if (status == RF_FINISHED)
        CHECK(atomic_load(&shared->stop));
    else
        CHECK_EQUAL(status, RF_OK);
    return status == RF_OK;
}

static inline void producer_process(void *argument)
{
    uint32_t lane = (uint32_t)(uintptr_t)argument;
    watch own = {.ring = attach_ring_with_window(), .produces = true, .worker = lane};
    uint64_t number = atomic_load(&shared->reported[lane]);
    uint64_t producer = lane + MOST * (uint64_t)atomic_load(&shared->generation[lane]);
    rf_lease *kept = NULL;
    rf_block block;
    seed(producer * 7919 + number);
    bool inside = enter(&own, &block);
    while (!atomic_load(&shared->stop)) {
        if (random_below(32) == 0) { /* leave, and enter again */
            rf_producing_end(own.ring, block);
            if (!(inside = enter(&own, &block)))
                break;
        }
        CHECK(number + MAX_ROWS < NUMBERS_PER_LANE);
        if (random_below(2))
            put_one(&own, producer, number++);
        else
            number += put_rows(&own, producer, number, &kept);
        atomic_store(&shared->reported[lane], number);
        if (kept && random_below(4) == 0) {
            rf_lease_drop(kept);
            kept = NULL;
        }
    }
    if (inside)
        rf_producing_end(own.ring, block);
    if (kept)
        rf_lease_drop(kept);
    close_ring(own.ring);
}

/* ---- Takers --------------------------------------------------------------------------------- */

typedef struct batch {
    rf_lease *lease;
    payload rows[4 * MAX_ROWS]; /* the rows when they were taken */
} batch;

typedef struct taker {
    watch watch;
    batch held[HELD];
    struct {
        uint64_t producer, number;
    } last[MOST][RECENT];
} taker;

static bool is_marked(_Atomic uint64_t *bits, uint64_t lane, uint64_t number)
{
    return atomic_load(&bits[(lane * NUMBERS_PER_LANE + number) / 64]) >> number % 64 & 1;
}

/* True the first time. */
static bool mark(_Atomic uint64_t *bits, uint64_t lane, uint64_t number)
{
    uint64_t bit = UINT64_C(1) << number % 64;
    return !(atomic_fetch_or(&bits[(lane * NUMBERS_PER_LANE + number) / 64], bit) & bit);
}

static void check_row(taker *own, const payload *record, const rf_record *about)
{
    uint64_t lane = record->producer % MOST, recent = record->producer / MOST % RECENT;
    if (record->checksum != checksum_of(record) || about->tag != record->number ||
        record->number >= NUMBERS_PER_LANE) {
        atomic_fetch_add(&shared->torn, 1);
        return;
    }
    if (about->deliveries > 1)
        atomic_fetch_add(&shared->again, 1);
    bool first = mark(marks, lane, record->number);
    if ((!first && about->deliveries <= 1) || is_marked(released, lane, record->number))
        atomic_fetch_add(&shared->doubled, 1);
    if (about->deliveries > 1)
        return; /* a redelivered record may come late */
    if (own->last[lane][recent].producer == record->producer &&
        own->last[lane][recent].number > record->number + 1)
        atomic_fetch_add(&shared->disordered, 1);
    own->last[lane][recent].producer = record->producer;
    own->last[lane][recent].number = record->number + 1;
}

static void check_batch(taker *own, batch *now)
{
    rf_record about[4 * MAX_ROWS];
    const payload *rows = rf_lease_data(now->lease, 0);
    rf_lease_records(now->lease, about);
    for (uint32_t row = 0; row < rf_lease_rows(now->lease); row++) {
        check_row(own, &rows[row], &about[row]);
        now->rows[row] = rows[row];
    }
    atomic_fetch_add(&shared->takes, 1);
}

static void release(batch *now)
{
    uint32_t count = rf_lease_rows(now->lease);
    if (memcmp(rf_lease_data(now->lease, 0), now->rows, count * sizeof now->rows[0]) != 0)
        atomic_fetch_add(&shared->torn, 1); /* another process wrote into it while we held it */
    rf_lease_drop(now->lease);
    now->lease = NULL;
    /* Marked only after the release: if a taker dies before its release, its rows come again. */
    for (uint32_t row = 0; row < count; row++)
        if (now->rows[row].number < NUMBERS_PER_LANE)
            mark(released, now->rows[row].producer % MOST, now->rows[row].number);
}

static void taker_process(void *worker)
{
    static taker own;
    own.watch.worker = (uint32_t)(uintptr_t)worker;
    own.watch.ring = attach_ring_with_window();
    seed((uint64_t)getpid());
    for (;;) {
        batch *now = &own.held[random_below(HELD)];
        if (now->lease)
            release(now);
        rf_take_request request = {.max_rows = 1 + random_below(4 * MAX_ROWS),
                                   .min_rows = 1,
                                   .deadline_ns = RF_FOREVER,
                                   .linger_ns = random_below(8) ? 0 : random_below(200000)};
        wait_start start = begin_wait(&own.watch);
        rf_status status;
        if (request.max_rows > own.watch.ring->slot_count)
            request.max_rows = own.watch.ring->slot_count;
        while ((status = rf_take(own.watch.ring, &request, &now->lease)) == RF_AGAIN)
            inspect_slots(&own.watch);
        end_wait(&own.watch, start);
        if (status == RF_FINISHED)
            break;
        CHECK_EQUAL(status, RF_OK);
        check_batch(&own, now);
        close_something(own.watch.ring);
    }
    for (int i = 0; i < HELD; i++)
        if (own.held[i].lease)
            release(&own.held[i]);
    close_ring(own.watch.ring);
}

#endif
