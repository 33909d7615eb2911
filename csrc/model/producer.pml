/*
 * The producer's side: claim.c and publish.c, and the return of its slots (release.c).
 *
 * It may not know how a process sleeps (waiter.pml) or is found dead (recovery.pml).
 */

/* release.c: rf_free_slot, after the swap. It wakes producers regardless of their wish, because no taker is certain to
 * look for room after this slot. */
#ifdef FREE_SLOT_COUNTS
#define TELL_OF_ONE_SLOT rf_notify(WRITABLE)
#else
#define TELL_OF_ONE_SLOT rf_notify_all(WRITABLE)
#endif

/* release.c: rf_unclaim, after the swap. Takers of a finished ring wait for its last claims. */
#if WAITING
inline notify_unclaimed()
{
    TELL_OF_ONE_SLOT;
#if !defined UNCLAIM_SILENT
    if
    :: atomic { finished -> CHANGED(READABLE) }; rf_notify(READABLE)
    :: !finished
    :: KILLED
    fi
#endif
}
#endif

/* The place of the record is set when its slot becomes READY. */
#define WRITE_PAYLOAD STEP(CHECK_WRITE; payload = RECORD(self, 0))

/* The stores into the slot record, after the check that the claim is still ours. */
#define WRITE_LINK STEP(CHECK_WRITE; link = last_link)

/* R1 -> A1 (take_slot). last_link is private. */
#if RECORDS
#define NAME_RECORD \
    untaken[self]++; payload = (payload != 0 -> RECORD(self, untaken[self]) : 0); last_link = LINK(slot, EPOCH(seen))
#else
#define NAME_RECORD skip
#endif
#define MAKE_READY \
    assert(word == seen); word = WORD(READY, NOBODY, EPOCH(seen)); WORD_CHANGED; CHANGED(READABLE); under_way++; NAME_RECORD
#define SWAP_TO_READY(forget) STEP(MAKE_READY; forget)

inline publish_slot()
{
#if defined READY_BEFORE_PAYLOAD
    WRITE_LINK;
    SWAP_TO_READY(skip);
    STEP(payload = RECORD(self, untaken[self]); FORGET_SLOT)
#elif defined READY_BEFORE_LINK
    WRITE_PAYLOAD;
    STEP(before = last_link);
    SWAP_TO_READY(skip);
    STEP(link = before; before = 0; FORGET_SLOT)
#elif defined NOTIFY_BEFORE_CHANGE
    WRITE_PAYLOAD;
    WRITE_LINK;
    STEP(before = wanted[READABLE]); /* what F1 forbids */
    SWAP_TO_READY(FORGET_SLOT)
#elif FINE
    WRITE_PAYLOAD;
    WRITE_LINK;
    SWAP_TO_READY(FORGET_SLOT)
#elif RECORDS
    STEP(CHECK_WRITE;
         payload = RECORD(self, 0);
         link = last_link;
         MAKE_READY;
         FORGET_SLOT)
#else
    STEP(CHECK_WRITE; MAKE_READY; FORGET_SLOT)
#endif
}

/* The search for a FREE word needs no step of its own: it looks for a word that has not `passed`. */
#define NOT_FREE(w) (STATE(w) != FREE)
#define NOTE(w) skip
#define FORGET_LOOK skip

#define MAKE_CLAIMED word = WORD(CLAIMED, self, EPOCH(seen)); seen = word; WORD_CHANGED

/* wished_room. The number of READY slots is only a hint, so a producer may leave any wish up to ROOM. */
#define KEY_AND_ROOM(rows) KEY_AND_WISH(WRITABLE, rows); wish_of[self] = rows
#if CALLS
#define WISH_FOR(rows) atomic { AWAKE && MAY_WAIT_FOR(FREE) -> KEY_AND_ROOM(rows); CHANGED(READABLE) }; goto last_look
#else
#define WISH_FOR(rows) atomic { AWAKE && MAY_WAIT_FOR(FREE) -> KEY_AND_ROOM(rows) }; goto last_look
#endif

#if ROWS == 1
proctype producer(byte self)
{
look: /* try_claim, rf_claim_run */
    if
    :: atomic { AWAKE && finished -> DEPART; goto gone } /* rf_still_open */
#if FINE
    :: FIND(FREE, skip) /* the load of claim_slot */
#else
    :: FIND(FREE, MAKE_CLAIMED)
#endif
#if WAITING
    :: SLICE_ENDS; goto look
    :: WISH_FOR(1)
#if ROOM > 1
    :: WISH_FOR(2)
#endif
#endif
    :: KILLED
    fi;

#if FINE
    /* The swap of claim_slot. A2 <- R2 (SWAP_TO_FREE) */
    if
#ifdef BLIND_CLAIM
    :: atomic { MAKE_CLAIMED }
#else
    :: atomic { word == seen -> MAKE_CLAIMED }
    :: atomic { word != seen -> FORGET_SLOT; goto look }
#endif
    :: KILLED
    fi;
#endif

    /* F3 with F4 (taker): the second look at `finished`. */
    if
#ifdef NO_LOOK_BEHIND_CLAIM
    :: true
#else
#if FINE
    :: finished -> goto unclaim
#else
    :: atomic { finished -> SWAP_TO_FREE; FORGET_SLOT }; goto unclaimed /* `finished` stays set */
#endif
    :: !finished
#endif
    :: KILLED
    fi;

    if
    :: publish_slot();
#ifdef NOTIFY_BEFORE_CHANGE
       if
       :: atomic { before == 0 -> NOTIFIED(READABLE) }
       :: before != 0 -> wake_all(READABLE)
       fi;
       before = 0;
#else
       rf_notify(READABLE);
#endif
       goto look
#if FINE
    :: goto unclaim /* rf_discard_rows */
#else
    :: atomic { SWAP_TO_FREE; FORGET_SLOT } /* rf_discard_rows */
#endif
    fi;
#if FINE
unclaim:
    STEP(SWAP_TO_FREE; FORGET_SLOT);
#endif
unclaimed:
#if WAITING
    notify_unclaimed();
#endif
    goto look;

#if WAITING
last_look: /* rf_wait_to_claim, after the producer left its wish */
    /* In C a taker may wait for more rows than there is room for; here no taker does. But a taker that fell asleep
     * before our wish must look for room that we have not seen (rf_leave_no_room_unused). */
#if CALLS
    rf_notify_all(READABLE);
#endif
    if
    :: atomic { finished -> DEPART; goto gone }
    :: atomic { !finished -> rest = ALL_SLOTS }
    :: KILLED
    fi;
    FIND_NONE(NOT_FREE);
    if
    :: atomic { MAY_SLEEP -> FALL_ASLEEP }; goto look
    :: atomic { MAY_LOOK_AGAIN -> FORGET_KEY }; goto look
    :: KILLED
    fi;
#endif

gone:
end:
    false
}
#endif
#undef NOTE
#undef FORGET_LOOK
