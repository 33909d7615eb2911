/*
 * Leases: the run of slots that a producer or a taker holds, and how it goes back.
 *
 * A lease lives as long as anything refers to it, be it a view in another thread; with the last
 * reference its slots are given back, without a lock and without Python. The protocol's outline
 * stands in ring.c.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "segment/handle.h"

/* ---- What a lease is ------------------------------------------------------------------------ */

/* Each thread keeps the memory of one lease that it freed: the next is mostly of the same size, and costs no malloc. */
enum { ROOM_WORTH_KEEPING = 256 };
typedef enum keeping { NOT_YET, KEEPING, THREAD_ENDS } keeping;
static _Thread_local rf_lease *spare;
static _Thread_local keeping keeps;
static pthread_key_t end_of_thread;
static pthread_once_t watch_threads = PTHREAD_ONCE_INIT;
static bool are_watched;

static void free_spare(void *unused)
{
    (void)unused;
    keeps = THREAD_ENDS;
    free(spare);
    spare = NULL;
}

static void watch_ends(void)
{
    are_watched = pthread_key_create(&end_of_thread, free_spare) == 0;
}

static bool keeps_spares(void)
{
    if (keeps == NOT_YET) {
        pthread_once(&watch_threads, watch_ends);
        bool watched = are_watched && pthread_setspecific(end_of_thread, &keeps) == 0;
        keeps = watched ? KEEPING : THREAD_ENDS;
    }
    return keeps == KEEPING;
}

static rf_lease *memory_for(uint32_t rows)
{
    rf_lease *lease = spare;
    if (lease && lease->room >= rows) {
        spare = NULL;
        return lease;
    }
    lease = malloc(sizeof *lease + rows * sizeof lease->words[0]);
    if (lease)
        lease->room = rows;
    return lease;
}

rf_lease *rf_new_lease(rf_ring *ring, uint32_t rows)
{
    rf_lease *lease = memory_for(rows);
    if (!lease)
        return NULL;
    *lease = (rf_lease){
        .ring = ring, .generation = rf_load_relaxed(&ring->generation), .room = lease->room};
    atomic_init(&lease->references, 1);
    rf_ring_retain(ring);
    return lease;
}

void rf_free_lease(rf_lease *lease)
{
    rf_ring *ring = lease->ring;
    if (!spare && lease->room <= ROOM_WORTH_KEEPING && keeps_spares())
        spare = lease;
    else
        free(lease);
    rf_ring_unref(ring);
}

void rf_lease_retain(rf_lease *lease)
{
    rf_add_relaxed(&lease->references, 1u);
}

void rf_lease_give_back(rf_lease *lease)
{
    lease->unseen = true;
}

void rf_lease_fail(rf_lease *lease)
{
    lease->failed = true;
}

uint32_t rf_lease_failures(const rf_lease *lease)
{
    return lease->failures;
}

int rf_lease_is_dead_letter(const rf_lease *lease)
{
    return lease->dead_letter;
}

/* Of a row in our hands: what its READY word is to say of failures if we die, or give it back. */
static void note_failures(rf_lease *lease, uint32_t row, uint32_t failures)
{
    rf_use *use = &lease->ring->uses[rf_lease_slot(lease, row)];
    uint64_t epoch = rf_word_epoch(lease->words[row]);
    uint32_t deliveries = rf_deliveries(rf_load_relaxed(&use->deliveries), epoch);
    rf_store_relaxed(&use->deliveries, rf_delivered(epoch, deliveries, failures));
}

void rf_lease_show(rf_lease *lease, int shown)
{
    if (lease->is_claim || lease->rows > 1 ||
        lease->generation != rf_load_relaxed(&rf_fork_generation))
        return;
    for (uint32_t row = 0; row < lease->rows; row++)
        note_failures(lease, row, lease->failures + (shown != 0));
}

static uint32_t failures_before(const rf_lease *lease, uint32_t row);

/* The most failures of any of some rows, which rf_lease_failures tells. */
static uint8_t most_failures(const rf_lease *lease, uint32_t row, uint32_t end)
{
    uint32_t most = 0;
    for (; row < end; row++) {
        uint32_t failures = failures_before(lease, row);
        most = failures > most ? failures : most;
    }
    return (uint8_t)most;
}

