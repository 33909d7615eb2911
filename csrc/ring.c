/*
 * The slot protocol: claim, publish, discard, take, release.
 *
 * It may not know how memory was mapped (segment.c), how anyone sleeps (waiter.c) or who is dead
 * (liveness.c). Every step that others can see is one compare-and-swap on a slot's word; between
 * two steps the process may be killed, and the word says what to undo.
 *
 * How it works. Producers search free slots from the claim cursor on, takers search ready ones
 * from the take cursor on; both go around whatever is in another state, so a slot that someone
 * holds for long delays nobody else, and both meet it again a lap later. The cursors are hints:
 * any value is correct, a good one makes the search short. What keeps one producer's records in
 * order is not their place but their link (layout.h): a taker that meets a record whose
 * predecessor still waits goes to the predecessor.
 */
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "handle.h"

/* How long records on both sides of a held slot wait for it before they go in two batches. */
#define GAP_PATIENCE_NS INT64_C(5000000)

/* A word that is as wished, but of no use, is not worth spinning on more often than this. */
enum { MOST_SPINS = 16 };

enum { SMALL_RECORD_BYTES = 1024 };

/* ---- Entering ------------------------------------------------------------------------------- */

rf_status rf_enter(rf_ring *ring)
{
    if (rf_load_acquire(&ring->closing)) /* A6 <- R6 (rf_ring_close) */
        return RF_CLOSED;
    /* A7 <- R7 (rf_join): who sees the new generation also sees the new `self`. */
    if (rf_load_acquire(&ring->generation) == rf_load_relaxed(&rf_fork_generation))
        return RF_OK;
    /* A forked child: what the parent holds is the parent's; the child joins as itself. */
    return rf_join(ring);
}

/* ---- Leases --------------------------------------------------------------------------------- */

static rf_lease *new_lease(rf_ring *ring, uint32_t rows)
{
    rf_lease *lease = malloc(sizeof *lease + rows * sizeof lease->words[0]);
    if (!lease)
        return NULL;
    memset(lease, 0, sizeof *lease);
    lease->ring = ring;
    lease->generation = rf_load_relaxed(&ring->generation);
    atomic_init(&lease->references, 1);
    rf_ring_retain(ring);
    return lease;
}

static void free_lease(rf_lease *lease)
{
    rf_ring *ring = lease->ring;
    free(lease);
    rf_ring_unref(ring);
}

static uint32_t lease_slot(const rf_lease *lease, uint32_t row)
{
    return rf_wrap(lease->ring, lease->first + row);
}

void rf_lease_retain(rf_lease *lease)
{
    rf_add_relaxed(&lease->references, 1u);
}

uint32_t rf_lease_references(const rf_lease *lease)
{
    return rf_load_relaxed(&((rf_lease *)lease)->references);
}

uint32_t rf_lease_first(const rf_lease *lease)
{
    return lease->first;
}

uint32_t rf_lease_rows(const rf_lease *lease)
{
    return lease->rows;
}

void *rf_lease_data(const rf_lease *lease, uint32_t field)
{
    const rf_ring *ring = lease->ring;
    return ring->region[field] + (uint64_t)lease->first * ring->geometry.field[field].stride_bytes;
}

void rf_lease_records(const rf_lease *lease, rf_record *records)
{
    for (uint32_t row = 0; row < lease->rows; row++) {
        rf_slot *slot = &lease->ring->slots[lease_slot(lease, row)];
        records[row] = (rf_record){
            .tag = rf_load_relaxed(&slot->tag),
            .claimed_ns = rf_load_relaxed(&slot->claimed_ns),
            .published_ns = rf_load_relaxed(&slot->published_ns),
            .taken_ns = rf_load_relaxed(&slot->taken_ns),
            .released_ns = rf_load_relaxed(&slot->released_ns),
            .producer = rf_load_relaxed(&slot->producer),
            .deliveries = rf_load_relaxed(&slot->deliveries),
        };
    }
}

void rf_lease_tags(const rf_lease *lease, uint64_t *tags)
{
    for (uint32_t row = 0; row < lease->rows; row++)
        tags[row] = rf_load_relaxed(&lease->ring->slots[lease_slot(lease, row)].tag);
}

