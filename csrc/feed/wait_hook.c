/*
 * The attendant, and the end of all asking. See wait_hook.h.
 */
#include "feed/wait_hook.h"

#include <pthread.h>
#include <stdatomic.h>

static rf_attendant *_Atomic attendant;
static _Atomic bool stopped;
static _Atomic uint32_t attending;

/* All sequentially consistent: of one who asks and one who ends, at least one sees the other. */

/* Whoever was asking is its parent's thread: the child's end need not wait for it. */
static void in_forked_child(void)
{
    atomic_store(&attending, 0u);
}

static void mind_forks(void)
{
    pthread_atfork(NULL, NULL, in_forked_child);
}

void rf_set_attendant(rf_attendant *now)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, mind_forks);
    atomic_store(&attendant, now);
}

void rf_feeds_stop(void)
{
    atomic_store(&stopped, true);
}

bool rf_feeds_stopped(void)
{
    return atomic_load(&stopped);
}

uint32_t rf_feeds_attending(void)
{
    return atomic_load(&attending);
}

rf_answer rf_attend(uint64_t id, bool interrupted, bool stalled)
{
    rf_answer answer = RF_GO_ON;
    rf_attendant *asked = atomic_load(&attendant);
    atomic_fetch_add(&attending, 1u);
    if (asked && !atomic_load(&stopped))
        answer = asked(id, interrupted, stalled);
    atomic_fetch_sub(&attending, 1u);
    return answer;
}
