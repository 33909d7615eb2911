/*
 * Waking the clients that wait for answers.
 *
 * It may not know how a cell is answered.
 */
#define _GNU_SOURCE
#include <time.h>

#include "replies/cell.h"

/* The caller has written all answers before the first call. */
void rf_notify_client(rf_ring *pool, uint32_t cell)
{
    uint32_t waiter = rf_load_relaxed(&record_of(pool, cell)->waiter),
             client = client_of(pool, cell);
    if (waiter & RF_WAITER_THREAD)
        rf_wake_at_word(&pool->words[cell]);
    if (waiter & RF_WAITER_CLIENT && client != RF_NO_OWNER)
        rf_notify(&pool->participants[client - 1].answered, 1);
}

void rf_wake_clients(rf_ring *pool, bool ready_only)
{
    rf_notify(&pool->header->readable, UINT32_MAX);
    for (uint32_t cell = 0; cell < pool->slot_count; cell++) {
        rf_state state = rf_word_state(rf_load_relaxed(&pool->words[cell]));
        if (ready_only ? state == ANSWERED : state != RF_STATE_FREE)
            rf_notify_client(pool, cell);
    }
}

void rf_wake_for_departure(rf_ring *pool)
{
    static const struct timespec one_ms = {.tv_nsec = 1000000};
    rf_add_relaxed(&pool->header->departures, 1u);
    rf_wake_clients(pool, false);
    /* A thread that read the old number may not have been asleep yet: wake it again. If few threads wait, each of them
     * inspects the pool soon anyway. */
    if (rf_many_wait(pool)) {
        nanosleep(&one_ms, NULL);
        rf_wake_clients(pool, false);
    }
}
