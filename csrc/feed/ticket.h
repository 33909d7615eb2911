/*
 * Tickets: an element that is taken ahead can return to its feed until a consumer receives it.
 *
 * Between the take and the delivery an element lies in a buffer of another library, such as a prefetch of tf.data. That
 * library may throw the buffer away. So each such element has a number, its ticket, which travels with it. The code
 * that delivers the element reports the ticket (rf_ticket_deliver). An element that is dropped before that returns
 * to its feed.
 */
#ifndef RF_TICKET_H
#define RF_TICKET_H

#include "feed/element.h"

/* Give an element a ticket and an owner. Takes over the caller's reference to the owner. False: no memory; then the
 * caller drops the element, which returns it. */
bool rf_ticket_issue(rf_element *element, rf_element_owner *owner);
/* Return an element to its owner, unless it was delivered: its last reference is gone. True: the owner has it again. */
bool rf_return_undelivered(rf_element *element);

#endif
