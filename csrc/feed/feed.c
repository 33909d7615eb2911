/*
 * Feeds: taking the next element, turn by turn, for threads that can do nothing else meanwhile.
 *
 * It may not know the slot protocol, nor who calls. How a wait ends: a batch came, or its time is over, or the
 * ring or the feed; or every 50 ms the feed looks around, and its attendant says that there is no use in it.
 *
 * What a feed knows of its waits is for all threads that use it together, as its records are: a field is read and
 * written whole, relaxed, because none hands anything else over. The list of feeds has a lock, and so have each
 * feed's runs that wait for more rows; no one waits while holding one, and nothing here is shared with another
 * process.
 */
#include "feed/feed.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "feed/backlog.h"
#include "feed/interrupt.h"
#include "feed/op_table.h"
#include "feed/ticket.h"
#include "feed/wait_hook.h"
#include "ring/lease.h"

/* Who comes back later than this for the rest of its wait begins another. */
#define ABANDONED_NS INT64_C(1000000000)

struct rf_feed {
    uint64_t id;
    struct rf_feed *next;
    _Atomic uint32_t references;
    rf_ring *ring;
    rf_feed_plan plan;
    uint32_t generation; /* rf_fork_generation of who made it */
    char name[256];

    _Atomic(rf_run *) parked;
    rf_shelf shelf;
    _Atomic bool dropped; /* by who made it */
    _Atomic bool stops;   /* once */
    _Atomic uint32_t interrupts_handled;
    _Atomic uint32_t interrupts_asked; /* the attendant knows of them, and had no answer yet */
    _Atomic int64_t wait_began_ns;     /* 0: none is under way */
    _Atomic int64_t turn_ended_ns;     /* 0: in the middle of one */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static rf_feed *feeds;
static uint64_t last_id;

/* ---- Feeds by number ------------------------------------------------------------------------ */

/* The threads that held the lock are not here; nor is TensorFlow, which does not survive a fork. */
static void in_forked_child(void)
{
    pthread_mutex_init(&lock, NULL);
    feeds = NULL;
}

static void once(void)
{
    pthread_atfork(NULL, NULL, in_forked_child);
    /* Another run of the program should not find its own feeds under the numbers of this one. */
    last_id = (uint64_t)rf_now_ns() << 16 >> 1;
}

rf_feed *rf_feed_new(rf_ring *ring, const char *name, const rf_feed_plan *plan)
{
    static pthread_once_t done = PTHREAD_ONCE_INIT;
    if (rf_ring_is_retired(ring))
        return NULL; /* its memory is given back */
    rf_feed *feed = calloc(1, sizeof *feed);
    if (!feed)
        return NULL;
    pthread_once(&done, once);
    rf_ring_retain(ring);
    feed->ring = ring;
    feed->plan = *plan;
    feed->generation = rf_load_relaxed(&rf_fork_generation);
    snprintf(feed->name, sizeof feed->name, "%s", name);
    atomic_init(&feed->references, 1);
    rf_shelf_init(&feed->shelf, plan->exact);
    rf_watch_interrupts();
    rf_store_relaxed(&feed->interrupts_handled, rf_interrupts());
    pthread_mutex_lock(&lock);
    feed->id = ++last_id;
    feed->next = feeds;
    feeds = feed;
    pthread_mutex_unlock(&lock);
    return feed;
}

uint64_t rf_feed_id(const rf_feed *feed)
{
    return feed->id;
}

const rf_geometry *rf_feed_geometry(const rf_feed *feed)
{
    return &feed->ring->geometry;
}

rf_feed *rf_feed_retain(rf_feed *feed)
{
    rf_add_relaxed(&feed->references, 1u);
    return feed;
}

rf_feed *rf_feed_find(uint64_t id)
{
    pthread_mutex_lock(&lock);
    rf_feed *feed = feeds;
    while (feed && feed->id != id)
        feed = feed->next;
    if (feed)
        rf_feed_retain(feed);
    pthread_mutex_unlock(&lock);
    return feed;
}

void rf_feed_unref(rf_feed *feed)
{
    if (rf_sub_acq_rel(&feed->references, 1u) != 1)
        return;
    rf_feed_unpark(feed);
    rf_shelf_clear(&feed->shelf);
    rf_unwatch_interrupts();
    rf_ring_unref(feed->ring);
    free(feed);
}

void rf_feed_end(rf_feed *feed)
{
    pthread_mutex_lock(&lock);
    rf_feed **place = &feeds;
    while (*place && *place != feed)
        place = &(*place)->next;
    if (*place)
        *place = feed->next;
    pthread_mutex_unlock(&lock);
    rf_store_relaxed(&feed->dropped, true);
    rf_feed_unref(feed);
}

/* ---- Batches that someone else waited for --------------------------------------------------- */

rf_status rf_feed_park(rf_feed *feed, rf_lease *lease)
{
    if (lease->ring != feed->ring)
        return RF_INVALID;
    rf_lease_retain(lease);
    rf_run *run = rf_run_of_lease(lease, feed->plan.shown), *before;
    if (!run)
        return RF_NO_MEMORY;
    /* R9 -> A9 (rf_feed_unpark, rf_feed_next): who gets the run sees it whole. */
    before = atomic_exchange_explicit(&feed->parked, run, memory_order_acq_rel);
    if (before)
        rf_run_drop(before);
    return RF_OK;
}

int rf_feed_unpark(rf_feed *feed)
{
    rf_run *run =
        atomic_exchange_explicit(&feed->parked, NULL, memory_order_acq_rel); /* A9 <- R9 */
    if (run)
        rf_run_drop(run);
    return run != NULL;
}

/* ---- Waiting -------------------------------------------------------------------------------- */

static bool is_finished(int status)
{
    return status == RF_FINISHED || status == RF_PRODUCER_FAILED;
}

/* Ctrl-C that no one has answered for yet. */
static rf_answer look_for_interrupts(rf_feed *feed)
{
    uint32_t seen = rf_interrupts();
    if (seen == rf_load_relaxed(&feed->interrupts_handled))
        return RF_GO_ON;
    rf_answer answer = rf_attend(feed->id, true, false);
    if (answer == RF_ASK_AGAIN) {
        rf_store_relaxed(&feed->interrupts_asked, seen);
        return RF_GO_ON;
    }
    rf_store_relaxed(&feed->interrupts_handled, seen);
    return answer;
}

/* Beside rf_status: the attendant wants an element without rows. */
enum { RF_NOTHING = -1 };

/* The end that an attendant asked for. */
static int end_as_told(rf_feed *feed, rf_answer answer)
{
    if (answer == RF_GIVE_NOTHING)
        return RF_NOTHING;
    if (answer == RF_FAIL || !feed->plan.turn_ns)
        return RF_INTERRUPTED;
    rf_store_relaxed(&feed->stops, true);
    return RF_AGAIN;
}

/* RF_OK, or why no one is to wait for this feed any more. */
static rf_status still_open(const rf_feed *feed)
{
    if (rf_feeds_stopped())
        return RF_FINISHED;
    if (rf_shelf_is_closed(&feed->shelf))
        return rf_ring_has_failed(feed->ring) ? RF_PRODUCER_FAILED : RF_FINISHED;
    return rf_load_relaxed(&feed->dropped) ? RF_CLOSED : RF_OK;
}

/* After a slice of waiting: RF_OK, wait on; RF_AGAIN, the turn is over. */
static rf_status look_around(rf_feed *feed, uint32_t least, int64_t turn_ends_ns)
{
    rf_census now = rf_count_states(feed->ring);
    /* Every slot is held by batches, or by what was made of them. */
    if (now.free == 0 && now.claimed == 0 && now.ready == 0)
        rf_attend(feed->id, false, true);
    /* A handler that was put in front of ours meanwhile gets ours back in front of it. */
    rf_watch_interrupts();
    rf_unwatch_interrupts();
    if (now.ready < least && rf_now_ns() >= turn_ends_ns) {
        rf_store_relaxed(&feed->turn_ended_ns, rf_now_ns());
        return RF_AGAIN;
    }
    return RF_OK;
}

/* When the wait began that this call goes on with. */
static int64_t go_on_waiting(rf_feed *feed, int64_t now_ns)
{
    int64_t began = rf_load_relaxed(&feed->wait_began_ns);
    int64_t ended = rf_load_relaxed(&feed->turn_ended_ns);
    if (!began || (ended && now_ns - ended > ABANDONED_NS)) {
        began = now_ns;
        rf_store_relaxed(&feed->wait_began_ns, began);
        /* A Ctrl-C that came while nobody waited was for the program alone, and is long handled. */
        uint32_t seen = rf_interrupts();
        if (seen != rf_load_relaxed(&feed->interrupts_asked))
            rf_store_relaxed(&feed->interrupts_handled, seen);
    }
    rf_store_relaxed(&feed->turn_ended_ns, INT64_C(0));
    return began;
}

/* Take rows as rf_take does, looking around meanwhile. An rf_status, or RF_NOTHING. */
static int take_rows(rf_feed *feed, uint32_t most, uint32_t least, rf_lease **lease)
{
    rf_take_request request = {
        .max_rows = most, .min_rows = least, .linger_ns = feed->plan.linger_ns};
    int64_t now = rf_now_ns(), began = go_on_waiting(feed, now);
    int64_t turn_ends = feed->plan.turn_ns ? now + feed->plan.turn_ns : INT64_MAX;
    int status;
    request.deadline_ns = RF_FOREVER;
    if (feed->plan.timeout_ns >= 0 && feed->plan.timeout_ns < RF_FOREVER - began)
        request.deadline_ns = began + feed->plan.timeout_ns;
    *lease = NULL;
    do {
        rf_answer answer = look_for_interrupts(feed);
        if (answer != RF_GO_ON) {
            status = end_as_told(feed, answer);
            break;
        }
        if ((status = still_open(feed)) != RF_OK)
            break;
        status = rf_take(feed->ring, &request, lease);
        if (status != RF_AGAIN)
            break;
        status = look_around(feed, least, turn_ends);
        if (status == RF_AGAIN)
            return RF_AGAIN; /* the wait itself goes on with the next turn */
    } while (status == RF_OK);
    rf_store_relaxed(&feed->wait_began_ns, INT64_C(0));
    return status;
}

/* ---- Elements ------------------------------------------------------------------------------- */

static rf_status give_nothing(rf_feed *feed, rf_run **run)
{
    uint32_t rows = feed->plan.exact ? feed->plan.exact : feed->plan.shown;
    *run = rf_run_of_copies(feed->ring, rows);
    return *run ? RF_OK : RF_NO_MEMORY;
}

/* What of a batch is handed on. NULL: no memory. */
static rf_run *run_of(const rf_feed *feed, rf_lease *lease)
{
    return feed->plan.copies ? rf_run_copied(lease, feed->plan.shown)
                             : rf_run_of_lease(lease, feed->plan.shown);
}

static rf_status next_run(rf_feed *feed, rf_run **run)
{
    rf_lease *lease;
    /* What was shown as copies (rf_run_of_lease) came back as copies. */
    if (feed->plan.ahead && (*run = rf_shelf_take(&feed->shelf, &feed->ring->geometry, 1)))
        return RF_OK;
    int status = take_rows(feed, feed->plan.most, feed->plan.least, &lease);
    if (status == RF_NOTHING)
        return give_nothing(feed, run);
    if (status == RF_OK && !(*run = run_of(feed, lease)))
        return RF_NO_MEMORY;
    return (rf_status)status;
}

/* Exactly as many rows as planned: the ring's own memory where they lie in a row, else copies. */
static rf_status next_exact(rf_feed *feed, rf_run **out)
{
    uint32_t exact = feed->plan.exact;
    rf_run *run = rf_shelf_take(&feed->shelf, &feed->ring->geometry, 1);
    while (!run || run->rows < exact) {
        uint32_t missing = exact - (run ? run->rows : 0);
        uint32_t most = missing < feed->plan.most ? missing : feed->plan.most;
        rf_lease *lease;
        int status = take_rows(feed, most, most, &lease);
        if (status == RF_OK && !run && rf_lease_rows(lease) == exact)
            return (*out = run_of(feed, lease)) ? RF_OK : RF_NO_MEMORY;
        if (status == RF_OK && !run && !(run = rf_run_of_copies(feed->ring, exact))) {
            rf_lease_drop(lease);
            return RF_NO_MEMORY;
        }
        if (status != RF_OK) {
            if (run)
                rf_shelf_put(&feed->shelf, run); /* whoever comes next goes on with it */
            /* At the ring's end nobody may: the last of several threads has what all gathered. */
            if (is_finished(status) &&
                (run = rf_shelf_take(&feed->shelf, &feed->ring->geometry, exact)))
                break;
            return status == RF_NOTHING ? give_nothing(feed, out) : (rf_status)status;
        }
        rf_run_add(run, lease);
        rf_lease_drop(lease);
    }
    *out = run;
    return RF_OK;
}

rf_status rf_feed_next(rf_feed *feed, rf_run **run)
{
    *run = atomic_exchange_explicit(&feed->parked, NULL, memory_order_acq_rel); /* A9 <- R9 */
    if (*run)
        return RF_OK;
    rf_status status;
    uint32_t returns;
    do {
        returns = rf_shelf_returns(&feed->shelf);
        status = feed->plan.exact ? next_exact(feed, run) : next_run(feed, run);
    } while (is_finished(status) && !rf_shelf_close(&feed->shelf, returns));
    if (status == RF_OK && feed->plan.ahead && (*run)->rows && !rf_ahead_begin(feed, *run))
        return RF_NO_MEMORY;
    return status;
}

bool rf_feed_take_back(rf_feed *feed, rf_run *run)
{
    bool is_copy = !run->lease;
    /* In a forked child: it is its parent's, and the lock may be held by a thread that is not here. */
    if (feed->generation != rf_load_relaxed(&rf_fork_generation))
        return false;
    if (is_copy) {
        atomic_init(&run->references, 1);
        rf_shelf_put(&feed->shelf, run);
    } else {
        rf_lease_give_back(run->lease);
        rf_lease_drop(run->lease);
        run->lease = NULL;
    }
    rf_shelf_count_return(&feed->shelf);
    return is_copy;
}

rf_status rf_feed_turn(rf_feed *feed)
{
    bool stops = atomic_exchange_explicit(&feed->stops, false, memory_order_relaxed);
    return stops ? RF_FINISHED : still_open(feed);
}

void rf_feed_explain(const rf_feed *feed, rf_status status, char *text, size_t bytes)
{
    rf_feed_fact fact = {
        .ring = feed->name,
        .ready = status == RF_EMPTY ? rf_count_states(feed->ring).ready : 0,
        .least = feed->plan.exact ? feed->plan.exact : feed->plan.least,
        .timeout_seconds = (double)feed->plan.timeout_ns / 1e9,
    };
    if (status == RF_PRODUCER_FAILED)
        rf_ring_failure(feed->ring, fact.failure);
    rf_feed_say(&fact, status, text, bytes);
}
