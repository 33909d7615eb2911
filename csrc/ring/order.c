/*
 * The order of one handle's records: a chain, in which each record's link names the one before it.
 *
 * It may not know the contents of a record.
 *
 * A taker takes a record only when the record before it in the chain is no longer READY. By induction the record
 * then follows all that come before it. The chain keeps the order that a user can observe: a record that was
 * published before another was claimed goes first. Claims that overlap in time have no order.
 *
 * If threads share the handle, or one thread publishes its claims crosswise, overlapping records are put into the
 * chain in the order of their slots, so that they lie in a row for takers. A record goes in front of the records at
 * the chain's end that overlap it and lie behind it. The first of these gets a new link, and its word counts that: a
 * taker that had read the old link does not get the record by it. Nothing goes in front of a record that was taken
 * before and is READY again, because the records behind that one may be taken.
 *
 * All functions here run between begin_publishing and end_publishing (publish.c).
 */
#include "ring/order.h"

#include "ring/ring.h"

static rf_chained *at(rf_chain *chain, uint32_t from_end)
{
    return &chain->entries[(rf_load_relaxed(&chain->published) - from_end) % RF_CHAIN_ENTRIES];
}

static bool is_ready(const rf_ring *ring, uint64_t link, uint64_t *word)
{
    /* Acquire: a later swap of this word continues the release of its publisher. */
    *word = rf_load_acquire(&ring->words[rf_link_slot(link)]);
    return rf_link_is_ready(link, *word);
}

/* How long ago a slot was claimed, in slots: its distance from the claim cursor. A few claims
 * may already be further than the cursor. The age is a guess, and so is the place in the chain
 * that follows from it; the order holds in any place. */
static uint32_t age(const rf_ring *ring, uint32_t slot)
{
    uint32_t slots = ring->slot_count, slack = slots / 32 < 16 ? slots / 32 : 16;
    uint32_t newest = rf_wrap(ring, rf_cursor(ring, &ring->header->claim_cursor) + slack);
    return rf_wrap(ring, newest + slots - 1 - slot);
}

/* May that entry come behind rows from `slot` on, of a claim that began at `since`? */
static bool may_follow(const rf_ring *ring, const rf_chained *entry, uint32_t slot, uint64_t since)
{
    uint64_t word;
    return entry->number > since && age(ring, rf_link_slot(entry->first)) < age(ring, slot) &&
           is_ready(ring, entry->first, &word) && rf_word_relinks(word) < RF_MOST_RELINKS;
}

uint64_t rf_chain_find_place(rf_ring *ring, uint32_t slot, uint64_t since, uint32_t *passed)
{
    rf_chain *chain = &ring->chain;
    uint64_t all = rf_load_relaxed(&chain->published) - chain->base;
    uint32_t known = all < RF_CHAIN_KNOWN ? (uint32_t)all : RF_CHAIN_KNOWN;
    *passed = 0;
    while (*passed < known && may_follow(ring, at(chain, *passed + 1), slot, since))
        ++*passed;
    if (*passed == 0)
        return rf_load_relaxed(&ring->last_link);
    /* Behind the oldest entry that may be passed lies one more. */
    return *passed < all ? at(chain, *passed + 1)->last : 0;
}

/* Make the record that `link` names follow `before` from now on. False: it was taken
 * meanwhile, and may be READY again. */
static bool link_anew(rf_ring *ring, uint64_t link, uint64_t before)
{
    uint32_t slot = rf_link_slot(link);
    uint64_t own = rf_load_acquire(&ring->links[slot]), now = own, word;
    while (is_ready(ring, link, &word) && rf_word_relinks(word) < RF_MOST_RELINKS) {
        /* From the value that we wrote there: if the slot was recycled meanwhile, its new link
         * is another one. R18 -> A18 (must_wait): a taker that finds `before` through this
         * link finds it READY, or sees that it is gone. */
        if (!rf_cas_acq_rel(&ring->links[slot], now, before))
            return false;
        now = before;
        RF_STEP("publish: link written anew, turn not counted");
        /* A taker that has read the old link swaps from the old word, and fails. */
        if (rf_cas_acq_rel(&ring->words[slot], word, word + RF_ONE_RELINK))
            return true;
    }
    /* The record may come again, and `before` may be put behind it; then the two would wait
     * for each other. R18 -> A18 for the record that our link named at first. */
    if (now != own)
        rf_cas_acq_rel(&ring->links[slot], before, own);
    return false;
}

/* Make the first of our rows that is still there follow `before`. False: all were taken. */
static bool put_behind(rf_ring *ring, uint32_t slot, const uint64_t *words, uint32_t rows,
                       uint64_t before)
{
    for (uint32_t row = 0; row < rows; row++)
        if (link_anew(ring, rf_link(rf_wrap(ring, slot + row), rf_word_epoch(words[row])), before))
            return true;
    return false;
}

void rf_chain_enter(rf_ring *ring, const rf_chained *own, uint32_t slot, const uint64_t *words,
                    uint32_t rows, uint32_t passed)
{
    rf_chain *chain = &ring->chain;
    uint64_t word;
    if (own->last == 0)
        return; /* every row was taken back */
    for (; passed > 0; passed--) {
        const rf_chained *next = at(chain, passed);
        if (link_anew(ring, next->first, own->last))
            break;
        /* It was taken. If some of its rows were not, our rows come behind them. */
        if (is_ready(ring, next->last, &word) && !put_behind(ring, slot, words, rows, next->last))
            break; /* all of ours were taken: nothing has to wait for them */
    }
    uint64_t last = passed ? rf_load_relaxed(&ring->last_link) : own->last;
    for (uint32_t place = 0; place < passed; place++)
        *at(chain, place) = *at(chain, place + 1);
    uint64_t end = rf_load_relaxed(&chain->published);
    *at(chain, passed) = (rf_chained){own->first, own->last, end + 1};
    rf_store_relaxed(&ring->last_link, last);
    rf_store_relaxed(&chain->published, end + 1);
}
