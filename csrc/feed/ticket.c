/*
 * The list of undelivered elements. See ticket.h.
 *
 * The list is short: as many elements as lie in buffers. It may not know feeds, or what an owner does with an element
 * that returns.
 */
#include "feed/ticket.h"

#include <pthread.h>
#include <stdlib.h>

#include "segment/atomics.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static rf_element *undelivered;
static int64_t last_ticket;

/* The threads that held the lock do not exist in the child, and the elements belong to the parent. */
static void in_forked_child(void)
{
    pthread_mutex_init(&lock, NULL);
    undelivered = NULL;
}

static void register_fork_handler(void)
{
    pthread_atfork(NULL, NULL, in_forked_child);
}

bool rf_ticket_issue(rf_element *element, rf_element_owner *owner)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, register_fork_handler);
    rf_store_relaxed(&element->owner, owner);
    element->ticket = aligned_alloc(RF_ALIGNMENT, RF_ALIGNMENT);
    if (!element->ticket)
        return false;
    pthread_mutex_lock(&lock);
    *element->ticket = ++last_ticket;
    element->next = undelivered;
    undelivered = element;
    pthread_mutex_unlock(&lock);
    return true;
}

/* The caller holds the lock. */
static void take_out(rf_element **place)
{
    if (*place)
        *place = (*place)->next;
}

/* The caller holds the lock, and does not touch the element after this. When only the ticket's number came back,
 * another thread may be dropping the last reference. That thread takes the lock to see which of the two was first. */
static rf_element_owner *leave_owner(rf_element *element)
{
    rf_element_owner *owner = rf_load_relaxed(&element->owner);
    rf_store_release(&element->owner, NULL); /* R11 -> A11 (rf_element_drop) */
    return owner;
}

int rf_ticket_deliver(int64_t ticket)
{
    pthread_mutex_lock(&lock);
    rf_element **place = &undelivered, *element;
    while ((element = *place) && *element->ticket != ticket)
        place = &element->next;
    take_out(place);
    rf_element_owner *owner = element ? leave_owner(element) : NULL;
    pthread_mutex_unlock(&lock);
    if (!owner)
        return false;
    owner->release(owner);
    return true;
}

bool rf_return_undelivered(rf_element *element)
{
    pthread_mutex_lock(&lock);
    rf_element **place = &undelivered;
    while (*place && *place != element)
        place = &(*place)->next;
    take_out(place);
    rf_element_owner *owner = leave_owner(element);
    pthread_mutex_unlock(&lock);
    if (!owner)
        return false;
    free(element->ticket);
    element->ticket = NULL;
    bool kept = owner->take_back(owner, element);
    owner->release(owner);
    return kept;
}
