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
#include "feed/interrupt.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of what is not atomic */
static uint32_t watchers;
static bool in_chain; /* SIGINT reaches us, perhaps through a handler that was put in front later */
static struct sigaction previous;
/* What `previous` calls, for our handler, which can take no lock: the first of these that is not NULL. */
static void (*_Atomic calls_with_info)(int, siginfo_t *, void *);
static void (*_Atomic calls)(int);
static _Atomic uint32_t count;

static void on_interrupt(int number, siginfo_t *info, void *context)
{
    /* Relaxed: nothing else is handed over with it. */
    atomic_fetch_add_explicit(&count, 1u, memory_order_relaxed);
    /* A10 <- R10 (remember): nothing with info to call, then what is to be called is there. */
    void (*with_info)(int, siginfo_t *, void *) =
        atomic_load_explicit(&calls_with_info, memory_order_acquire);
    void (*plain)(int) = atomic_load_explicit(&calls, memory_order_relaxed);
    if (with_info)
        with_info(number, info, context);
    else
        plain(number);
}

/* Our handler may be running meanwhile, in another thread; it calls the one or the other. */
static void remember(const struct sigaction *action)
{
    bool has_info = action->sa_flags & SA_SIGINFO;
    previous = *action;
    /* Left as it was for one with info: who has seen no such yet still calls it. */
    if (!has_info)
        atomic_store_explicit(&calls, action->sa_handler, memory_order_relaxed);
    /* R10 -> A10 (on_interrupt). */
    atomic_store_explicit(&calls_with_info, has_info ? action->sa_sigaction : NULL,
                          memory_order_release);
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
    remember(&current);
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

/* A child gets what the lock guards whole, and the lock free, whatever other threads were at. */
static void before_fork(void)
{
    pthread_mutex_lock(&lock);
}

static void after_fork(void)
{
    pthread_mutex_unlock(&lock);
}

static void mind_forks(void)
{
    pthread_atfork(before_fork, after_fork, after_fork);
}

void rf_watch_interrupts(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, mind_forks);
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
