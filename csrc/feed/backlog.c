/*
 * See backlog.h.
 */
#include "feed/backlog.h"

void rf_shelf_init(rf_shelf *shelf, uint32_t exact)
{
    pthread_mutex_init(&shelf->mutex, NULL);
    shelf->exact = exact;
}

void rf_shelf_clear(rf_shelf *shelf)
{
    for (rf_run *run = shelf->first, *next; run; run = next) {
        next = run->next;
        rf_run_drop(run);
    }
}

void rf_shelf_put(rf_shelf *shelf, rf_run *run)
{
    pthread_mutex_lock(&shelf->mutex);
    rf_run **place = &shelf->first;
    while (*place && (run->rows < shelf->exact || (*place)->rows >= shelf->exact))
        place = &(*place)->next;
    run->next = *place;
    *place = run;
    pthread_mutex_unlock(&shelf->mutex);
}

rf_run *rf_shelf_take(rf_shelf *shelf, const rf_geometry *geometry, uint32_t least)
{
    rf_run *other;
    pthread_mutex_lock(&shelf->mutex);
    rf_run *run = shelf->first;
    while (run && run->rows < shelf->exact && (other = run->next)) {
        rf_run_move(run, other, shelf->exact - run->rows, geometry);
        if (other->rows)
            break;
        run->next = other->next;
        rf_run_drop(other);
    }
    if (run && run->rows >= least)
        shelf->first = run->next;
    else
        run = NULL;
    pthread_mutex_unlock(&shelf->mutex);
    return run;
}

bool rf_shelf_is_closed(const rf_shelf *shelf)
{
    return rf_load_relaxed(&((rf_shelf *)shelf)->closed);
}

uint32_t rf_shelf_returns(rf_shelf *shelf)
{
    pthread_mutex_lock(&shelf->mutex);
    uint32_t returns = shelf->returns;
    pthread_mutex_unlock(&shelf->mutex);
    return returns;
}

bool rf_shelf_close(rf_shelf *shelf, uint32_t returns)
{
    pthread_mutex_lock(&shelf->mutex);
    bool closes = shelf->returns == returns;
    if (closes)
        rf_store_relaxed(&shelf->closed, true);
    pthread_mutex_unlock(&shelf->mutex);
    return closes;
}

void rf_shelf_count_return(rf_shelf *shelf)
{
    pthread_mutex_lock(&shelf->mutex);
    shelf->returns++;
    rf_store_relaxed(&shelf->closed, false);
    pthread_mutex_unlock(&shelf->mutex);
}
