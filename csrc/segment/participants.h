/*
 * The participants of a segment: joining, leaving, and giving back what the dead held (participants.c).
 */
#ifndef RF_PARTICIPANTS_H
#define RF_PARTICIPANTS_H

#include "segment/handle.h"

rf_status rf_join(rf_ring *ring); /* become a participant, unless this process is one */

/* RF_OK, or the reason why no operation may start on this handle now. A forked child joins
 * here. */
static inline rf_status rf_enter(rf_ring *ring)
{
    if (rf_load_acquire(&ring->closing)) /* A6 <- R6 (rf_ring_close) */
        return RF_CLOSED;
    /* A7 <- R7 (rf_join): a thread that sees the new generation also sees the new `self`. */
    if (rf_load_acquire(&ring->generation) == rf_load_relaxed(&rf_fork_generation))
        return RF_OK;
    /* A forked child: what its parent holds stays its parent's, and the child joins as itself. */
    return rf_join(ring);
}

void rf_watch_forks(void);    /* before the first handle of a process */
void rf_leave(rf_ring *ring); /* give the entry back; the counters stay */
/* Open a description of our own for locks on the segment, until rf_own_file_close. */
bool rf_open_for_locks(const rf_ring *ring, rf_own_file *own);
/* The status for a failure of that, by errno. */
rf_status rf_no_description(void);

/* As rf_recover, only for the participants whose bit is set. */
uint32_t rf_recover_some(rf_ring *ring, const uint64_t *owners);
/* Does that participant belong to a living process, or to a handle of this one? */
bool rf_participant_lives(rf_ring *ring, uint32_t owner);

static inline rf_counters *rf_own_counters(rf_ring *ring)
{
    return &ring->participants[rf_self(ring) - 1].counters;
}

/* Only this process writes its counters; an addition keeps its threads apart. */
#define rf_count(ring, counter, n) rf_add_relaxed(&rf_own_counters(ring)->counter, (uint64_t)(n))

#endif
