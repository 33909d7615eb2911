/*
 * The participants of a segment: joining, leaving, and giving back what the dead held (participants.c).
 */
#ifndef RF_PARTICIPANTS_H
#define RF_PARTICIPANTS_H

#include "segment/handle.h"

rf_status rf_join(rf_ring *ring); /* become a participant, unless we are one */

/* RF_OK, or why no operation may start on this handle now. Joins anew after a fork. */
static inline rf_status rf_enter(rf_ring *ring)
{
    if (rf_load_acquire(&ring->closing)) /* A6 <- R6 (rf_ring_close) */
        return RF_CLOSED;
    /* A7 <- R7 (rf_join): who sees the new generation also sees the new `self`. */
    if (rf_load_acquire(&ring->generation) == rf_load_relaxed(&rf_fork_generation))
        return RF_OK;
    /* A forked child: what the parent holds is the parent's; the child joins as itself. */
    return rf_join(ring);
}

void rf_watch_forks(void);    /* before the first handle of a process */
void rf_leave(rf_ring *ring); /* hand the entry back; the counters stay */
/* A description of our own for locks on the segment, until rf_own_file_close. */
bool rf_open_for_locks(const rf_ring *ring, rf_own_file *own);
/* What to say when that fails, by errno. */
rf_status rf_no_description(void);

/* As rf_recover, of those whose number has its bit set alone. */
uint32_t rf_recover_some(rf_ring *ring, const uint64_t *owners);
/* Is that participant a living process's, or a handle of our own? */
bool rf_participant_lives(rf_ring *ring, uint32_t owner);

static inline rf_counters *rf_own_counters(rf_ring *ring)
{
    return &ring->participants[rf_self(ring) - 1].counters;
}

/* Only this process writes its counters; an addition keeps its threads apart. */
#define rf_count(ring, counter, n) rf_add_relaxed(&rf_own_counters(ring)->counter, (uint64_t)(n))

#endif
