/*
 * Creating a reply pool, attaching to it, and the functions of its kind (rf_kind): what a pool does where a ring does
 * something else.
 *
 * It may not know how a request travels, or how memory is mapped (segment.c).
 */
#include "replies/cell.h"
#include "segment/segment.h"

static void recover(rf_ring *pool, uint32_t participant)
{
    for (uint32_t cell = 0; cell < pool->slot_count; cell++)
        rf_recover_cell(pool, cell, participant);
}

/* An engine may leave held cells without an answer. A client cannot leave leased cells: a lease keeps the handle. */
static void leave(rf_ring *pool)
{
    recover(pool, rf_self(pool));
}

static void departed(rf_ring *pool, uint32_t state)
{
    if (rf_state_serves(state)) /* clients may have no engine left to wait for */
        rf_wake_for_departure(pool);
}

/* True: this participant holds a cell as an engine. */
static bool is_engaged(const rf_ring *pool)
{
    for (uint32_t cell = 0; cell < pool->slot_count; cell++) {
        uint64_t word = rf_load_relaxed(&pool->words[cell]);
        if (rf_word_owner(word) == rf_self(pool) && rf_word_state(word) == HELD)
            return true;
    }
    return false;
}

/* Engines, and participants that hold cells. A client with an asked cell counts only if another client waits for a
 * free cell. */
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
    /* The ring may still have requests for an earlier pool. So the epochs of this pool begin at the microseconds since
     * the machine started: no cell of the earlier pool has come so far. */
    return rf_segment_create(fd, options, geometry, &pool_kind, (uint64_t)rf_now_ns() / 1000 + 1,
                             pool);
}

rf_status rf_pool_attach(int fd, rf_ring **pool)
{
    return rf_segment_attach(fd, &pool_kind, pool);
}
