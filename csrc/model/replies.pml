/*
 * Reply cells: client_side.c, with what recovery does to them (participants.c).
 *
 * Of the ring there is what a request is: READY, TAKEN or FREE, delivered again when its taker died. README.md says what
 * is left out. A step is one atomic access of the C code; a process may be killed ahead of each.
 */

/* ---- The configuration; check.py sets it ---------------------------------------------------- */

#ifndef CLIENTS
#define CLIENTS 2 /* at most 2; each asks once */
#endif
#ifndef CELLS
#define CELLS 1
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#ifndef TWICE
#define TWICE 0 /* 1: the first client's request is in the ring twice from the start */
#endif
#ifndef HAND_ONS
#define HAND_ONS 0 /* so often, at most, requests are handed on or given back */
#endif
#ifndef DROPS
#define DROPS 0 /* 1: rows of the dead are dropped */
#endif

#define NOBODY 0
#define CLIENT_1 1 /* and 2 */
#define ENGINE_1 3 /* and 4 */
#define RECOVERER 5 /* stands for whoever waits and looks after the dead; never killed */
#define IS_ENGINE(p) (p >= ENGINE_1)

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
byte outputs[2];    /* whose request's answer the cell holds; 0: another's, or half of one */

#define RECORDS 3
#define READY 1
#define TAKEN 2

byte record_state[3], taker[3], names_cell[3], names_epoch[3];
byte asked_by[3];
bool again[3]; /* deliveries > 1 */

/* ---- Who lives ------------------------------------------------------------------------------ */

bool ring_lock[6], pool_lock[6]; /* the kernel drops them one after the other */
bool present[6];                 /* the entry in the pool's table; not RF_ABSENT */
byte readers[6];                 /* who holds the byte of the dead by a read lock, while burying them */
byte burying[6];                 /* whom each buries */
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

/* ---- What the properties remember ----------------------------------------------------------- */

byte writer[2]; /* the engine that may be writing into the cell */
byte reader[2]; /* the client that may be reading */
byte answers[3]; /* of each client's request: how often it was answered */

#define CHECK_WRITE(c) \
    assert(reader[c] == NOBODY && (writer[c] == NOBODY || writer[c] == self)); /* nothing torn */ \
    assert((words[c] & ~GONE) == held) /* never another request's cell */

/* ---- Telling -------------------------------------------------------------------------------- */

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

/* without(): what the word becomes when `dead` is dead. */
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

/* A record is written by who claimed the cell, or holds it. */
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
/* bury(), by read lock: nobody can become `dead` meanwhile. */
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

/* The locks go one after the other, in either order. */
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
killed: /* it never is */
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

/* The ring's recovery: a row of the dead in one step, for only the row's word changes. */
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

/* ---- Clients -------------------------------------------------------------------------------- */

#define PUBLISH_AT(r, c, epoch, client) \
    atomic { \
        record_state[r] == FREE && (r == 0 || record_state[0] != FREE) && (r < 2 || record_state[1] != FREE) -> \
            record_state[r] = READY; names_cell[r] = c; names_epoch[r] = epoch; asked_by[r] = client; again[r] = false \
    }
#define PUBLISH(c, epoch, client) \
    PUBLISH_AT(0, c, epoch, client) :: PUBLISH_AT(1, c, epoch, client) :: PUBLISH_AT(2, c, epoch, client)

#define CLAIM_AT(c) \
    atomic { c < CELLS && STATE(words[c]) == FREE -> cell = c; words[c] = WORD(ASKED, self, EPOCH(words[c])); \
             mine = words[c] }
#define IS_IN_RING(r) (record_state[r] != FREE && asked_by[r] == self)
#define IS_GONE !(IS_IN_RING(0) || IS_IN_RING(1) || IS_IN_RING(2))
#define IS_ANSWERED (STATE(words[cell]) == ANSWERED)

