/*
 * The slot protocol: claim, publish, discard, take, release.
 *
 * Here is what all of it shares; claim.c is the producer's side, take.c the taker's, lease.c what
 * both hold and give back. They may not know how memory was mapped (segment.c), how anyone sleeps
 * (waiter.c) or who is dead (liveness.c). Every step that others can see is one compare-and-swap
 * on a slot's word; between two steps the process may be killed, and the word says what to undo.
 *
 * How it works. Producers search free slots from the claim cursor on, takers search ready ones
 * from the take cursor on; both go around whatever is in another state, so a slot that someone
 * holds for long delays nobody else, and both meet it again a lap later. The cursors are hints:
 * any value is correct, a good one makes the search short. What keeps one producer's records in
 * order is not their place but their link (layout.h): a taker that meets a record whose
 * predecessor still waits goes to the predecessor.
 */
#include "handle.h"

/* ---- Entering and waiting ------------------------------------------------------------------- */

rf_status rf_enter(rf_ring *ring)
{
    if (rf_load_acquire(&ring->closing)) /* A6 <- R6 (rf_ring_close) */
        return RF_CLOSED;
    /* A7 <- R7 (rf_join): who sees the new generation also sees the new `self`. */
    if (rf_load_acquire(&ring->generation) == rf_load_relaxed(&rf_fork_generation))
        return RF_OK;
    /* A forked child: what the parent holds is the parent's; the child joins as itself. */
    return rf_join(ring);
}

rf_status rf_still_open(const rf_ring *ring)
{
    if (rf_load_relaxed(&ring->header->finished))
        return RF_FINISHED;
    return rf_load_relaxed(&ring->header->closed) ? RF_CLOSED : RF_OK;
}

bool rf_look_after_the_dead(rf_ring *ring, int64_t now_ns)
{
    int64_t before = rf_load_relaxed(&ring->looked_ns);
    /* Relaxed: it only spares the threads of this process the same look. */
    if (now_ns - before < RF_SLICE_NS ||
        !atomic_compare_exchange_strong_explicit(&ring->looked_ns, &before, now_ns,
                                                 memory_order_relaxed, memory_order_relaxed))
        return false;
    uint32_t found = rf_recover(ring);
    if (ring->is_pool || rf_load_relaxed(&ring->header->closed) || rf_owner_lives(ring))
        return found;
    RF_STEP("close: owner found dead, nothing said");
    rf_store_relaxed(&ring->header->closed, 1u);
    RF_STEP("close: said for a dead owner, nobody told");
    rf_notify(&ring->header->readable, UINT32_MAX);
    rf_notify(&ring->header->writable, UINT32_MAX);
    return true;
}

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
    rf_store_relaxed(&ring->header->finished, 1u);
    RF_STEP("finish: said, nobody told");
    rf_notify(&ring->header->readable, UINT32_MAX);
    rf_notify(&ring->header->writable, UINT32_MAX);
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
        case RF_STATE_PINNED: now.pinned++; break;
        }
    }
    return now;
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
                        .pinned = now.pinned};
    add_counters(&stats->counts, &ring->header->departed);
    for (uint32_t index = 0; index < ring->geometry.participants; index++) {
        rf_participant *entry = &ring->participants[index];
        if (rf_load_relaxed(&entry->state) == RF_ABSENT)
            continue;
        stats->participants++;
        add_counters(&stats->counts, &entry->counters);
    }
}
