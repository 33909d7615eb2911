/*
 * The next element of a feed: round by round, for threads that can do nothing else while they wait.
 *
 * A wait ends with a batch, with its timeout, or with the end of the ring or of the feed. Every 50 ms the feed also
 * inspects its ring, and its wait hook may end the wait.
 *
 * It may not know the slot protocol, or the threads that call it. The backlog has a lock; no thread waits while it
 * holds that lock.
 */
#include "feed.h"

#include "feed/feed_state.h"
#include "feed/interrupt.h"
#include "feed/ticket.h"
#include "feed/wait_hook.h"

/* A caller that comes back for the rest of its wait later than this begins a new wait. */
#define ABANDONED_NS INT64_C(1000000000)

/* ---- Waiting -------------------------------------------------------------------------------- */

static bool is_finished(int status)
{
    return status == RF_FINISHED || status == RF_PRODUCER_FAILED;
}

/* Call the hook for a Ctrl-C that it has not decided about yet. */
static rf_hook_result check_interrupts(rf_feed *feed)
{
    uint32_t seen = rf_interrupts();
    if (seen == rf_load_relaxed(&feed->interrupts_handled))
        return RF_HOOK_GO_ON;
    rf_hook_result result = rf_call_wait_hook(feed->id, true, false);
    if (result == RF_HOOK_ASK_AGAIN) {
        rf_store_relaxed(&feed->interrupts_asked, seen);
        return RF_HOOK_GO_ON;
    }
    rf_store_relaxed(&feed->interrupts_handled, seen);
    return result;
}

/* In addition to rf_status: return an element without rows. */
enum { RF_EMPTY_ELEMENT = -1 };

/* How a wait ends when the hook has ended it. */
static int end_by_hook(rf_feed *feed, rf_hook_result result)
{
    if (result == RF_HOOK_GIVE_EMPTY)
        return RF_EMPTY_ELEMENT;
    if (result == RF_HOOK_FAIL || !feed->plan.round_ns)
        return RF_INTERRUPTED;
    rf_store_relaxed(&feed->stops, true);
    return RF_AGAIN;
}

/* RF_OK, or the reason why no thread may wait for this feed any more. */
static rf_status still_open(const rf_feed *feed)
{
    if (rf_feeds_stopped())
        return RF_FINISHED;
    if (rf_backlog_is_closed(&feed->backlog))
        return rf_ring_has_failed(feed->ring) ? RF_PRODUCER_FAILED : RF_FINISHED;
    return rf_load_relaxed(&feed->ended) ? RF_CLOSED : RF_OK;
}

/* After a slice of waiting. RF_OK: wait on; RF_AGAIN: the round has ended. */
static rf_status inspect(rf_feed *feed, uint32_t min_rows, int64_t round_ends_ns)
{
    rf_census now = rf_count_states(feed->ring);
    /* Batches, or elements and tensors over them, hold every slot. */
    if (now.free == 0 && now.claimed == 0 && now.ready == 0)
        rf_call_wait_hook(feed->id, false, true);
    /* Put our signal handler in front again, if another was put in front of it in the meantime. */
    rf_watch_interrupts();
    rf_unwatch_interrupts();
    if (now.ready < min_rows && rf_now_ns() >= round_ends_ns) {
        rf_store_relaxed(&feed->round_ended_ns, rf_now_ns());
        return RF_AGAIN;
    }
    return RF_OK;
}

/* Continue the wait that is under way, or begin one. Returns when it began. */
static int64_t continue_wait(rf_feed *feed, int64_t now_ns)
{
    int64_t began = rf_load_relaxed(&feed->wait_began_ns);
    int64_t ended = rf_load_relaxed(&feed->round_ended_ns);
    if (!began || (ended && now_ns - ended > ABANDONED_NS)) {
        began = now_ns;
        rf_store_relaxed(&feed->wait_began_ns, began);
        /* The program alone had to handle a Ctrl-C that came while no thread waited, and it has done so. */
        uint32_t seen = rf_interrupts();
        if (seen != rf_load_relaxed(&feed->interrupts_asked))
            rf_store_relaxed(&feed->interrupts_handled, seen);
    }
    rf_store_relaxed(&feed->round_ended_ns, INT64_C(0));
    return began;
}

