/*
 * The mark of a process: does the process live that left it?
 *
 * It may not know what the mark is for. Only processes of the same PID namespace can read a mark.
 */
#ifndef RF_PROCESS_MARK_H
#define RF_PROCESS_MARK_H

#include <stdbool.h>

#include "segment/layout.h"

typedef enum rf_life { RF_UNKNOWN = 0, RF_LIVES, RF_DEAD } rf_life;

/* Leave the mark of this process. */
void rf_mark_leave(rf_process_mark *mark);
/* Take it back: from here on nothing is known. */
void rf_mark_withdraw(rf_process_mark *mark);
/* Is it the mark of this very process? */
bool rf_mark_is_self(const rf_process_mark *mark);
/* Reads /proc. For a participant whose lock was found free. */
rf_life rf_mark_says(const rf_process_mark *mark);
/* One system call: no process has this number any more. */
bool rf_mark_is_gone(const rf_process_mark *mark);

#endif
