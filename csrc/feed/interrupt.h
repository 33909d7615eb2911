/*
 * Ctrl-C as seen by threads that are not the one which handles it. Knows no ring.
 */
#ifndef RF_INTERRUPT_H
#define RF_INTERRUPT_H

#include <stdint.h>

/* Count SIGINT from here on, beside whatever handler there is; it still runs. A default or ignored
 * SIGINT is left alone. Calls nest. */
void rf_watch_interrupts(void);
/* The opposite; the last one puts the handler back that was there before. */
void rf_unwatch_interrupts(void);
/* How many came while anyone watched; it wraps. */
uint32_t rf_interrupts(void);

#endif
