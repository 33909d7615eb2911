/*
 * The backlog of a feed. See backlog.h.
 */
#include "feed/backlog.h"

#include "segment/atomics.h"

void rf_backlog_init(rf_backlog *backlog, uint32_t exact_rows)
{
    pthread_mutex_init(&backlog->mutex, NULL);
    backlog->exact_rows = exact_rows;
}

void rf_backlog_clear(rf_backlog *backlog)
{
    for (rf_element *element = backlog->first, *next; element; element = next) {
        next = element->next;
        rf_element_drop(element);
    }
}

void rf_backlog_put(rf_backlog *backlog, rf_element *element)
{
    pthread_mutex_lock(&backlog->mutex);
    rf_element **place = &backlog->first;
    while (*place && (element->rows < backlog->exact_rows || (*place)->rows >= backlog->exact_rows))
        place = &(*place)->next;
    element->next = *place;
    *place = element;
    pthread_mutex_unlock(&backlog->mutex);
}

rf_element *rf_backlog_take(rf_backlog *backlog, const rf_geometry *geometry, uint32_t min_rows)
{
    rf_element *other;
    pthread_mutex_lock(&backlog->mutex);
    rf_element *element = backlog->first;
    while (element && element->rows < backlog->exact_rows && (other = element->next)) {
        rf_element_move_rows(element, other, backlog->exact_rows - element->rows, geometry);
        if (other->rows)
            break;
        element->next = other->next;
        rf_element_drop(other);
    }
    if (element && element->rows >= min_rows)
        backlog->first = element->next;
    else
        element = NULL;
    pthread_mutex_unlock(&backlog->mutex);
    return element;
}

bool rf_backlog_is_closed(const rf_backlog *backlog)
{
    return rf_load_relaxed(&((rf_backlog *)backlog)->closed);
}

uint32_t rf_backlog_returns(rf_backlog *backlog)
{
    pthread_mutex_lock(&backlog->mutex);
    uint32_t returns = backlog->returns;
    pthread_mutex_unlock(&backlog->mutex);
    return returns;
}

bool rf_backlog_close(rf_backlog *backlog, uint32_t returns)
{
    pthread_mutex_lock(&backlog->mutex);
    bool closes = backlog->returns == returns;
    if (closes)
        rf_store_relaxed(&backlog->closed, true);
    pthread_mutex_unlock(&backlog->mutex);
    return closes;
}

void rf_backlog_count_return(rf_backlog *backlog)
{
    pthread_mutex_lock(&backlog->mutex);
    backlog->returns++;
    rf_store_relaxed(&backlog->closed, false);
    pthread_mutex_unlock(&backlog->mutex);
}
