/*
 * Recovery of the dead: participants.c and recover.c, and the end of the ring after the owner's death (reaper.c).
 *
 * In C any waiter recovers the dead at the end of a slice. Here a separate process does it. It begins at any moment
 * after the crash, and is never killed, because at most one process crashes. The record lock prevents that two
 * waiters reap the same participant.
 *
 * It may not know how a participant is found dead.
 */

#ifdef RECOVERS_THE_LIVING
#define IS_LEFT_BY_THE_DEAD(w) (WORD_OWNER(w) != NOBODY)
#else
#define IS_LEFT_BY_THE_DEAD(w) (WORD_OWNER(w) == crashed)
#endif

/* recover_slot: the load and the swap of undo are one step, because only recovery changes the words of a dead process.
 * For the same reason the check that no word is left needs no step of its own. */
#define RECOVER_SLOT(i) atomic { IS_LEFT_BY_THE_DEAD(words[i]) -> slot = i; seen = word; UNDO }
#define IS_NOTHING_LEFT \
    !(IS_LEFT_BY_THE_DEAD(words[0]) || IS_LEFT_BY_THE_DEAD(words[1]) || IS_LEFT_BY_THE_DEAD(words[2]))

#define FREE_AGAIN SWAP_TO_FREE; FORGET_SLOT; goto tell_producers
#define READY_AGAIN word = WORD(READY, NOBODY, EPOCH(seen)); again[slot] = RECORDS; FORGET_SLOT; goto bury
#ifdef NO_REDELIVERY
#define UNDO_TAKEN FREE_AGAIN
#else
#define UNDO_TAKEN READY_AGAIN
#endif
#ifdef CLAIMS_FORGOTTEN
#define UNDO_CLAIMED FORGET_SLOT; goto buried
#else
#define UNDO_CLAIMED FREE_AGAIN
#endif
#define UNDO \
    if \
    :: STATE(seen) == CLAIMED -> UNDO_CLAIMED \
    :: STATE(seen) == TAKEN -> UNDO_TAKEN \
    fi

proctype recoverer(byte self)
{
end_nobody_died:
    if
    :: atomic { crashed == OWNER -> finished = true; CHANGED(READABLE); CHANGED(WRITABLE) } /* rf_reap_in_turn */
    :: crashed != NOBODY && crashed != OWNER -> goto bury
    fi;
    rf_notify_all(READABLE);
    rf_notify_all(WRITABLE);
    goto gone;

bury:
    if
    :: RECOVER_SLOT(0)
    :: RECOVER_SLOT(1)
    :: RECOVER_SLOT(2)
    :: atomic { IS_NOTHING_LEFT -> CHANGED(READABLE); goto buried }
    fi;
tell_producers: /* rf_free_slot */
    rf_notify_all(WRITABLE);
    goto bury;

buried:
#ifndef BURIED_IN_SILENCE
    rf_notify_all(READABLE);
#endif
gone:
    recovered = true;
end:
    false
}