/* ---- Giving slots back ---------------------------------------------------------------------- */

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
            next = rf_word(RF_STATE_FREE, RF_NO_OWNER, rf_word_epoch(word) + 1);
        /* R2 -> A2 (claim_slot): our reads and writes of the payload are over before anyone can
         * claim the slot. Were it relaxed, the next producer's bytes could show in our batch. */
        if (rf_cas_release(place, (word & ~RF_PIN) | pin, next)) {
            if (!pin)
                rf_notify(&ring->header->writable, 1);
            return true;
        }
        /* The one change that others may make to a word of ours: the producer lets go of its
         * view, and the pin goes. */
        if (!pin || rf_load_relaxed(place) != (word & ~RF_PIN))
            return false;
        pin = 0;
    }
}

/* As rf_free_slot for the taken rows of a batch, with one notification for all. */
static void release_rows(rf_lease *lease)
{
    rf_ring *ring = lease->ring;
    int64_t now = rf_now_ns();
    uint32_t freed = 0, released = 0;
    for (uint32_t row = 0; row < lease->rows; row++) {
        uint32_t slot = lease_slot(lease, row);
        uint64_t word = lease->words[row];
        rf_store_relaxed(&ring->slots[slot].released_ns, now);
        /* R2 -> A2 (claim_slot), as in rf_free_slot. */
        uint64_t next = rf_word(RF_STATE_FREE, RF_NO_OWNER, rf_word_epoch(word) + 1);
        if (!(word & RF_PIN) && rf_cas_release(&ring->words[slot], word, next)) {
            freed++;
            released++;
        } else if (word & RF_PIN && rf_free_slot(ring, slot, word)) {
            released++;
        }
    }
    rf_count(ring, released, released);
    if (freed)
        rf_notify(&ring->header->writable, freed);
}

/* The views through a pinned claim are gone: whoever is to reuse the slots may. */
static void unpin_rows(rf_lease *lease)
{
    rf_ring *ring = lease->ring;
    for (uint32_t row = 0; row < lease->published; row++) {
        uint32_t slot = lease_slot(lease, row);
        uint64_t epoch = rf_word_epoch(lease->words[row]);
        for (;;) {
            uint64_t word = rf_load_relaxed(&ring->words[slot]);
            if (rf_word_epoch(word) != epoch)
                break;
            if (rf_word_state(word) == RF_STATE_PINNED) {
                rf_free_slot(ring, slot, word);
                break;
            }
            /* A compare-and-swap goes on with the release sequence of the word it changes, so
             * R1 reaches the taker also through us. */
            if (!(word & RF_PIN) || rf_cas_acq_rel(&ring->words[slot], word, word & ~RF_PIN))
                break;
        }
    }
}

/* RF_OK while records may still be published into the ring. */
static rf_status still_open(const rf_ring *ring)
{
    if (rf_load_relaxed(&ring->header->finished))
        return RF_FINISHED;
    return rf_load_relaxed(&ring->header->closed) ? RF_CLOSED : RF_OK;
}

/* Give claimed slots back unpublished. Returns how many were still ours. */
static uint32_t unclaim(rf_ring *ring, uint32_t first, uint32_t count, const uint64_t *words)
{
    uint32_t freed = 0;
    for (uint32_t row = 0; row < count; row++)
        freed += rf_free_slot(ring, rf_wrap(ring, first + row), words[row]);
    /* Takers of a ring that has ended wait for its last claims, also for those that come to
     * nothing. The fence in rf_free_slot's notification is the one that F4 needs: either we see
     * the end or the taker sees the slots free. */
    if (freed && still_open(ring) != RF_OK)
        rf_notify(&ring->header->readable, UINT32_MAX);
    return freed;
}

static void discard_rows(rf_lease *lease, uint32_t from)
{
    rf_ring *ring = lease->ring;
    if (from < lease->rows)
        rf_count(ring, discarded,
                 unclaim(ring, lease_slot(lease, from), lease->rows - from, lease->words + from));
}

void rf_lease_drop(rf_lease *lease)
{
    if (rf_sub_acq_rel(&lease->references, 1u) != 1)
        return;
    /* A forked child drops copies of its parent's leases: the slots are not its own. */
    if (lease->generation == rf_load_relaxed(&rf_fork_generation) && !lease->settled) {
        if (!lease->is_claim)
            release_rows(lease);
        else if (lease->pinned)
            unpin_rows(lease);
        if (lease->is_claim)
            discard_rows(lease, lease->published);
    }
    free_lease(lease);
}

