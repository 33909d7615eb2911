/*
 * Reply cells: a client asks, an engine answers, either may die.
 *
 * Of the ring the model has what a request is: READY, TAKEN or FREE, delivered again when its taker died. README.md says
 * what is left out. A step is one atomic access of the C code; a process may be killed ahead of each.
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

#include "replies_cells.pml"
#include "replies_client.pml"
#include "replies_engine.pml"

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
