/*
 * Records that are put into the middle of a handle's chain: order.c, with the taker's look at links (take.c).
 *
 * One handle publishes O. It has claimed A and B by then, and publishes B first; so A goes in front of B, whose link is
 * written anew, unless B was taken. Then it claims and publishes C, which comes behind both. Meanwhile takers take and
 * release, and another handle claims B's slot once it is free, for X, which comes behind its own Y. The threads of a
 * handle publish one after the other, so they are one process here.
 *
 * It may not know claims, sleep or death. A step is one atomic access of the C code.
 */
#ifndef TAKERS
#define TAKERS 2
#endif

#define FREE 0
#define CLAIMED 1
#define READY 2
#define TAKEN 3
#define WORD(state, epoch, turn) (state | (epoch << 2) | (turn << 4))
#define STATE(w) (w & 3)
#define EPOCH(w) ((w >> 2) & 3)

#define O 0
#define A 1
#define B 2
#define C 3
#define Y 4
/* A link names a slot and an epoch; 0 is none. */
#define LINK(slot, epoch) (8 + slot + (epoch << 4))
#define LINK_SLOT(l) (l & 7)
#define LINK_EPOCH(l) (l >> 4)
#define IS_READY(slot, epoch) (STATE(words[slot]) == READY && EPOCH(words[slot]) == epoch)
#define LINK_IS_READY(l) (l != 0 && IS_READY(LINK_SLOT(l), LINK_EPOCH(l)))

byte words[5];
byte links[5];
byte left = 6; /* records that are not released */

/* link_anew: B's link names A from now on. `gone` where B was taken. */
inline link_b_anew()
{
    do
    :: atomic { IS_READY(B, 1) -> seen = words[B] };
       old = links[B];
       if
       :: atomic { IS_READY(B, 1) -> skip };
#ifdef LINK_STORED
          links[B] = LINK(A, 1);
#else
          if
          :: atomic { links[B] == old -> links[B] = LINK(A, 1) }
          :: atomic { links[B] != old -> goto again }
          fi;
#endif
#ifdef NO_TURN
          leaf = B;
          break
#else
          if
          :: atomic { words[B] == seen -> words[B] = seen + WORD(0, 0, 1); leaf = B; break }
          :: atomic { words[B] != seen -> skip }
          fi
#endif
       :: atomic { !IS_READY(B, 1) -> skip }
       fi;
again: skip
#ifdef LEAF_KEPT
    :: atomic { !IS_READY(B, 1) -> leaf = B; break }
#else
    :: atomic { !IS_READY(B, 1) -> leaf = A; break }
#endif
    od
}

proctype publisher()
{
    byte seen, old, leaf;
    bool passes;
    links[B] = LINK(O, 1);
    words[B] = WORD(READY, 1, 0);
    passes = IS_READY(B, 1); /* rf_chain_place */
    links[A] = (passes -> LINK(O, 1) : LINK(B, 1));
#ifdef NEW_LINK_EARLY
    if
    :: passes -> link_b_anew()
    :: !passes -> leaf = A
    fi;
    words[A] = WORD(READY, 1, 0);
#else
    words[A] = WORD(READY, 1, 0); /* R1 */
    if
    :: passes -> link_b_anew()
    :: !passes -> leaf = A
    fi;
#endif
    links[C] = LINK(leaf, 1);
    words[C] = WORD(READY, 1, 0)
}

proctype other()
{
    words[B] == WORD(FREE, 2, 0) -> words[B] = WORD(CLAIMED, 2, 0);
    links[B] = LINK(Y, 1);
    words[B] = WORD(READY, 2, 0)
}

proctype taker()
{
    byte slot, seen, link;
    do
    :: atomic { STATE(words[O]) == READY -> slot = O; seen = words[O] }; goto look
    :: atomic { STATE(words[A]) == READY -> slot = A; seen = words[A] }; goto look
    :: atomic { STATE(words[B]) == READY -> slot = B; seen = words[B] }; goto look
    :: atomic { STATE(words[C]) == READY -> slot = C; seen = words[C] }; goto look
    :: atomic { STATE(words[Y]) == READY -> slot = Y; seen = words[Y] }; goto look
    :: left == 0 -> break
look: /* must_wait: the link, then the word that it names. A18 <- R18 */
       link = links[slot];
       if
       :: atomic { LINK_IS_READY(link) -> goto next }
       :: atomic { !LINK_IS_READY(link) -> skip }
       fi;
       if
       :: atomic {
            words[slot] == seen ->
                words[slot] = WORD(TAKEN, EPOCH(seen), 0);
                assert(slot != A || !IS_READY(O, 1));
                assert(slot != B || EPOCH(seen) != 1 || !IS_READY(O, 1));
                assert(slot != C || !(IS_READY(O, 1) || IS_READY(A, 1) || IS_READY(B, 1)));
                assert(slot != B || EPOCH(seen) != 2 || !IS_READY(Y, 1))
          };
          atomic { words[slot] = WORD(FREE, (EPOCH(seen) + 1), 0); left-- }
       :: atomic { words[slot] != seen -> skip }
       fi;
next:  slot = 0; seen = 0; link = 0
    od
}

init
{
    byte i;
    atomic {
        words[O] = WORD(READY, 1, 0);
        words[A] = WORD(CLAIMED, 1, 0);
        words[B] = WORD(CLAIMED, 1, 0);
        words[C] = WORD(CLAIMED, 1, 0);
        words[Y] = WORD(READY, 1, 0);
        run publisher();
        run other();
        for (i : 1 .. TAKERS) { run taker() }
    }
}