/* ---- Claiming ------------------------------------------------------------------------------- */

/* FREE -> CLAIMED by us. The new word, or 0. */
static uint64_t claim_slot(rf_ring *ring, uint32_t slot, uint32_t self)
{
    uint64_t word = rf_load_relaxed(&ring->words[slot]);
    if (rf_word_state(word) != RF_STATE_FREE)
        return 0;
    uint64_t claimed = rf_word(RF_STATE_CLAIMED, self, rf_word_epoch(word));
    /* A2 <- R2 (rf_free_slot, release_rows): the last reader has finished with the payload. */
    return rf_cas_acquire(&ring->words[slot], word, claimed) ? claimed : 0;
}

/* Claim up to `rows` slots in a row, from the claim cursor on. Returns how many. */
static uint32_t claim_run(rf_ring *ring, uint32_t rows, uint32_t *first, uint64_t *words)
{
    uint32_t self = rf_self(ring);
    uint32_t slot = rf_cursor(ring, &ring->header->claim_cursor);
    for (uint32_t seen = 0; seen < ring->slot_count; seen++, slot = rf_wrap(ring, slot + 1)) {
        if (!(words[0] = claim_slot(ring, slot, self)))
            continue;
        *first = slot;
        uint32_t count = 1;
        while (count < rows && (words[count] = claim_slot(ring, rf_wrap(ring, slot + count), self)))
            count++;
        rf_store_relaxed(&ring->header->claim_cursor, rf_wrap(ring, slot + count));
        return count;
    }
    return 0;
}

/* One attempt: RF_OK with *count rows, RF_FULL, RF_FINISHED, RF_CLOSED. */
static rf_status try_claim(rf_ring *ring, uint32_t rows, uint32_t *first, uint32_t *count,
                           uint64_t *words)
{
    rf_status status = still_open(ring);
    if (status != RF_OK)
        return status;
    *count = claim_run(ring, rows, first, words);
    if (!*count)
        return RF_FULL;
    rf_fence_full(); /* F3 with F4 (try_take): either we see `finished` or the taker our claim */
    status = still_open(ring);
    if (status != RF_OK)
        unclaim(ring, *first, *count, words);
    return status;
}

/* Once in a slice, whoever finds nothing to do looks after the dead, however short its own wait
 * is. True: something came of it, look again. */
static bool look_after_the_dead(rf_ring *ring, int64_t now_ns)
{
    int64_t before = rf_load_relaxed(&ring->looked_ns);
    /* Relaxed: it only spares the threads of this process the same look. */
    if (now_ns - before < RF_SLICE_NS ||
        !atomic_compare_exchange_strong_explicit(&ring->looked_ns, &before, now_ns,
                                                 memory_order_relaxed, memory_order_relaxed))
        return false;
    uint32_t found = rf_recover(ring);
    if (rf_load_relaxed(&ring->header->closed) || rf_owner_lives(ring))
        return found;
    rf_store_relaxed(&ring->header->closed, 1u);
    rf_notify(&ring->header->readable, UINT32_MAX);
    rf_notify(&ring->header->writable, UINT32_MAX);
    return true;
}

/* Before a wait goes on: RF_OK, or why it is over. */
static rf_status wait_on(int64_t *started, int64_t now_ns, int64_t deadline_ns,
                         rf_status out_of_time)
{
    if (!*started)
        *started = now_ns;
    if (now_ns >= deadline_ns)
        return out_of_time;
    return now_ns - *started >= RF_SLICE_NS ? RF_AGAIN : RF_OK;
}

/* Repeat an attempt until it ends, the deadline comes, or a slice is over. */
static rf_status wait_to_claim(rf_ring *ring, uint32_t rows, int64_t deadline_ns, uint32_t *first,
                               uint32_t *count, uint64_t *words)
{
    rf_event *event = &ring->header->writable;
    int64_t started = 0;
    int spins = 0;
    rf_status status;
    for (;;) {
        if ((status = rf_enter(ring)) != RF_OK ||
            (status = try_claim(ring, rows, first, count, words)) != RF_FULL)
            break;
        int64_t now = rf_now_ns();
        if (look_after_the_dead(ring, now))
            continue;
        if ((status = wait_on(&started, now, deadline_ns, RF_FULL)) != RF_OK)
            break;
        uint32_t cursor = rf_cursor(ring, &ring->header->claim_cursor);
        if (spins++ < MOST_SPINS && rf_spin(&ring->claim_spin, &ring->words[cursor], RF_STATE_FREE))
            continue;
        uint32_t key = rf_prepare_wait(event, 1);
        /* A taker may be waiting for more rows than there is room for. */
        rf_notify(&ring->header->readable, UINT32_MAX);
        if ((status = rf_enter(ring)) != RF_OK ||
            (status = try_claim(ring, rows, first, count, words)) != RF_FULL)
            break;
        int64_t slice_end = started + RF_SLICE_NS;
        if (!rf_sleep(event, key, slice_end < deadline_ns ? slice_end : deadline_ns)) {
            status = RF_AGAIN;
            break;
        }
    }
    if (started)
        rf_count(ring, claim_wait_ns, rf_now_ns() - started);
    return status;
}

