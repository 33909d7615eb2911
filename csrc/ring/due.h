/*
 * When a run goes: whether it is taken now, or more is waited for (due.c).
 */
#ifndef RF_DUE_H
#define RF_DUE_H

#include "ring/find.h"

/* Should the run be taken now, or is more to be waited for? */
bool rf_run_is_due(const rf_ring *ring, rf_take_request *request, rf_find_result *seen);
/* Nothing is ready: RF_EMPTY when something may still come, else RF_FINISHED or RF_CLOSED. */
rf_status rf_nothing_ready(const rf_ring *ring, rf_take_request *request, rf_find_result *seen);
/* When a waiting taker must look again, whoever publishes. */
int64_t rf_next_look_ns(const rf_take_request *request, int64_t started);

#endif