rf_lease *rf_lease_split(rf_lease *batch, uint32_t rows)
{
    if (batch->is_claim || rows == 0 || rows >= batch->rows || rf_lease_references(batch) != 1)
        return NULL;
    rf_lease *rest = rf_new_lease(batch->ring, batch->rows - rows);
    if (!rest)
        return NULL;
    rest->first = rf_lease_slot(batch, rows);
    rest->rows = batch->rows - rows;
    rest->generation = batch->generation;
    rest->unseen = batch->unseen;
    rest->failed = batch->failed;
    rest->failures = most_failures(batch, rows, batch->rows);
    batch->failures = most_failures(batch, 0, rows);
    memcpy(rest->words, batch->words + rows, rest->rows * sizeof rest->words[0]);
    batch->rows = rows;
    return rest;
}

uint32_t rf_lease_references(const rf_lease *lease)
{
    return rf_load_relaxed(&((rf_lease *)lease)->references);
}

const rf_ring *rf_lease_ring(const rf_lease *lease)
{
    return lease->ring;
}

uint32_t rf_lease_first(const rf_lease *lease)
{
    return lease->first;
}

uint32_t rf_lease_rows(const rf_lease *lease)
{
    return lease->rows;
}

uint64_t rf_lease_link(const rf_lease *lease, uint32_t row)
{
    return rf_link(rf_lease_slot(lease, row), rf_word_epoch(lease->words[row]));
}

void *rf_lease_data(const rf_lease *lease, uint32_t field)
{
    const rf_ring *ring = lease->ring;
    return ring->region[field] + (uint64_t)lease->first * ring->geometry.field[field].stride_bytes;
}

/* How many takers have failed over a row in our hands before us: it has been counted with us (take_run). */
static uint32_t failures_before(const rf_lease *lease, uint32_t row)
{
    if (lease->rows == 1 || lease->is_claim)
        return lease->failures;
    const rf_use *use = &lease->ring->uses[rf_lease_slot(lease, row)];
    uint32_t counted = rf_failures(rf_load_relaxed(&((rf_use *)use)->deliveries),
                                   rf_word_epoch(lease->words[row]));
    return counted ? counted - 1 : 0;
}

void rf_lease_records(const rf_lease *lease, rf_record *records)
{
    for (uint32_t row = 0; row < lease->rows; row++) {
        rf_slot *slot = &lease->ring->slots[rf_lease_slot(lease, row)];
        rf_use *use = &lease->ring->uses[rf_lease_slot(lease, row)];
        uint32_t deliveries =
            rf_deliveries(rf_load_relaxed(&use->deliveries), rf_word_epoch(lease->words[row]));
        records[row] = (rf_record){
            .tag = rf_load_relaxed(&slot->tag),
            .claimed_ns = rf_load_relaxed(&slot->claimed_ns),
            .published_ns = rf_load_relaxed(&slot->published_ns),
            .taken_ns = deliveries ? rf_load_relaxed(&use->taken_ns) : 0,
            .released_ns = rf_load_relaxed(&use->released_ns),
            .producer = rf_load_relaxed(&slot->producer),
            .deliveries = deliveries,
            .failures = failures_before(lease, row),
        };
    }
}

void rf_lease_tags(const rf_lease *lease, uint64_t *tags)
{
    for (uint32_t row = 0; row < lease->rows; row++)
        tags[row] = rf_load_relaxed(&lease->ring->slots[rf_lease_slot(lease, row)].tag);
}

/* ---- Giving slots back ---------------------------------------------------------------------- */

static uint64_t freed_word(uint64_t word)
{
    return rf_word(RF_STATE_FREE, RF_NO_OWNER, rf_word_epoch(word) + 1);
}

