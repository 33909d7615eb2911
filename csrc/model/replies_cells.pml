/*
 * Reply cells: their words, their notifications (wake.c), and their recovery (cell.c, participants.c).
 *
 * It may not know the steps of clients and engines.
 */

/* ---- The words ------------------------------------------------------------------------------ */

#define FREE 0
#define ASKED 1
#define ANSWERED 2
#define HELD 3

#define GONE 64
#define WORD(state, owner, epoch) ((state) | (owner) << 3 | (epoch) << 7)
#define STATE(w) ((w) & 7)
#define WORD_OWNER(w) ((w) >> 3 & 7)
#define EPOCH(w) ((w) >> 7)
#define FREED(w) WORD(FREE, NOBODY, EPOCH(w) + 1)

short words[2] = WORD(FREE, NOBODY, 1);
byte clients[2];    /* rf_cell.client */
bool waiters[2];    /* rf_cell.waiter: the thread that sleeps at the cell */
byte outputs[2];    /* the client whose answer the cell holds; 0: an old answer, or half of one */

#define RECORDS 3
#define READY 1
#define TAKEN 2

byte record_state[3], taker[3], names_cell[3], names_epoch[3];
byte asked_by[3];
bool again[3]; /* deliveries > 1 */

/* ---- Locks and the crash -------------------------------------------------------------------- */

bool ring_lock[6], pool_lock[6]; /* the kernel drops them one after the other */
bool present[6];                 /* the entry in the pool's table is not RF_ABSENT */
byte readers[6];                 /* the number of read locks on this entry's byte, held while it is reaped */
byte burying[6];                 /* the participant that each process reaps */
bool running[6];
bool asleep[3];
byte crashes, hand_ons, done;

#define MAY_CRASH (crashes < CRASHES && self != RECOVERER)
#define KILLED \
    atomic { \
        MAY_CRASH -> crashes++; running[self] = false; \
        writer[0] = (writer[0] == self -> NOBODY : writer[0]); writer[1] = (writer[1] == self -> NOBODY : writer[1]); \
        reader[0] = (reader[0] == self -> NOBODY : reader[0]); reader[1] = (reader[1] == self -> NOBODY : reader[1]); \
        readers[burying[self]] = readers[burying[self]] - (burying[self] != NOBODY); burying[self] = NOBODY; \
        seen = 0; goto killed \
    }
#define STEP(...) \
    if \
    :: atomic { __VA_ARGS__ } \
    :: KILLED \
    fi

/* ---- Variables of the properties ------------------------------------------------------------ */

byte writer[2]; /* the engine that may be writing into the cell */
byte reader[2]; /* the client that may be reading */
byte answers[3]; /* the number of answers to each client's request */

#define CHECK_WRITE(c) \
    assert(reader[c] == NOBODY && (writer[c] == NOBODY || writer[c] == self)); /* no torn answer */ \
    assert((words[c] & ~GONE) == held) /* never the cell of another request */

/* ---- Notification: rf_notify_client --------------------------------------------------------- */

#define WAKE_AT(c, client) asleep[client] = asleep[client] && at[client] != c
byte at[3]; /* the cell where each client sleeps */

inline tell(c)
{
    if
    :: atomic { waiters[c] -> skip };
       STEP(WAKE_AT(c, 1); WAKE_AT(c, 2))
    :: atomic { !waiters[c] -> skip }
    :: KILLED
    fi
}

/* ---- The dead ------------------------------------------------------------------------------- */

/* word_without: the cell's word after the death of `dead`. */
#ifdef HELD_FORGOTTEN
#define OF_THE_HOLDER seen
#elif DROPS
#define OF_THE_HOLDER (seen & GONE || who == dead -> FREED(seen) : WORD(ANSWERED, who, EPOCH(seen)) | GONE)
#else
#define OF_THE_HOLDER (seen & GONE || who == dead -> FREED(seen) : WORD(ASKED, who, EPOCH(seen)))
#endif
#ifdef NOT_WANTED_FORGOTTEN
#define OF_THE_CLIENT seen
#else
#define OF_THE_CLIENT (who == dead -> seen | GONE : seen)
#endif
#define WITHOUT \
    (STATE(seen) == HELD -> (WORD_OWNER(seen) == dead -> OF_THE_HOLDER : OF_THE_CLIENT) \
                         : (STATE(seen) != FREE && WORD_OWNER(seen) == dead -> FREED(seen) : seen))

/* Only the participant that claimed or holds a cell writes its record. */
#define CHECK_RECORD(c) assert(WORD_OWNER(words[c]) == self)

inline recover_cell(c)
{
    do
    :: true ->
        STEP(seen = words[c]);
        STEP(who = clients[c]; next = WITHOUT);
        if
        :: next == seen -> break
        :: else
        fi;
#ifdef RECOVERER_WRITES
        STEP(CHECK_RECORD(c); clients[c] = NOBODY);
#endif
        if
        :: atomic { words[c] == seen -> words[c] = next };
           tell(c);
           break
        :: words[c] != seen
        :: KILLED
        fi
    od;
    seen = 0; next = 0; who = 0
}
/* reap, under a read lock: meanwhile no new participant can get the number `dead`. */
inline bury()
{
    if
    :: atomic { present[dead] && !pool_lock[dead] -> readers[dead]++; burying[self] = dead };
       recover_cell(0);
#if CELLS > 1
       recover_cell(1);
#endif
       STEP(present[dead] = false);
       STEP(readers[dead]--; burying[self] = NOBODY)
    :: atomic { !(present[dead] && !pool_lock[dead]) -> skip }
    :: KILLED
    fi
}

/* The kernel drops the two locks one after the other, in either order. */
inline die()
{
    if
    :: ring_lock[self] = false; pool_lock[self] = false
    :: pool_lock[self] = false; ring_lock[self] = false
    fi
}

proctype recoverer(byte self)
{
    byte dead, who;
    short seen, next;
    goto look;
killed: /* the recoverer is never killed */
look:
end:
    if
    :: atomic { present[1] && !pool_lock[1] -> dead = 1 }
    :: atomic { present[2] && !pool_lock[2] -> dead = 2 }
    :: atomic { present[3] && !pool_lock[3] -> dead = 3 }
    :: atomic { present[4] && !pool_lock[4] -> dead = 4 }
    fi;
    bury();
    dead = 0;
    goto look
}

/* The ring's recovery. A row of the dead takes one step, because only the row's word changes. */
#define DELIVER_AGAIN(r) \
    atomic { \
        record_state[r] == TAKEN && !ring_lock[taker[r]] -> \
            record_state[r] = (DROPS -> FREE : READY); taker[r] = NOBODY; again[r] = !DROPS \
    }
proctype ring_recoverer()
{
end:
    do
    :: DELIVER_AGAIN(0)
    :: DELIVER_AGAIN(1)
    :: DELIVER_AGAIN(2)
    od
}