proctype client(byte self)
{
    byte cell;
    short mine, seen;
    bool patient;

    if
    :: CLAIM_AT(0)
    :: CLAIM_AT(1)
    :: KILLED
    fi;
    STEP(CHECK_RECORD(cell); clients[cell] = self; waiters[cell] = false);
    if
    :: PUBLISH(cell, EPOCH(mine), self)
    :: KILLED
    fi;
    if
    :: TWICE && self == CLIENT_1 ->
        if
        :: PUBLISH(cell, EPOCH(mine), self)
        fi
    :: !TWICE || self != CLIENT_1
    fi;
    if
    :: patient = true
    :: goto withdraw /* at any moment from now on */
    fi;

wait: /* rf_cell_wait */
    STEP(assert(EPOCH(words[cell]) == EPOCH(mine)); waiters[cell] = true);
    if
    :: atomic { IS_ANSWERED -> goto read }
    :: atomic { !IS_ANSWERED -> seen = words[cell] }
#if DROPS
    :: IS_GONE -> if /* behind the look at the record, one at the word */
                  :: atomic { STATE(words[cell]) == ASKED -> goto withdraw } /* told that it is lost */
                  :: STATE(words[cell]) != ASKED -> goto wait
                  :: KILLED
                  fi
#endif
    :: KILLED
    fi;
    if /* the kernel compares and puts to sleep in one */
#ifdef NO_COMPARE
    :: atomic { at[self] = cell; asleep[self] = true }
#endif
    :: atomic { words[cell] == seen -> at[self] = cell; asleep[self] = true }
    :: atomic { words[cell] != seen -> seen = 0; goto wait }
    :: KILLED
    fi;
    if
    :: atomic { !asleep[self] -> seen = 0; goto wait }
    :: atomic { crashes > 0 && asleep[self] && (words[cell] != seen || DROPS && IS_GONE) -> /* a slice is over */
                    asleep[self] = false; seen = 0; goto wait }
    :: KILLED
    fi;

read:
    seen = 0;
    STEP(assert(words[cell] == WORD(ANSWERED, self, EPOCH(mine)) ||
                DROPS && words[cell] == (WORD(ANSWERED, self, EPOCH(mine)) | GONE));
         reader[cell] = self);
    STEP(assert(writer[cell] == NOBODY && (outputs[cell] == self || words[cell] & GONE)); reader[cell] = NOBODY);

withdraw:
#ifdef FREE_HELD
    STEP(words[cell] = FREED(mine));
#else
    STEP(seen = words[cell]);
    if
    :: atomic { words[cell] != seen -> seen = 0; goto withdraw }
    :: atomic { words[cell] == seen && STATE(seen) == HELD -> words[cell] = seen | GONE }
    :: atomic { words[cell] == seen && STATE(seen) != HELD ->
                    assert(EPOCH(seen) == EPOCH(mine)); words[cell] = FREED(seen) }
    :: KILLED
    fi;
#endif
    atomic { seen = 0; done++; mine = 0; cell = 0; patient = false; goto gone };

killed:
    asleep[self] = false;
    die();
    done++;
gone:
end:
    false
}

/* ---- Engines -------------------------------------------------------------------------------- */

#define TAKE_AT(r) \
    atomic { record_state[r] == READY -> record_state[r] = TAKEN; taker[r] = self; row = r; cell = names_cell[r] }
#define HELD_BY_US WORD(HELD, self, names_epoch[row])

/* HELD by us -> ASKED; or nobody waits. */
inline let_go()
{
    if
    :: atomic { words[cell] == held -> words[cell] = WORD(ASKED, clients[cell], EPOCH(held)) }
    :: atomic { words[cell] == (held | GONE) -> words[cell] = FREED(held) }
    :: atomic { words[cell] != held && words[cell] != (held | GONE) -> assert(words[cell] == held) }
    :: KILLED
    fi
}