rf_status rf_claim(rf_ring *ring, uint32_t rows, int64_t deadline_ns, rf_lease **out)
{
    *out = NULL;
    if (rows == 0 || rows > ring->slot_count)
        return RF_INVALID;
    rf_status status = rf_enter(ring);
    if (status != RF_OK)
        return status;
    rf_lease *lease = new_lease(ring, rows);
    if (!lease)
        return RF_NO_MEMORY;
    lease->is_claim = true;
    status = wait_to_claim(ring, rows, deadline_ns, &lease->first, &lease->rows, lease->words);
    if (status != RF_OK) {
        free_lease(lease);
        return status;
    }
    lease->claimed_ns = rf_now_ns();
    *out = lease;
    return RF_OK;
}

/* ---- Publishing ----------------------------------------------------------------------------- */

/* The threads of this process publish one after the other, so that each record's link names one
 * that is READY already: over a predecessor that another thread has yet to publish a taker would
 * pass, and with it over what came before that. No other process waits for this, nor does it for
 * any; there is nothing in between but the few stores of publish_slot. */
static void begin_publishing(rf_ring *ring)
{
    for (uint32_t turn = 1; rf_exchange_acquire(&ring->publishing, 1u); turn++) { /* A8 <- R8 */
        if (turn % 64)
            rf_pause();
        else
            sched_yield();
    }
}

static void end_publishing(rf_ring *ring)
{
    /* R8 -> A8 (begin_publishing): the next thread finds our record READY, named by last_link. */
    rf_store_release(&ring->publishing, 0u);
}

/* CLAIMED -> READY, between begin_ and end_publishing. False when the claim was taken back. */
static bool publish_slot(rf_ring *ring, uint32_t slot, uint64_t claimed, uint64_t tag,
                         int64_t claimed_ns, int64_t now, uint64_t pin)
{
    rf_slot *record = &ring->slots[slot];
    uint64_t epoch = rf_word_epoch(claimed);
    /* A late writer must not garble the record of the slot's next owner; what slips in between
     * this look and the compare-and-swap below is caught there, and costs at most a tag. */
    if (rf_load_relaxed(&ring->words[slot]) != claimed)
        return false;
    rf_store_relaxed(&record->tag, tag);
    rf_store_relaxed(&record->claimed_ns, claimed_ns);
    rf_store_relaxed(&record->published_ns, now);
    rf_store_relaxed(&record->taken_ns, 0);
    rf_store_relaxed(&record->producer, rf_self(ring));
    rf_store_relaxed(&record->deliveries, 0u);
    rf_store_relaxed(&record->link, rf_load_relaxed(&ring->last_link));
    /* R1 -> A1 (take_slot): payload and slot record are complete before anyone sees READY. */
    if (!rf_cas_release(&ring->words[slot], claimed,
                        rf_word(RF_STATE_READY, RF_NO_OWNER, epoch) | pin))
        return false;
    rf_store_relaxed(&ring->last_link, rf_link(slot, epoch));
    return true;
}

