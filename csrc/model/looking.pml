/*
 * Which waiter looks for the dead, and when: reaper.c, with the patient sleep of take.c.
 *
 * Time is in ticks of half a slice: RF_SLICE_NS is 2 ticks, TURN_NS is 1. It advances when no running waiter has work.
 * A waiter may be killed, or stopped and continued, between any two steps. A tick is the integer part of a time. The
 * fraction is not modelled. It decides whether a slice has ended in its second tick, so the model allows both.
 *
 * It may not know the condition that a waiter waits for, nor how a process is found dead: a look reaps any of the
 * dead, or none.
 */
#ifndef WAITERS
#define WAITERS 4 /* or 3 */
#endif
#ifndef FEW
#define FEW 1
#endif
#ifndef KILLS /* the number of waiters that may be killed in all */
#define KILLS 0
#endif
#ifndef STOPS /* the number of waiters that may be stopped at a time */
#define STOPS 0
#endif
#ifndef LOOKERS_ALONE /* 1: only the last looker may be killed or stopped */
#define LOOKERS_ALONE 0
#endif
#ifndef LEFT /* 1: one more waiter was the last looker, and has left */
#define LEFT 0
#endif

#define SLICE 2
#define MOST (WAITERS + 3) /* the longest time in ticks; a longer time counts as this one */
#define PHASES (WAITERS + LEFT <= 4 -> 6 : 12) /* a common multiple of all rounds */
#define NOBODY WAITERS

/* The header. */
byte since = MOST + SLICE;    /* ticks since header->reaped_ns */
byte looker = NOBODY; /* the waiter that wrote that date: ring->reaped_ns, ring->reaped_by */
byte waiters, planned;

/* The entries. */
bool waits[WAITERS], absent[WAITERS];
byte turn[WAITERS];

/* The waiters. */
bool dead[WAITERS], stopped[WAITERS], asleep[WAITERS];
bool told[WAITERS];   /* the event's sequence is not the key of this waiter any more */
bool same[WAITERS];   /* header->reaped_ns has the value that this waiter read */
byte left[WAITERS];   /* ticks until this waiter's sleep ends */
byte age[WAITERS];    /* ticks since this waiter read the clock, while it is awake */
byte phase;           /* the number of this tick, modulo PHASES */
byte acting = NOBODY; /* the waiter that is awake and not stopped */
byte kills = KILLS, stops = STOPS;

/* For the properties. A waiter that was stopped during a look ends it late, and writes old numbers. So with stops
 * properties 2 and 4 are not checked in full. */
byte rest;        /* ticks since the last slice was taken */
bool steady; /* the taker of the last slice took the one before too, and all others sleep by their present turns */
bool unhurt; /* since then the taker of the slice was not stopped */
bool calm;        /* no waiter but the looker was killed, stopped or continued since then, or was dead or stopped before */
byte by[WAITERS]; /* the number of waiters that this sleeper planned by; 0 if it sleeps for a slice */
byte spared = NOBODY; /* a waiter that is never killed or stopped */

#define RUNS(w) (!dead[w] && !stopped[w])
#define IS_DUE(w) (asleep[w] && !stopped[w] && (told[w] || left[w] == 0))
#define MAY_FAIL(w) (w != spared && (!LOOKERS_ALONE || looker == w))
#if WAITERS == 3
#define NOBODY_IS_DUE !(acting != NOBODY || IS_DUE(0) || IS_DUE(1) || IS_DUE(2))
#else
#define NOBODY_IS_DUE !(acting != NOBODY || IS_DUE(0) || IS_DUE(1) || IS_DUE(2) || IS_DUE(3))
#endif
#define MAY_BE_KILLED(w) (kills > 0 && MAY_FAIL(w))
#define COUNT_UP(ticks, most) ticks = ticks + (ticks < most)

/* One step. Between two steps a waiter may be killed, or stopped by `fault`. */
#define STEP(what) \
    if \
    :: atomic { acting == self -> what } \
    :: atomic { MAY_BE_KILLED(self) -> die(); goto killed } \
    fi

inline no_calm_but_for_the_looker(w)
{
    calm = calm && looker == w
}

inline die()
{
    kills--;
    no_calm_but_for_the_looker(self);
    dead[self] = true;
    acting = (acting == self -> NOBODY : acting);
    stops = stops + stopped[self];
    stopped[self] = false; asleep[self] = false; told[self] = false; same[self] = false;
    left[self] = 0; age[self] = 0; by[self] = 0;
    i = 0; count = 0; was = 0; early = false
}

inline take_slice()
{
    assert(since - age[self] >= SLICE); /* 1: the dates of two looks are at least a slice apart */
    steady = looker == self && waiters > FEW && waiters == WAITERS - 1;
    since = age[self];
    looker = self;
    rest = 0;
    calm = true;
    unhurt = true;
    for (i : 0 .. WAITERS - 1) {
        same[i] = false;
        steady = steady && (i == self || (RUNS(i) && asleep[i] && !told[i] && by[i] == waiters &&
                                          (phase + left[i]) % waiters == turn[i] % waiters));
        calm = calm && (i == self || (!stopped[i] && !(dead[i] && waits[i] && !absent[i])))
    }
    i = 0
}

inline give_turns()
{
    count = 0;
    for (i : 0 .. WAITERS - 1) {
        if
        :: dead[i] && !absent[i] -> absent[i] = true; turn[i] = 0; waits[i] = false
        :: skip
        fi;
        if
#ifdef GAPS
        :: waits[i] && !absent[i] -> turn[i] = i; count++
#else
        :: waits[i] && !absent[i] -> turn[i] = count; count++
#endif
        :: else
        fi
    }
    i = 0
}

