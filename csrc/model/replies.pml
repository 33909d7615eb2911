/*
 * Reply cells: a client asks, an engine answers, and either may die.
 *
 * It may not know the slot protocol: a request is READY, TAKEN or FREE, and is delivered again after its taker's death.
 * README.md lists the parts outside the model. A step is one atomic access of the C code. A process may be killed
 * before each step.
 */

/* ---- The configuration; check.py sets it ---------------------------------------------------- */

#ifndef CLIENTS
#define CLIENTS 2 /* at most 2; each sends one request */
#endif
#ifndef CELLS
#define CELLS 1
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#ifndef TWICE
#define TWICE 0 /* 1: the first client's request is published twice */
#endif
#ifndef HAND_ONS
#define HAND_ONS 0 /* bound on the requests that engines hand on or give back */
#endif
#ifndef DROPS
#define DROPS 0 /* 1: recovery drops the rows of the dead */
#endif

#define NOBODY 0
#define CLIENT_1 1 /* and 2 */
#define ENGINE_1 3 /* and 4 */
#define RECOVERER 5 /* represents every waiter that recovers the dead; never killed */
#define IS_ENGINE(p) (p >= ENGINE_1)

#include "replies_cells.pml"
#include "replies_client.pml"
#include "replies_engine.pml"

/* ---- The properties of the end -------------------------------------------------------------- */

/* When no process can take a step, every client has its answer or an error, or is dead. All cells and slots are free. */
proctype checker()
{
end:
    atomic {
        timeout ->
            assert(done == CLIENTS); /* no lost request and no lost wake-up */
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
