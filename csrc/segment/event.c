/*
 * Waiting: a short spin that learns, then a futex behind an event count.
 *
 * It may not know what a caller waits for. claim.c and take.c decide when to look and when to sleep.
 *
 * No wake-up is lost. A waiter reads the sequence, leaves its wish in `wanted`, and looks once more. It sleeps only
 * while the sequence is the one that it read. A notifier makes its change and then reads `wanted`. With a full fence
 * on each side (F1, F2), at least one of them sees the other. When nobody waits, a notifier pays one fence and one
 * load, and no system call.
 *
 * A notifier that is killed on its way leaves sleepers behind. They look again after a slice.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "segment/event.h"
#include "segment/step.h"

enum { SPIN_LEAST = 8, SPIN_START = 64, SPIN_MOST = 256, SPIN_TRY = 1024 };

int64_t rf_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* The futexes are shared between processes: no FUTEX_PRIVATE_FLAG. */
static long futex(void *word, int operation, uint32_t value, const struct timespec *t)
{
    return syscall(SYS_futex, word, operation, value, t, NULL, FUTEX_BITSET_MATCH_ANY);
}

static void wake_all(rf_event *event)
{
    /* The wish is withdrawn before the sequence moves. A waiter that leaves a new wish after
     * this point either reads the new sequence or finds it changed when it goes to sleep. */
    rf_exchange_relaxed(&event->wanted, 0u);
    RF_STEP("wake: wish withdrawn");
    /* R5 -> A5 (rf_prepare_wait): a waiter that reads the new sequence sees the change that we
     * announce. */
    rf_add_release(&event->sequence, 1u);
    RF_STEP("wake: sequence moved, sleepers not woken");
    futex(&event->sequence, FUTEX_WAKE, INT32_MAX, NULL);
    RF_STEP("wake: sleepers woken");
}

void rf_notify(rf_event *event, uint32_t rows)
{
    rf_fence_full(); /* F1 with F2: our change is out before we look for waiters */
    rf_tell_waiters(event, rows);
}

void rf_tell_waiters(rf_event *event, uint32_t rows)
{
    uint32_t wanted = rf_load_relaxed(&event->wanted);
    while (wanted != 0) {
        if (wanted <= rows) {
            wake_all(event);
            return;
        }
        if (atomic_compare_exchange_weak_explicit(&event->wanted, &wanted, wanted - rows,
                                                  memory_order_relaxed, memory_order_relaxed)) {
            RF_STEP("notify: wish lessened");
            return;
        }
    }
}

void rf_notify_some(rf_event *event, uint32_t count)
{
    rf_fence_full(); /* F1 with F2, as rf_notify */
    if (rf_load_relaxed(&event->wanted) == 0)
        return;
    rf_exchange_relaxed(&event->wanted, 0u);
    rf_add_release(&event->sequence, 1u); /* R5 -> A5 (rf_prepare_wait) */
    uint32_t none = 0;
    /* If fewer were woken than allowed, nobody is left. Otherwise more may sleep, and the wish
     * stands for them. */
    if (futex(&event->sequence, FUTEX_WAKE, count, NULL) == (long)count)
        atomic_compare_exchange_strong_explicit(&event->wanted, &none, 1u, memory_order_relaxed,
                                                memory_order_relaxed);
}

uint32_t rf_prepare_wait(rf_event *event, uint32_t rows)
{
    /* A5 <- R5 (wake_all). */
    uint32_t key = rf_load_acquire(&event->sequence);
    uint32_t wanted = rf_load_relaxed(&event->wanted);
    /* The smallest wish counts. It may wake others early, never late. */
    while (wanted == 0 || wanted > rows) {
        if (atomic_compare_exchange_weak_explicit(&event->wanted, &wanted, rows,
                                                  memory_order_relaxed, memory_order_relaxed))
            break;
    }
    rf_fence_full(); /* F2 with F1: our wish is out before we look once more */
    return key;
}

bool rf_sleep(rf_event *event, uint32_t key, int64_t until_ns)
{
    struct timespec until = {.tv_sec = until_ns / 1000000000, .tv_nsec = until_ns % 1000000000};
    RF_STEP("wait: about to sleep");
    long result = futex(&event->sequence, FUTEX_WAIT_BITSET, key, &until);
    RF_STEP("wait: awake");
    return !(result == -1 && errno == EINTR);
}

static uint32_t *lower_half(_Atomic uint64_t *word)
{
    return (uint32_t *)word + (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__);
}

bool rf_sleep_on_word(_Atomic uint64_t *word, uint64_t seen, int64_t until_ns)
{
    struct timespec until = {.tv_sec = until_ns / 1000000000, .tv_nsec = until_ns % 1000000000};
    long result = futex(lower_half(word), FUTEX_WAIT_BITSET, (uint32_t)seen, &until);
    return !(result == -1 && errno == EINTR);
}

void rf_wake_at_word(_Atomic uint64_t *word)
{
    futex(lower_half(word), FUTEX_WAKE, INT32_MAX, NULL);
}

/* A budget: the lower half counts the turns to spin; the upper half counts the spins that have
 * failed since the last long one. */
enum { FAILED_ONCE = 1 << 16, TURNS = FAILED_ONCE - 1, TRY_AFTER = 16 * FAILED_ONCE };

bool rf_spin(_Atomic uint32_t *budget, _Atomic uint64_t *word, rf_state state)
{
    /* The budget belongs to this process and steers speed alone: relaxed is enough. */
    uint32_t learnt = rf_load_relaxed(budget), turns = learnt & TURNS;
    if (turns == 0)
        turns = SPIN_START;
    /* Two processes that sleep for each batch are slow because they sleep, and they cannot
     * find that out: each wake-up costs one of them as long as the other has to wait. So a
     * long spin is tried once in a while. */
    bool long_try = learnt >= TRY_AFTER;
    uint32_t most = long_try ? SPIN_TRY : turns;
    for (uint32_t turn = 0; turn < most; turn++) {
        if (rf_word_state(rf_load_relaxed(word)) == state) {
            uint32_t more = long_try ? SPIN_MOST : turns + turns / 2;
            rf_store_relaxed(budget, more > SPIN_MOST ? SPIN_MOST : more);
            return true;
        }
        rf_pause();
    }
    uint32_t less = turns / 2 < SPIN_LEAST ? SPIN_LEAST : turns / 2;
    rf_store_relaxed(budget, long_try ? less : (learnt & ~TURNS) + FAILED_ONCE + less);
    return false;
}
