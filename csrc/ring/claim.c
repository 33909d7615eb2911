/*
 * The producer's side: claim free slots, publish them as records. The outline stands in ring.c.
 */
#include <sched.h>
#include <string.h>

#include "ring/order.h"
#include "ring/streaming.h"
#include "ring/window.h"

enum { SMALL_RECORD_BYTES = 1024 };

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

/* The same for a slot and the next. */
static bool claim_pair(rf_ring *ring, uint32_t slot, uint32_t self, uint64_t *words)
{
    uint64_t seen[2];
    for (uint32_t i = 0; i < 2; i++) {
        seen[i] = rf_load_relaxed(&ring->words[slot + i]);
        if (rf_word_state(seen[i]) != RF_STATE_FREE)
            return false;
        words[i] = rf_word(RF_STATE_CLAIMED, self, rf_word_epoch(seen[i]));
    }
    return rf_cas_pair(&ring->words[slot], seen, words); /* A2 <- R2 */
}

static bool is_free(const rf_ring *ring, uint32_t slot)
{
    return rf_word_state(rf_load_relaxed(&ring->words[slot])) == RF_STATE_FREE;
}

/* A batch that is released while we search is free from its first slot on, and we may have met it half way.
 * What we left behind us would lie between the records of this lap and the next: a gap that parts runs. */
static uint32_t start_of_run(const rf_ring *ring, uint32_t slot, uint32_t seen)
{
    for (; seen > 0; seen--) {
        uint32_t before = slot ? slot - 1 : ring->slot_count - 1;
        if (!is_free(ring, before))
            break;
        slot = before;
    }
    return slot;
}

/* Only from where we saw it: who was kept from a core for a while would else set it back by laps, and the
 * others would claim among records that lie READY, whose order takers then have to search for. */
static void move_cursor(_Atomic uint32_t *cursor, uint32_t seen, uint32_t to)
{
    atomic_compare_exchange_strong_explicit(cursor, &seen, to, memory_order_relaxed,
                                            memory_order_relaxed);
}

/* Where to look first. A client of a pool comes back to the cells that it had before: they are in the caches near it, and
 * others look elsewhere first. Its first one it has where newcomers look. */
static uint32_t claim_from(rf_ring *ring, uint32_t cursor, uint32_t rows)
{
    if (!ring->is_pool)
        return ring->restarts ? rf_window_restart(ring, cursor, rows) : cursor;
    uint32_t home = rf_load_relaxed(&ring->home);
    if (home == 0)
        return cursor;
    return is_free(ring, home - 1) ? home - 1
                                   : rf_wrap(ring, rf_load_relaxed(&ring->last_cell) + 1);
}

/* A run was claimed, and `cursor` was where others look. */
static void move_on(rf_ring *ring, uint32_t cursor, uint32_t first, uint32_t count)
{
    if (ring->is_pool) {
        rf_store_relaxed(&ring->last_cell, rf_wrap(ring, first + count - 1));
        if (rf_load_relaxed(&ring->home))
            return;
        rf_store_relaxed(&ring->home, first + 1);
    }
    move_cursor(&ring->header->claim_cursor, cursor, rf_next_claim(ring, first, count));
}

/* Claim up to `rows` slots in a row, from one that is claimed already. Returns how many. */
static uint32_t claim_more(rf_ring *ring, uint32_t rows, uint32_t first, uint32_t self,
                           uint64_t *words)
{
    uint32_t count = 1;
    if (rows > 1) {
        rf_fetch(ring, ring->words, first, rows);
        rf_fetch(ring, ring->links, first, rows);
    }
    while (count < rows) {
        uint32_t slot = rf_wrap(ring, first + count);
        if (rf_is_pair(ring, slot, rows - count) && claim_pair(ring, slot, self, words + count))
            count += 2;
        else if ((words[count] = claim_slot(ring, slot, self)))
            count++;
        else
            break;
        RF_STEP("claim: slots claimed");
    }
    return count;
}

