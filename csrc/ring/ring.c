/*
 * The slot protocol: claim, publish, discard, take, release. This file has its outline, and the functions over the
 * whole ring.
 *
 * The files of this folder may not know how memory is mapped (segment.c), how a thread sleeps (event.c) or which
 * process is dead (participants.c). claim.c and publish.c are the producer's side; find.c, due.c and take.c the
 * taker's; lease.c and release.c serve both.
 *
 * Every step that others can see is one compare-and-swap on a slot's word. A process may be killed between two
 * steps, and the word tells recovery what to undo (recover.c).
 *
 * Producers search free slots from the claim cursor on, and takers search ready slots from the take cursor on. Both
 * go around slots in another state and meet them again a lap later, so a slot that is held for long delays no other.
 * The cursors are hints: any value is correct, and a good one makes the search short.
 *
 * A record's link, not its place, keeps one producer's records in order (layout.h). A taker that meets a record
 * whose predecessor still waits goes to the predecessor.
 */
#include "ring/ring.h"

#include <string.h>

#include "segment/process_mark.h"

/* ---- Entering and waiting ------------------------------------------------------------------- */

rf_status rf_wait_on(int64_t *started, int64_t now_ns, int64_t deadline_ns, rf_status out_of_time)
{
    if (!*started)
        *started = now_ns;
    if (now_ns >= deadline_ns)
        return out_of_time;
    return now_ns - *started >= RF_SLICE_NS ? RF_AGAIN : RF_OK;
}

/* ---- The whole ring ------------------------------------------------------------------------- */

void rf_finish(rf_ring *ring)
{
    rf_or_release(&ring->header->finished, RF_IS_FINISHED); /* R16 -> A16 (try_take) */
    RF_STEP("finish: said, nobody told");
    rf_notify(&ring->header->readable, UINT32_MAX);
    rf_notify(&ring->header->writable, UINT32_MAX);
}

int rf_ring_is_finished(const rf_ring *ring)
{
    return (rf_load_relaxed(&ring->header->finished) & RF_IS_FINISHED) != 0;
}

int rf_ring_has_ended(const rf_ring *ring)
{
    return rf_still_open(ring) != RF_OK;
}

int rf_ring_redelivers(const rf_ring *ring)
{
    return ring->header->redeliver != 0;
}

rf_census rf_count_states(const rf_ring *ring)
{
    rf_census now = {0};
    for (uint32_t slot = 0; slot < ring->slot_count; slot++) {
        switch (rf_word_state(rf_load_relaxed(&ring->words[slot]))) {
        case RF_STATE_FREE: now.free++; break;
        case RF_STATE_CLAIMED: now.claimed++; break;
        case RF_STATE_READY: now.ready++; break;
        case RF_STATE_TAKEN: now.taken++; break;
        case RF_STATE_KEPT: now.kept++; break;
        }
    }
    return now;
}

void rf_ring_holdings(rf_ring *ring, rf_holding *holdings)
{
    uint32_t participants = ring->geometry.participants;
    memset(holdings, 0, participants * sizeof *holdings);
    for (uint32_t slot = 0; slot < ring->slot_count; slot++) {
        uint64_t word = rf_load_relaxed(&ring->words[slot]);
        uint32_t owner = rf_word_owner(word);
        rf_state state = rf_word_state(word);
        if (owner == RF_NO_OWNER || owner > participants)
            continue;
        bool answered =
            state == RF_STATE_READY && ring->kind->is_pool; /* of a ring it has no owner */
        if (state == RF_STATE_CLAIMED)
            holdings[owner - 1].claimed++;
        else if (state == RF_STATE_TAKEN || state == RF_STATE_KEPT || answered)
            holdings[owner - 1].held++;
    }
    for (uint32_t index = 0; index < participants; index++) {
        rf_holding *entry = &holdings[index];
        if (entry->claimed || entry->held) {
            rf_process_mark *mark = &ring->participants[index].mark;
            entry->pid = rf_load_relaxed(&mark->pid);
            entry->ours = rf_mark_is_self(mark);
        }
    }
}

uint32_t rf_ring_ready(const rf_ring *ring)
{
    return rf_count_states(ring).ready;
}

static void add_counters(rf_counts *sum, rf_counters *from)
{
    sum->published += rf_load_relaxed(&from->published);
    sum->discarded += rf_load_relaxed(&from->discarded);
    sum->taken += rf_load_relaxed(&from->taken);
    sum->released += rf_load_relaxed(&from->released);
    sum->batches += rf_load_relaxed(&from->batches);
    sum->redelivered += rf_load_relaxed(&from->redelivered);
    sum->dropped += rf_load_relaxed(&from->dropped);
    sum->reclaimed += rf_load_relaxed(&from->reclaimed);
    sum->dead_letters += rf_load_relaxed(&from->dead_letters);
    sum->claim_wait_ns += rf_load_relaxed(&from->claim_wait_ns);
    sum->take_wait_ns += rf_load_relaxed(&from->take_wait_ns);
}

void rf_ring_stats(rf_ring *ring, rf_stats *stats)
{
    rf_census now = rf_count_states(ring);
    *stats = (rf_stats){.free = now.free,
                        .claimed = now.claimed,
                        .ready = now.ready,
                        .taken = now.taken,
                        .kept = now.kept};
    add_counters(&stats->counts, &ring->header->departed);
    for (uint32_t index = 0; index < ring->geometry.participants; index++) {
        rf_participant *entry = &ring->participants[index];
        if (rf_load_relaxed(&entry->state) == RF_ABSENT)
            continue;
        stats->participants++;
        add_counters(&stats->counts, &entry->counters);
    }
}

int rf_record_is_gone(const rf_ring *ring, uint64_t link)
{
    uint32_t slot = rf_link_slot(link);
    if (slot >= ring->slot_count)
        return 1;
    /* A2 <- R2 (release_rows): the taker that released the slot had held the request's cell
     * before (rf_hold). */
    uint64_t word = rf_load_acquire(&ring->words[slot]);
    return rf_word_state(word) == RF_STATE_KEPT ||
           ((rf_word_epoch(word) ^ link) & RF_LINK_EPOCH_MASK) != 0;
}