rf_status rf_publish(rf_lease *lease, uint32_t rows, const uint64_t *tags, int pinned)
{
    rf_ring *ring = lease->ring;
    if (!lease->is_claim || lease->settled || lease->published || rows > lease->rows)
        return RF_INVALID;
    if (lease->generation != rf_load_relaxed(&rf_fork_generation))
        return RF_SLOT_LOST;
    int64_t now = rf_now_ns();
    uint32_t done = 0;
    lease->pinned = pinned || rf_lease_references(lease) > 1;
    begin_publishing(ring);
    for (uint32_t row = 0; row < rows; row++)
        done += publish_slot(ring, lease_slot(lease, row), lease->words[row], tags ? tags[row] : 0,
                             lease->claimed_ns, now, lease->pinned ? RF_PIN : 0);
    end_publishing(ring);
    lease->published = rows;
    rf_count(ring, published, done);
    if (done)
        rf_notify(&ring->header->readable, done);
    if (!lease->pinned) {
        discard_rows(lease, rows);
        lease->settled = true;
    }
    return done == rows ? RF_OK : RF_SLOT_LOST;
}

static void copy_record(const rf_ring *ring, uint32_t slot, const void *const *sources)
{
    for (uint32_t field = 0; field < ring->geometry.fields; field++) {
        const rf_field *layout = &ring->geometry.field[field];
        memcpy(ring->region[field] + slot * layout->stride_bytes, sources[field],
               layout->sample_bytes);
    }
}

rf_status rf_put(rf_ring *ring, const void *const *sources, uint64_t tag, int64_t deadline_ns)
{
    uint32_t slot, count;
    uint64_t word;
    rf_status status = wait_to_claim(ring, 1, deadline_ns, &slot, &count, &word);
    if (status != RF_OK)
        return status;
    /* The stores of the copy go to memory that a taker had last. A clock or a locked operation
     * behind them would wait for that memory, and publish_slot once more for the slot record. A
     * small record is copied faster than the clock is read anyway, so both come first and there is
     * one wait for all. */
    bool small = ring->record_bytes <= SMALL_RECORD_BYTES;
    if (small)
        begin_publishing(ring);
    int64_t claimed_ns = rf_now_ns(), published_ns = claimed_ns;
    copy_record(ring, slot, sources);
    if (!small) {
        published_ns = rf_now_ns();
        begin_publishing(ring);
    }
    bool published = publish_slot(ring, slot, word, tag, claimed_ns, published_ns, 0);
    end_publishing(ring);
    if (!published)
        return RF_SLOT_LOST;
    rf_count(ring, published, 1);
    rf_notify(&ring->header->readable, 1);
    return RF_OK;
}

/* ---- Finding records ------------------------------------------------------------------------ */

/* Is the predecessor of the record in `slot` still waiting, outside [first, slot)? */
static bool must_wait(const rf_ring *ring, uint32_t first, uint32_t slot, uint32_t *predecessor)
{
    uint64_t link = rf_load_relaxed(&ring->slots[slot].link);
    uint32_t before = rf_link_slot(link);
    if (link == 0 || before >= ring->slot_count || before == slot)
        return false;
    uint32_t distance = rf_wrap(ring, before + ring->slot_count - first);
    uint32_t length = rf_wrap(ring, slot + ring->slot_count - first);
    if (distance < length)
        return false; /* it goes in the same run, ahead of us */
    *predecessor = before;
    /* Relaxed: our own record was published after it, by the same producer; behind R1 -> A1 we
     * see its word as it was then or later, and it never comes back to READY from later. */
    return rf_link_is_ready(link, rf_load_relaxed(&ring->words[before]));
}

/* How many records lie READY in a row from `first` on, each of them free to go. */
static uint32_t run_length(const rf_ring *ring, uint32_t first, uint32_t most)
{
    uint32_t rows = 0;
    for (; rows < most; rows++) {
        uint32_t slot = rf_wrap(ring, first + rows), unused;
        /* A1 <- R1 (publish_slot), for the link. */
        if (rf_word_state(rf_load_acquire(&ring->words[slot])) != RF_STATE_READY ||
            must_wait(ring, first, slot, &unused))
            break;
    }
    return rows;
}

/* The first record of the run to take next: from the take cursor on, or where links lead. */
static bool find_first(const rf_ring *ring, uint32_t *first, bool *by_link)
{
    uint32_t slot = rf_cursor(ring, &ring->header->take_cursor), hops = 0;
    for (uint32_t seen = 0; seen < ring->slot_count; seen++, slot = rf_wrap(ring, slot + 1)) {
        /* A1 <- R1 (publish_slot), for the link. */
        if (rf_word_state(rf_load_acquire(&ring->words[slot])) != RF_STATE_READY)
            continue;
        uint32_t start = slot, before;
        bool waits;
        /* A chain of links has no more records than the ring. One that has was garbled into a
         * circle: its records are not to be had, and to find that out costs one lap at most. */
        while ((waits = must_wait(ring, start, start, &before)) && hops++ < ring->slot_count) {
            start = before;
            (void)rf_load_acquire(&ring->words[start]); /* A1 <- R1, for the next link */
        }
        if (waits)
            continue;
        *first = start;
        *by_link = start != slot;
        return true;
    }
    return false;
}

