/*
 * The engine's side of a reply cell: engine_side.c. It may not know how clients wait.
 */

/* ---- Engines -------------------------------------------------------------------------------- */

#define TAKE_AT(r) \
    atomic { record_state[r] == READY -> record_state[r] = TAKEN; taker[r] = self; row = r; cell = names_cell[r] }
#define HELD_BY_US WORD(HELD, self, names_epoch[row])

/* HELD by this engine -> ASKED. If the client has withdrawn, -> FREE. */
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
       /* A dying holder is dead before this engine stops waiting for it. */
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
          :: atomic { words[cell] == held -> held = 0; goto release } /* HELD by a new engine with that number */
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

killed: /* a new engine starts, and gets the dead engine's entries once these are reaped */
    atomic { held = 0; seen = 0; next = 0; dead = 0; who = 0; cell = 0; row = 0 };
    die();
#ifdef JOIN_BEFORE_BURIAL
    /* It reaps under a write lock, as if it were that participant already. */
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
