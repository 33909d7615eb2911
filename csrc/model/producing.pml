/*
 * Producing blocks: producers.c, and their recovery (recover.c).
 *
 * It may not know slots, records or sleep: of the ring it has only the end. README.md lists the parts outside the model.
 * A step is one atomic access of the C code. A process may be killed, or stopped for good, before each step.
 */

/* ---- The configuration; check.py sets it ---------------------------------------------------- */

#ifndef PRODUCERS
#define PRODUCERS 2 /* at most 3 */
#endif
#ifndef BLOCKS
#define BLOCKS 1 /* the blocks of each producer, one after the other */
#endif
#ifndef EXPECTED
#define EXPECTED 0 /* rf_options.producers */
#endif
#ifndef INSIDE
#define INSIDE 0 /* 1: a block may have one inside it */
#endif
#ifndef FAILURES
#define FAILURES 0 /* 1: a producer may fail */
#endif
#ifndef FINISHES
#define FINISHES 0 /* 1: a process calls rf_finish, at any moment */
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#ifndef SIDE_BY_SIDE
#define SIDE_BY_SIDE 0 /* 1: two waiters recover the dead even if only one process may die */
#endif
#ifndef STOPS
#define STOPS 0 /* bound on the processes that are stopped for good; they are alive */
#endif

#define NOBODY 0
#define BURIER 4    /* a waiter that recovers the dead; with two crashes it may die during recovery */
#define RECOVERER 5 /* the same, but never killed */
#define FINISHER 6

/* ---- The segment ---------------------------------------------------------------------------- */

byte producing[7]; /* rf_participant.producing */
byte entered;      /* rf_header.finished, the upper bits */
bool finished;     /* rf_header.finished, the lowest bit */
bool present[7];   /* rf_participant.state */

#define FREE 0
#define CLAIMED 1
#define READY 2
byte text_state, text_owner; /* rf_failure.word */
bool text_more;              /* RF_KEEP */
byte text;                   /* 0: none; 1: half written; 2: complete */

/* ---- Steps and the crash -------------------------------------------------------------------- */

bool running[7];
byte crashes, stops, gone /* producers that have ended, died or stopped */, ended_looks;

/* For the properties. */
bool inside[7]; /* this producer was admitted, and has not ended its block */
byte came;      /* the producers that were admitted, without blocks inside others */
bool raised[7]; /* this producer failed; false if it died while it reported that */
bool left[7];   /* this producer has ended its last block itself */
bool forced;    /* rf_finish was called */

#define MAY_CRASH (crashes < CRASHES && self < RECOVERER)
#define MAY_STOP (stops < STOPS && self < RECOVERER)
#define KILLED \
    atomic { \
        MAY_CRASH -> crashes++; running[self] = false; inside[self] = false; raised[self] = raised[self] && left[self]; \
        goto killed \
    } \
    :: atomic { MAY_STOP -> stops++; goto killed }
#define STEP(...) \
    if \
    :: atomic { __VA_ARGS__ } \
    :: KILLED \
    fi

#define IS_INSIDE(p) (p <= PRODUCERS && inside[p])
#define NOBODY_INSIDE !(IS_INSIDE(1) || IS_INSIDE(2) || IS_INSIDE(3))
#define ALL_CAME (came >= EXPECTED)

/* ---- The end -------------------------------------------------------------------------------- */

/* rf_finish_if_left. F8 is the order of these steps. */
#define COUNT_AT(i) (producing[i] - (i == not_counted))
#ifdef FINISH_BLINDLY
#define MAY_FINISH !finished
#else
#define MAY_FINISH (!finished && entered == seen)
#endif
#define FINISH \
    if \
    :: MAY_FINISH -> assert(NOBODY_INSIDE && ALL_CAME); finished = true \
    :: else \
    fi
inline look_at_all()
{
    STEP(seen = entered; busy = finished || entered == 0 || entered < EXPECTED; rest = 1);
    do
    :: atomic { !busy && rest <= PRODUCERS -> busy = COUNT_AT(rest) > 0; rest++ }
    :: atomic { busy || rest > PRODUCERS -> rest = 0; break }
    :: KILLED
    od
}
inline finish_if_left()
{
    look_at_all();
    if
    :: busy
    :: !busy -> STEP(FINISH)
    fi;
    seen = 0; busy = false
}

/* ---- Failures ------------------------------------------------------------------------------- */

#ifdef SECOND_IN_SILENCE
#define SAY_MORE skip
#else
#define SAY_MORE text_more = true
#endif
/* claim_text: C repeats a failed swap, so the load and the swap are one step. */
#define CLAIM_TEXT \
    if \
    :: text_state == FREE -> text_state = CLAIMED; text_owner = self; mine = true \
    :: text_state == CLAIMED -> SAY_MORE \
    :: text_state == READY \
    fi
#ifdef MORE_IS_IN_THE_WAY
#define IS_OURS (text_state == CLAIMED && text_owner == self && !text_more)
#else
#define IS_OURS (text_state == CLAIMED && text_owner == self)
#endif
#define PUBLISH_TEXT \
    if \
    :: IS_OURS -> text_state = READY; text_owner = NOBODY; text_more = false \
    :: else \
    fi
inline fail()
{
    STEP(raised[self] = true; CLAIM_TEXT);
    if
    :: !mine
    :: mine ->
        STEP(text = 1);
#ifdef TEXT_READY_EARLY
        STEP(PUBLISH_TEXT);
        STEP(text = 2);
#else
        STEP(text = 2);
        STEP(PUBLISH_TEXT);
#endif
        assert(text_state == READY);
        mine = false
    fi
}

/* ---- Producers ------------------------------------------------------------------------------ */

