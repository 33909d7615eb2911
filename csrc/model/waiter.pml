/*
 * The event count: event.c. Without WAITING none of it is there.
 *
 * It may not know what is waited for; producer.pml and taker.pml decide when to look and when to sleep.
 *
 * Of the sequence only one thing is ever asked: whether it moved since a waiter read it as its key. So
 * each waiter has a bit for that in place of the number, and nothing here can wrap around.
 */

#define READABLE 0
#define WRITABLE 1

#if WAITING

byte wanted[2];    /* event->wanted; 0 or 1 for takers, whose batches have one row */
bool moved[6];     /* event->sequence is not the key of this waiter (any more); true where it has none */
bool asleep[6];    /* in the futex's queue */
bool overslept[6]; /* the crash came while it waited; see SLICE_ENDS */
byte wish_of[7];   /* for the property: the room that a producer left a wish for when it last began to wait */
byte notifying[2]; /* for the property: changes made whose notification is not over */

/* Nobody asks for it once someone has crashed. */
#define CHANGED(event) notifying[event] = (crashed == NOBODY -> notifying[event] + 1 : 0)
#define NOTIFIED(event) notifying[event] = (crashed == NOBODY -> notifying[event] - 1 : 0)
#define FORGET_KEY moved[self] = true; overslept[self] = false; wish_of[self] = 0
#define WAITER_1(event) (event == READABLE -> TAKER_1 : PRODUCER_1)
#define WAITER_2(event) (WAITER_1(event) + 1)

#define NOTE_WAIT(w) overslept[w] = !moved[w] || asleep[w]
#define CRASHED \
    asleep[self] = false; \
    NOTE_WAIT(1); NOTE_WAIT(2); NOTE_WAIT(3); NOTE_WAIT(4); \
    notifying[READABLE] = 0; notifying[WRITABLE] = 0

#define AWAKE !asleep[self]

#define WITHDRAW_WISH(event) STEP(wanted[event] = 0)
#define MOVE_KEY(w) moved[w] = true; overslept[w] = overslept[w] && asleep[w]
#define MOVE_SEQUENCE(event) STEP(MOVE_KEY(WAITER_1(event)); MOVE_KEY(WAITER_2(event))) /* R5 */
#define WAKE(w) \
    moved[w] = moved[w] || asleep[w]; overslept[w] = overslept[w] && !asleep[w]; \
    wish_of[w] = (asleep[w] -> 0 : wish_of[w]); asleep[w] = false

/* Nobody wakes anybody without end. With PROGRESS nobody looks again by a signal or its deadline, nobody waits without
 * a reason, and wake-ups are counted since a word changed last: what changed wakes each waiter, each producer that goes back
 * to sleep wakes takers, and these wake producers only for a FREE slot, which ends the count. */
#if PROGRESS
byte in_vain;
#define MOST_IN_VAIN 8
#define COUNT_WAKE_UP(event) \
    in_vain = in_vain + (asleep[WAITER_1(event)] || asleep[WAITER_2(event)]); assert(in_vain <= MOST_IN_VAIN)
#define WORD_CHANGED in_vain = 0
#else
#define COUNT_WAKE_UP(event) skip
#define WORD_CHANGED skip
#endif

inline wake_all(event)
{
#ifdef WISH_WITHDRAWN_LATE
    MOVE_SEQUENCE(event);
    WITHDRAW_WISH(event);
#else
    WITHDRAW_WISH(event);
    MOVE_SEQUENCE(event);
#endif
#ifdef WAKE_ONE
    STEP(if
         :: asleep[WAITER_1(event)] -> WAKE(WAITER_1(event))
         :: else -> WAKE(WAITER_2(event))
         fi;
         NOTIFIED(event))
#else
    STEP(COUNT_WAKE_UP(event); WAKE(WAITER_1(event)); WAKE(WAITER_2(event)); NOTIFIED(event))
#endif
}

/* F1 with F2, for one row. Its caller says CHANGED in the step that makes the change. A load and the swap that makes
 * the wish less are one step: where the word changed in between, the swap fails and it is loaded again. */
inline rf_notify(event)
{
    if
    :: atomic { wanted[event] == 0 -> NOTIFIED(event) }
    :: wanted[event] == 1 -> wake_all(event)
    :: atomic { wanted[event] > 1 -> wanted[event] = wanted[event] - 1; NOTIFIED(event) }
    :: KILLED
    fi
}

/* The same for UINT32_MAX rows: whatever is wished for. */
inline rf_notify_all(event)
{
    if
    :: atomic { wanted[event] == 0 -> NOTIFIED(event) }
    :: wanted[event] != 0 -> wake_all(event)
    :: KILLED
    fi
}

/* F2 with F1, A5 <- R5. */
#define READ_KEY STEP(moved[self] = false)
#define WISH(event, rows) wanted[event] = (wanted[event] == 0 || wanted[event] > rows -> rows : wanted[event])
#define LEAVE_WISH(event) STEP(WISH(event, 1))
/* Both at once: had the sequence moved in between, the waiter would not sleep; nor need it here (rf_sleep). */
#define KEY_AND_WISH(event, rows) moved[self] = false; WISH(event, rows)
inline rf_prepare_wait(event)
{
    READ_KEY;
    LEAVE_WISH(event)
}

/* rf_sleep. Whoever sleeps is at the label `look`, where it does nothing while it is not AWAKE. Also where it MAY_SLEEP
 * a waiter may look again: a signal or the deadline came first. */
#define MAY_SLEEP !moved[self]
#if PROGRESS
#define MAY_LOOK_AGAIN moved[self]
#define MAY_WAIT_FOR(state) !SOME_SLOT_IS(state)
#else
#define MAY_LOOK_AGAIN true
#define MAY_WAIT_FOR(state) true
#endif
#define FALL_ASLEEP asleep[self] = true

/* Nobody needs the end of a slice but to whom the dead one may have owed a wake-up: whose wait had begun when the
 * crash came. So no other slice ends here. In C all do: who wakes from one looks as if a signal had come. */
#ifdef NO_SLICE
#define SLICE_ENDS false
#else
#define SLICE_ENDS atomic { asleep[self] && overslept[self] -> asleep[self] = false; FORGET_KEY }
#endif

#else

#define CHANGED(event) skip
#define WORD_CHANGED skip
#define FORGET_KEY skip
#define AWAKE true
#define CRASHED skip
#define NOTIFIED(event) skip
#define rf_notify(event)
#define rf_notify_all(event)
#define rf_prepare_wait(event)

#endif
