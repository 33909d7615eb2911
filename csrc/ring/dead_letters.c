/*
 * Dead letters: records over which too many takers failed. They are set aside, and the process that took them
 * reports them.
 *
 * It may not know what a request is, nor where a log is written.
 *
 * A READY word counts the takers that failed over its record, by dying or by saying so. Recovery only counts; the
 * taker that comes next reports. A taker that can answer a request or write a log asks for the record
 * (rf_take_request.dead_letters). For other takers the record is released, and the handle keeps a note of it.
 */
#include "ring/dead_letters.h"

#include "ring/lease.h"

bool rf_is_dead_letter(const rf_ring *ring, uint32_t failures)
{
    uint32_t most = ring->header->max_deliveries;
    return failures && most && failures >= most;
}

uint32_t rf_ring_max_deliveries(const rf_ring *ring)
{
    return ring->header->max_deliveries;
}

/* No thread waits here: in a forked child, the thread that held the lock may not exist. */
static bool lock_letters(rf_dead_letters *letters)
{
    return rf_exchange_acquire(&letters->busy, 1u) == 0;
}

void rf_put_aside(rf_lease *lease)
{
    rf_dead_letters *letters = &lease->ring->dead_letters;
    rf_record record;
    rf_lease_records(lease, &record);
    if (lock_letters(letters)) {
        uint32_t count = rf_load_relaxed(&letters->count);
        if (count == RF_MOST_DEAD_LETTERS) { /* the oldest makes room */
            letters->first = (letters->first + 1) % RF_MOST_DEAD_LETTERS;
            letters->unsaid++;
            count--;
        }
        letters->letters[(letters->first + count) % RF_MOST_DEAD_LETTERS] = (rf_dead_letter){
            .tag = record.tag, .producer = record.producer, .failures = lease->failures};
        rf_store_relaxed(&letters->count, count + 1);
        rf_store_release(&letters->busy, 0u);
    }
    rf_lease_drop(lease);
}

int rf_next_dead_letter(rf_ring *ring, rf_dead_letter *letter)
{
    rf_dead_letters *letters = &ring->dead_letters;
    if (rf_load_relaxed(&letters->count) == 0 || !lock_letters(letters))
        return 0;
    uint32_t count = rf_load_relaxed(&letters->count);
    if (count) {
        *letter = letters->letters[letters->first];
        letter->unsaid = letters->unsaid;
        letters->unsaid = 0;
        letters->first = (letters->first + 1) % RF_MOST_DEAD_LETTERS;
        rf_store_relaxed(&letters->count, count - 1);
    }
    rf_store_release(&letters->busy, 0u);
    return count != 0;
}
