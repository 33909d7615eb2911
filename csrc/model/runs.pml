/*
 * Claims and batches of one row or two, with every step: claim.c, publish.c, find.c, take.c, release.c.
 *
 * It may not know the event count, nor how a process is found dead. A run is `slot` with its word `seen`, and the next
 * slot with its word `second`. A process that is done with the first row puts the second row in its place.
 */
#if ROWS > 1

#define BEHIND NEXT_OF(slot)
#define WORD_BEHIND words[BEHIND]
#define LINK_BEHIND links[BEHIND]
#define NEXT_ROW atomic { second != 0 -> slot = BEHIND; seen = second; second = 0 }
#define IS_LAST_ROW atomic { second == 0 -> FORGET_SLOT }

/* ---- The producer's side -------------------------------------------------------------------- */

/* A producer leaves a claim that was taken back as it is. Between its check of the word and its stores no claim is taken
 * back here: that case is the late writer of describe_slot, outside the model. */
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

/* ready_slot. `lost`: the previous row was taken back, and the link of this row names it. */
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

look: /* try_claim, rf_claim_run: a search may start at any slot, so it may find the start of a run or any slot in it */
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
    :: true /* the producer wants one row, or the next slot is not FREE */
    :: KILLED
    fi;

    /* F3 with F4 (taker) */
    if
    :: finished -> unclaim_rows()
    :: !finished
    :: KILLED
    fi;

    /* The payload of all rows: no other process reads it before READY. */
    STEP(IF_STILL_OURS(CHECK_WRITE; payload = RECORD(self, 0));
         if
         :: second != 0 && WORD_BEHIND == second -> payloads[BEHIND] = RECORD(self, 0)
         :: else
         fi);

    /* publish_rows: all rows, or the first of two, or no row. */
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

/* must_wait for the record at `at`: its link, then the word of the slot that the link names. A row whose link names the
 * first row of the run is taken with it. */
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

look: /* rf_find_first may find any READY slot; rf_run_length reads the words first. A1 <- R1 */
    if
    :: FIND(READY, skip)
    :: finished -> goto wait
    :: KILLED
    fi;
    if
    :: atomic { STATE(WORD_BEHIND) == READY -> second = WORD_BEHIND }
    :: true /* max_rows is 1, or the next slot is not READY */
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

    /* take_run: it swaps exactly the words that it read, up to the first that changed. A1 <- R1 */
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

/* A process that takes a living producer for dead, because the producer lost its locks. rf_recover frees the claims of
 * this producer as it frees those of a dead one. */
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
