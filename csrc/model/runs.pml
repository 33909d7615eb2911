/*
 * Claims and batches of one row or two, every step: claim.c, publish.c, find.c, take.c and release.c, without the event count.
 *
 * It may not know how anyone sleeps or who is dead. A run is `slot` with `seen`, and the slot behind it with `second`;
 * whoever is done with the first row goes on with the second in its place.
 */
#if ROWS > 1

#define BEHIND NEXT_OF(slot)
#define WORD_BEHIND words[BEHIND]
#define LINK_BEHIND links[BEHIND]
#define NEXT_ROW atomic { second != 0 -> slot = BEHIND; seen = second; second = 0 }
#define IS_LAST_ROW atomic { second == 0 -> FORGET_SLOT }

/* ---- The producer's side -------------------------------------------------------------------- */

/* A claim that was taken back is only left alone. Between the look at the word and the stores behind it none is taken
 * back here: what slips in there is the late writer of describe_slot. */
#define IF_STILL_OURS(...) \
    if \
    :: word == seen -> __VA_ARGS__ \
    :: else -> assert(TAKE_BACKS) \
    fi
#define DESCRIBE(l) IF_STILL_OURS(CHECK_WRITE; link = l)
#define DESCRIBE_BEHIND \
    if \
    :: WORD_BEHIND == second -> LINK_BEHIND = LINK(slot, EPOCH(seen)) \
    :: else -> assert(TAKE_BACKS) \
    fi

/* rf_discard_rows, rf_unclaim: row by row. */
inline unclaim_rows()
{
    do
    :: true ->
        STEP(IF_STILL_OURS(SWAP_TO_FREE));
        if
        :: NEXT_ROW
        :: IS_LAST_ROW; goto look
        fi
    od
}

/* ready_slot. `lost`: the row before was taken back, and its successor's link names it. */
inline ready_row()
{
#ifndef NO_MENDING
    if
    :: lost -> STEP(DESCRIBE(last_link); lost = false)
    :: !lost
    fi;
#endif
    STEP(IF_STILL_OURS(MAKE_READY); lost = second != 0 && STATE(word) != READY)
}

proctype producer(byte self)
{
    bool lost;

look: /* try_claim, rf_claim_run: the start of a run or any other slot of it, as a search that starts anywhere finds it */
    if
    :: atomic { finished -> DEPART; goto gone }
    :: FIND(FREE, skip)
    :: KILLED
    fi;
    if
    :: atomic { word == seen -> MAKE_CLAIMED }
    :: atomic { word != seen -> FORGET_SLOT; goto look }
    :: KILLED
    fi;
    if
    :: atomic { STATE(WORD_BEHIND) == FREE -> second = WORD_BEHIND };
       if
       :: atomic { WORD_BEHIND == second -> second = WORD(CLAIMED, self, EPOCH(second)); WORD_BEHIND = second }
       :: atomic { WORD_BEHIND != second -> second = 0 }
       :: KILLED
       fi
    :: true /* it wants one row, or the slot behind is not FREE */
    :: KILLED
    fi;

    /* F3 with F4 (taker) */
    if
    :: finished -> unclaim_rows()
    :: !finished
    :: KILLED
    fi;

    /* The payload, for all rows: nobody else looks at it before READY. */
    STEP(IF_STILL_OURS(CHECK_WRITE; payload = RECORD(self, 0));
         if
         :: second != 0 && WORD_BEHIND == second -> payloads[BEHIND] = RECORD(self, 0)
         :: else
         fi);

    /* publish_rows: all rows, or the first of two, or none. */
    if
    :: unclaim_rows()
    :: true
    fi;
    STEP(DESCRIBE(last_link));
#ifndef READY_BEFORE_DESCRIBED
    if
    :: second != 0 -> STEP(DESCRIBE_BEHIND)
    :: second == 0
    fi;
#endif
    ready_row();
#ifdef READY_BEFORE_DESCRIBED
    STEP(before = LINK(slot, EPOCH(seen)));
#endif
    if
    :: NEXT_ROW;
       if
       :: ready_row()
       :: atomic { lost = false; goto discard }
       fi;
#ifdef READY_BEFORE_DESCRIBED
       STEP(link = before);
#endif
       STEP(FORGET_SLOT; lost = false; before = 0)
    :: atomic { second == 0 -> FORGET_SLOT; before = 0 }
    fi;
    goto look;
discard:
    unclaim_rows();

gone:
end:
    false
}

