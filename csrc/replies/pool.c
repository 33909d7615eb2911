/*
 * Creating a reply pool and attaching to it; what a pool does where a ring does something else.
 *
 * It may not know how a request travels, nor how memory is mapped (segment.c).
 */
#include "replies/cell.h"
#include "segment/segment.h"

static void recover(rf_ring *pool, uint32_t participant)
{
    for (uint32_t cell = 0; cell < pool->slot_count; cell++)
        rf_recover_cell(pool, cell, participant);
}

/* An engine may not have answered; a lease would have kept the handle. */
static void leave(rf_ring *pool)
{
    recover(pool, rf_self(pool));
}

static void departed(rf_ring *pool, uint32_t state)
{
    if (rf_state_serves(state)) /* clients may have nobody left to wait for */
        rf_wake_for_departure(pool);
}

/* Does this participant hold a cell as an engine? */
static bool is_engaged(const rf_ring *pool)
{
    for (uint32_t cell = 0; cell < pool->slot_count; cell++) {
        uint64_t word = rf_load_relaxed(&pool->words[cell]);
        if (rf_word_owner(word) == rf_self(pool) && rf_word_state(word) == HELD)
            return true;
    }
    return false;
}

/* Clients that are asked for hold their cell, which somebody wants when all are in use. */
static void list_holders(const rf_ring *pool, uint64_t *owners)
{
    bool wanted = rf_load_relaxed(&pool->header->writable.wanted) != 0;
    for (uint32_t cell = 0; cell < pool->slot_count; cell++) {
        uint64_t word = rf_load_relaxed(&pool->words[cell]);
        if (wanted || rf_word_state(word) == HELD)
            rf_add_owner(pool, owners, rf_word_owner(word));
    }
    for (uint32_t owner = 1; owner <= pool->geometry.participants; owner++)
        if (rf_state_serves(rf_load_relaxed(&pool->participants[owner - 1].state)))
            rf_add_owner(pool, owners, owner);
}

static const rf_kind pool_kind = {
    .is_pool = true,
    .recover = recover,
    .leave = leave,
    .departed = departed,
    .is_engaged = is_engaged,
    .drop = rf_withdraw,
    .list_holders = list_holders,
    .wake_patient = rf_wake_clients,
};

rf_status rf_pool_create(int fd, const rf_options *options, const rf_geometry *geometry,
                         rf_ring **pool)
{
    /* A pool may take the place of another one, whose requests are still in the ring: the microseconds
     * since the machine started are later than any epoch that the other one's cells have come to. */
    return rf_segment_create(fd, options, geometry, &pool_kind, (uint64_t)rf_now_ns() / 1000 + 1,
                             pool);
}

rf_status rf_pool_attach(int fd, rf_ring **pool)
{
    return rf_segment_attach(fd, &pool_kind, pool);
}
