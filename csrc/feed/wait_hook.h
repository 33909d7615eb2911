/*
 * The wait hook: the one place where native code calls Python. A feed calls it when SIGINT comes during a wait, and when
 * its ring is stalled.
 *
 * It may not know feeds except by number, or what the hook does.
 */
#ifndef RF_WAIT_HOOK_H
#define RF_WAIT_HOOK_H

#include <stdbool.h>

#include "feed.h"

/* True after rf_feeds_stop. */
bool rf_feeds_stopped(void);
/* Call the hook, if there is one and the process does not end. */
rf_hook_result rf_call_wait_hook(uint64_t feed_id, bool interrupted, bool stalled);

#endif
