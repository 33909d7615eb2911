/*
 * The ordering operations that the protocol uses, by name.
 *
 * Acquire and release come in pairs. Every use outside this file carries a label (R1 -> A1) that names its partner.
 * docs/design has the table of pairs.
 */
#ifndef RF_ATOMICS_H
#define RF_ATOMICS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "the ring's words need lock-free 64-bit atomics");

#define rf_load_relaxed(p) atomic_load_explicit((p), memory_order_relaxed)
#define rf_load_acquire(p) atomic_load_explicit((p), memory_order_acquire)
#define rf_store_relaxed(p, v) atomic_store_explicit((p), (v), memory_order_relaxed)
#define rf_store_release(p, v) atomic_store_explicit((p), (v), memory_order_release)
#define rf_add_relaxed(p, v) atomic_fetch_add_explicit((p), (v), memory_order_relaxed)
#define rf_add_release(p, v) atomic_fetch_add_explicit((p), (v), memory_order_release)
#define rf_add_acq_rel(p, v) atomic_fetch_add_explicit((p), (v), memory_order_acq_rel)
#define rf_or_release(p, v) atomic_fetch_or_explicit((p), (v), memory_order_release)
#define rf_sub_release(p, v) atomic_fetch_sub_explicit((p), (v), memory_order_release)
#define rf_sub_acq_rel(p, v) atomic_fetch_sub_explicit((p), (v), memory_order_acq_rel)
#define rf_exchange_relaxed(p, v) atomic_exchange_explicit((p), (v), memory_order_relaxed)
#define rf_exchange_acquire(p, v) atomic_exchange_explicit((p), (v), memory_order_acquire)

/* One side writes A and reads B; the other side writes B and reads A. With this fence between
 * write and read, at least one side sees the other's write. */
#define rf_fence_full() atomic_thread_fence(memory_order_seq_cst)

/* The same, for an A that was written by a compare-and-swap, an exchange or an addition. On
 * x86-64 each of these is already a full fence; only the compiler must keep the order. */
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
#define rf_fence_behind_swap() atomic_signal_fence(memory_order_seq_cst)
#else
#define rf_fence_behind_swap() atomic_thread_fence(memory_order_seq_cst)
#endif

/* Compare and swap. False: the word had another value and is unchanged. */
static inline bool rf_cas_acquire(_Atomic uint64_t *word, uint64_t expected, uint64_t desired)
{
    return atomic_compare_exchange_strong_explicit(word, &expected, desired, memory_order_acquire,
                                                   memory_order_relaxed);
}

static inline bool rf_cas_release(_Atomic uint64_t *word, uint64_t expected, uint64_t desired)
{
    return atomic_compare_exchange_strong_explicit(word, &expected, desired, memory_order_release,
                                                   memory_order_relaxed);
}

static inline bool rf_cas_acq_rel(_Atomic uint64_t *word, uint64_t expected, uint64_t desired)
{
    return atomic_compare_exchange_strong_explicit(word, &expected, desired, memory_order_acq_rel,
                                                   memory_order_relaxed);
}

/* Compare and swap two neighbouring words with one operation. The first word must lie on 16
 * bytes. Each swap is acquire and release, and both cost little more than one. False: the
 * caller swaps them one by one. TSan does not know the instruction. Every x86-64 processor has
 * had it since 2006. */
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
static inline bool rf_cas_pair(_Atomic uint64_t *words, const uint64_t *expected,
                               const uint64_t *desired)
{
    bool swapped;
    uint64_t low = expected[0], high = expected[1];
    __asm__ volatile("lock cmpxchg16b %1"
                     : "=@ccz"(swapped), "+m"(*(unsigned __int128 *)(void *)words), "+a"(low),
                       "+d"(high)
                     : "b"(desired[0]), "c"(desired[1])
                     : "memory");
    return swapped;
}
#else
static inline bool rf_cas_pair(_Atomic uint64_t *words, const uint64_t *expected,
                               const uint64_t *desired)
{
    (void)words, (void)expected, (void)desired;
    return false;
}
#endif

/* Tell the core that this is a spin: it saves power and lets a sibling thread run. */
static inline void rf_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#endif
}

#endif
