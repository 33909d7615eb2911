/*
 * The second witness: does the process live that left this mark?
 *
 * It may not know what the mark is for. A mark says something to the processes of the same PID namespace alone.
 */
#ifndef RF_WITNESS_H
#define RF_WITNESS_H

#include <stdbool.h>

#include "segment/layout.h"

typedef enum rf_life { RF_UNKNOWN = 0, RF_LIVES, RF_DEAD } rf_life;

/* Leave the mark of this process. */
void rf_mark_leave(rf_process_mark *who);
/* Take it back: from here on nothing is known. */
void rf_mark_withdraw(rf_process_mark *who);
/* Is it the mark of this very process? */
bool rf_mark_is_self(const rf_process_mark *who);
/* Reads /proc: for where a lock was found free. */
rf_life rf_mark_says(const rf_process_mark *who);
/* One system call: no process has this number any more. */
bool rf_mark_is_gone(const rf_process_mark *who);

#endif
