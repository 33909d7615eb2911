/*
 * SIGINT (Ctrl-C), counted for threads that run no signal handler of Python. It may not know rings, or Python.
 */
#ifndef RF_INTERRUPT_H
#define RF_INTERRUPT_H

#include <stdint.h>

/* Count SIGINT from now on; the handler that was there still runs. A default or ignored SIGINT stays as it is.
 * Calls nest. */
void rf_watch_interrupts(void);
/* End one rf_watch_interrupts. The last call restores the handler that was there before. */
void rf_unwatch_interrupts(void);
/* How many SIGINT came while the count was on. It wraps. */
uint32_t rf_interrupts(void);

#endif
