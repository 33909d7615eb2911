/*
 * Waking the clients that wait for answers.
 *
 * It may not know how a cell is answered.
 */
#define _GNU_SOURCE
#include <time.h>

#include "replies/cell.h"

/* Whom to wake, behind answers: all of them are out before the first look. */
void rf_tell(rf_ring *pool, uint32_t cell)
{
    uint32_t waiter = rf_load_relaxed(&record_of(pool, cell)->waiter),
             client = client_of(pool, cell);
    if (waiter & RF_TELL_THREAD)
        rf_wake_at_word(&pool->words[cell]);
    if (waiter & RF_TELL_CLIENT && client != RF_NO_OWNER)
        rf_notify(&pool->participants[client - 1].answered, 1);
}

void rf_wake_clients(rf_ring *pool, bool ready_only)
{
    rf_notify(&pool->header->readable, UINT32_MAX);
    for (uint32_t cell = 0; cell < pool->slot_count; cell++) {
        rf_state state = rf_word_state(rf_load_relaxed(&pool->words[cell]));
        if (ready_only ? state == ANSWERED : state != RF_STATE_FREE)
            rf_tell(pool, cell);
    }
}

void rf_wake_for_departure(rf_ring *pool)
{
    static const struct timespec nap = {.tv_nsec = 1000000};
    rf_add_relaxed(&pool->header->departures, 1u);
    rf_wake_clients(pool, false);
    /* One that saw the old number may have been about to fall asleep. Of a few each looks before long. */
    if (rf_many_wait(pool)) {
        nanosleep(&nap, NULL);
        rf_wake_clients(pool, false);
    }
}