bool rf_free_slot(rf_ring *ring, uint32_t slot, uint64_t word)
{
    _Atomic uint64_t *place = &ring->words[slot];
    uint64_t pin = word & RF_PIN;
    for (;;) {
        uint64_t next;
        if (pin)
            next = rf_word(RF_STATE_PINNED, rf_load_relaxed(&ring->slots[slot].producer) & 0xfff,
                           rf_word_epoch(word));
        else
            next = freed_word(word);
        /* R2 -> A2 (claim_slot): our reads and writes of the payload are over before anyone can
         * claim the slot. Were it relaxed, the next producer's bytes could show in our batch. */
        if (rf_cas_release(place, (word & ~RF_PIN) | pin, next)) {
            RF_STEP("free: slot free or pinned, nobody told");
            /* Whatever producers wish for: this slot comes alone, and takers that would look for room left
             * unused (rf_leave_no_room_unused) may all be asleep. */
            if (!pin)
                rf_notify_behind_swap(&ring->header->writable, UINT32_MAX);
            return true;
        }
        /* The one change that others may make to a word of ours: the producer lets go of its
         * view, and the pin goes. */
        if (!pin || rf_load_relaxed(place) != (word & ~RF_PIN))
            return false;
        pin = 0;
    }
}

/* TAKEN -> FREE for a slot and the next, which no producer's views keep. R2 -> A2 (claim_pair), as in rf_free_slot. */
static bool free_pair(rf_ring *ring, uint32_t slot, const uint64_t *words)
{
    return !((words[0] | words[1]) & RF_PIN) &&
           rf_cas_pair(&ring->words[slot], words,
                       (uint64_t[]){freed_word(words[0]), freed_word(words[1])});
}

/* As rf_free_slot for the taken rows of a batch, with one notification for all. */
static void release_rows(rf_lease *lease)
{
    rf_ring *ring = lease->ring;
    int64_t now = rf_now_ns();
    uint32_t freed = 0, released = 0;
    for (uint32_t row = 0; row < lease->rows; row++) {
        uint32_t slot = rf_lease_slot(lease, row);
        uint64_t word = lease->words[row];
        bool pair = rf_is_pair(ring, slot, lease->rows - row);
        rf_store_relaxed(&ring->uses[slot].released_ns, now);
        if (pair)
            rf_store_relaxed(&ring->uses[slot + 1].released_ns, now);
        RF_STEP("release: time written, row still taken");
        if (pair && free_pair(ring, slot, lease->words + row)) {
            freed += 2;
            released += 2;
            row++;
        } else if (!(word & RF_PIN) &&
                   /* R2 -> A2 (claim_slot), as in rf_free_slot. */
                   rf_cas_release(&ring->words[slot], word, freed_word(word))) {
            freed++;
            released++;
        } else if (word & RF_PIN && rf_free_slot(ring, slot, word)) {
            released++;
        }
        RF_STEP("release: slots free, others still taken");
    }
    RF_STEP("release: rows free, not counted");
    if (lease->dead_letter)
        rf_count(ring, dead_letters, released);
    else if (lease->failed)
        rf_count(ring, dropped, released);
    else
        rf_count(ring, released, released);
    RF_STEP("release: rows counted, nobody told");
    if (!freed)
        return;
    /* A taker that waits has nothing to take: then each slot counts, whatever producers wish for. F7 with F2
     * (rf_prepare_wait): either we see its wish, or it sees our slots (rf_leave_no_room_unused). */
    rf_fence_behind_swap();
    bool hungry = rf_load_relaxed(&ring->header->readable.wanted) != 0;
    rf_notify_behind_swap(&ring->header->writable, hungry ? UINT32_MAX : freed);
}

/* The rows of a batch that nobody looked at, or over which this taker failed. In their order: what a producer published
 * first is there first, so that whoever takes in between takes it first. */
static void give_rows_back(rf_lease *lease)
{
    rf_ring *ring = lease->ring;
    uint32_t ready = 0;
    for (uint32_t row = 0; row < lease->rows; row++) {
        _Atomic uint64_t *place = &ring->words[rf_lease_slot(lease, row)];
        uint32_t failures = failures_before(lease, row) + (lease->failed && !lease->unseen);
        uint64_t word = lease->words[row], next = rf_ready_again(rf_word_epoch(word), failures);
        note_failures(lease, row, failures);
        /* Acquire and release: the swap goes on with R1 for the next taker. Without success the producer
         * has let go of its view meanwhile, and the pin is gone. */
        if (rf_cas_acq_rel(place, word, next | (word & RF_PIN)) ||
            (word & RF_PIN && rf_cas_acq_rel(place, word & ~RF_PIN, next)))
            ready++;
        RF_STEP("give back: row ready, nobody told");
    }
    rf_count(ring, redelivered, ready);
    if (ready)
        rf_notify_behind_swap(&ring->header->readable, ready);
}