typedef struct census {
    uint32_t free, claimed, ready, taken, pinned;
} census;

static census count_states(const rf_ring *ring)
{
    census now = {0};
    for (uint32_t slot = 0; slot < ring->slot_count; slot++) {
        switch (rf_word_state(rf_load_relaxed(&ring->words[slot]))) {
        case RF_STATE_FREE: now.free++; break;
        case RF_STATE_CLAIMED: now.claimed++; break;
        case RF_STATE_READY: now.ready++; break;
        case RF_STATE_TAKEN: now.taken++; break;
        case RF_STATE_PINNED: now.pinned++; break;
        }
    }
    return now;
}

/* ---- Taking --------------------------------------------------------------------------------- */

/* READY -> TAKEN by us. The new word, or 0. */
static uint64_t take_slot(rf_ring *ring, uint32_t slot, uint32_t self)
{
    uint32_t unused;
    uint64_t word = rf_load_acquire(&ring->words[slot]); /* A1 <- R1 (publish_slot), for the link */
    if (rf_word_state(word) != RF_STATE_READY || must_wait(ring, slot, slot, &unused))
        return 0;
    uint64_t taken = rf_word(RF_STATE_TAKEN, self, rf_word_epoch(word)) | (word & RF_PIN);
    /* The word that is swapped is the one that was read before the link: were it read anew, the
     * slot might be a lap further, and hold a record whose predecessor still waits. */
    /* A1 <- R1 (publish_slot): we see the whole payload and slot record. */
    return rf_cas_acquire(&ring->words[slot], word, taken) ? taken : 0;
}

/* Take up to `rows` records in a row from `first` on; fewer when another taker comes between. */
static uint32_t take_run(rf_ring *ring, uint32_t first, uint32_t rows, rf_lease *lease)
{
    uint32_t self = rf_self(ring), count = 0;
    while (count < rows &&
           (lease->words[count] = take_slot(ring, rf_wrap(ring, first + count), self)))
        count++;
    if (!count)
        return 0;
    int64_t now = rf_now_ns();
    for (uint32_t row = 0; row < count; row++) {
        rf_slot *slot = &ring->slots[rf_wrap(ring, first + row)];
        rf_store_relaxed(&slot->taken_ns, now);
        rf_store_relaxed(&slot->deliveries, rf_load_relaxed(&slot->deliveries) + 1);
    }
    lease->first = first;
    lease->rows = count;
    rf_count(ring, taken, count);
    rf_count(ring, batches, 1);
    return count;
}

/* A time from now on; a span too long to add never ends. */
static int64_t after_ns(int64_t now_ns, int64_t span_ns)
{
    return span_ns > RF_FOREVER - now_ns ? RF_FOREVER : now_ns + span_ns;
}

/* When records that lie on both sides of a held slot go without it. */
static int64_t patience_ends_ns(const rf_take_request *request)
{
    int64_t patience = request->linger_ns > GAP_PATIENCE_NS ? request->linger_ns : GAP_PATIENCE_NS;
    return after_ns(request->enough_since_ns, patience);
}

/* Will the slot behind the run ever make it longer? */
static bool can_grow(const rf_ring *ring, uint32_t first, uint32_t rows)
{
    if (rows >= ring->slot_count)
        return false;
    rf_state next = rf_word_state(rf_load_relaxed(&ring->words[rf_wrap(ring, first + rows)]));
    return next == RF_STATE_FREE || next == RF_STATE_CLAIMED;
}

/* What one look at the ring said to a taker. */
typedef struct look {
    uint32_t first;
    uint32_t rows;    /* of the run that starts there; 0: nothing is ready */
    uint32_t missing; /* rows worth sleeping for */
    bool by_link;
    rf_status open; /* still_open, before anything else was looked at */
} look;

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* Sleep for what is missing, but never for more than there is room to publish. */
static void want_rows(look *seen, uint32_t missing, const census *now)
{
    uint32_t room = now->free + now->claimed;
    seen->missing = least(missing, room ? room : 1);
}

