/*
 * Finding the run of records that a taker takes next. The outline stands in ring.c.
 */
#include "ring/find.h"

#include "ring/dead_letters.h"
#include "ring/ring.h"
#include "ring/window.h"

/* Is the predecessor of the record in `slot` still waiting, outside [first, slot)? */
static bool must_wait(const rf_ring *ring, uint32_t first, uint32_t slot, uint32_t *predecessor)
{
    /* A18 <- R18 (link_anew): a record that was put in front of this one later is found READY, or gone. */
    uint64_t link = rf_load_acquire(&ring->links[slot]);
    uint32_t before = rf_link_slot(link);
    if (link == 0 || before >= ring->slot_count || before == slot)
        return false;
    uint32_t distance = rf_wrap(ring, before + ring->slot_count - first);
    uint32_t length = rf_wrap(ring, slot + ring->slot_count - first);
    if (distance < length)
        return false; /* it goes in the same run, ahead of us */
    *predecessor = before;
    /* Relaxed: it was READY before our record got this link, from the same producer; behind R1 -> A1 or A18 we
     * see its word as it was then or later, and it never comes back to READY from later. */
    return rf_link_is_ready(link, rf_load_relaxed(&ring->words[before]));
}

/* How many records lie READY in a row from `first` on, each of them free to go; their words.
 * Records over which a taker failed only `together` with others if so wished, and dead letters never. */
uint32_t rf_run_length(const rf_ring *ring, uint32_t first, uint32_t most, bool together,
                       uint64_t *words)
{
    uint32_t ready = 0, rows = 0, unused;
    most = rf_rows_from(ring, first, most);
    for (; ready < most; ready++) {
        uint32_t slot = rf_wrap(ring, first + ready);
        words[ready] =
            rf_load_acquire(&ring->words[slot]); /* A1 <- R1 (ready_slot), for the link */
        if (rf_is_ready_as_put(words[ready]))
            continue;
        if (rf_word_state(words[ready]) != RF_STATE_READY)
            break;
        uint32_t failures = rf_word_failures(words[ready]);
        if (failures && (!together || rf_is_dead_letter(ring, failures))) {
            ready +=
                ready == 0; /* it goes alone: who dies over it takes nobody else's record along */
            break;
        }
    }
    for (uint32_t slot = first, before = ring->slot_count; rows < ready; rows++) {
        /* Most follow the record beside them, which goes in the same run. */
        if (rf_link_slot(rf_load_relaxed(&ring->links[slot])) != before &&
            must_wait(ring, first, slot, &unused))
            break;
        before = slot;
        slot = rf_wrap(ring, slot + 1);
    }
    return rows;
}

/* Where to look for the next run: behind the last one, where links had led to that, else from the take cursor on.
 * Before a crowd of producers the slots of a full ring are not in the order of their records; who went back to
 * the cursor each time would follow the same links again, one slot further. */
static uint32_t look_from(const rf_ring *ring, bool *by_link)
{
    if (rf_load_relaxed(&ring->patrol)) {
        *by_link = false;
        rf_store_relaxed(&((rf_ring *)ring)->patrol, 0u);
        return rf_cursor(ring, &ring->header->claim_cursor);
    }
    uint32_t trail = rf_load_relaxed(&ring->trail);
    *by_link = trail != 0;
    return trail ? trail - 1 : rf_cursor(ring, &ring->header->take_cursor);
}

/* With a window the cursors do not go around by themselves, and outside may lie what a claim from before became. So one look
 * for as many records as the ring has slots goes around all that lies behind the newest claim first. */
static void walk_patrol(rf_ring *ring, uint32_t count)
{
    uint32_t rows = rf_load_relaxed(&ring->patrol_rows) + count;
    if (rows >= ring->slot_count)
        rf_store_relaxed(&ring->patrol, 1u);
    rf_store_relaxed(&ring->patrol_rows, rows >= ring->slot_count ? 0 : rows);
}

/* Remember where a run ended. A trail is left after a lap, so that what lies at the cursor gets its turn; and, where claims
 * stay in a window, at the end of the records that wait: claims look whether the cursor keeps up, and a trail leaves it. */
void rf_leave_trail(rf_ring *ring, const rf_find_result *seen, uint32_t count)
{
    uint32_t behind = rf_wrap(ring, seen->first + count);
    if (ring->window)
        walk_patrol(ring, count);
    bool goes_on =
        seen->by_link &&
        (!ring->window || rf_word_state(rf_load_relaxed(&ring->words[behind])) != RF_STATE_FREE);
    uint32_t walked = goes_on ? rf_load_relaxed(&ring->trail_rows) + count : 0;
    if (!seen->by_link)
        rf_store_relaxed(&ring->header->take_cursor, rf_next_look(ring, seen->first, behind));
    if (walked >= ring->slot_count)
        walked = 0;
    rf_store_relaxed(&ring->trail, walked ? behind + 1 : 0);
    rf_store_relaxed(&ring->trail_rows, walked);
}

/* The first record of the run to take next, among `most` slots from where we look on, or where links lead. */
bool rf_find_first(const rf_ring *ring, uint32_t most, uint32_t *first, bool *by_link)
{
    bool on_trail;
    uint32_t slot = look_from(ring, &on_trail), hops = 0;
    for (uint32_t seen = 0; seen < most; seen++, slot = rf_wrap(ring, slot + 1)) {
        /* A1 <- R1 (ready_slot), for the link. */
        if (rf_word_state(rf_load_acquire(&ring->words[slot])) != RF_STATE_READY)
            continue;
        uint32_t start = slot, before;
        bool waits;
        /* A chain of links has no more records than the ring. One that has was garbled into a
         * circle: its records are not to be had, and to find that out costs one lap at most. */
        while ((waits = must_wait(ring, start, start, &before)) && hops++ < ring->slot_count) {
            start = before;
            RF_STEP("take: link followed");
            (void)rf_load_acquire(&ring->words[start]); /* A1 <- R1, for the next link */
        }
        if (waits)
            continue;
        *first = start;
        *by_link = on_trail || start != slot;
        return true;
    }
    return false;
}
