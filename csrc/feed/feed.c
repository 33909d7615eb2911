/*
 * Feeds: how they are made, found by number, and ended; and what returns to them. next.c takes the elements.
 *
 * It may not know the slot protocol, or the threads that call it. One lock guards the list of feeds. No thread waits
 * while it holds that lock, and other processes share nothing of a feed.
 */
#include "feed.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "feed/feed_state.h"
#include "feed/interrupt.h"
#include "feed/messages.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static rf_feed *feeds;
static uint64_t last_id;

/* ---- Life ----------------------------------------------------------------------------------- */

static bool take_back(rf_element_owner *owner, rf_element *element);
static void release(rf_element_owner *owner);

/* The threads that held the lock do not exist in the child. TensorFlow does not survive a fork either. */
static void in_forked_child(void)
{
    pthread_mutex_init(&lock, NULL);
    feeds = NULL;
}

static void prepare_process(void)
{
    pthread_atfork(NULL, NULL, in_forked_child);
    /* Another run of the program must not find its own feeds under the numbers of this one. */
    last_id = (uint64_t)rf_now_ns() << 16 >> 1;
}

rf_feed *rf_feed_new(rf_ring *ring, const char *name, const rf_feed_plan *plan)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    if (rf_ring_is_retired(ring))
        return NULL; /* its memory was given back */
    rf_feed *feed = calloc(1, sizeof *feed);
    if (!feed)
        return NULL;
    pthread_once(&once, prepare_process);
    rf_ring_retain(ring);
    feed->owner = (rf_element_owner){.take_back = take_back, .release = release};
    feed->ring = ring;
    feed->plan = *plan;
    feed->generation = rf_load_relaxed(&rf_fork_generation);
    snprintf(feed->name, sizeof feed->name, "%s", name);
    atomic_init(&feed->references, 1);
    rf_backlog_init(&feed->backlog, plan->exact_rows);
    rf_watch_interrupts();
    rf_store_relaxed(&feed->interrupts_handled, rf_interrupts());
    pthread_mutex_lock(&lock);
    feed->id = ++last_id;
    feed->next = feeds;
    feeds = feed;
    pthread_mutex_unlock(&lock);
    return feed;
}

static void retain(rf_feed *feed)
{
    rf_add_relaxed(&feed->references, 1u);
}

rf_feed *rf_feed_find(uint64_t id)
{
    pthread_mutex_lock(&lock);
    rf_feed *feed = feeds;
    while (feed && feed->id != id)
        feed = feed->next;
    if (feed)
        retain(feed);
    pthread_mutex_unlock(&lock);
    return feed;
}

void rf_feed_unref(rf_feed *feed)
{
    if (rf_sub_acq_rel(&feed->references, 1u) != 1)
        return;
    rf_feed_drop_next(feed);
    rf_backlog_clear(&feed->backlog);
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
    rf_store_relaxed(&feed->ended, true);
    rf_feed_unref(feed);
}

/* ---- Facts ---------------------------------------------------------------------------------- */

uint64_t rf_feed_id(const rf_feed *feed)
{
    return feed->id;
}

const rf_geometry *rf_feed_geometry(const rf_feed *feed)
{
    return rf_ring_geometry(feed->ring);
}

void rf_feed_explain(const rf_feed *feed, rf_status status, char *text, size_t bytes)
{
    rf_feed_facts facts = {
        .ring = feed->name,
        .ready = status == RF_EMPTY ? rf_count_states(feed->ring).ready : 0,
        .needed = feed->plan.exact_rows ? feed->plan.exact_rows : feed->plan.min_rows,
        .timeout_seconds = (double)feed->plan.timeout_ns / 1e9,
    };
    if (status == RF_PRODUCER_FAILED)
        rf_ring_failure(feed->ring, facts.failure);
    rf_feed_message(&facts, status, text, bytes);
}

/* ---- A batch that another thread took ------------------------------------------------------- */

rf_status rf_feed_set_next(rf_feed *feed, rf_lease *lease)
{
    if (rf_lease_ring(lease) != feed->ring)
        return RF_INVALID;
    rf_lease_retain(lease);
    rf_element *element = rf_element_over_lease(lease, feed->plan.shown_rows), *before;
    if (!element)
        return RF_NO_MEMORY;
    /* R9 -> A9 (rf_feed_drop_next, rf_feed_next): the thread that gets the element sees all of it. */
    before = atomic_exchange_explicit(&feed->next_element, element, memory_order_acq_rel);
    if (before)
        rf_element_drop(before);
    return RF_OK;
}

int rf_feed_drop_next(rf_feed *feed)
{
    rf_element *element =
        atomic_exchange_explicit(&feed->next_element, NULL, memory_order_acq_rel); /* A9 <- R9 */
    if (element)
        rf_element_drop(element);
    return element != NULL;
}

/* ---- Undelivered elements ------------------------------------------------------------------- */

rf_element_owner *rf_feed_own(rf_feed *feed)
{
    retain(feed);
    return &feed->owner;
}

static void release(rf_element_owner *owner)
{
    rf_feed_unref((rf_feed *)owner);
}

static bool take_back(rf_element_owner *owner, rf_element *element)
{
    rf_feed *feed = (rf_feed *)owner;
    bool is_copy = !element->lease;
    /* In a forked child the element is the parent's, and a thread that does not exist here may hold the lock. */
    if (feed->generation != rf_load_relaxed(&rf_fork_generation))
        return false;
    if (is_copy) {
        atomic_init(&element->references, 1);
        rf_backlog_put(&feed->backlog, element);
    } else {
        rf_lease_give_back(element->lease);
        rf_lease_drop(element->lease);
        element->lease = NULL;
    }
    rf_backlog_count_return(&feed->backlog);
    return is_copy;
}