proctype engine(byte self)
{
    byte cell, row, dead, who;
    short seen, next, held;

look:
end:
    if
    :: TAKE_AT(0)
    :: TAKE_AT(1)
    :: TAKE_AT(2)
    :: KILLED
    fi;

#ifdef RELEASE_EARLY
    byte early;
    early = asked_by[row];
    held = names_epoch[row];
    STEP(record_state[row] = FREE; taker[row] = NOBODY; names_epoch[row] = held; asked_by[row] = early);
#endif

hold: /* hold_cell */
    STEP(seen = words[cell]);
    if
#ifndef NO_EPOCH_CHECK
    :: atomic { EPOCH(seen) != names_epoch[row] -> goto release }
    :: atomic { EPOCH(seen) == names_epoch[row] && STATE(seen) == ASKED }
    :: atomic { EPOCH(seen) == names_epoch[row] && STATE(seen) != ASKED && STATE(seen) != HELD -> goto release }
    :: atomic { EPOCH(seen) == names_epoch[row] && STATE(seen) == HELD -> dead = WORD_OWNER(seen) };
#else
    :: STATE(seen) == ASKED
    :: atomic { STATE(seen) != ASKED && STATE(seen) != HELD -> goto release }
    :: atomic { STATE(seen) == HELD -> dead = WORD_OWNER(seen) };
#endif
       if /* holder_is_gone */
#ifdef STEAL_FROM_THE_LIVING
       :: dead != self -> goto swap
#endif
       :: dead == self -> goto release
#ifdef NO_PATIENCE
       :: dead != self && pool_lock[dead] ->
#else
       /* Who is on its way out goes before our patience ends. */
       :: dead != self && pool_lock[dead] && (!again[row] || running[dead]) ->
#endif
          if
#ifdef STALE_HOLDER
          :: goto release
#else
          :: atomic { words[cell] == seen -> goto release }
          :: atomic { words[cell] != seen -> dead = 0; goto hold }
#endif
          fi
       :: atomic { dead != self && words[cell] != seen -> dead = 0; goto hold }
       :: dead != self && !pool_lock[dead] ->
#ifdef STEAL_FROM_THE_DEAD
          if
          :: seen & GONE -> STEP(words[cell] = (words[cell] == seen -> FREED(seen) : words[cell])); goto release
          :: else -> goto swap
          fi
#else
          held = seen;
          bury();
          if
          :: atomic { words[cell] != held -> held = 0; dead = 0; goto hold }
          :: atomic { words[cell] == held -> held = 0; goto release } /* again, by who has their number */
          fi
#endif
       :: KILLED
       fi
    :: KILLED
    fi;
swap:
    if
    :: atomic { words[cell] == seen -> held = WORD(HELD, self, EPOCH(seen)); words[cell] = held; seen = 0; dead = 0 }
    :: atomic { words[cell] != seen -> dead = 0; goto hold }
    :: KILLED
    fi;

    if
    :: goto answer
    :: atomic { hand_ons < HAND_ONS -> hand_ons++ };
       if
       :: goto give_back
       :: goto hand_on
       fi
    fi;

give_back:
    let_go();
    STEP(record_state[row] = READY; taker[row] = NOBODY; again[row] = true);
    atomic { held = 0; cell = 0; row = 0; goto look };

hand_on:
#ifdef LET_GO_LATE
    if
    :: PUBLISH(cell, names_epoch[row], asked_by[row])
    :: KILLED
    fi;
    let_go();
#else
    let_go();
    if
    :: PUBLISH(cell, names_epoch[row], asked_by[row])
    :: KILLED
    fi;
#endif
    goto release;

answer:
    STEP(CHECK_WRITE(cell); writer[cell] = self; outputs[cell] = NOBODY);
    STEP(CHECK_WRITE(cell); outputs[cell] = asked_by[row]; writer[cell] = NOBODY);
#ifdef TELL_BEFORE_SWAP
    tell(cell);
#endif
    if
    :: atomic { words[cell] == held -> words[cell] = WORD(ANSWERED, clients[cell], EPOCH(held));
                answers[asked_by[row]]++; assert(answers[asked_by[row]] <= 1) }
    :: atomic { words[cell] == (held | GONE) -> words[cell] = FREED(held) }
    :: atomic { words[cell] != held && words[cell] != (held | GONE) -> assert(words[cell] == held) }
    :: KILLED
    fi;
#ifndef TELL_BEFORE_SWAP
    tell(cell);
#endif

release:
#ifdef RELEASE_EARLY
    held = 0; seen = 0; dead = 0; cell = 0; row = 0;
#else
    STEP(record_state[row] = FREE; taker[row] = NOBODY; asked_by[row] = 0; names_cell[row] = 0; names_epoch[row] = 0;
         again[row] = false; held = 0; seen = 0; dead = 0; cell = 0; row = 0);
#endif
    goto look;

killed: /* another comes, and has its entries when nothing is left of it */
    atomic { held = 0; seen = 0; next = 0; dead = 0; who = 0; cell = 0; row = 0 };
    die();
#ifdef JOIN_BEFORE_BURIAL
    /* By a write lock, as if it were that participant already. */
    if
    :: atomic { readers[self] == 0 && present[self] -> pool_lock[self] = true; running[self] = true };
       dead = self;
       recover_cell(0);
    :: atomic { readers[self] == 0 && !present[self] -> pool_lock[self] = true; running[self] = true }
    fi;
#else
    atomic { readers[self] == 0 && !present[self] -> pool_lock[self] = true; running[self] = true };
#endif
    atomic {
        !(record_state[0] == TAKEN && taker[0] == self || record_state[1] == TAKEN && taker[1] == self ||
          record_state[2] == TAKEN && taker[2] == self) -> ring_lock[self] = true; present[self] = true; dead = 0
    };
    goto look
}

/* ---- The properties of the end -------------------------------------------------------------- */

/* When nobody can go on: every client was answered or told, or is dead; and nothing is left of anything. */
proctype checker()
{
end:
    atomic {
        timeout ->
            assert(done == CLIENTS); /* no lost request, no lost wake-up */
            assert(record_state[0] == FREE && record_state[1] == FREE && record_state[2] == FREE); /* no lost slot */
            assert(STATE(words[0]) == FREE && STATE(words[1]) == FREE) /* no leaked cell */
    }
}

init
{
    atomic {
        byte p = 1;
        do
        :: p <= 4 -> ring_lock[p] = true; pool_lock[p] = true; present[p] = (p != 2 || CLIENTS > 1); running[p] = true; p++
        :: else -> break
        od;
        p = 0;
        run client(CLIENT_1);
        if
        :: CLIENTS > 1 -> run client(CLIENT_1 + 1)
        :: else
        fi;
        run engine(ENGINE_1);
        run engine(ENGINE_1 + 1);
        run recoverer(RECOVERER);
        run ring_recoverer();
        run checker()
    }
}
