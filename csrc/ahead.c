/*
 * See ahead.h. There are as many runs here as lie in buffers: few.
 *
 * It may not know what becomes of a run that goes back (rf_feed_take_back).
 */
#include "ahead.h"

#include <pthread.h>
#include <stdlib.h>

#include "handle.h"

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
    run->feed = rf_feed_retain(feed);
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

int rf_ahead_deliver(int64_t ticket)
{
    pthread_mutex_lock(&lock);
    rf_run **place = &unseen, *run;
    while ((run = *place) && *run->ticket != ticket)
        place = &run->next;
    take_out(place);
    pthread_mutex_unlock(&lock);
    if (!run)
        return false;
    /* Who brings the ticket has the run; its last reference goes later, behind rf_run_drop's acquire. */
    rf_feed *feed = run->feed;
    run->feed = NULL;
    rf_feed_unref(feed);
    return true;
}

void rf_ahead_take_back(rf_run *run)
{
    pthread_mutex_lock(&lock);
    rf_run **place = &unseen;
    while (*place && *place != run)
        place = &(*place)->next;
    take_out(place);
    pthread_mutex_unlock(&lock);
    rf_feed *feed = run->feed;
    free(run->ticket);
    run->ticket = NULL;
    run->feed = NULL;
    rf_feed_take_back(feed, run);
    rf_feed_unref(feed);
}