/* Is a run shorter than min_rows all that can be had for now? */
static bool short_run_is_due(const rf_ring *ring, rf_take_request *request, look *seen,
                             int64_t now_ns)
{
    census now = count_states(ring);
    want_rows(seen, request->min_rows - seen->rows, &now);
    if (now.claimed == 0 && (seen->open != RF_OK || now.free == 0))
        return true; /* nobody can publish any more, or not before we take */
    /* Whoever holds the slots that are missing must not hold up those who wait for a free one. */
    bool blocked = now.free == 0 && rf_load_relaxed(&ring->header->writable.wanted) != 0;
    if (now.ready < request->min_rows && !blocked) {
        request->enough_since_ns = 0;
        return false;
    }
    if (now.ready >= request->min_rows && !can_grow(ring, seen->first, seen->rows))
        return true;
    if (!request->enough_since_ns)
        request->enough_since_ns = now_ns;
    return now_ns >= patience_ends_ns(request);
}

/* Should the run be taken now, or is more to be waited for? */
static bool run_is_due(const rf_ring *ring, rf_take_request *request, look *seen)
{
    if (seen->rows >= request->max_rows ||
        (seen->rows >= request->min_rows && request->linger_ns <= 0))
        return true;
    int64_t now_ns = rf_now_ns();
    if (seen->rows < request->min_rows) {
        request->linger_until_ns = 0;
        return short_run_is_due(ring, request, seen, now_ns);
    }
    if (!request->linger_until_ns)
        request->linger_until_ns = after_ns(now_ns, request->linger_ns);
    seen->missing = request->max_rows - seen->rows;
    return now_ns >= request->linger_until_ns || seen->open != RF_OK ||
           !can_grow(ring, seen->first, seen->rows);
}

/* Nothing is ready: RF_EMPTY when something may still come, else RF_FINISHED or RF_CLOSED. */
static rf_status nothing_ready(const rf_ring *ring, rf_take_request *request, look *seen)
{
    seen->rows = 0;
    seen->missing = 1;
    /* Another taker was faster; these times belong to what it took. */
    request->linger_until_ns = 0;
    request->enough_since_ns = 0;
    if (seen->open == RF_OK && request->min_rows == 1)
        return RF_EMPTY;
    census now = count_states(ring);
    want_rows(seen, request->min_rows, &now);
    return seen->open == RF_OK || now.claimed || now.ready ? RF_EMPTY : seen->open;
}

/* One attempt: RF_OK, RF_FINISHED, RF_CLOSED, or RF_EMPTY with what was seen. */
static rf_status try_take(rf_ring *ring, rf_take_request *request, rf_lease *lease, look *seen)
{
    /* Another taker may be faster, again and again; but who looks so often must also look at
     * the clock. */
    for (int attempt = 0; attempt < 64; attempt++) {
        seen->open = still_open(ring);
        if (seen->open != RF_OK)
            rf_fence_full(); /* F4 with F3 (try_claim): claims older than the end are seen below */
        if (!find_first(ring, &seen->first, &seen->by_link))
            return nothing_ready(ring, request, seen);
        seen->rows = run_length(ring, seen->first, request->max_rows);
        if (!seen->rows)
            continue;
        if (!run_is_due(ring, request, seen))
            return RF_EMPTY;
        uint32_t count = take_run(ring, seen->first, seen->rows, lease);
        if (!count)
            continue;
        if (!seen->by_link)
            rf_store_relaxed(&ring->header->take_cursor, rf_wrap(ring, seen->first + count));
        return RF_OK;
    }
    seen->rows = 0;
    seen->missing = 1;
    return RF_EMPTY;
}

/* When a waiting taker must look again, whoever publishes. */
static int64_t next_look(const rf_take_request *request, int64_t started)
{
    int64_t until = started + RF_SLICE_NS;
    if (request->deadline_ns < until)
        until = request->deadline_ns;
    if (request->linger_until_ns && request->linger_until_ns < until)
        until = request->linger_until_ns;
    if (request->enough_since_ns && patience_ends_ns(request) < until)
        until = patience_ends_ns(request);
    return until;
}