/* Claim up to `rows` slots in a row, from the claim cursor on. Returns how many. */
static uint32_t claim_run(rf_ring *ring, uint32_t rows, uint32_t *first, uint64_t *words)
{
    uint32_t self = rf_self(ring);
    uint32_t cursor = rf_load_relaxed(&ring->header->claim_cursor);
    uint32_t slot = cursor < ring->slot_count ? cursor : 0, from = slot;
    slot = claim_from(ring, slot, rows);
    for (uint32_t seen = 0; seen < ring->slot_count; seen++, slot = rf_wrap(ring, slot + 1)) {
        if (!is_free(ring, slot))
            continue;
        uint32_t start = start_of_run(ring, slot, seen);
        /* Where another was faster at the start, the one that we met is as good. The lap goes on from there. */
        if (!(words[0] = claim_slot(ring, start, self)) &&
            (start == slot || !(words[0] = claim_slot(ring, start = slot, self))))
            continue;
        RF_STEP("claim: slot claimed");
        *first = slot = start;
        uint32_t count = claim_more(ring, rf_rows_from(ring, slot, rows), slot, self, words);
        move_on(ring, cursor, slot, count);
        if (ring->restarts) /* a taker that spins looks there */
            move_cursor(&ring->header->take_cursor, from, slot);
        RF_STEP("claim: cursor moved");
        return count;
    }
    return 0;
}

/* One attempt: RF_OK with *count rows, RF_FULL, RF_FINISHED, RF_CLOSED. */
static rf_status try_claim(rf_ring *ring, uint32_t rows, uint32_t *first, uint32_t *count,
                           uint64_t *words)
{
    rf_status status = rf_still_open(ring);
    if (status != RF_OK)
        return status;
    *count = claim_run(ring, rows, first, words);
    if (!*count)
        return RF_FULL;
    rf_fence_behind_swap(); /* F3 with F4 (try_take): either we see `finished` or the taker our claim */
    status = rf_still_open(ring);
    if (status != RF_OK) {
        RF_STEP("claim: end seen, claim not given back");
        rf_unclaim(ring, *first, *count, words);
    }
    return status;
}

/* How much room is worth waking up for. Many producers before a full ring would else be woken for each
 * slot, look through the whole ring, and most of them find nothing. What lies READY comes back soon, so
 * that is what may be waited for; what is held may not. Cells of a pool come back one by one, and no taker
 * looks for those that are left unused. */
static uint32_t wished_room(const rf_ring *ring)
{
    if (ring->is_pool)
        return 1;
    uint32_t soon = rf_count_states(ring).ready / 2, most = ring->slot_count / 8;
    uint32_t room = soon < most ? soon : most;
    return room ? room : 1;
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
        if (rf_look_after_the_dead(ring, now))
            continue;
        if ((status = rf_wait_on(&started, now, deadline_ns, RF_FULL)) != RF_OK)
            break;
        uint32_t cursor = rf_cursor(ring, &ring->header->claim_cursor);
        if (spins++ < RF_MOST_SPINS &&
            rf_spin(&ring->claim_spin, &ring->words[cursor], RF_STATE_FREE))
            continue;
        uint32_t key = rf_prepare_wait(event, wished_room(ring));
        RF_STEP("claim: wish left");
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
    rf_lease *lease = rf_new_lease(ring, rows);
    if (!lease)
        return RF_NO_MEMORY;
    lease->is_claim = true;
    lease->since = rf_chain_now(ring);
    status = wait_to_claim(ring, rows, deadline_ns, &lease->first, &lease->rows, lease->words);
    if (status != RF_OK) {
        rf_free_lease(lease);
        return status;
    }
    lease->claimed_ns = rf_now_ns();
    *out = lease;
    return RF_OK;
}

void rf_claim_zero(rf_lease *claim)
{
    /* A run that passes the ring's end lies in one piece in the second mapping. */
    for (uint32_t field = 0; field < claim->ring->geometry.fields; field++)
        memset(rf_lease_data(claim, field), 0,
               claim->rows * claim->ring->geometry.field[field].stride_bytes);
}

/* Was none of these rows taken back? */
static bool still_ours(const rf_lease *claim, uint32_t row, uint32_t rows)
{
    for (uint32_t end = row + rows; row < end; row++)
        if (rf_load_relaxed(&claim->ring->words[rf_lease_slot(claim, row)]) != claim->words[row])
            return false;
    return true;
}

