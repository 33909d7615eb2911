/*
 * Finding the run of records that a taker takes next. The outline of the protocol is in ring.c.
 *
 * It may not know whether the run is taken at once (due.c).
 */
#include "ring/find.h"

#include "ring/dead_letters.h"
#include "ring/ring.h"
#include "ring/window.h"

/* Does the predecessor of the record in `slot` still wait, outside [first, slot)? */
static bool must_wait(const rf_ring *ring, uint32_t first, uint32_t slot, uint32_t *predecessor)
{
    /* A18 <- R18 (link_anew): a record that was put in front of this one later is found READY,
     * or gone. */
    uint64_t link = rf_load_acquire(&ring->links[slot]);
    uint32_t before = rf_link_slot(link);
    if (link == 0 || before >= ring->slot_count || before == slot)
        return false;
    uint32_t distance = rf_wrap(ring, before + ring->slot_count - first);
    uint32_t length = rf_wrap(ring, slot + ring->slot_count - first);
    if (distance < length)
        return false; /* it goes in the same run, ahead of this record */
    *predecessor = before;
    /* Relaxed: it was READY before our record got this link, from the same producer. Behind R1
     * -> A1 or A18 we see its word of that time or a later one, and a later word never becomes
     * READY again. */
    return rf_link_is_ready(link, rf_load_relaxed(&ring->words[before]));
}

/* A record over which a taker failed goes in a run only if the caller wants such records
 * `together` with others. A dead letter never does. */
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
            ready += ready ==
                     0; /* it goes alone: a taker that dies over it takes no other record along */
            break;
        }
    }
    for (uint32_t slot = first, before = ring->slot_count; rows < ready; rows++) {
        /* Most records follow the one beside them, which goes in the same run. */
        if (rf_link_slot(rf_load_relaxed(&ring->links[slot])) != before &&
            must_wait(ring, first, slot, &unused))
            break;
        before = slot;
        slot = rf_wrap(ring, slot + 1);
    }
    return rows;
}

/* Where to search for the next run: behind the last one if links had led to that, else from
 * the take cursor on. With many producers the slots of a full ring are not in the order of
 * their records. A taker that returned to the cursor each time would follow the same links
 * again, one slot further. */
static uint32_t search_from(const rf_ring *ring, bool *by_link)
{
    if (rf_load_relaxed(&ring->full_search)) {
        *by_link = false;
        rf_store_relaxed(&((rf_ring *)ring)->full_search, 0u);
        return rf_cursor(ring, &ring->header->claim_cursor);
    }
    uint32_t trail = rf_load_relaxed(&ring->trail);
    *by_link = trail != 0;
    return trail ? trail - 1 : rf_cursor(ring, &ring->header->take_cursor);
}

/* With a window the cursors do not go around by themselves, and records of earlier claims may
 * lie outside. So once per as many records as the ring has slots, a search goes around all
 * slots behind the newest claim first. */
static void count_towards_full_search(rf_ring *ring, uint32_t count)
{
    uint32_t rows = rf_load_relaxed(&ring->full_search_rows) + count;
    if (rows >= ring->slot_count)
        rf_store_relaxed(&ring->full_search, 1u);
    rf_store_relaxed(&ring->full_search_rows, rows >= ring->slot_count ? 0 : rows);
}

/* The trail ends after a lap, so that records at the cursor get their turn. If claims stay in
 * a window, it also ends where no more records wait: claims check whether the cursor keeps up,
 * and a trail does not move it. */
void rf_leave_trail(rf_ring *ring, const rf_find_result *seen, uint32_t count)
{
    uint32_t behind = rf_wrap(ring, seen->first + count);
    if (ring->window)
        count_towards_full_search(ring, count);
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

bool rf_find_first(const rf_ring *ring, uint32_t most, uint32_t *first, bool *by_link)
{
    bool on_trail;
    uint32_t slot = search_from(ring, &on_trail), hops = 0;
    for (uint32_t seen = 0; seen < most; seen++, slot = rf_wrap(ring, slot + 1)) {
        /* A1 <- R1 (ready_slot), for the link. */
        if (rf_word_state(rf_load_acquire(&ring->words[slot])) != RF_STATE_READY)
            continue;
        uint32_t start = slot, before;
        bool waits;
        /* A chain of links has no more records than the ring. A longer one was garbled into a
         * circle: its records are lost, and finding that out costs one lap at most. */
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
