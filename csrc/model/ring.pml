/*
 * RingFeed's slot protocol and event count, for spin: who takes part, and what must hold.
 *
 * It may not know memory orders: every step is sequentially consistent. README.md says what is modelled,
 * what is not, and how to run it. A STEP is one atomic access of the C code, named after its function.
 * What stands behind an #ifdef is a mutation: check.py sets one at a time, and spin must catch each.
 */
#include "segment.pml"
#include "waiter.pml"
#include "producer.pml"
#include "taker.pml"
#include "runs.pml"
#include "recovery.pml"


/* ring.c: rf_finish, at any moment: while claims are under way, or late. */
proctype owner(byte self)
{
    STEP(finished = true; WORD_CHANGED; CHANGED(READABLE); CHANGED(WRITABLE));
#ifndef FINISH_SILENT
    rf_notify_all(READABLE);
    rf_notify_all(WRITABLE);
#endif
    atomic { DEPART };
gone:
end:
    false
}

#if WAITING
/* No lost wake-up, of takers: none sleeps beside a READY slot, unless someone is about to wake it. */
#define TAKER_FORGOTTEN(waiter) \
    (asleep[waiter] && SOME_SLOT_IS(READY) && notifying[READABLE] == 0 && crashed == NOBODY)

/* Of producers, who may sleep beside less room than they wish for:
 *
 * 1. None sleeps beside as many FREE slots as it wished for. For its wish was left before it looked, and each slot
 *    that it passed and that is FREE now was freed after that look: its notification, which is over, lessened the wish
 *    by one or woke all. The wish never grows but from 0, and it was 0 only where all were woken. So the FREE slots are
 *    fewer than what one wished for, also where another wished for less.
 * 2. None sleeps beside any FREE slot while all takers sleep too: what is missing may never come, for nothing may be
 *    READY that would come back as room. A taker about to sleep looks for such room behind its own wish; a producer
 *    calls takers behind its. With a fence between on both sides at least one sees the other's: the taker wakes the
 *    producer, or looks again itself. Room that comes later comes of a taker, which is awake, or wakes producers
 *    whatever they want (rf_free_slot).
 *
 * While a taker is awake, and so also while it holds a batch, less than the wish may lie unused: until it sleeps, or the
 * producer's slice of 50 ms ends. Slices that end are not here: nobody may need them. */
#define FREE_SLOTS (IS_SLOT(0, FREE) + IS_SLOT(1, FREE) + IS_SLOT(2, FREE))
#define NO_TAKER_AWAKE (asleep[TAKER_1] && (TAKERS == 1 || asleep[TAKER_1 + 1]) && notifying[READABLE] == 0)
#define PRODUCER_FORGOTTEN(waiter) \
    (asleep[waiter] && notifying[WRITABLE] == 0 && crashed == NOBODY && !finished && \
     (FREE_SLOTS >= wish_of[waiter] || FREE_SLOTS > 0 && NO_TAKER_AWAKE))

proctype no_lost_wake_up()
{
end:
    d_step {
        TAKER_FORGOTTEN(TAKER_1) || TAKER_FORGOTTEN(TAKER_1 + 1) || PRODUCER_FORGOTTEN(PRODUCER_1) ||
            PRODUCER_FORGOTTEN(PRODUCER_1 + 1) ->
            assert(false)
    }
}
#endif

/* What stays behind READY was its dead taker's, and that one was the last: the others had been told
 * RF_FINISHED. It is there for whoever comes. */
#define LEFT_BEHIND(i) (STATE(words[i]) == READY && (again[i] || !RECORDS) -> 1 : 0)

init
{
    byte waiter;
    atomic {
#if WAITING
        for (waiter : 0 .. 5) { moved[waiter] = true }
        waiter = 0;
        run no_lost_wake_up();
#endif
        run owner(OWNER);
        run producer(PRODUCER_1);
        run taker(TAKER_1);
        if
        :: PRODUCERS > 1 -> run producer(PRODUCER_1 + 1)
        :: else
        fi;
        if
        :: TAKERS > 1 -> run taker(TAKER_1 + 1)
        :: else
        fi;
#if TAKE_BACKS
        run robber(RECOVERER);
#endif
        run recoverer(RECOVERER)
    };
    /* No deadlock: whoever is stuck keeps this from coming, and spin finds an invalid end. */
    departed == 1 + PRODUCERS + TAKERS && (crashed == NOBODY || recovered);
    /* No lost record, and no lost slot. */
    d_step {
        assert(!SOME_SLOT_IS(CLAIMED) && !SOME_SLOT_IS(TAKEN));
        assert(under_way == LEFT_BEHIND(0) + LEFT_BEHIND(1) + LEFT_BEHIND(2));
        assert(under_way == 0 || TAKER_CRASHED)
    }
}
