/*
 * Recovery of the dead: liveness.c, and what ring.c does when the owner is one of them.
 *
 * Any waiter does this at the end of a slice; here it is a process of its own, which begins at any moment
 * after the crash and is never killed itself: one crash is the most. The record lock keeps others out of
 * the same burial.
 */

#ifdef RECOVERS_THE_LIVING
#define IS_LEFT_BY_THE_DEAD(w) (WORD_OWNER(w) != NOBODY)
#else
#define IS_LEFT_BY_THE_DEAD(w) (WORD_OWNER(w) == crashed)
#endif

/* recover_slot: the load, and the swap of undo. Of the dead one's words none changes but by us, so that nothing
 * is left to find needs no step of its own. */
#define RECOVER_SLOT(i) \
    :: atomic { IS_LEFT_BY_THE_DEAD(words[i]) -> slot = i; seen = words[i] }; undo()
#define IS_NOTHING_LEFT \
    !(IS_LEFT_BY_THE_DEAD(words[0]) || IS_LEFT_BY_THE_DEAD(words[1]) || IS_LEFT_BY_THE_DEAD(words[2]))

inline undo()
{
    if
#ifdef CLAIMS_FORGOTTEN
    :: STATE(seen) == CLAIMED -> break
#else
    :: atomic { STATE(seen) == CLAIMED -> SWAP_TO_FREE; FORGET_SLOT }; rf_notify(WRITABLE)
#endif
#ifdef NO_REDELIVERY
    :: atomic { STATE(seen) == TAKEN -> SWAP_TO_FREE; FORGET_SLOT }; rf_notify(WRITABLE)
#else
    :: atomic {
           STATE(seen) == TAKEN -> assert(word == seen);
           word = WORD(READY, NOBODY, EPOCH(seen));
           again[slot] = true;
           FORGET_SLOT
       }
#endif
    fi
}


proctype recoverer(byte self)
{
end_nobody_died:
    crashed != NOBODY;
    if
    :: crashed == OWNER -> /* rf_look_after_the_dead */
       STEP(finished = true; CHANGED(READABLE));
       rf_notify(READABLE);
       STEP(CHANGED(WRITABLE));
       rf_notify(WRITABLE)
    :: crashed != OWNER -> /* bury */
       do
       RECOVER_SLOT(0)
       RECOVER_SLOT(1)
       RECOVER_SLOT(2)
       :: atomic { IS_NOTHING_LEFT -> CHANGED(READABLE); break }
       od;
#ifndef BURIED_IN_SILENCE
       rf_notify(READABLE)
#endif
    fi;
gone:
    recovered = true;
end:
    false
}
