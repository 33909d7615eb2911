/*
 * Records that move at the end of a ring: rf_claim_copy and rf_set_apart of claim_copy.c, rf_nothing_ready of due.c.
 *
 * If other code may still write into a claim, the producer publishes it from another slot. A taker of a finished ring
 * reads the words one after the other, in any order. It may pass the slot that a record moves into. It may then read
 * the slot that the record moved from after the claim there ended. The property is that the taker finds the record.
 *
 * It may not know links, deaths or sleep: a taker that finds no record looks again.
 */
#ifndef PRODUCERS
#define PRODUCERS 2
#endif
#ifndef TAKERS
#define TAKERS 2
#endif
#ifndef SLOTS
#define SLOTS 3 /* at most 4 */
#endif

#define FREE 0
#define CLAIMED 1
#define READY 2
#define TAKEN 3
#define KEPT 4

byte words[4]; /* only the first SLOTS words are used */
bool finished;
byte departed; /* takers that have reported the end */
byte under_way;

/* Any slot whose word has this state, with the work on it in the same step. */
#define FIND(slot, state, ...) \
    atomic { words[0] == state -> slot = 0; __VA_ARGS__ } \
    :: atomic { words[1] == state -> slot = 1; __VA_ARGS__ } \
    :: atomic { words[2] == state -> slot = 2; __VA_ARGS__ } \
    :: atomic { SLOTS > 3 && words[3] == state -> slot = 3; __VA_ARGS__ }

#define MAKE_READY(slot) atomic { words[slot] = READY; under_way++ }

proctype producer()
{
    byte slot, copy;
    if
    :: finished -> goto gone
    :: FIND(slot, FREE, words[slot] = CLAIMED)
    fi;
    /* try_claim: F3 with F4, the look at `finished` after the swap. */
    if
    :: atomic { finished -> words[slot] = FREE }; goto gone
    :: !finished
    fi;
    if
    :: MAKE_READY(slot); goto gone
    :: words[slot] = FREE; goto gone /* rf_discard_rows */
    :: FIND(copy, FREE, words[copy] = CLAIMED) /* rf_claim_copy */
    :: goto apart /* no slot is free for a copy */
    fi;
#ifdef APART_FIRST
    words[slot] = KEPT;
#endif
    MAKE_READY(copy);
apart:
    words[slot] = KEPT;
    words[slot] = FREE; /* the last view was dropped */
gone:
    skip
}

#define LOOK_AT(i, more) \
    atomic { \
        (rest & (1 << i)) -> \
            rest = rest & ~(1 << i); \
            found = found || words[i] == READY || (more && words[i] == CLAIMED) \
    }

/* One look at all words, in any order. */
inline look_at_all(more)
{
    rest = (1 << SLOTS) - 1;
    do
    :: LOOK_AT(0, more) :: LOOK_AT(1, more) :: LOOK_AT(2, more) :: LOOK_AT(3, more)
    :: atomic { rest == 0 -> break }
    od;
    if
    :: atomic { found -> found = false; goto look }
    :: atomic { !found }
    fi
}

proctype taker()
{
    byte slot, rest;
    bool found;
look: /* rf_find_first. F4 with F3: `finished` is read before the words */
    if
    :: FIND(slot, READY, words[slot] = TAKEN; under_way--)
    :: finished -> goto ended
    fi;
    atomic { words[slot] = FREE; slot = 0 };
    goto look;
ended: /* rf_nothing_ready */
    look_at_all(true);
#ifndef ONE_LOOK
    look_at_all(false);
#endif
    departed++
}

init
{
    byte each;
    atomic {
        for (each : 1 .. PRODUCERS) { run producer() }
        for (each : 1 .. TAKERS) { run taker() }
    };
    finished = true;
    /* All producers and takers have ended: no record was left behind. */
    _nr_pr == 1 && departed == TAKERS;
    assert(under_way == 0)
}