#define OPEN_BLOCK STEP(producing[self]++)
#define ENTER STEP(entered++; refused = finished; inside[self] = !finished; came = came + (EXPECTED && !finished))
/* The last look at the end, rf_still_open. */
#define LOOK_AGAIN STEP(refused = refused || finished; inside[self] = inside[self] && !refused)
#define END_BLOCK STEP(producing[self]--; inside[self] = false; left[self] = FAILURES && !refused)

proctype producer(byte self)
{
    byte blocks, seen, rest, not_counted;
    bool busy, refused, mine;
    do
    :: blocks < BLOCKS ->
        blocks++;
        left[self] = false;
        if
        :: atomic { finished -> break }
        :: !finished
        :: KILLED
        fi;
#ifdef ENTER_BEFORE_OPENING
        ENTER;
        OPEN_BLOCK;
#else
        OPEN_BLOCK;
        ENTER;
#endif
        LOOK_AGAIN;
        if
        :: INSIDE && !refused ->
            OPEN_BLOCK;
#ifdef INSIDE_COUNTS
            STEP(entered++);
#endif
            STEP(producing[self]--);
            finish_if_left()
        :: true
        fi;
#ifndef FAIL_BEHIND_THE_BLOCK
        if
        :: FAILURES && !refused -> fail()
        :: true
        fi;
#endif
#ifdef LOOK_BEFORE_END
        not_counted = self;
        look_at_all();
        END_BLOCK;
        if
        :: busy
        :: !busy -> STEP(FINISH)
        fi;
        seen = 0; busy = false; not_counted = NOBODY;
#else
#ifdef FAIL_BEHIND_THE_BLOCK
        STEP(producing[self]--; inside[self] = false; raised[self] = FAILURES; left[self] = true);
        finish_if_left();
        if
        :: FAILURES -> fail()
        :: !FAILURES
        fi;
#else
        END_BLOCK;
        finish_if_left();
#endif
#endif
    :: blocks == BLOCKS -> break
    od;
killed:
    atomic { seen = 0; rest = 0; busy = false; mine = false; refused = false; blocks = 0; gone++ };
end:
    false
}

/* ---- The dead ------------------------------------------------------------------------------- */

#define IS_DEAD(p) (p <= PRODUCERS && present[p] && !running[p])
#define NONE_DEAD !(IS_DEAD(1) || IS_DEAD(2) || IS_DEAD(3))
#ifdef MORE_LOST
#define KEEP_MORE text_more = false
#else
#define KEEP_MORE skip
#endif

/* rf_end_blocks. reap calls it after the recovery of the slots and before clear_entry. */
inline bury()
{
    STEP(if
         :: text_state == CLAIMED && text_owner == dead -> text_state = FREE; text_owner = NOBODY; text = 0; KEEP_MORE
         :: else
         fi);
#ifdef LOOK_FOR_OPEN_BLOCKS_ALONE
    STEP(had_some = producing[dead] > 0; producing[dead] = 0);
#elif defined BLOCKS_FORGOTTEN
    skip;
#else
    STEP(had_some = true; producing[dead] = 0);
#endif
#ifdef CLEARED_BEFORE_LOOK
    STEP(present[dead] = false);
#endif
#ifndef BURIED_WITHOUT_LOOK
    if
    :: had_some -> finish_if_left()
    :: !had_some
    fi;
#endif
    STEP(present[dead] = false);
    dead = NOBODY; had_some = false
}

proctype waiter(byte self)
{
    byte dead, seen, rest, not_counted;
    bool busy, had_some;
    do
    :: atomic { IS_DEAD(1) -> dead = 1 }; bury()
    :: atomic { IS_DEAD(2) -> dead = 2 }; bury()
    :: atomic { IS_DEAD(3) -> dead = 3 }; bury()
#if STOPS && !defined WAITERS_DO_NOT_LOOK
    :: finish_if_left() /* rf_reap_in_turn */
#endif
    :: atomic { gone == PRODUCERS && NONE_DEAD -> break }
    od;
#if STOPS && !defined WAITERS_DO_NOT_LOOK
    finish_if_left();
#endif
killed:
    atomic { dead = NOBODY; seen = 0; rest = 0; busy = false; had_some = false; ended_looks = ended_looks + (self == RECOVERER) };
end:
    false
}

proctype finisher(byte self)
{
    atomic { finished = true; forced = true }
end:
    false
}

/* ---- Takers, and the end -------------------------------------------------------------------- */

#define HAS_FAILED (text_state == READY || text_more)
#define MUST_BE_TOLD(p) (p <= PRODUCERS && raised[p] && left[p])

/* rf_take, rf_ring_failure. */
proctype taker()
{
end_waits:
    d_step {
        finished ->
            assert(HAS_FAILED || forced || !(MUST_BE_TOLD(1) || MUST_BE_TOLD(2) || MUST_BE_TOLD(3)));
            assert(text_state != READY || text == 2)
    }
end:
    false
}

#define OPEN_BLOCKS (producing[1] + producing[2] + producing[3])
init
{
    byte p;
    atomic {
        for (p : 1 .. PRODUCERS) { running[p] = true; present[p] = true; run producer(p) }
        p = 0;
        run taker();
        run waiter(RECOVERER);
        if
        :: CRASHES > 1 || SIDE_BY_SIDE -> run waiter(BURIER)
        :: else
        fi;
        if
        :: FINISHES -> run finisher(FINISHER)
        :: else
        fi
    };
    /* No deadlock: the ring is finished, unless too few producers have come, or a living one has a block open. */
    gone == PRODUCERS && ended_looks == 1;
    assert(finished || entered == 0 || entered < EXPECTED || stops > 0 && OPEN_BLOCKS > 0)
}
