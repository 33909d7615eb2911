/*
 * Publishing: claimed slots that were filled become records. The outline of the protocol is in ring.c.
 *
 * It may not know how free slots are found (claim.c).
 */
#include <sched.h>
#include <string.h>

#include "ring/claim.h"
#include "ring/lease.h"
#include "ring/order.h"
#include "ring/streaming.h"

enum { SMALL_RECORD_BYTES = 1024 };

/* ---- Publishing ----------------------------------------------------------------------------- */

/* The threads of this process publish one after the other, so that each record's link names a
 * record that is READY already. A taker would pass over a predecessor that another thread has
 * yet to publish, and over the records before that. No other process waits for this lock, nor
 * does it wait for any. While it is held, a thread makes only the few stores of publish_rows
 * and of the chain. */
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

/* Call it before end_publishing, which keeps this process's threads apart: so an atomic
 * addition is not needed. */
static void count_published(rf_ring *ring, uint32_t rows)
{
    _Atomic uint64_t *published = &rf_own_counters(ring)->published;
    rf_store_relaxed(published, rf_load_relaxed(published) + rows);
}

/* The common data of rows that are published together. */
typedef struct publication {
    int64_t claimed_ns, published_ns;
    uint64_t keep;
    uint32_t producer;
} publication;

/* Write what a slot of ours says of its record, between begin_publishing and end_publishing.
 * `link` names the record before it. False: the claim was taken back. */
static inline bool describe_slot(rf_ring *ring, uint32_t slot, uint64_t claimed, uint64_t tag,
                                 uint64_t reply, uint64_t link, const publication *about)
{
    rf_slot *record = &ring->slots[slot];
    /* A late writer must not garble the record of the slot's next owner. If the claim is taken
     * back between this check and the compare-and-swap of ready_slot, the swap fails. At most
     * a tag or a link is garbled, and takers check links against words before they follow
     * them. */
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
    return rf_word(RF_STATE_READY, RF_NO_OWNER, rf_word_epoch(claimed)) | about->keep;
}

/* CLAIMED -> READY, behind describe_slot. False: the claim was taken back. */
static inline bool ready_slot(rf_ring *ring, uint32_t slot, uint64_t claimed,
                              const publication *about)
{
    /* R1 -> A1 (take_slot): payload and slot record are complete before anyone sees READY. */
    if (!rf_cas_release(&ring->words[slot], claimed, ready_word(claimed, about)))
        return false;
    RF_STEP("publish: slot ready, link not kept");
    return true;
}

/* The same for the rows of a claim, in order. Returns how many there are before one that was
 * taken back. */
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

/* Row `done` was taken back: publish the rows behind it. Returns how many rows are published
 * in all, from `own->first` to `own->last`; `before` is the record before them. */
static uint32_t publish_behind_lost(rf_lease *lease, uint32_t done, uint32_t rows, uint64_t before,
                                    const publication *about, rf_chained *own)
{
    rf_ring *ring = lease->ring;
    *own = (rf_chained){0};
    if (done)
        *own = (rf_chained){rf_lease_link(lease, 0), before = rf_lease_link(lease, done - 1), 0};
    for (uint32_t row = done + 1; row < rows; row++) {
        uint32_t slot = rf_lease_slot(lease, row);
        /* If the row before was taken back, its successor names the last row that was not. */
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

/* Publish rows in order; returns how many were still ours. It first writes what all their
 * slots say, then their words: a compare-and-swap waits for every store before it, so each row
 * would wait for the cache line of its slot record. */
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

rf_status rf_publish(rf_lease *lease, uint32_t rows, const uint64_t *tags, int kept)
{
    return rf_publish_requests(lease, rows, tags, NULL, kept);
}

rf_status rf_publish_requests(rf_lease *lease, uint32_t rows, const uint64_t *tags,
                              const uint64_t *replies, int kept)
{
    rf_ring *ring = lease->ring;
    if (!lease->is_claim || ring->kind->is_pool || lease->settled || lease->published ||
        rows > lease->rows)
        return RF_INVALID;
    if (lease->generation != rf_load_relaxed(&rf_fork_generation))
        return RF_SLOT_LOST;
    lease->kept = kept || rf_lease_references(lease) > 1;
    publication about = {.claimed_ns = lease->claimed_ns,
                         .published_ns = rf_now_ns(),
                         .keep = lease->kept ? RF_KEEP : 0,
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
    if (!lease->kept) {
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

/* The same for a record whose copy takes a while; returns the time at which it was complete. */
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
    if (ring->kind->is_pool)
        return RF_INVALID;
    rf_status status = rf_wait_to_claim(ring, 1, deadline_ns, &slot, &count, &word);
    if (status != RF_OK)
        return status;
    /* The stores of the copy go to memory that a taker had last. A clock or a locked operation
     * behind them would wait for that memory, and ready_slot would wait once more for the slot
     * record. A small record is copied faster than the clock is read, so clock and lock come
     * first and there is one wait for all. */
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
