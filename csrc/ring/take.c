/*
 * The taker's side: take a run of records, or wait for one. The outline of the protocol is in ring.c.
 *
 * It may not know how a run is found (find.c), nor when it is due (due.c).
 */
#include <string.h>

#include "ring/dead_letters.h"
#include "ring/due.h"
#include "ring/find.h"
#include "ring/lease.h"
#include "ring/reaper.h"
#include "ring/window.h"

/* ---- Taking --------------------------------------------------------------------------------- */

static uint64_t taken_word(uint64_t ready, uint32_t self)
{
    return rf_word(RF_STATE_TAKEN, self, rf_word_epoch(ready)) | (ready & RF_KEEP);
}

/* READY -> TAKEN by us, if the word is still the one that rf_run_length saw. */
static bool take_slot(rf_ring *ring, uint32_t slot, uint64_t *word, uint32_t self)
{
    uint64_t taken = taken_word(*word, self);
    /* The swap starts from the word that was read before the link. If it were read anew, the
     * slot might be a lap further and hold a record whose predecessor still waits. */
    /* A1 <- R1 (ready_slot): we see the whole payload and slot record. */
    if (!rf_cas_acquire(&ring->words[slot], *word, taken))
        return false;
    *word = taken;
    return true;
}

/* The same for a slot and the next. */
static bool take_pair(rf_ring *ring, uint32_t slot, uint64_t *words, uint32_t self)
{
    uint64_t taken[] = {taken_word(words[0], self), taken_word(words[1], self)};
    if (!rf_cas_pair(&ring->words[slot], words, taken)) /* A1 <- R1 (ready_rows) */
        return false;
    memcpy(words, taken, sizeof taken);
    return true;
}

/* The same for a run, up to where another taker came between. Returns how many. */
static uint32_t take_rows(rf_ring *ring, uint32_t first, uint32_t rows, uint64_t *words)
{
    uint32_t self = rf_self(ring), count = 0;
    rf_fetch(ring, ring->words, first, rows);
    while (count < rows) {
        uint32_t slot = rf_wrap(ring, first + count);
        if (rf_is_pair(ring, slot, rows - count) && take_pair(ring, slot, words + count, self))
            count += 2;
        else if (take_slot(ring, slot, words + count, self))
            count++;
        else
            break;
        RF_STEP("take: slots taken");
    }
    return count;
}

/* Take the run that rf_run_length found, up to where another taker came between. The rows
 * behind that may follow rows of the other taker, so the check of their links no longer holds. */
static uint32_t take_run(rf_ring *ring, uint32_t first, uint32_t rows, bool unseen, rf_lease *lease)
{
    uint32_t count = take_rows(ring, first, rows, lease->words), most = 0;
    if (!count)
        return 0;
    int64_t now = rf_now_ns();
    unseen = unseen && count == 1; /* several are counted at once, whether they are shown or not */
    RF_STEP("take: run taken, deliveries not counted");
    for (uint32_t row = 0; row < count; row++) {
        rf_use *use = &ring->uses[rf_wrap(ring, first + row)];
        uint64_t epoch = rf_word_epoch(lease->words[row]);
        uint64_t delivered = rf_load_relaxed(&use->deliveries);
        rf_store_relaxed(&use->taken_ns, now);
        if (delivered >> 16 != epoch) { /* for the first time */
            rf_store_relaxed(&use->deliveries, rf_delivered(epoch, 1, 1));
            continue;
        }
        /* As its READY word said: the process that made that word has left the same numbers
         * here. */
        uint32_t before = rf_deliveries(delivered, epoch), failures = rf_failures(delivered, epoch);
        most = failures > most ? failures : most;
        rf_store_relaxed(&use->deliveries,
                         rf_delivered(epoch, before + 1, failures + !(unseen && failures)));
    }
    lease->first = first;
    lease->rows = count;
    lease->failures = (uint8_t)most;
    /* A dead letter comes alone. More rows in a run mean that a broken peer counted failures
     * meanwhile. */
    lease->dead_letter = most && count == 1 && rf_is_dead_letter(ring, most);
    RF_STEP("take: deliveries counted");
    rf_count(ring, taken, count);
    rf_count(ring, batches, 1);
    return count;
}

/* The row that ended a short run may have been published while all words were counted. */
static bool has_changed(const rf_ring *ring, const rf_take_request *request, rf_lease *lease,
                        const rf_find_result *seen)
{
    return rf_run_length(ring, seen->first, request->max_rows, request->min_rows > 1,
                         lease->words) != seen->rows;
}

/* One attempt: RF_OK, RF_FINISHED, RF_CLOSED, or RF_EMPTY with what was seen. */
static rf_status try_take(rf_ring *ring, rf_take_request *request, rf_lease *lease,
                          rf_find_result *seen)
{
    /* Another taker may be faster, again and again; after so many attempts the caller must
     * check the clock. */
    bool together = request->min_rows >
                    1; /* the caller insists on rows, also on those over which a taker failed */
    for (int attempt = 0; attempt < 64; attempt++) {
        seen->open = rf_still_open(ring);
        if (seen->open != RF_OK)
            rf_fence_full(); /* F4 with F3 (try_claim): claims older than the end are seen below. A16 <- R16 */
        bool at_cursor = seen->hasty && !rf_load_relaxed(&ring->full_search);
        if (!rf_find_first(ring, at_cursor ? 1 : ring->slot_count, &seen->first, &seen->by_link))
            return rf_nothing_ready(ring, request, seen);
        seen->rows = rf_run_length(ring, seen->first, request->max_rows, together, lease->words);
        if (!seen->rows)
            continue;
        seen->alone = rf_word_failures(lease->words[0]) != 0 &&
                      (!together || rf_is_dead_letter(ring, rf_word_failures(lease->words[0])));
        if (!rf_run_is_due(ring, request, seen))
            return RF_EMPTY;
        if (seen->rows < request->min_rows && has_changed(ring, request, lease, seen))
            continue;
        uint32_t count = take_run(ring, seen->first, seen->rows, request->unseen, lease);
        if (!count)
            continue;
        rf_leave_trail(ring, seen, count);
        RF_STEP("take: cursor moved");
        return RF_OK;
    }
    seen->rows = 0;
    seen->missing = 1;
    return RF_EMPTY;
}

