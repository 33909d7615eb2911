/*
 * The taker's side: find.c, due.c and take.c, and the rows that it gives back (release.c). Batches have one row.
 *
 * It may not know how a process sleeps (waiter.pml) or is found dead (recovery.pml).
 */

/* Without the event count a taker continues to look; C would wait for the last claims. */
#define PASSED(w) (STATE(w) != READY && (WAITING || !UNDER_WAY(w)))
#ifdef FINISHED_READ_LATE
#define NOTE(w) claimed = claimed || UNDER_WAY(w)
#else
#define NOTE(w) claimed = claimed || ended && UNDER_WAY(w)
#endif
#ifdef CLAIMED_OVERLOOKED
#define UNDER_WAY(w) false
#else
#define UNDER_WAY(w) (STATE(w) == CLAIMED)
#endif

#define FORGET_LOOK ended = false; claimed = false

/* F4 with F3 (producer): `finished` is read before the words. */
inline look_at_all()
{
#ifdef FINISHED_READ_LATE
    STEP(rest = ALL_SLOTS);
    FIND_NONE(PASSED);
    STEP(ended = finished)
#else
    STEP(ended = finished; rest = ALL_SLOTS);
    FIND_NONE(PASSED)
#endif
}

#define HAS_LINK (link != 0 && LINK_SLOT(link) != slot)
#define MUST_WAIT_AT_ONCE \
    if \
    :: HAS_LINK && LINK_IS_READY(link, words[LINK_SLOT(link)]) -> FORGET_SLOT; goto look \
    :: else \
    fi
/* release.c: the swap of give_rows_back. The epoch stays, so that links still lead to the record. */
#define SWAP_TO_READY_AGAIN \
    assert(reader[slot] == self && word == seen); \
    reader[slot] = NOBODY; \
    word = WORD(READY, NOBODY, EPOCH(seen)); \
    again[slot] = RECORDS; \
    given_back++; \
    CHANGED(READABLE)

#define MAKE_TAKEN word = WORD(TAKEN, self, EPOCH(seen)); seen = word; WORD_CHANGED; CHECK_TAKE

/* take.c: producers use free slots even if these are fewer than they wish for. The words are read in any order. */
#if ROOM > 1
#if defined LEAVES_ROOM_UNUSED
#define rf_leave_no_room_unused()
#else
#define NOT_FREE_AT(i) \
    atomic { \
        IS_TURN(i) && STATE(words[i]) != FREE -> \
            rest = rest & ~(1 << i); \
            if \
            :: rest == 0 -> break \
            :: else \
            fi \
    }
#define FREE_AT(i) atomic { IS_TURN(i) && STATE(words[i]) == FREE -> rest = 0; CHANGED(WRITABLE) }; goto room
inline rf_leave_no_room_unused()
{
    if
    :: atomic { wanted[WRITABLE] == 0 -> goto no_room }
#ifdef WAKES_FOR_NO_ROOM
    :: atomic { wanted[WRITABLE] != 0 -> CHANGED(WRITABLE); goto room }
#else
    :: atomic { wanted[WRITABLE] != 0 -> rest = ALL_SLOTS }
#endif
    :: KILLED
    fi;
    do
    :: NOT_FREE_AT(0) :: NOT_FREE_AT(1) :: NOT_FREE_AT(2)
    :: FREE_AT(0) :: FREE_AT(1) :: FREE_AT(2)
    :: KILLED
    od;
    goto no_room;
room:
    rf_notify_all(WRITABLE);
no_room:
    skip
}
#endif
#else
#define rf_leave_no_room_unused()
#endif

