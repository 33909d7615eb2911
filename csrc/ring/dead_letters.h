/*
 * Records over which too many takers failed (dead_letters.c).
 */
#ifndef RF_DEAD_LETTERS_H
#define RF_DEAD_LETTERS_H

#include "segment/handle.h"

/* Is a record set aside when so many takers have failed over it? */
bool rf_is_dead_letter(const rf_ring *ring, uint32_t failures);
/* Set aside a batch that is a dead letter, and keep a note of it for rf_next_dead_letter. */
void rf_put_aside(rf_lease *lease);

#endif
