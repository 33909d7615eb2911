/*
 * The event count: event.c. Without WAITING the model does not have it.
 *
 * It may not know the condition that a process waits for: producer.pml and taker.pml decide when to look and sleep.
 *
 * A waiter asks only one question of the sequence: has it moved since the waiter read it as its key? So each waiter
 * has one bit in place of the number, and no number can wrap around.
 */

#define READABLE 0
#define WRITABLE 1

#if WAITING

byte wanted[2];    /* event->wanted; for takers 0 or 1, because their batches have one row */
bool moved[6];     /* event->sequence differs from the key of this waiter; true if it has no key */
bool asleep[6];    /* in the futex's queue */
bool overslept[6]; /* the crash happened while it waited; see SLICE_ENDS */
byte wish_of[7];   /* for the property: the wish that a producer left when its last wait began */
byte notifying[2]; /* for the property: the changes whose notification is not over */

/* No property reads it after a crash. */
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

/* No wake-ups without end. With PROGRESS no waiter looks again after a signal or at its deadline, and no process waits
 * without a reason. Wake-ups are counted from the last change of a word. A change wakes each waiter. Each producer that
 * goes back to sleep wakes takers. A taker wakes producers only for a FREE slot, and the claim of that slot ends the
 * count. */
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

/* F1 with F2, for one row. The caller has CHANGED in the step that makes the change. A load and the swap that lowers
 * the wish are one step: if the word changed in between, the swap fails and C loads it again. */
inline rf_notify(event)
{
    if
    :: atomic { wanted[event] == 0 -> NOTIFIED(event) }
    :: wanted[event] == 1 -> wake_all(event)
    :: atomic { wanted[event] > 1 -> wanted[event] = wanted[event] - 1; NOTIFIED(event) }
    :: KILLED
    fi
}

/* The same for UINT32_MAX rows: it wakes regardless of the wish. */
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
/* Both in one step: if the sequence had moved in between, the waiter would not sleep. Here it need not sleep either
 * (rf_sleep). */
#define KEY_AND_WISH(event, rows) moved[self] = false; WISH(event, rows)
inline rf_prepare_wait(event)
{
    READ_KEY;
    LEAVE_WISH(event)
}

/* rf_sleep. A sleeper is at the label `look`, where it takes no step until it is AWAKE. A waiter that MAY_SLEEP may
 * also look again: a signal or its deadline came first. */
#define MAY_SLEEP !moved[self]
#if PROGRESS
#define MAY_LOOK_AGAIN moved[self]
#define MAY_WAIT_FOR(state) !SOME_SLOT_IS(state)
#else
#define MAY_LOOK_AGAIN true
#define MAY_WAIT_FOR(state) true
#endif
#define FALL_ASLEEP asleep[self] = true

/* Only a waiter that the dead process was about to wake needs the end of a slice: its wait had begun before the crash.
 * So no other slice ends here. In C every slice ends, and the waiter then looks as it does after a signal. */
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