rf_status rf_claim_copy(rf_lease *claim, uint32_t row, uint32_t rows, rf_lease **out)
{
    rf_ring *ring = claim->ring;
    *out = NULL;
    if (!claim->is_claim || ring->is_pool || claim->settled || claim->published ||
        row >= claim->rows || rows == 0 || rows > claim->rows - row)
        return RF_INVALID;
    uint32_t from = rf_lease_slot(claim, row);
    if (claim->generation != rf_load_relaxed(&rf_fork_generation) || !still_ours(claim, row, rows))
        return RF_SLOT_LOST;
    rf_lease *copy = rf_new_lease(ring, rows);
    if (!copy)
        return RF_NO_MEMORY;
    copy->is_claim = true;
    copy->since = claim->since;
    copy->claimed_ns = claim->claimed_ns;
    /* No look whether the ring has ended: takers wait for the claim that this one is for. */
    copy->rows = claim_run(ring, rows, &copy->first, copy->words);
    if (!copy->rows) {
        rf_free_lease(copy);
        return RF_FULL;
    }
    for (uint32_t field = 0; field < ring->geometry.fields; field++) {
        uint64_t stride = ring->geometry.field[field].stride_bytes;
        memcpy(rf_lease_data(copy, field), ring->region[field] + from * stride,
               copy->rows * stride);
    }
    RF_STEP("copy: copied, claim not looked at");
    /* A2 <- R2: a slot that was taken back meanwhile may have been claimed anew, and these bytes be another's. */
    rf_fence_full();
    if (!still_ours(claim, row, copy->rows)) {
        rf_lease_drop(copy);
        return RF_SLOT_LOST;
    }
    *out = copy;
    return RF_OK;
}

/* ---- Publishing ----------------------------------------------------------------------------- */

/* The threads of this process publish one after the other, so that each record's link names one
 * that is READY already: over a predecessor that another thread has yet to publish a taker would
 * pass, and with it over what came before that. No other process waits for this, nor does it for
 * any; there is nothing in between but the few stores of publish_rows and of the chain. */
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

/* Before end_publishing, which keeps this process's threads apart: an addition that locks the line is not needed. */
static void count_published(rf_ring *ring, uint32_t rows)
{
    _Atomic uint64_t *published = &rf_own_counters(ring)->published;
    rf_store_relaxed(published, rf_load_relaxed(published) + rows);
}

/* What rows that are published together have in common. */
typedef struct publication {
    int64_t claimed_ns, published_ns;
    uint64_t pin;
    uint32_t producer;
} publication;

/* Write what a slot of ours knows of its record, between begin_ and end_publishing. `link` names the record before it.
 * False when the claim was taken back. */
static inline bool describe_slot(rf_ring *ring, uint32_t slot, uint64_t claimed, uint64_t tag,
                                 uint64_t reply, uint64_t link, const publication *about)
{
    rf_slot *record = &ring->slots[slot];
    /* A late writer must not garble the record of the slot's next owner; what slips in between
     * this look and the compare-and-swap of ready_slot is caught there, and costs at most a tag or a
     * link, which takers hold against words before they follow it. */
    if (rf_load_relaxed(&ring->words[slot]) != claimed)
        return false;
    rf_store_relaxed(&record->tag, tag);
    rf_store_relaxed(&record->reply, reply);
    rf_store_relaxed(&record->claimed_ns, about->claimed_ns);
    rf_store_relaxed(&record->published_ns, about->published_ns);
    RF_STEP("publish: record half written");
    rf_store_relaxed(&record->producer, about->producer);
    rf_store_relaxed(&ring->links[slot], link);
    RF_STEP("publish: record written, slot not ready");
    return true;
}

static inline uint64_t ready_word(uint64_t claimed, const publication *about)
{
    return rf_word(RF_STATE_READY, RF_NO_OWNER, rf_word_epoch(claimed)) | about->pin;
}

/* CLAIMED -> READY, behind describe_slot. False when the claim was taken back. */
static inline bool ready_slot(rf_ring *ring, uint32_t slot, uint64_t claimed,
                              const publication *about)
{
    /* R1 -> A1 (take_slot): payload and slot record are complete before anyone sees READY. */
    if (!rf_cas_release(&ring->words[slot], claimed, ready_word(claimed, about)))
        return false;
    RF_STEP("publish: slot ready, link not kept");
    return true;
}