/* The views through a pinned claim are gone: whoever is to reuse the slots may. */
static void unpin_rows(rf_lease *lease)
{
    rf_ring *ring = lease->ring;
    for (uint32_t row = 0; row < lease->published; row++) {
        uint32_t slot = rf_lease_slot(lease, row);
        uint64_t epoch = rf_word_epoch(lease->words[row]);
        for (;;) {
            uint64_t word = rf_load_relaxed(&ring->words[slot]);
            if (rf_word_epoch(word) != epoch)
                break;
            if (rf_word_state(word) == RF_STATE_PINNED) {
                RF_STEP("unpin: slot found released");
                rf_free_slot(ring, slot, word);
                break;
            }
            /* A compare-and-swap goes on with the release sequence of the word it changes, so
             * R1 reaches the taker also through us. */
            if (!(word & RF_PIN) || rf_cas_acq_rel(&ring->words[slot], word, word & ~RF_PIN))
                break;
        }
        RF_STEP("unpin: row unpinned");
    }
}

void rf_set_apart(rf_lease *lease)
{
    rf_ring *ring = lease->ring;
    if (!lease->is_claim || lease->settled || lease->published)
        return;
    /* R19 -> A19 (nothing_ready): who finds no claim here any more finds the records where they were copied to. */
    for (uint32_t row = 0; row < lease->rows; row++)
        rf_cas_release(&ring->words[rf_lease_slot(lease, row)], lease->words[row],
                       rf_word(RF_STATE_PINNED, rf_word_owner(lease->words[row]),
                               rf_word_epoch(lease->words[row])));
    RF_STEP("set apart: claim is pinned, takers not told");
    lease->pinned = true;
    lease->published = lease->rows;
    /* As rf_unclaim: takers of a ring that has ended waited for the claim. F3 with F4 (try_take): either we see the end, or
     * the taker our claim gone. */
    rf_fence_behind_swap();
    if (rf_still_open(ring) != RF_OK)
        rf_notify(&ring->header->readable, UINT32_MAX);
}

uint32_t rf_unclaim(rf_ring *ring, uint32_t first, uint32_t count, const uint64_t *words)
{
    uint32_t freed = 0;
    for (uint32_t row = 0; row < count; row++)
        freed += rf_free_slot(ring, rf_wrap(ring, first + row), words[row]);
    /* Takers of a ring that has ended wait for its last claims, also for those that come to
     * nothing. The fence in rf_free_slot's notification is the one that F4 needs: either we see
     * the end or the taker sees the slots free. */
    RF_STEP("discard: slots free, takers not told");
    if (freed && rf_still_open(ring) != RF_OK)
        rf_notify(&ring->header->readable, UINT32_MAX);
    return freed;
}

void rf_discard_rows(rf_lease *lease, uint32_t from)
{
    rf_ring *ring = lease->ring;
    if (from < lease->rows)
        rf_count(
            ring, discarded,
            rf_unclaim(ring, rf_lease_slot(lease, from), lease->rows - from, lease->words + from));
}

void rf_lease_drop(rf_lease *lease)
{
    if (rf_sub_acq_rel(&lease->references, 1u) != 1)
        return;
    RF_STEP("drop: last reference gone, slots still held");
    /* A forked child drops copies of its parent's leases: the slots are not its own. */
    if (lease->generation == rf_load_relaxed(&rf_fork_generation) && !lease->settled) {
        if (lease->ring->is_pool)
            rf_withdraw(lease);
        else if (!lease->is_claim &&
                 (lease->unseen || (lease->failed && rf_ring_redelivers(lease->ring))))
            give_rows_back(lease);
        else if (!lease->is_claim)
            release_rows(lease);
        else if (lease->pinned)
            unpin_rows(lease);
        if (lease->is_claim && !lease->ring->is_pool)
            rf_discard_rows(lease, lease->published);
    }
    rf_free_lease(lease);
}
