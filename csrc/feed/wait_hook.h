/*
 * Who is asked when a feed waits and something is odd: the one place where native code calls Python.
 * It may not know feeds but by their numbers, nor who the attendant is.
 */
#ifndef RF_ATTENDANT_H
#define RF_ATTENDANT_H

#include <stdbool.h>
#include <stdint.h>

#include "ringfeed.h"

/* What an attendant wants of a feed that is interrupted or stalled. */
typedef enum rf_answer {
    RF_GO_ON = 0,
    RF_ASK_AGAIN,    /* it can not tell yet */
    RF_GIVE_NOTHING, /* an element without rows (or of zeros) */
    RF_STOP,         /* the end, this once; an error, where there are no turns */
    RF_FAIL,         /* an error */
} rf_answer;

/* Asked by a thread that wants an element: `interrupted`, when someone pressed Ctrl-C, and again until the
 * answer is not RF_ASK_AGAIN; `stalled`, about every 50 ms while every slot of the ring is held. */
typedef rf_answer rf_attendant(uint64_t id, int interrupted, int stalled);
RF_API void rf_set_attendant(rf_attendant *attendant);

/* From here on no feed waits and no attendant is asked: the process ends. */
RF_API void rf_feeds_stop(void);
/* Threads that are about to ask the attendant, or do. */
RF_API uint32_t rf_feeds_attending(void);

bool rf_feeds_stopped(void);
/* Ask the attendant, if there is one and the process does not end. */
rf_answer rf_attend(uint64_t id, bool interrupted, bool stalled);

#endif