/* The same for the rows of a claim, in order. How many there are before one that was taken back. */
static uint32_t ready_rows(rf_lease *lease, uint32_t rows, const publication *about)
{
    rf_ring *ring = lease->ring;
    uint32_t done = 0;
    while (done < rows) {
        uint32_t slot = rf_lease_slot(lease, done);
        const uint64_t *claimed = lease->words + done;
        if (rf_is_pair(ring, slot, rows - done) && /* R1 -> A1 (take_pair) */
            rf_cas_pair(
                &ring->words[slot], claimed,
                (uint64_t[]){ready_word(claimed[0], about), ready_word(claimed[1], about)})) {
            RF_STEP("publish: two slots ready, links not kept");
            done += 2;
        } else if (ready_slot(ring, slot, claimed[0], about)) {
            done++;
        } else {
            break;
        }
    }
    return done;
}

/* Row `done` was taken back: publish what comes behind it. How many rows are published then in all, from `own->first`
 * to `own->last`; `before` is the record before them. */
static uint32_t publish_behind_lost(rf_lease *lease, uint32_t done, uint32_t rows, uint64_t before,
                                    const publication *about, rf_chained *own)
{
    rf_ring *ring = lease->ring;
    *own = (rf_chained){0};
    if (done)
        *own = (rf_chained){rf_lease_link(lease, 0), before = rf_lease_link(lease, done - 1), 0};
    for (uint32_t row = done + 1; row < rows; row++) {
        uint32_t slot = rf_lease_slot(lease, row);
        /* Where the row before was taken back, its successor names the last one that was not. */
        if (rf_load_relaxed(&ring->words[slot]) == lease->words[row])
            rf_store_relaxed(&ring->links[slot], before);
        if (!ready_slot(ring, slot, lease->words[row], about))
            continue;
        own->last = before = rf_lease_link(lease, row);
        own->first = own->first ? own->first : before;
        done++;
    }
    return done;
}

/* Publish rows in order; how many were still ours. First what all their slots know, then their words: a
 * compare-and-swap waits for every store before it, and so each row for the line of its slot record. */
static uint32_t publish_rows(rf_lease *lease, uint32_t rows, const uint64_t *tags,
                             const uint64_t *replies, const publication *about)
{
    rf_ring *ring = lease->ring;
    uint32_t done, slot = lease->first, passed;
    if (rows == 0)
        return 0;
    uint64_t before = rf_chain_place(ring, slot, lease->since, &passed), link = before;
    for (uint32_t row = 0; row < rows; row++, slot = rf_wrap(ring, slot + 1)) {
        describe_slot(ring, slot, lease->words[row], tags ? tags[row] : 0,
                      replies ? replies[row] : 0, link, about);
        link = rf_link(slot, rf_word_epoch(lease->words[row]));
    }
    rf_chained own = {.first = rf_lease_link(lease, 0), .last = link};
    rf_chain_prepare(ring, own.first, own.last);
    done = ready_rows(lease, rows, about);
    if (done < rows) {
        done = publish_behind_lost(lease, done, rows, before, about, &own);
        rf_chain_prepare(ring, own.first, own.last);
    }
    if (passed)
        rf_chain_enter(ring, &own, lease->first, lease->words, rows, passed);
    else if (done)
        rf_chain_append(ring, own.last);
    return done;
}

rf_status rf_publish(rf_lease *lease, uint32_t rows, const uint64_t *tags, int pinned)
{
    return rf_publish_requests(lease, rows, tags, NULL, pinned);
}

rf_status rf_publish_requests(rf_lease *lease, uint32_t rows, const uint64_t *tags,
                              const uint64_t *replies, int pinned)
{
    rf_ring *ring = lease->ring;
    if (!lease->is_claim || ring->is_pool || lease->settled || lease->published ||
        rows > lease->rows)
        return RF_INVALID;
    if (lease->generation != rf_load_relaxed(&rf_fork_generation))
        return RF_SLOT_LOST;
    lease->pinned = pinned || rf_lease_references(lease) > 1;
    publication about = {.claimed_ns = lease->claimed_ns,
                         .published_ns = rf_now_ns(),
                         .pin = lease->pinned ? RF_PIN : 0,
                         .producer = rf_self(ring)};
    begin_publishing(ring);
    uint32_t done = publish_rows(lease, rows, tags, replies, &about);
    RF_STEP("publish: rows ready, not counted");
    count_published(ring, done);
    end_publishing(ring);
    lease->published = rows;
    RF_STEP("publish: rows counted, nobody told");
    if (done)
        rf_notify_behind_swap(&ring->header->readable, done);
    if (!lease->pinned) {
        rf_discard_rows(lease, rows);
        lease->settled = true;
    }
    return done == rows ? RF_OK : RF_SLOT_LOST;
}

