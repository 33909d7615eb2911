/*
 * The order of one handle's records: a chain, in which each record's link names the one before it.
 *
 * A taker takes a record only when the record before it in the chain is no longer READY; by induction it then follows
 * all that come before it. The chain needs to keep what a user can observe: a record that was published before another
 * one was claimed goes first. Claims that overlap in time have no order. Where threads share the handle, or one thread
 * publishes its claims crosswise, those are put into the chain in the order of their slots, so that they lie in a row
 * for takers: a record goes in front of those at the chain's end that overlap it and lie behind it. The first of these
 * gets a new link, and its word a new turn: a taker that had read the old link does not get the record by it. Nothing
 * goes in front of a record that was taken before and is READY again, for what lies behind that one may be taken.
 *
 * It may not know what a record is. Everything here happens between begin_ and end_publishing (claim.c).
 */
#include "ring/order.h"

#include "ring/ring.h"

static rf_chained *at(rf_chain *chain, uint32_t from_end)
{
    return &chain->entries[(rf_load_relaxed(&chain->published) - from_end) % RF_CHAIN_ENTRIES];
}

static bool is_ready(const rf_ring *ring, uint64_t link, uint64_t *word)
{
    /* Acquire: what is swapped in its place later continues what its publisher released. */
    *word = rf_load_acquire(&ring->words[rf_link_slot(link)]);
    return rf_link_is_ready(link, *word);
}

/* How long ago a slot was claimed, in slots: by its distance from the claim cursor. A few claims may be further than that
 * already. It is a guess, and so is the place in the chain that it leads to; the order holds in any place. */
static uint32_t age(const rf_ring *ring, uint32_t slot)
{
    uint32_t slots = ring->slot_count, slack = slots / 32 < 16 ? slots / 32 : 16;
    uint32_t newest = rf_wrap(ring, rf_cursor(ring, &ring->header->claim_cursor) + slack);
    return rf_wrap(ring, newest + slots - 1 - slot);
}

/* May that entry come behind rows from `slot` on of a claim that began at `since`? */
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
    /* Behind the oldest that may be passed lies one more. */
    return *passed < all ? at(chain, *passed + 1)->last : 0;
}

/* Have the record that `link` names come behind `before` from now on. False: it was taken meanwhile, and may be READY
 * again. */
static bool link_anew(rf_ring *ring, uint64_t link, uint64_t before)
{
    uint32_t slot = rf_link_slot(link);
    uint64_t own = rf_load_acquire(&ring->links[slot]), now = own, word;
    while (is_ready(ring, link, &word) && rf_word_relinks(word) < RF_MOST_RELINKS) {
        /* From what we wrote there: should the slot have been recycled meanwhile, its new link is another one.
         * R18 -> A18 (must_wait): who finds `before` by this link finds it READY, or sees what became of it. */
        if (!rf_cas_acq_rel(&ring->links[slot], now, before))
            return false;
        now = before;
        RF_STEP("publish: link written anew, turn not counted");
        /* A taker that has read the old link swaps from the old word, and fails. */
        if (rf_cas_acq_rel(&ring->words[slot], word, word + RF_ONE_RELINK))
            return true;
    }
    /* It may come again, and `before` be put behind it: then the two would wait for each other. R18 -> A18 for the
     * record that our link named at first. */
    if (now != own)
        rf_cas_acq_rel(&ring->links[slot], before, own);
    return false;
}

/* Have the first of our rows that is still there name `before`. False: all were taken. */
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
        /* It was taken. Where some of its rows were not yet, ours come behind them. */
        if (is_ready(ring, next->last, &word) && !put_behind(ring, slot, words, rows, next->last))
            break; /* ours were all taken: nobody has to wait for them */
    }
    uint64_t last = passed ? rf_load_relaxed(&ring->last_link) : own->last;
    for (uint32_t place = 0; place < passed; place++)
        *at(chain, place) = *at(chain, place + 1);
    uint64_t end = rf_load_relaxed(&chain->published);
    *at(chain, passed) = (rf_chained){own->first, own->last, end + 1};
    rf_store_relaxed(&ring->last_link, last);
    rf_store_relaxed(&chain->published, end + 1);
}
