/*
 * RingFeed's slot protocol and event count, for spin: the participants and the properties.
 *
 * It may not know memory orders: every step is sequentially consistent. README.md describes the scope of the model
 * and how to run it. A STEP is one atomic access of the C code, named after its function. Code behind an #ifdef is a
 * mutation: check.py sets one at a time, and spin must catch each.
 */
#include "segment.pml"
#include "waiter.pml"
#include "producer.pml"
#include "taker.pml"
#include "runs.pml"
#include "recovery.pml"


/* ring.c: rf_finish, at any moment: while claims are open, or later. */
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
/* No lost wake-up of a taker: it does not sleep beside a READY slot, unless another process is about to wake it. */
#define TAKER_FORGOTTEN(waiter) \
    (asleep[waiter] && SOME_SLOT_IS(READY) && notifying[READABLE] == 0 && crashed == NOBODY)

/* No lost wake-up of a producer, which may sleep beside less room than it wishes for:
 *
 * 1. It does not sleep beside as many FREE slots as it wished for. The producer leaves its wish before it looks. A slot
 *    that it passed, and that is FREE now, was freed after that look. The notification of that change is over: it
 *    lowered the wish by one, or woke all producers. The wish grows only from 0, and it is 0 only after all were
 *    woken. So there are fewer FREE slots than a producer wished for, even if another producer wished for less.
 * 2. It does not sleep beside any FREE slot while all takers sleep. The missing slots might never come, because there
 *    might be no READY slot that a taker would free. A taker that goes to sleep looks for free slots after it
 *    leaves its own wish; a producer notifies takers after it leaves its wish. Both sides have a fence between, so
 *    at least one sees the other's wish: the taker wakes the producer, or the taker looks again. A slot that becomes
 *    FREE later is freed by a taker that is awake, or by rf_free_slot, which wakes producers regardless of their wish.
 *
 * While a taker is awake or holds a batch, fewer FREE slots than the wish may lie unused. This lasts until the taker
 * sleeps, or until the producer's slice of 50 ms ends. No slice ends in this model: no process may depend on it. */
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

/* Recovery made this record READY again after the last taker died. The other takers had already returned
 * RF_FINISHED. A later taker may take the record. */
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
    /* No deadlock: a process that is stuck blocks this step, and spin reports an invalid end state. */
    departed == 1 + PRODUCERS + TAKERS && (crashed == NOBODY || recovered);
    /* No lost record, and no lost slot. */
    d_step {
        assert(!SOME_SLOT_IS(CLAIMED) && !SOME_SLOT_IS(TAKEN));
        assert(under_way == LEFT_BEHIND(0) + LEFT_BEHIND(1) + LEFT_BEHIND(2));
        assert(under_way == 0 || TAKER_CRASHED)
    }
}
