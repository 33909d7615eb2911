/*
 * The taker's side: find the run of records that is next, and take it. The outline stands in ring.c.
 */
#include <string.h>

#include "ring/window.h"
#include "segment/handle.h"

/* How long records on both sides of a held slot wait for it before they go in two batches. */
#define GAP_PATIENCE_NS INT64_C(5000000)

/* What one look at the ring said to a taker. */
typedef struct look {
    uint32_t first;
    uint32_t rows;    /* of the run that starts there; 0: nothing is ready */
    uint32_t missing; /* rows worth sleeping for */
    bool by_link;
    bool alone; /* a record over which a taker failed */
    bool hasty; /* nobody will sleep on what it says: who looks at all words takes their lines from
                   who is about to change them, so only the cursor's is looked at */
    rf_status open; /* rf_still_open, before anything else was looked at */
} look;

/* ---- Finding records ------------------------------------------------------------------------ */

/* Is the predecessor of the record in `slot` still waiting, outside [first, slot)? */
static bool must_wait(const rf_ring *ring, uint32_t first, uint32_t slot, uint32_t *predecessor)
{
    /* A18 <- R18 (link_anew): a record that was put in front of this one later is found READY, or gone. */
    uint64_t link = rf_load_acquire(&ring->links[slot]);
    uint32_t before = rf_link_slot(link);
    if (link == 0 || before >= ring->slot_count || before == slot)
        return false;
    uint32_t distance = rf_wrap(ring, before + ring->slot_count - first);
    uint32_t length = rf_wrap(ring, slot + ring->slot_count - first);
    if (distance < length)
        return false; /* it goes in the same run, ahead of us */
    *predecessor = before;
    /* Relaxed: it was READY before our record got this link, from the same producer; behind R1 -> A1 or A18 we
     * see its word as it was then or later, and it never comes back to READY from later. */
    return rf_link_is_ready(link, rf_load_relaxed(&ring->words[before]));
}

/* How many records lie READY in a row from `first` on, each of them free to go; their words.
 * Records over which a taker failed only `together` with others if so wished, and dead letters never. */
static uint32_t run_length(const rf_ring *ring, uint32_t first, uint32_t most, bool together,
                           uint64_t *words)
{
    uint32_t ready = 0, rows = 0, unused;
    most = rf_rows_from(ring, first, most);
    for (; ready < most; ready++) {
        uint32_t slot = rf_wrap(ring, first + ready);
        words[ready] =
            rf_load_acquire(&ring->words[slot]); /* A1 <- R1 (ready_slot), for the link */
        if (rf_is_ready_as_put(words[ready]))
            continue;
        if (rf_word_state(words[ready]) != RF_STATE_READY)
            break;
        uint32_t failures = rf_word_failures(words[ready]);
        if (failures && (!together || rf_is_dead_letter(ring, failures))) {
            ready +=
                ready == 0; /* it goes alone: who dies over it takes nobody else's record along */
            break;
        }
    }
    for (uint32_t slot = first, before = ring->slot_count; rows < ready; rows++) {
        /* Most follow the record beside them, which goes in the same run. */
        if (rf_link_slot(rf_load_relaxed(&ring->links[slot])) != before &&
            must_wait(ring, first, slot, &unused))
            break;
        before = slot;
        slot = rf_wrap(ring, slot + 1);
    }
    return rows;
}

/* Where to look for the next run: behind the last one, where links had led to that, else from the take cursor on.
 * Before a crowd of producers the slots of a full ring are not in the order of their records; who went back to
 * the cursor each time would follow the same links again, one slot further. */
static uint32_t look_from(const rf_ring *ring, bool *by_link)
{
    if (rf_load_relaxed(&ring->patrol)) {
        *by_link = false;
        rf_store_relaxed(&((rf_ring *)ring)->patrol, 0u);
        return rf_cursor(ring, &ring->header->claim_cursor);
    }
    uint32_t trail = rf_load_relaxed(&ring->trail);
    *by_link = trail != 0;
    return trail ? trail - 1 : rf_cursor(ring, &ring->header->take_cursor);
}

/* With a window the cursors do not go around by themselves, and outside may lie what a claim from before became. So one look
 * for as many records as the ring has slots goes around all that lies behind the newest claim first. */
static void walk_patrol(rf_ring *ring, uint32_t count)
{
    uint32_t rows = rf_load_relaxed(&ring->patrol_rows) + count;
    if (rows >= ring->slot_count)
        rf_store_relaxed(&ring->patrol, 1u);
    rf_store_relaxed(&ring->patrol_rows, rows >= ring->slot_count ? 0 : rows);
}

/* Remember where a run ended. A trail is left after a lap, so that what lies at the cursor gets its turn; and, where claims
 * stay in a window, at the end of the records that wait: claims look whether the cursor keeps up, and a trail leaves it. */
