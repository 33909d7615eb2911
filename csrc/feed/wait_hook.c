/*
 * The wait hook, and the end of all its calls. See wait_hook.h.
 */
#include "feed/wait_hook.h"

#include <pthread.h>
#include <stdatomic.h>

static rf_wait_hook *_Atomic wait_hook;
static _Atomic bool stopped;
static _Atomic uint32_t calls;

/* All sequentially consistent. A thread that calls the hook writes `calls`, then reads `stopped`; a thread that ends the
 * process writes `stopped`, then reads `calls`. At least one of the two sees the other. */

/* A thread inside the hook is the parent's: the end of the child need not wait for it. */
static void in_forked_child(void)
{
    atomic_store(&calls, 0u);
}

static void register_fork_handler(void)
{
    pthread_atfork(NULL, NULL, in_forked_child);
}

void rf_set_wait_hook(rf_wait_hook *hook)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, register_fork_handler);
    atomic_store(&wait_hook, hook);
}

void rf_feeds_stop(void)
{
    atomic_store(&stopped, true);
}

bool rf_feeds_stopped(void)
{
    return atomic_load(&stopped);
}

uint32_t rf_wait_hook_calls(void)
{
    return atomic_load(&calls);
}

rf_hook_result rf_call_wait_hook(uint64_t feed_id, bool interrupted, bool stalled)
{
    rf_hook_result result = RF_HOOK_GO_ON;
    rf_wait_hook *hook = atomic_load(&wait_hook);
    atomic_fetch_add(&calls, 1u);
    if (hook && !atomic_load(&stopped))
        result = hook(feed_id, interrupted, stalled);
    atomic_fetch_sub(&calls, 1u);
    return result;
}