inline wake_patient()
{
    for (i : 0 .. WAITERS - 1) { told[i] = !dead[i] }
    i = 0
}

/* rf_patience_ends, with the time that the waiter read. */
inline plan()
{
#ifdef LOOKER_TAKES_TURNS
    by[self] = (waiters <= FEW -> 0 : waiters);
#else
    by[self] = (waiters <= FEW || looker == self -> 0 : waiters);
#endif
    if
    :: by[self] == 0 -> left[self] = SLICE
    :: else -> /* earliest + 1 is in tick: phase - age + SLICE + 1 */
       left[self] = SLICE + 1 +
           (turn[self] + 2 * PHASES + age[self] - phase - SLICE - 1) % waiters
    fi;
    left[self] = (left[self] > age[self] -> left[self] - age[self] : 0)
}

proctype waiter(byte self)
{
    byte i, count, was;
    bool early; /* this waiter was woken before its time */
    goto awake;
again:
    STEP(
        age[self] = 0;
        if
#ifdef OFFICE
        :: since >= SLICE && looker != self && looker != NOBODY && !dead[looker] -> goto sleep
        :: !(since >= SLICE && looker != self && looker != NOBODY && !dead[looker]) -> skip
        fi;
        if
#endif
        :: since > SLICE || (since == SLICE && looker == self && !early) -> same[self] = true
        :: since == SLICE && (looker != self || early) -> same[self] = true
        :: since == SLICE && (looker != self || early) -> skip
        :: since < SLICE -> skip
        fi;
        early = false;
        if
        :: !same[self] -> goto sleep
        :: else
        fi
    );
    STEP(
        if
#ifdef SLICE_STORED
        :: take_slice()
#else
        :: same[self] -> take_slice()
        :: else -> goto sleep
#endif
        fi
    );
    STEP(give_turns(); was = planned);
#ifndef RAISED_LATE
    if
    :: count > was -> STEP(planned = count)
    :: else
    fi;
#endif
    STEP(waiters = count);
#ifdef LOWERED_EARLY
    if
    :: count < was / 2 -> STEP(planned = count)
    :: else
    fi;
#endif
    if
    :: count < was / 2 && was > FEW -> STEP(wake_patient())
    :: else
    fi;
#ifdef RAISED_LATE
    if
    :: count > was -> STEP(planned = count)
    :: else
    fi;
#endif
    if
    :: count < was / 2 -> STEP(planned = count)
    :: else
    fi;
sleep:
    count = 0;
    was = 0;
    STEP(told[self] = false; plan()); /* this waiter reads its key before the number of waiters */
    STEP(
        age[self] = 0;
        if
        :: told[self] -> early = left[self] > 0; left[self] = 0; by[self] = 0; goto again
        :: else -> waits[self] = true; asleep[self] = true; acting = NOBODY
        fi
    );
awake:
    if
    :: atomic {
        IS_DUE(self) && acting == NOBODY ->
            early = left[self] > 0;
            waits[self] = false; asleep[self] = false; told[self] = false; left[self] = 0; by[self] = 0;
            acting = self
       }
    :: atomic { MAY_BE_KILLED(self) -> die(); goto killed }
    fi;
    goto again;

killed:
    skip
}

/* A waiter that is stopped in its sleep is equal to one that is stopped when its sleep ends. */
proctype fault(byte w)
{
    do
    :: atomic {
        stops > 0 && (acting == w || IS_DUE(w)) && MAY_FAIL(w) ->
            stops--;
            acting = (acting == w -> NOBODY : acting);
            stopped[w] = true;
            unhurt = unhurt && looker != w;
            no_calm_but_for_the_looker(w)
       }
    :: atomic {
        stopped[w] && (acting == NOBODY || asleep[w]) ->
            stops++;
            stopped[w] = false;
            acting = (asleep[w] -> acting : w);
            no_calm_but_for_the_looker(w)
       }
    od
}

proctype time()
{
    byte i;
    bool others;
    do
    :: atomic {
        NOBODY_IS_DUE ->
            phase = (phase + 1) % PHASES;
            COUNT_UP(since, MOST + SLICE);
            COUNT_UP(rest, MOST + SLICE);
            others = false;
            for (i : 0 .. WAITERS - 1) {
                if
                :: asleep[i] -> left[i] = left[i] - (left[i] > 0)
                :: !asleep[i] && !dead[i] && stopped[i] -> COUNT_UP(age[i], MOST)
                :: else
                fi;
                others = others || (RUNS(i) && i != looker);
                assert(STOPS || !RUNS(i) || by[i] <= planned) /* 4: one that planned by more was woken */
            }
            i = 0;
            /* 2: the next look, if only the last looker fails. */
            assert(!unhurt || looker == NOBODY || !RUNS(looker) || rest <= SLICE);
            assert(STOPS || !calm || !steady || rest <= SLICE + 1);
            assert(!calm || !others || WAITERS > FEW || rest <= 2 * SLICE);
            /* 3: the next look, if one waiter runs. */
            assert(spared == NOBODY || rest <= by[spared] + 4);
            others = false
       }
    od
}

init
{
    byte i;
    atomic {
        if
        :: LEFT -> waiters = WAITERS; planned = WAITERS; since = 0
        :: else
        fi;
        if
        :: KILLS + STOPS > 0 && !LOOKERS_ALONE -> select (i : 0 .. WAITERS - 1); spared = i
        :: else
        fi;
        for (i : 0 .. WAITERS - 1) {
            asleep[i] = true;
            turn[i] = (LEFT -> i : 0);
            run waiter(i);
            if
            :: STOPS > 0 -> run fault(i)
            :: else
            fi
        }
        run time()
    }
}