static void copy_record(const rf_ring *ring, uint32_t slot, const void *const *sources,
                        bool streamed)
{
    for (uint32_t field = 0; field < ring->geometry.fields; field++) {
        const rf_field *layout = &ring->geometry.field[field];
        uint8_t *to = ring->region[field] + slot * layout->stride_bytes;
        if (streamed)
            rf_stream(to, sources[field], layout->sample_bytes);
        else
            memcpy(to, sources[field], layout->sample_bytes);
    }
    if (streamed)
        rf_end_streaming();
}

/* The same for a record that takes a while; when it was there. */
static int64_t copy_large_record(rf_ring *ring, uint32_t slot, const void *const *sources,
                                 int64_t begun_ns)
{
    if (ring->record_bytes < ring->copies.least_bytes) {
        copy_record(ring, slot, sources, false);
        return rf_now_ns();
    }
    unsigned way = rf_way_to_copy(ring, slot);
    copy_record(ring, slot, sources, way & RF_COPY_STREAMED);
    int64_t now = rf_now_ns();
    rf_note_copy(ring, way, now - begun_ns);
    return now;
}

rf_status rf_put(rf_ring *ring, const void *const *sources, uint64_t tag, int64_t deadline_ns)
{
    return rf_put_request(ring, sources, tag, 0, deadline_ns, NULL);
}

rf_status rf_put_request(rf_ring *ring, const void *const *sources, uint64_t tag, uint64_t reply,
                         int64_t deadline_ns, uint64_t *link)
{
    uint32_t slot, count;
    uint64_t word, since = rf_chain_now(ring);
    if (ring->is_pool)
        return RF_INVALID;
    rf_status status = wait_to_claim(ring, 1, deadline_ns, &slot, &count, &word);
    if (status != RF_OK)
        return status;
    /* The stores of the copy go to memory that a taker had last. A clock or a locked operation
     * behind them would wait for that memory, and ready_slot once more for the slot record. A
     * small record is copied faster than the clock is read anyway, so both come first and there is
     * one wait for all. */
    bool small = ring->record_bytes <= SMALL_RECORD_BYTES;
    if (small)
        begin_publishing(ring);
    publication about = {.claimed_ns = rf_now_ns(), .producer = rf_self(ring)};
    about.published_ns = about.claimed_ns;
    if (small)
        copy_record(ring, slot, sources, false);
    else
        about.published_ns = copy_large_record(ring, slot, sources, about.claimed_ns);
    RF_STEP("put: payload copied");
    if (!small)
        begin_publishing(ring);
    uint32_t passed;
    uint64_t before = rf_chain_place(ring, slot, since, &passed),
             own = rf_link(slot, rf_word_epoch(word));
    rf_chain_prepare(ring, own, own);
    bool published = describe_slot(ring, slot, word, tag, reply, before, &about) &&
                     ready_slot(ring, slot, word, &about);
    if (published && passed)
        rf_chain_enter(ring, &(rf_chained){.first = own, .last = own}, slot, &word, 1, passed);
    else if (published)
        rf_chain_append(ring, own);
    RF_STEP("put: slot ready, not counted");
    count_published(ring, published);
    end_publishing(ring);
    if (!published)
        return RF_SLOT_LOST;
    if (link)
        *link = own;
    rf_notify_behind_swap(&ring->header->readable, 1);
    return RF_OK;
}

int rf_record_is_gone(const rf_ring *ring, uint64_t link)
{
    uint32_t slot = rf_link_slot(link);
    if (slot >= ring->slot_count)
        return 1;
    /* A2 <- R2 (release_rows): who released the slot had held the request's cell before (rf_hold). */
    uint64_t word = rf_load_acquire(&ring->words[slot]);
    return rf_word_state(word) == RF_STATE_PINNED ||
           ((rf_word_epoch(word) ^ link) & RF_LINK_EPOCH_MASK) != 0;
}
