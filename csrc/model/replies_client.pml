/*
 * The client's side of a reply cell: client_side.c. It may not know the steps of engines.
 */

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
    :: goto withdraw /* after any number of the engines' steps */
    fi;

wait: /* rf_cell_wait */
    STEP(assert(EPOCH(words[cell]) == EPOCH(mine)); waiters[cell] = true);
    if
    :: atomic { IS_ANSWERED -> goto read }
    :: atomic { !IS_ANSWERED -> seen = words[cell] }
#if DROPS
    :: IS_GONE -> if /* after the look at the record, a look at the word */
                  :: atomic { STATE(words[cell]) == ASKED -> goto withdraw } /* error: the request is lost */
                  :: STATE(words[cell]) != ASKED -> goto wait
                  :: KILLED
                  fi
#endif
    :: KILLED
    fi;
    if /* the kernel compares the word and puts the thread to sleep in one step */
#ifdef NO_COMPARE
    :: atomic { at[self] = cell; asleep[self] = true }
#endif
    :: atomic { words[cell] == seen -> at[self] = cell; asleep[self] = true }
    :: atomic { words[cell] != seen -> seen = 0; goto wait }
    :: KILLED
    fi;
    if
    :: atomic { !asleep[self] -> seen = 0; goto wait }
    :: atomic { crashes > 0 && asleep[self] && (words[cell] != seen || DROPS && IS_GONE) -> /* a slice has ended */
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
