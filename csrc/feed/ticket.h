/*
 * Elements that are taken ahead: until somebody is handed one, it can go back.
 *
 * Between a take ahead and the hand-over lies a buffer of someone else's, which may be thrown away with what is
 * in it. So each such run has a number, its ticket, which travels along: who hands the element over says so
 * (rf_ahead_deliver), and a run that is dropped before goes back to its feed.
 */
#ifndef RF_AHEAD_H
#define RF_AHEAD_H

#include <stdbool.h>

#include "feed/feed.h"

/* Give a run a ticket. False: no memory, and the run is dropped, which takes it back. */
bool rf_ahead_begin(rf_feed *feed, rf_run *run);
/* The run of that ticket is in somebody's hands now. True: there was one. */
RF_API int rf_ahead_deliver(int64_t ticket);
/* The last reference to a run is gone that has a feed: true when that has the run again. */
bool rf_ahead_took_back(rf_run *run);

#endif
