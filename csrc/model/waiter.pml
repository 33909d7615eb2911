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
bool moved[6];     /* event->sequence is not the key of this waiter (any more) */
bool asleep[6];    /* in the futex's queue */
bool sliced[6];    /* has woken by itself since the crash; see rf_sleep */
byte notifying[2]; /* for the property: changes made whose notification is not over */

#define CHANGED(event) notifying[event]++
#define NOTIFIED(event) notifying[event]--
#define FORGET_KEY moved[self] = true
#define WAITER_1(event) (event == READABLE -> TAKER_1 : PRODUCER_1)
#define WAITER_2(event) (WAITER_1(event) + 1)

#define WITHDRAW_WISH(event) STEP(wanted[event] = false)
#define MOVE_SEQUENCE(event) STEP(moved[WAITER_1(event)] = true; moved[WAITER_2(event)] = true) /* R5 */

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
         :: asleep[WAITER_1(event)] -> asleep[WAITER_1(event)] = false
         :: else -> asleep[WAITER_2(event)] = false
         fi;
         NOTIFIED(event))
#else
    STEP(asleep[WAITER_1(event)] = false; asleep[WAITER_2(event)] = false; NOTIFIED(event))
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
inline rf_prepare_wait(event)
{
    READ_KEY;
    LEAVE_WISH(event)
}

/* Without a crash nobody needs the end of a slice, and none comes. After it one slice for each must be
 * enough: it covers a notifier that was killed on its way. */
inline rf_sleep()
{
    if
    :: atomic { moved[self] -> skip }
    :: atomic {
           !moved[self] -> asleep[self] = true;
           if
           :: !asleep[self] -> FORGET_KEY
           :: crashed != NOBODY && !sliced[self] -> sliced[self] = true; asleep[self] = false; FORGET_KEY
           :: KILLED
           fi
       }
    :: KILLED
    fi
}

#else

#define CHANGED(event) skip
#define FORGET_KEY skip
#define NOTIFIED(event) skip
#define rf_notify(event)
#define rf_prepare_wait(event)
#define rf_sleep()

#endif
