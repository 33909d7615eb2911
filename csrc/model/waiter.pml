/*
 * The event count: waiter.c. Without WAITING none of it is there.
 *
 * It may not know what is waited for; producer.pml and taker.pml decide when to look and when to sleep.
 *
 * Of the sequence only one thing is ever asked: whether it moved since a waiter read it as its key. So
 * each waiter has a bit for that in place of the number, and nothing here can wrap around.
 */

#define READABLE 0
#define WRITABLE 1

#if WAITING

bool wanted[2];    /* event->wanted; with batches of one it is 0 or 1 */
bool moved[6];     /* event->sequence is not the key of this waiter (any more); true where it has none */
bool asleep[6];    /* in the futex's queue */
bool overslept[6]; /* the crash came while it waited; see SLICE_ENDS */
byte notifying[2]; /* for the property: changes made whose notification is not over */

/* Nobody asks for it once someone has crashed. */
#define CHANGED(event) notifying[event] = (crashed == NOBODY -> notifying[event] + 1 : 0)
#define NOTIFIED(event) notifying[event] = (crashed == NOBODY -> notifying[event] - 1 : 0)
#define FORGET_KEY moved[self] = true; overslept[self] = false
#define WAITER_1(event) (event == READABLE -> TAKER_1 : PRODUCER_1)
#define WAITER_2(event) (WAITER_1(event) + 1)

#define NOTE_WAIT(w) overslept[w] = !moved[w] || asleep[w]
#define CRASHED \
    asleep[self] = false; \
    NOTE_WAIT(1); NOTE_WAIT(2); NOTE_WAIT(3); NOTE_WAIT(4); \
    notifying[READABLE] = 0; notifying[WRITABLE] = 0

#define AWAKE !asleep[self]

#define WITHDRAW_WISH(event) STEP(wanted[event] = false)
#define MOVE_KEY(w) moved[w] = true; overslept[w] = overslept[w] && asleep[w]
#define MOVE_SEQUENCE(event) STEP(MOVE_KEY(WAITER_1(event)); MOVE_KEY(WAITER_2(event))) /* R5 */
#define WAKE(w) moved[w] = moved[w] || asleep[w]; overslept[w] = overslept[w] && !asleep[w]; asleep[w] = false

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
    STEP(WAKE(WAITER_1(event)); WAKE(WAITER_2(event)); NOTIFIED(event))
#endif
}

/* F1 with F2. Its caller says CHANGED in the step that makes the change. */
inline rf_notify(event)
{
    if
    :: atomic { !wanted[event] -> NOTIFIED(event) }
    :: wanted[event] -> wake_all(event)
    :: KILLED
    fi
}

/* F2 with F1, A5 <- R5. */
#define READ_KEY STEP(moved[self] = false)
#define LEAVE_WISH(event) STEP(wanted[event] = true)
/* Both at once: had the sequence moved in between, the waiter would not sleep; nor need it here (rf_sleep). */
#define KEY_AND_WISH(event) moved[self] = false; wanted[event] = true
inline rf_prepare_wait(event)
{
    READ_KEY;
    LEAVE_WISH(event)
}

/* rf_sleep. Whoever sleeps is at the label `look`, where it does nothing while it is not AWAKE. Also where it MAY_SLEEP
 * a waiter may look again: a signal or the deadline came first. */
#define MAY_SLEEP !moved[self]
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
#define FORGET_KEY skip
#define AWAKE true
#define CRASHED skip
#define NOTIFIED(event) skip
#define rf_notify(event)
#define rf_prepare_wait(event)

#endif
