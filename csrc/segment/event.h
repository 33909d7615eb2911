/*
 * Waiting: event counts, and sleeping on a word (event.c).
 */
#ifndef RF_EVENT_H
#define RF_EVENT_H

#include "segment/layout.h"

/* Tell waiters that `rows` more rows are there; UINT32_MAX wakes them whatever they want. */
void rf_notify(rf_event *event, uint32_t rows);
/* The same behind F1. */
void rf_tell_waiters(rf_event *event, uint32_t rows);

/* As rf_notify, where what is told of was written by a compare-and-swap. */
static inline void rf_notify_behind_swap(rf_event *event, uint32_t rows)
{
    rf_fence_behind_swap(); /* F1 with F2 (rf_prepare_wait) */
    if (rf_load_relaxed(&event->wanted) != 0)
        rf_tell_waiters(event, rows);
}

/* As many of those who wait for one row each; the others sleep on. */
void rf_notify_some(rf_event *event, uint32_t count);
/* Leave word that we wait for `rows`; the caller looks once more, then sleeps on the key. */
uint32_t rf_prepare_wait(rf_event *event, uint32_t rows);
/* Sleep until notified or `until_ns`. True: worth looking again; false: a signal came. */
bool rf_sleep(rf_event *event, uint32_t key, int64_t until_ns);
/* Sleep while the lower half of a word is what was seen there. False: a signal came. */
bool rf_sleep_on_word(_Atomic uint64_t *word, uint64_t seen, int64_t until_ns);
void rf_wake_at_word(_Atomic uint64_t *word);
/* Spin until the word leaves / reaches a state; learns from its success. */
bool rf_spin(_Atomic uint32_t *budget, _Atomic uint64_t *word, rf_state state);

#endif
