/*
 * When a run is due: whether a taker takes it now, or waits for more. The outline of the protocol is in ring.c.
 *
 * It may not know how a run is found (find.c), nor how a taker sleeps (take.c).
 */
#include "ring/due.h"

#include "ring/ring.h"

/* How long records on both sides of a held slot wait for it before they go in two batches. */
#define GAP_PATIENCE_NS INT64_C(5000000)

/* A time from now on; a span too long to add never ends. */
static int64_t after_ns(int64_t now_ns, int64_t span_ns)
{
    return span_ns > RF_FOREVER - now_ns ? RF_FOREVER : now_ns + span_ns;
}

/* When records on both sides of a held slot go without it. */
static int64_t patience_ends_ns(const rf_take_request *request)
{
    int64_t patience = request->linger_ns > GAP_PATIENCE_NS ? request->linger_ns : GAP_PATIENCE_NS;
    return after_ns(request->enough_since_ns, patience);
}

/* Can the slot behind the run make it longer? */
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

/* Sleep for the missing rows, but never for more than there is room to publish. */
static void want_rows(rf_find_result *seen, uint32_t missing, const rf_census *now)
{
    uint32_t room = now->free + now->claimed;
    seen->missing = least(missing, room ? room : 1);
}

/* Is a run shorter than min_rows all that can be had for now? */
static bool short_run_is_due(const rf_ring *ring, rf_take_request *request, rf_find_result *seen,
                             int64_t now_ns)
{
    rf_census now = rf_count_states(ring);
    want_rows(seen, request->min_rows - seen->rows, &now);
    if (now.claimed == 0 && (seen->open != RF_OK || now.free == 0))
        return true; /* no producer can publish any more, or not before we take */
    /* A holder of the missing slots must not delay the producers that wait for a free one. */
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

/* Is the run taken now? False: the taker waits for more. */
bool rf_run_is_due(const rf_ring *ring, rf_take_request *request, rf_find_result *seen)
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

/* Nothing is ready: RF_EMPTY if something may still come, else RF_FINISHED or RF_CLOSED. */
rf_status rf_nothing_ready(const rf_ring *ring, rf_take_request *request, rf_find_result *seen)
{
    seen->rows = 0;
    seen->missing = 1;
    if (seen->hasty)
        return RF_EMPTY; /* nothing at the cursor; records elsewhere keep their times */
    /* Another taker was faster; these times belong to the rows that it took. */
    request->linger_until_ns = 0;
    request->enough_since_ns = 0;
    if (seen->open == RF_OK && request->min_rows == 1)
        return RF_EMPTY;
    rf_census now = rf_count_states(ring);
    want_rows(seen, request->min_rows, &now);
    if (seen->open == RF_OK || now.claimed || now.ready)
        return RF_EMPTY;
    /* A claim that other code may still write into is published in other slots
     * (rf_claim_copy): perhaps from a slot that we had yet to look at into one that we had
     * passed. Then the record is READY there by now. A19 <- R19 (rf_set_apart) */
    rf_fence_full();
    return rf_count_states(ring).ready ? RF_EMPTY : seen->open;
}

/* When a waiting taker must look again, even if nothing is published. */
int64_t rf_next_look_ns(const rf_take_request *request, int64_t started)
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