/* ---- The taker's side ----------------------------------------------------------------------- */

/* must_wait for the record at `at`: its link, then the word of the slot that it names. Who follows the first row of the run
 * goes with it. */
#define GOES_AT_ONCE(at) \
    (links[at] == 0 || LINK_SLOT(links[at]) == at || at != slot && LINK_SLOT(links[at]) == slot)
inline stop_where_it_must_wait(at)
{
    if
    :: atomic { GOES_AT_ONCE(at) -> waits = false }
    :: atomic { !GOES_AT_ONCE(at) -> before = links[at] };
       STEP(waits = LINK_IS_READY(before, words[LINK_SLOT(before)]); before = 0)
    :: KILLED
    fi
}

#define TAKE_BEHIND \
    slot = BEHIND; word = WORD(TAKEN, self, EPOCH(second)); CHECK_TAKE; slot = (slot == 0 -> SLOTS - 1 : slot - 1); \
    second = WORD_BEHIND

proctype taker(byte self)
{
    bool waits;

look: /* rf_find_first leads anywhere; rf_run_length: the words first. A1 <- R1 */
    if
    :: FIND(READY, skip)
    :: finished -> goto wait
    :: KILLED
    fi;
    if
    :: atomic { STATE(WORD_BEHIND) == READY -> second = WORD_BEHIND }
    :: true /* max_rows is 1, or it is not READY */
    :: KILLED
    fi;
    /* Then the links. */
    stop_where_it_must_wait(slot);
    if
    :: atomic { waits -> waits = false; FORGET_SLOT; goto look }
    :: !waits
    fi;
#ifndef NO_LINK_CHECK
    if
    :: second != 0 ->
        stop_where_it_must_wait(BEHIND);
        if
        :: atomic { waits -> waits = false; second = 0 }
        :: !waits
        fi
    :: second == 0
    fi;
#endif
#ifdef RUN_READ_ANEW
    STEP(second = (second != 0 && STATE(WORD_BEHIND) == READY -> WORD_BEHIND : 0));
#endif

    /* take_run: the very words that were read, up to the first that changed. A1 <- R1 */
    if
    :: atomic { word == seen -> MAKE_TAKEN }
    :: atomic { word != seen -> FORGET_SLOT; goto look }
    :: KILLED
    fi;
    if
    :: second == 0
    :: atomic { second != 0 && WORD_BEHIND == second -> TAKE_BEHIND }
    :: atomic { second != 0 && WORD_BEHIND != second -> second = 0 }
    :: KILLED
    fi;

    /* release_rows. R2 -> A2 (claim_slot) */
    do
    :: true ->
        STEP(assert(reader[slot] == self); reader[slot] = NOBODY; under_way--; SWAP_TO_FREE);
        if
        :: NEXT_ROW
        :: IS_LAST_ROW; goto look
        fi
    od;

wait: /* rf_nothing_ready */
    look_at_all();
    if
    :: atomic { ended && !claimed -> DEPART; goto gone }
    :: atomic { !ended || claimed -> ended = false; claimed = false }; goto look
    fi;

gone:
end:
    false
}

/* Who takes a living producer for dead, as where its locks were lost: rf_recover does with its claims what it does with
 * a dead one's. */
#if TAKE_BACKS
byte taken_back;
#define TAKE_BACK(i) \
    atomic { \
        taken_back < TAKE_BACKS && STATE(words[i]) == CLAIMED -> \
            taken_back++; slot = i; seen = word; SWAP_TO_FREE; FORGET_SLOT \
    }
proctype robber(byte self)
{
end:
    do
    :: TAKE_BACK(0)
    :: TAKE_BACK(1)
    :: TAKE_BACK(2)
    od
}
#endif

#endif
