/*
 * When a run goes: whether it is taken now, or more is waited for (due.c).
 */
#ifndef RF_DUE_H
#define RF_DUE_H

#include "ring/find.h"

/* Is the run taken now? False: the taker waits for more. */
bool rf_run_is_due(const rf_ring *ring, rf_take_request *request, rf_find_result *seen);
/* Nothing is ready: RF_EMPTY if something may still come, else RF_FINISHED or RF_CLOSED. */
rf_status rf_nothing_ready(const rf_ring *ring, rf_take_request *request, rf_find_result *seen);
/* When a waiting taker must look again, even if nothing is published. */
int64_t rf_next_look_ns(const rf_take_request *request, int64_t started);

#endif