/* Take rows as rf_take does, and inspect the ring between slices. An rf_status, or RF_EMPTY_ELEMENT. */
static int take_rows(rf_feed *feed, uint32_t max_rows, uint32_t min_rows, rf_lease **lease)
{
    rf_take_request request = {
        .max_rows = max_rows, .min_rows = min_rows, .linger_ns = feed->plan.linger_ns};
    int64_t now = rf_now_ns(), began = continue_wait(feed, now);
    int64_t round_ends = feed->plan.round_ns ? now + feed->plan.round_ns : INT64_MAX;
    int status;
    request.deadline_ns = RF_FOREVER;
    if (feed->plan.timeout_ns >= 0 && feed->plan.timeout_ns < RF_FOREVER - began)
        request.deadline_ns = began + feed->plan.timeout_ns;
    *lease = NULL;
    do {
        rf_hook_result result = check_interrupts(feed);
        if (result != RF_HOOK_GO_ON) {
            status = end_by_hook(feed, result);
            break;
        }
        if ((status = still_open(feed)) != RF_OK)
            break;
        status = rf_take(feed->ring, &request, lease);
        if (status != RF_AGAIN)
            break;
        status = inspect(feed, min_rows, round_ends);
        if (status == RF_AGAIN)
            return RF_AGAIN; /* the wait itself continues with the next round */
    } while (status == RF_OK);
    rf_store_relaxed(&feed->wait_began_ns, INT64_C(0));
    return status;
}

/* ---- Elements ------------------------------------------------------------------------------- */

static rf_status give_empty(rf_feed *feed, rf_element **element)
{
    uint32_t rows = feed->plan.exact_rows ? feed->plan.exact_rows : feed->plan.shown_rows;
    *element = rf_element_for_copies(feed->ring, rows);
    return *element ? RF_OK : RF_NO_MEMORY;
}

/* The element that a batch becomes. NULL: no memory. */
static rf_element *element_of(const rf_feed *feed, rf_lease *lease)
{
    return feed->plan.copies ? rf_element_copied(lease, feed->plan.shown_rows)
                             : rf_element_over_lease(lease, feed->plan.shown_rows);
}

static rf_status next_batch(rf_feed *feed, rf_element **element)
{
    rf_lease *lease;
    /* An element of copies (rf_element_over_lease) returns as copies. */
    if (feed->plan.tickets &&
        (*element = rf_backlog_take(&feed->backlog, rf_feed_geometry(feed), 1)))
        return RF_OK;
    int status = take_rows(feed, feed->plan.max_rows, feed->plan.min_rows, &lease);
    if (status == RF_EMPTY_ELEMENT)
        return give_empty(feed, element);
    if (status == RF_OK && !(*element = element_of(feed, lease)))
        return RF_NO_MEMORY;
    return (rf_status)status;
}

/* Exactly the planned number of rows: over the ring's memory where one batch has them all, else copies. */
static rf_status next_exact(rf_feed *feed, rf_element **out)
{
    uint32_t exact = feed->plan.exact_rows;
    const rf_geometry *geometry = rf_feed_geometry(feed);
    rf_element *element = rf_backlog_take(&feed->backlog, geometry, 1);
    while (!element || element->rows < exact) {
        uint32_t missing = exact - (element ? element->rows : 0);
        uint32_t rows = missing < feed->plan.max_rows ? missing : feed->plan.max_rows;
        rf_lease *lease;
        int status = take_rows(feed, rows, rows, &lease);
        if (status == RF_OK && !element && rf_lease_rows(lease) == exact)
            return (*out = element_of(feed, lease)) ? RF_OK : RF_NO_MEMORY;
        if (status == RF_OK && !element && !(element = rf_element_for_copies(feed->ring, exact))) {
            rf_lease_drop(lease);
            return RF_NO_MEMORY;
        }
        if (status != RF_OK) {
            if (element)
                rf_backlog_put(&feed->backlog, element); /* the next caller continues with it */
            /* At the ring's end there may be no next caller: the last of several threads gets what all gathered. */
            if (is_finished(status) && (element = rf_backlog_take(&feed->backlog, geometry, exact)))
                break;
            return status == RF_EMPTY_ELEMENT ? give_empty(feed, out) : (rf_status)status;
        }
        rf_element_append(element, lease);
        rf_lease_drop(lease);
    }
    *out = element;
    return RF_OK;
}

rf_status rf_feed_next(rf_feed *feed, rf_element **element)
{
    *element =
        atomic_exchange_explicit(&feed->next_element, NULL, memory_order_acq_rel); /* A9 <- R9 */
    if (*element)
        return RF_OK;
    rf_status status;
    uint32_t returns;
    do {
        returns = rf_backlog_returns(&feed->backlog);
        status = feed->plan.exact_rows ? next_exact(feed, element) : next_batch(feed, element);
    } while (is_finished(status) && !rf_backlog_close(&feed->backlog, returns));
    if (status == RF_OK && feed->plan.tickets && (*element)->rows &&
        !rf_ticket_issue(*element, rf_feed_own(feed))) {
        rf_element_drop(*element); /* which returns it */
        return RF_NO_MEMORY;
    }
    return status;
}

rf_status rf_feed_begin_round(rf_feed *feed)
{
    bool stops = atomic_exchange_explicit(&feed->stops, false, memory_order_relaxed);
    return stops ? RF_FINISHED : still_open(feed);
}