void rf_leave_no_room_unused(rf_ring *ring)
{
    rf_event *writable = &ring->header->writable;
    if (rf_load_relaxed(&writable->wanted) != 0 && rf_count_states(ring).free != 0)
        rf_notify(writable, UINT32_MAX);
}

/* Leave word of the missing rows and look once more. RF_EMPTY: sleep on the key. */
static rf_status last_look(rf_ring *ring, rf_take_request *request, rf_lease *lease,
                           rf_find_result *seen, uint32_t *key)
{
    uint32_t wished;
    rf_status status;
    /* Rows that came between the look and the word that we left were not counted. While fewer
     * rows are missing than we asked for, ask for fewer. */
    do {
        wished = seen->missing;
        *key = rf_prepare_wait(&ring->header->readable, wished);
        RF_STEP("take: wish left");
        if ((status = rf_enter(ring)) == RF_OK)
            status = try_take(ring, request, lease, seen);
    } while (status == RF_EMPTY && seen->missing < wished);
    if (status == RF_EMPTY)
        rf_leave_no_room_unused(ring);
    return status;
}

/* Spin a little for the last row that is missing to min_rows. */
static bool spin_for_rows(rf_ring *ring, const rf_take_request *request, const rf_find_result *seen)
{
    if (seen->rows >= request->min_rows)
        return false; /* it lingers, which takes more than microseconds */
    uint32_t first = seen->rows ? seen->first : rf_cursor(ring, &ring->header->take_cursor);
    uint32_t last = rf_wrap(ring, first + rf_rows_from(ring, first, request->min_rows) - 1);
    return rf_spin(&ring->take_spin, &ring->words[last], RF_STATE_READY);
}

/* With nothing in sight a patient taker sleeps for longer, if many do. False: a signal came. */
static bool sleep_for_rows(rf_ring *ring, const rf_take_request *request, uint32_t key,
                           bool patient, int64_t started)
{
    if (!patient)
        return rf_sleep(&ring->header->readable, key, rf_next_look_ns(request, started));
    int64_t until = rf_patience_ends(ring, started);
    rf_begin_patience(ring);
    bool woken = rf_sleep(&ring->header->readable, key,
                          request->deadline_ns < until ? request->deadline_ns : until);
    rf_end_patience(ring);
    return woken;
}

static rf_status wait_to_take(rf_ring *ring, rf_take_request *request, rf_lease *lease)
{
    int64_t started = 0, began = 0;
    int spins = 0;
    rf_status status;
    rf_find_result seen = {.hasty = request->deadline_ns != 0};
    for (;;) {
        if ((status = rf_enter(ring)) != RF_OK ||
            (status = try_take(ring, request, lease, &seen)) != RF_EMPTY)
            break;
        int64_t now = rf_now_ns();
        if (seen.hasty) {
            started = started ? started : now;
            seen.hasty = spins++ < RF_MOST_SPINS && spin_for_rows(ring, request, &seen);
            continue;
        }
        if (rf_reap_in_turn(ring, now))
            continue;
        began = began ? began : now;
        if (request->patient && rf_many_wait(ring) && now - began < RF_MOST_PATIENCE_NS)
            started = now; /* the caller has nothing to do at the end of each slice */
        if ((status = rf_wait_on(&started, now, request->deadline_ns, RF_EMPTY)) != RF_OK) {
            /* The deadline is for min_rows, and cuts the wait for more short. */
            if (status == RF_EMPTY && seen.rows >= request->min_rows) {
                request->linger_ns = 0;
                status = try_take(ring, request, lease, &seen);
            }
            break;
        }
        uint32_t key;
        if ((status = last_look(ring, request, lease, &seen, &key)) != RF_EMPTY)
            break;
        bool patient = request->patient && seen.rows == 0;
        if (!sleep_for_rows(ring, request, key, patient, started)) {
            status = RF_AGAIN;
            break;
        }
    }
    if (started)
        rf_count(ring, take_wait_ns, rf_now_ns() - (began ? began : started));
    return status;
}

rf_status rf_take(rf_ring *ring, rf_take_request *request, rf_lease **out)
{
    *out = NULL;
    if (ring->kind->is_pool || request->max_rows == 0 || request->min_rows == 0 ||
        request->min_rows > request->max_rows || request->min_rows > ring->slot_count)
        return RF_INVALID;
    if (request->max_rows > ring->slot_count)
        request->max_rows = ring->slot_count;
    if (request->min_rows > 1 || (request->linger_ns && request->max_rows > 1))
        rf_want_contiguous(ring, request->max_rows);
    rf_status status = rf_enter(ring);
    if (status != RF_OK)
        return status;
    for (;;) {
        rf_lease *lease = rf_new_lease(ring, request->max_rows);
        if (!lease)
            return RF_NO_MEMORY;
        status = wait_to_take(ring, request, lease);
        if (status != RF_OK) {
            rf_free_lease(lease);
            return status == RF_FINISHED && rf_ring_has_failed(ring) ? RF_PRODUCER_FAILED : status;
        }
        if (!lease->dead_letter || request->dead_letters) {
            *out = lease;
            return RF_OK;
        }
        rf_put_aside(lease);
    }
}
