/*
 * Computing a layout, and checking one that a header claims (plan.c).
 */
#ifndef RF_PLAN_H
#define RF_PLAN_H

#include "segment/layout.h"

#define RF_HUGE_PAGE_BYTES (UINT64_C(2) << 20)

/* As rf_plan, for exactly the number of slots in the options. */
rf_status rf_plan_exactly(const rf_options *options, rf_geometry *geometry);
/* Does each region follow on itself without a gap, so that a run may pass the ring's end? */
bool rf_is_mirrored(const rf_geometry *geometry);
/* RF_OK if the layout that a header claims is the one that we compute, else RF_DAMAGED. */
rf_status rf_check_geometry(const rf_geometry *claimed, uint64_t file_bytes, rf_geometry *checked);

#endif