static void leave_trail(rf_ring *ring, const look *seen, uint32_t count)
{
    uint32_t behind = rf_wrap(ring, seen->first + count);
    if (ring->window)
        walk_patrol(ring, count);
    bool goes_on =
        seen->by_link &&
        (!ring->window || rf_word_state(rf_load_relaxed(&ring->words[behind])) != RF_STATE_FREE);
    uint32_t walked = goes_on ? rf_load_relaxed(&ring->trail_rows) + count : 0;
    if (!seen->by_link)
        rf_store_relaxed(&ring->header->take_cursor, rf_next_look(ring, seen->first, behind));
    if (walked >= ring->slot_count)
        walked = 0;
    rf_store_relaxed(&ring->trail, walked ? behind + 1 : 0);
    rf_store_relaxed(&ring->trail_rows, walked);
}

/* The first record of the run to take next, among `most` slots from where we look on, or where links lead. */
static bool find_first(const rf_ring *ring, uint32_t most, uint32_t *first, bool *by_link)
{
    bool on_trail;
    uint32_t slot = look_from(ring, &on_trail), hops = 0;
    for (uint32_t seen = 0; seen < most; seen++, slot = rf_wrap(ring, slot + 1)) {
        /* A1 <- R1 (ready_slot), for the link. */
        if (rf_word_state(rf_load_acquire(&ring->words[slot])) != RF_STATE_READY)
            continue;
        uint32_t start = slot, before;
        bool waits;
        /* A chain of links has no more records than the ring. One that has was garbled into a
         * circle: its records are not to be had, and to find that out costs one lap at most. */
        while ((waits = must_wait(ring, start, start, &before)) && hops++ < ring->slot_count) {
            start = before;
            RF_STEP("take: link followed");
            (void)rf_load_acquire(&ring->words[start]); /* A1 <- R1, for the next link */
        }
        if (waits)
            continue;
        *first = start;
        *by_link = on_trail || start != slot;
        return true;
    }
    return false;
}

/* ---- Taking --------------------------------------------------------------------------------- */

static uint64_t taken_word(uint64_t ready, uint32_t self)
{
    return rf_word(RF_STATE_TAKEN, self, rf_word_epoch(ready)) | (ready & RF_PIN);
}

