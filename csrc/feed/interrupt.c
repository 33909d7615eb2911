/*
 * Counting SIGINT for waits in threads that run no signal handler.
 *
 * Python runs its signal handlers in the main thread, between two of its instructions. While the main thread is inside
 * TensorFlow, it runs none. TensorFlow may then wait for a thread that waits for a feed, and that thread must learn of
 * the signal. So our handler stands in front of the previous one, counts, and calls it.
 *
 * It may not know rings, or Python.
 */
#define _GNU_SOURCE
#include "feed/interrupt.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>

static pthread_mutex_t lock =
    PTHREAD_MUTEX_INITIALIZER; /* guards the variables that are not atomic */
static uint32_t watchers;
/* SIGINT reaches our handler, perhaps through a handler that was put in front of it later. */
static bool in_chain;
static struct sigaction previous;
/* The functions of `previous`, for our handler, which can take no lock. It calls the first that is not NULL. */
static void (*_Atomic calls_with_info)(int, siginfo_t *, void *);
static void (*_Atomic calls)(int);
static _Atomic uint32_t count;

static void on_interrupt(int number, siginfo_t *info, void *context)
{
    /* Relaxed: the count hands nothing else over. */
    atomic_fetch_add_explicit(&count, 1u, memory_order_relaxed);
    /* A10 <- R10 (remember): if there is no function with info, the plain function is there. */
    void (*with_info)(int, siginfo_t *, void *) =
        atomic_load_explicit(&calls_with_info, memory_order_acquire);
    void (*plain)(int) = atomic_load_explicit(&calls, memory_order_relaxed);
    if (with_info)
        with_info(number, info, context);
    else
        plain(number);
}

/* Our handler may run in another thread at the same time. It then calls the old function or the new one. */
static void remember(const struct sigaction *action)
{
    bool has_info = action->sa_flags & SA_SIGINFO;
    previous = *action;
    /* A function with info leaves `calls` as it was: a handler that has not seen that function yet still calls it. */
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

/* True: `previous` was put back in our place, as signal.signal() does. Only then it is known not to call us. */
static bool is_previous(const struct sigaction *action)
{
    return (action->sa_flags & SA_SIGINFO) == (previous.sa_flags & SA_SIGINFO) &&
           action->sa_handler == previous.sa_handler;
}

static void install_in_front(void)
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

static void restore_previous(void)
{
    struct sigaction current;
    if (sigaction(SIGINT, NULL, &current) == 0 && is_ours(&current))
        in_chain = sigaction(SIGINT, &previous, NULL) != 0;
}

/* A child gets consistent variables and a free lock, regardless of what other threads were doing. */
static void before_fork(void)
{
    pthread_mutex_lock(&lock);
}

static void after_fork(void)
{
    pthread_mutex_unlock(&lock);
}

static void register_fork_handlers(void)
{
    pthread_atfork(before_fork, after_fork, after_fork);
}

void rf_watch_interrupts(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, register_fork_handlers);
    pthread_mutex_lock(&lock);
    watchers++;
    install_in_front();
    pthread_mutex_unlock(&lock);
}

void rf_unwatch_interrupts(void)
{
    pthread_mutex_lock(&lock);
    if (--watchers == 0)
        restore_previous();
    pthread_mutex_unlock(&lock);
}

uint32_t rf_interrupts(void)
{
    return atomic_load_explicit(&count, memory_order_relaxed);
}