/* Leave word of what is missing and look once more. RF_EMPTY: sleep on the key. */
static rf_status last_look(rf_ring *ring, rf_take_request *request, rf_lease *lease, look *seen,
                           uint32_t *key)
{
    uint32_t wished;
    rf_status status;
    /* What came between the look and the word that we left was not counted: as long as less is
     * missing than we asked for, ask for less. */
    do {
        wished = seen->missing;
        *key = rf_prepare_wait(&ring->header->readable, wished);
        if ((status = rf_enter(ring)) == RF_OK)
            status = try_take(ring, request, lease, seen);
    } while (status == RF_EMPTY && seen->missing < wished);
    return status;
}

static rf_status wait_to_take(rf_ring *ring, rf_take_request *request, rf_lease *lease)
{
    int64_t started = 0;
    int spins = 0;
    rf_status status;
    look seen;
    for (;;) {
        if ((status = rf_enter(ring)) != RF_OK ||
            (status = try_take(ring, request, lease, &seen)) != RF_EMPTY)
            break;
        int64_t now = rf_now_ns();
        if (look_after_the_dead(ring, now))
            continue;
        if ((status = wait_on(&started, now, request->deadline_ns, RF_EMPTY)) != RF_OK) {
            /* The deadline is for min_rows, and cuts the wait for more short. */
            if (status == RF_EMPTY && seen.rows >= request->min_rows) {
                request->linger_ns = 0;
                status = try_take(ring, request, lease, &seen);
            }
            break;
        }
        uint32_t cursor = rf_cursor(ring, &ring->header->take_cursor), key;
        if (!seen.rows && spins++ < MOST_SPINS &&
            rf_spin(&ring->take_spin, &ring->words[cursor], RF_STATE_READY))
            continue;
        if ((status = last_look(ring, request, lease, &seen, &key)) != RF_EMPTY)
            break;
        if (!rf_sleep(&ring->header->readable, key, next_look(request, started))) {
            status = RF_AGAIN;
            break;
        }
    }
    if (started)
        rf_count(ring, take_wait_ns, rf_now_ns() - started);
    return status;
}

rf_status rf_take(rf_ring *ring, rf_take_request *request, rf_lease **out)
{
    *out = NULL;
    if (request->max_rows == 0 || request->min_rows == 0 || request->min_rows > request->max_rows ||
        request->min_rows > ring->slot_count)
        return RF_INVALID;
    if (request->max_rows > ring->slot_count)
        request->max_rows = ring->slot_count;
    rf_status status = rf_enter(ring);
    if (status != RF_OK)
        return status;
    rf_lease *lease = new_lease(ring, request->max_rows);
    if (!lease)
        return RF_NO_MEMORY;
    status = wait_to_take(ring, request, lease);
    if (status != RF_OK) {
        free_lease(lease);
        return status;
    }
    *out = lease;
    return RF_OK;
}

/* ---- The whole ring ------------------------------------------------------------------------- */

void rf_finish(rf_ring *ring)
{
    rf_store_relaxed(&ring->header->finished, 1u);
    rf_notify(&ring->header->readable, UINT32_MAX);
    rf_notify(&ring->header->writable, UINT32_MAX);
}

static void add_counters(rf_counts *sum, rf_counters *from)
{
    sum->published += rf_load_relaxed(&from->published);
    sum->discarded += rf_load_relaxed(&from->discarded);
    sum->taken += rf_load_relaxed(&from->taken);
    sum->released += rf_load_relaxed(&from->released);
    sum->batches += rf_load_relaxed(&from->batches);
    sum->redelivered += rf_load_relaxed(&from->redelivered);
    sum->dropped += rf_load_relaxed(&from->dropped);
    sum->reclaimed += rf_load_relaxed(&from->reclaimed);
    sum->claim_wait_ns += rf_load_relaxed(&from->claim_wait_ns);
    sum->take_wait_ns += rf_load_relaxed(&from->take_wait_ns);
}

void rf_ring_stats(rf_ring *ring, rf_stats *stats)
{
    census now = count_states(ring);
    *stats = (rf_stats){.free = now.free,
                        .claimed = now.claimed,
                        .ready = now.ready,
                        .taken = now.taken,
                        .pinned = now.pinned};
    add_counters(&stats->counts, &ring->header->departed);
    for (uint32_t index = 0; index < ring->geometry.participants; index++) {
        rf_participant *entry = &ring->participants[index];
        if (rf_load_relaxed(&entry->state) == RF_ABSENT)
            continue;
        stats->participants++;
        add_counters(&stats->counts, &entry->counters);
    }
}