#if ROWS == 1
proctype taker(byte self)
{
look: /* rf_find_first, then the load of take_slot. A1 <- R1 (SWAP_TO_READY) */
    if
#if FINE
    :: FIND(READY, skip)
#elif !RECORDS /* after a failed swap C comes back to this label */
    :: FIND(READY, MAKE_TAKEN)
#else
    :: FIND(READY, MUST_WAIT_AT_ONCE)
#endif
#if WAITING
    :: SLICE_ENDS; goto look
#if defined NO_SECOND_LOOK || defined WISH_AFTER_LOOK || defined KEY_AFTER_LOOK
    :: AWAKE -> goto wait
#else
    :: atomic { AWAKE && MAY_WAIT_FOR(READY) -> KEY_AND_WISH(READABLE, 1) }; goto wait
#endif
#elif defined FINISHED_READ_LATE
    :: goto wait
#else
    :: finished -> goto wait
#endif
    :: KILLED
    fi;

#if FINE
    /* must_wait: the link, then the word of the slot that it names. */
#ifndef NO_LINK_CHECK
    if
    :: atomic { !HAS_LINK -> skip }
    :: atomic { HAS_LINK -> before = link };
       if
       :: atomic { LINK_IS_READY(before, words[LINK_SLOT(before)]) -> before = 0; FORGET_SLOT; goto look }
       :: atomic { !LINK_IS_READY(before, words[LINK_SLOT(before)]) -> before = 0 }
       :: KILLED
       fi
    :: KILLED
    fi;
#endif
#ifdef WORD_READ_ANEW
    STEP(seen = word);
    if
    :: STATE(seen) == READY
    :: atomic { STATE(seen) != READY -> FORGET_SLOT; goto look }
    fi;
#endif
#endif

    /* The swap of take_slot. A1 <- R1 */
#if RECORDS
    if
#ifdef BLIND_TAKE
    :: atomic { MAKE_TAKEN }
#else
    :: atomic { word == seen -> MAKE_TAKEN }
    :: atomic { word != seen -> FORGET_SLOT; goto look }
#endif
    :: KILLED
    fi;
#endif

#if GIVE_BACKS
    /* Or the taker does not read the payload, and makes it READY again: give_rows_back. */
    if
#if defined GIVE_BACK_BLIND
    :: atomic { given_back < GIVE_BACKS -> SWAP_TO_READY_AGAIN };
       STEP(word = WORD(READY, NOBODY, EPOCH(seen)); FORGET_SLOT)
#elif defined GIVE_BACK_BEFORE_READ
    :: atomic { given_back < GIVE_BACKS -> SWAP_TO_READY_AGAIN; reader[slot] = self };
       STEP(assert(reader[slot] == self); reader[slot] = NOBODY; FORGET_SLOT)
#else
    :: atomic { given_back < GIVE_BACKS -> SWAP_TO_READY_AGAIN; FORGET_SLOT }
#endif
    :: goto release
    :: KILLED
    fi;
#ifdef GIVE_BACK_SILENT
    NOTIFIED(READABLE);
#else
    rf_notify(READABLE);
#endif
    goto look;
release:
#endif

    /* The taker reads the payload until the swap of release_rows. R2 -> A2 (claim_slot) */
#ifdef RELEASE_BEFORE_READ
    before = slot;
    STEP(SWAP_TO_FREE; under_way--; FORGET_SLOT);
    STEP(assert(reader[before] == self); reader[before] = NOBODY; before = 0);
#else
    STEP(assert(reader[slot] == self); reader[slot] = NOBODY; under_way--; SWAP_TO_FREE; FORGET_SLOT);
#endif
#ifdef RELEASE_SILENT
    NOTIFIED(WRITABLE);
#else
    rf_notify(WRITABLE);
#endif
    goto look;

wait: /* last_look, rf_nothing_ready */
#if defined NO_SECOND_LOOK
    look_at_all();
    rf_prepare_wait(READABLE);
#elif defined WISH_AFTER_LOOK
    READ_KEY;
    look_at_all();
    LEAVE_WISH(READABLE);
#elif defined KEY_AFTER_LOOK
    LEAVE_WISH(READABLE);
    look_at_all();
    READ_KEY;
#else
    look_at_all();
#endif
    if
    :: atomic { ended && !claimed -> DEPART; goto gone }
#if WAITING && ROOM > 1
    :: !ended || claimed
    fi;
    rf_leave_no_room_unused();
    if
#endif
#if WAITING
    :: atomic { (!ended || claimed) && MAY_SLEEP -> FALL_ASLEEP; FORGET_LOOK }; goto look
    :: atomic { (!ended || claimed) && MAY_LOOK_AGAIN -> FORGET_KEY; FORGET_LOOK }; goto look
    :: KILLED
#else
    :: atomic { !ended || claimed -> FORGET_LOOK }; goto look
#endif
    fi;

gone:
end:
    false
}
#endif
#undef NOTE
#undef FORGET_LOOK
