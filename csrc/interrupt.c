/*
 * Counting SIGINT for waits in threads of which no signal handler knows.
 *
 * Python runs its handlers in the main thread, between two of its instructions. While that thread is
 * inside TensorFlow, and TensorFlow waits for a thread that waits for us, none runs: someone must tell
 * the waiting thread to give up. So our handler stands in front of the one that was there, counts, and
 * calls it.
 *
 * It may not know of rings, nor of Python.
 */
#define _GNU_SOURCE
#include "interrupt.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of all but `count` */
static uint32_t watchers;
static bool in_chain; /* SIGINT reaches us, perhaps through a handler that was put in front later */
static struct sigaction previous;
static _Atomic uint32_t count;

static void on_interrupt(int number, siginfo_t *info, void *context)
{
    /* Relaxed: nothing else is handed over with it. */
    atomic_fetch_add_explicit(&count, 1u, memory_order_relaxed);
    /* `previous` changes only while this function is in no chain. */
    if (previous.sa_flags & SA_SIGINFO)
        previous.sa_sigaction(number, info, context);
    else
        previous.sa_handler(number);
}

static bool is_ours(const struct sigaction *action)
{
    return (action->sa_flags & SA_SIGINFO) && action->sa_sigaction == on_interrupt;
}

/* Was `previous` put back in our place, as signal.signal() does? Only then it is known not to call us. */
static bool is_previous(const struct sigaction *action)
{
    return (action->sa_flags & SA_SIGINFO) == (previous.sa_flags & SA_SIGINFO) &&
           action->sa_handler == previous.sa_handler;
}

static void step_in_front(void)
{
    struct sigaction current, ours;
    if (sigaction(SIGINT, NULL, &current) || is_ours(&current) ||
        (in_chain && !is_previous(&current)))
        return;
    in_chain = false;
    if (current.sa_handler == SIG_DFL || current.sa_handler == SIG_IGN)
        return;
    previous = current;
    ours = current;
    ours.sa_flags |= SA_SIGINFO;
    ours.sa_sigaction = on_interrupt;
    in_chain = sigaction(SIGINT, &ours, NULL) == 0;
}

static void step_aside(void)
{
    struct sigaction current;
    if (sigaction(SIGINT, NULL, &current) == 0 && is_ours(&current))
        in_chain = sigaction(SIGINT, &previous, NULL) != 0;
}

void rf_watch_interrupts(void)
{
    pthread_mutex_lock(&lock);
    watchers++;
    step_in_front();
    pthread_mutex_unlock(&lock);
}

void rf_unwatch_interrupts(void)
{
    pthread_mutex_lock(&lock);
    if (--watchers == 0)
        step_aside();
    pthread_mutex_unlock(&lock);
}

uint32_t rf_interrupts(void)
{
    return atomic_load_explicit(&count, memory_order_relaxed);
}
