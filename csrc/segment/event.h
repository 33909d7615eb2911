/*
 * Waiting: event counts, and sleeping on a word (event.c).
 */
#ifndef RF_EVENT_H
#define RF_EVENT_H

#include "segment/layout.h"

/* Announce `rows` more rows to waiters. UINT32_MAX wakes all of them, regardless of their
 * wishes. */
void rf_notify(rf_event *event, uint32_t rows);
/* The same, for a caller that has passed fence F1. */
void rf_tell_waiters(rf_event *event, uint32_t rows);

/* As rf_notify, for a change that was written by a compare-and-swap. */
static inline void rf_notify_behind_swap(rf_event *event, uint32_t rows)
{
    rf_fence_behind_swap(); /* F1 with F2 (rf_prepare_wait) */
    if (rf_load_relaxed(&event->wanted) != 0)
        rf_tell_waiters(event, rows);
}

/* Wake at most `count` of the threads that wait for one row each; the others sleep on. */
void rf_notify_some(rf_event *event, uint32_t count);
/* Leave word that this thread waits for `rows`. The caller looks once more and then sleeps on
 * the key. */
uint32_t rf_prepare_wait(rf_event *event, uint32_t rows);
/* Sleep until a notification or `until_ns`. True: the caller should look again. False: a
 * signal came. */
bool rf_sleep(rf_event *event, uint32_t key, int64_t until_ns);
/* Sleep while the lower half of a word has the value in `seen`. False: a signal came. */
bool rf_sleep_on_word(_Atomic uint64_t *word, uint64_t seen, int64_t until_ns);
void rf_wake_at_word(_Atomic uint64_t *word);
/* Spin until the word reaches a state. The budget grows with success and shrinks with failure. */
bool rf_spin(_Atomic uint32_t *budget, _Atomic uint64_t *word, rf_state state);

#endif
