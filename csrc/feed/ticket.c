/*
 * See ticket.h. There are as many runs here as lie in buffers: few.
 *
 * It may not know what becomes of a run that goes back (rf_feed_take_back).
 */
#include "feed/ticket.h"

#include <pthread.h>
#include <stdlib.h>

#include "ring/lease.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static rf_run *unseen;
static int64_t last_ticket;

/* The threads that held the lock are not here, and the runs are the parent's. */
static void in_forked_child(void)
{
    pthread_mutex_init(&lock, NULL);
    unseen = NULL;
}

static void once(void)
{
    pthread_atfork(NULL, NULL, in_forked_child);
}

bool rf_ahead_begin(rf_feed *feed, rf_run *run)
{
    static pthread_once_t done = PTHREAD_ONCE_INIT;
    pthread_once(&done, once);
    rf_store_relaxed(&run->feed, rf_feed_retain(feed));
    run->ticket = aligned_alloc(RF_ALIGNMENT, RF_ALIGNMENT);
    if (!run->ticket) {
        rf_run_drop(run);
        return false;
    }
    pthread_mutex_lock(&lock);
    *run->ticket = ++last_ticket;
    run->next = unseen;
    unseen = run;
    pthread_mutex_unlock(&lock);
    return true;
}

/* With the lock held. */
static void take_out(rf_run **place)
{
    if (*place)
        *place = (*place)->next;
}

/* With the lock held. Behind this the run is not touched: where only its number came, its last reference may be going,
 * and who drops that looks here who was first. */
static rf_feed *leave_feed(rf_run *run)
{
    rf_feed *feed = rf_load_relaxed(&run->feed);
    rf_store_release(&run->feed, NULL); /* R11 -> A11 (rf_run_drop) */
    return feed;
}

int rf_ahead_deliver(int64_t ticket)
{
    pthread_mutex_lock(&lock);
    rf_run **place = &unseen, *run;
    while ((run = *place) && *run->ticket != ticket)
        place = &run->next;
    take_out(place);
    rf_feed *feed = run ? leave_feed(run) : NULL;
    pthread_mutex_unlock(&lock);
    if (!feed)
        return false;
    rf_feed_unref(feed);
    return true;
}

bool rf_ahead_took_back(rf_run *run)
{
    pthread_mutex_lock(&lock);
    rf_run **place = &unseen;
    while (*place && *place != run)
        place = &(*place)->next;
    take_out(place);
    rf_feed *feed = leave_feed(run);
    pthread_mutex_unlock(&lock);
    if (!feed)
        return false;
    free(run->ticket);
    run->ticket = NULL;
    bool kept = rf_feed_take_back(feed, run);
    rf_feed_unref(feed);
    return kept;
}
