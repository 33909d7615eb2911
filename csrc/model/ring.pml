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
#include "recovery.pml"


/* ring.c: rf_finish, at any moment: while claims are under way, or late. */
proctype owner(byte self)
{
    STEP(finished = true; CHANGED(READABLE); CHANGED(WRITABLE));
#ifndef FINISH_SILENT
    rf_notify(READABLE);
    rf_notify(WRITABLE);
#endif
    atomic { DEPART };
gone:
end:
    false
}

#if WAITING
/* No lost wake-up: nobody sleeps beside a slot that it waits for, unless someone is about to wake it. */
#define LOST_WAKE_UP(waiter, state, event) \
    (asleep[waiter] && SOME_SLOT_IS(state) && notifying[event] == 0 && crashed == NOBODY)

proctype no_lost_wake_up()
{
end:
    d_step {
        LOST_WAKE_UP(TAKER_1, READY, READABLE) || LOST_WAKE_UP(TAKER_1 + 1, READY, READABLE) ||
            !finished && (LOST_WAKE_UP(PRODUCER_1, FREE, WRITABLE) || LOST_WAKE_UP(PRODUCER_1 + 1, FREE, WRITABLE)) ->
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