/* READY -> TAKEN by us, if the word is still what run_length saw. */
static bool take_slot(rf_ring *ring, uint32_t slot, uint64_t *word, uint32_t self)
{
    uint64_t taken = taken_word(*word, self);
    /* The word that is swapped is the one that was read before the link: were it read anew, the
     * slot might be a lap further, and hold a record whose predecessor still waits. */
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

/* The same for a run, up to where another taker comes between. How many. */
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

/* Take the run that run_length found, up to where another taker comes between: what is behind may follow what
 * that one took, so its links were looked at in vain. */
static uint32_t take_run(rf_ring *ring, uint32_t first, uint32_t rows, bool unseen, rf_lease *lease)
{
    uint32_t count = take_rows(ring, first, rows, lease->words), most = 0;
    if (!count)
        return 0;
    int64_t now = rf_now_ns();
    unseen = unseen && count == 1; /* several are counted over at once, whoever sees them */
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
        /* What its READY word said: who made that has left the same here. */
        uint32_t before = rf_deliveries(delivered, epoch), failures = rf_failures(delivered, epoch);
        most = failures > most ? failures : most;
        rf_store_relaxed(&use->deliveries,
                         rf_delivered(epoch, before + 1, failures + !(unseen && failures)));
    }
    lease->first = first;
    lease->rows = count;
    lease->failures = (uint8_t)most;
    /* It comes alone; more in a run are those that a broken peer counted failures for meanwhile. */
    lease->dead_letter = most && count == 1 && rf_is_dead_letter(ring, most);
    RF_STEP("take: deliveries counted");
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
    if (rows >= rf_rows_from(ring, first, ring->slot_count))
        return false;
    rf_state next = rf_word_state(rf_load_relaxed(&ring->words[rf_wrap(ring, first + rows)]));
    return next == RF_STATE_FREE || next == RF_STATE_CLAIMED;
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* Sleep for what is missing, but never for more than there is room to publish. */
static void want_rows(look *seen, uint32_t missing, const rf_census *now)
{
    uint32_t room = now->free + now->claimed;
    seen->missing = least(missing, room ? room : 1);
}

/* Is a run shorter than min_rows all that can be had for now? */
static bool short_run_is_due(const rf_ring *ring, rf_take_request *request, look *seen,
                             int64_t now_ns)
{
    rf_census now = rf_count_states(ring);
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
    if (seen->rows >= request->max_rows || seen->alone ||
        (seen->rows >= request->min_rows && request->linger_ns <= 0))
        return true;
    if (seen->rows < request->min_rows) {
        if (seen->hasty)
            return false;
        request->linger_until_ns = 0;
        return short_run_is_due(ring, request, seen, rf_now_ns());
    }
    int64_t now_ns = rf_now_ns();
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
    if (seen->hasty)
        return RF_EMPTY; /* nothing at the cursor; what lies elsewhere keeps its times */
    /* Another taker was faster; these times belong to what it took. */
    request->linger_until_ns = 0;
    request->enough_since_ns = 0;
    if (seen->open == RF_OK && request->min_rows == 1)
        return RF_EMPTY;
    rf_census now = rf_count_states(ring);
    want_rows(seen, request->min_rows, &now);
    if (seen->open == RF_OK || now.claimed || now.ready)
        return RF_EMPTY;
    /* A claim is published in other slots where somebody may still write into its own (rf_claim_copy): from one that we had
     * yet to look at, perhaps, into one that we had passed. Then it lies READY there by now. A19 <- R19 (rf_set_apart) */
    rf_fence_full();
    return rf_count_states(ring).ready ? RF_EMPTY : seen->open;
}

/* What ended a short run may have been published while all words were counted. */
static bool has_changed(const rf_ring *ring, const rf_take_request *request, rf_lease *lease,
                        const look *seen)
{
    return run_length(ring, seen->first, request->max_rows, request->min_rows > 1, lease->words) !=
           seen->rows;
}

/* One attempt: RF_OK, RF_FINISHED, RF_CLOSED, or RF_EMPTY with what was seen. */
static rf_status try_take(rf_ring *ring, rf_take_request *request, rf_lease *lease, look *seen)
{
    /* Another taker may be faster, again and again; but who looks so often must also look at
     * the clock. */
    bool together =
        request->min_rows > 1; /* it insists on rows, also of those over which one failed */
    for (int attempt = 0; attempt < 64; attempt++) {
        seen->open = rf_still_open(ring);
        if (seen->open != RF_OK)
            rf_fence_full(); /* F4 with F3 (try_claim): claims older than the end are seen below. A16 <- R16 */
        bool at_cursor = seen->hasty && !rf_load_relaxed(&ring->patrol);
        if (!find_first(ring, at_cursor ? 1 : ring->slot_count, &seen->first, &seen->by_link))
            return nothing_ready(ring, request, seen);
        seen->rows = run_length(ring, seen->first, request->max_rows, together, lease->words);
        if (!seen->rows)
            continue;
        seen->alone = rf_word_failures(lease->words[0]) != 0 &&
                      (!together || rf_is_dead_letter(ring, rf_word_failures(lease->words[0])));
        if (!run_is_due(ring, request, seen))
            return RF_EMPTY;
        if (seen->rows < request->min_rows && has_changed(ring, request, lease, seen))
            continue;
        uint32_t count = take_run(ring, seen->first, seen->rows, request->unseen, lease);
        if (!count)
            continue;
        leave_trail(ring, seen, count);
        RF_STEP("take: cursor moved");
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

void rf_leave_no_room_unused(rf_ring *ring)
{
    rf_event *writable = &ring->header->writable;
    if (rf_load_relaxed(&writable->wanted) != 0 && rf_count_states(ring).free != 0)
        rf_notify(writable, UINT32_MAX);
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
        RF_STEP("take: wish left");
        if ((status = rf_enter(ring)) == RF_OK)
            status = try_take(ring, request, lease, seen);
    } while (status == RF_EMPTY && seen->missing < wished);
    if (status == RF_EMPTY)
        rf_leave_no_room_unused(ring);
    return status;
}

/* Wait a little for the last row that is missing to min_rows. */
static bool spin_for_rows(rf_ring *ring, const rf_take_request *request, const look *seen)
{
    if (seen->rows >= request->min_rows)
        return false; /* it lingers, which is no matter of microseconds */
    uint32_t first = seen->rows ? seen->first : rf_cursor(ring, &ring->header->take_cursor);
    uint32_t last = rf_wrap(ring, first + rf_rows_from(ring, first, request->min_rows) - 1);
    return rf_spin(&ring->take_spin, &ring->words[last], RF_STATE_READY);
}

/* With nothing in sight a patient taker sleeps for longer, where many do. False: a signal came. */
static bool sleep_for_rows(rf_ring *ring, const rf_take_request *request, uint32_t key,
                           bool patient, int64_t started)
{
    if (!patient)
        return rf_sleep(&ring->header->readable, key, next_look(request, started));
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
    look seen = {.hasty = request->deadline_ns != 0};
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
        if (rf_look_after_the_dead(ring, now))
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
    if (ring->is_pool || request->max_rows == 0 || request->min_rows == 0 ||
        request->min_rows > request->max_rows || request->min_rows > ring->slot_count)
        return RF_INVALID;
    if (request->max_rows > ring->slot_count)
        request->max_rows = ring->slot_count;
    if (request->min_rows > 1 || (request->linger_ns && request->max_rows > 1))
        rf_keep_together(ring, request->max_rows);
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
