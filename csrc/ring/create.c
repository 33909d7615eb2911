/*
 * Creating a ring and attaching to it; what a ring does where a reply pool does something else.
 *
 * It may not know how memory is mapped (segment.c).
 */
#include "ring/lease.h"
#include "ring/producers.h"
#include "ring/reaper.h"
#include "ring/recover.h"
#include "ring/ring.h"
#include "ring/streaming.h"
#include "ring/window.h"
#include "segment/segment.h"

static uint64_t own_blocks(const rf_ring *ring)
{
    return rf_load_relaxed(&ring->participants[rf_self(ring) - 1].producing);
}

static bool is_engaged(const rf_ring *ring)
{
    return own_blocks(ring) != 0;
}

static void leave(rf_ring *ring)
{
    if (own_blocks(ring))
        rf_end_blocks(ring, rf_self(ring));
}

static void departed(rf_ring *ring, uint32_t state)
{
    (void)ring, (void)state;
}

static void list_holders(const rf_ring *ring, uint64_t *owners)
{
    for (uint32_t slot = 0; slot < ring->slot_count; slot++) {
        uint64_t word = rf_load_relaxed(&ring->words[slot]);
        if (rf_word_state(word) != RF_STATE_READY) /* which has no owner */
            rf_add_owner(ring, owners, rf_word_owner(word));
        if (word & RF_KEEP)
            rf_add_owner(ring, owners, rf_load_relaxed(&ring->slots[slot].producer));
    }
    for (uint32_t owner = 1; owner <= ring->geometry.participants; owner++)
        if (rf_load_relaxed(&ring->participants[owner - 1].producing) != 0)
            rf_add_owner(ring, owners, owner);
    rf_add_owner(ring, owners, rf_word_owner(rf_load_relaxed(&ring->header->failure.word)));
}

static void wake_patient(rf_ring *ring, bool ready_only)
{
    (void)ready_only;
    rf_notify(&ring->header->readable, UINT32_MAX);
}

static const rf_kind ring_kind = {
    .is_pool = false,
    .recover = rf_recover_slots,
    .leave = leave,
    .departed = departed,
    .is_engaged = is_engaged,
    .drop = rf_give_slots_back,
    .list_holders = list_holders,
    .wake_patient = wake_patient,
};

/* What the operations of a ring need beside the mapping. */
static void begin(rf_ring *ring)
{
    ring->window = rf_window_slots(&ring->geometry);
    ring->restarts = rf_window_restarts(&ring->geometry);
    rf_begin_copies(ring);
}

rf_status rf_ring_create(int fd, const rf_options *options, const rf_geometry *geometry,
                         rf_ring **ring)
{
    rf_status status = rf_segment_create(fd, options, geometry, &ring_kind, 1, ring);
    if (status == RF_OK)
        begin(*ring);
    return status;
}

rf_status rf_ring_attach(int fd, rf_ring **ring)
{
    rf_status status = rf_segment_attach(fd, &ring_kind, ring);
    if (status == RF_OK)
        begin(*ring);
    return status;
}
