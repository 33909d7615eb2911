/*
 * Records that are put into the middle of a handle's chain: order.c, with the taker's reads of links (find.c).
 *
 * One handle publishes RECORDS records, in publications of 1 to ROWS rows. A publication may go in front of any of the
 * chain's last publications that are READY. Its claim is dated just before the first of those was published. That is the
 * latest possible date, so the publication goes behind as many records as possible. C puts it in front of fewer, by the
 * order of slots. At the same time takers take records, and GIVE_BACKS times a taken record is made READY again.
 *
 * OTHER: another handle claims one of the slots once it is free. It publishes record X there, behind its own record Y;
 * with X_FIRST record X has no link. The threads of a handle publish one after the other, so they are one process here.
 *
 * Properties: no taker gets a record while an earlier record is READY and has never been taken. At no moment do records
 * wait for each other in a circle, so the publisher may be stopped at any step. A record is taken once, and once more
 * for each time that it was made READY again. No record is lost.
 *
 * It may not know claims, sleep or deaths: a dead taker's record is made READY again like a record that was given back.
 * A step is one atomic access of the C code.
 */
#ifndef TAKERS
#define TAKERS 2
#endif
#ifndef RECORDS
#define RECORDS 3
#endif
#ifndef ROWS
#define ROWS 1
#endif
#ifndef GIVE_BACKS
#define GIVE_BACKS 0
#endif
#ifndef OTHER
#define OTHER 0
#endif
#ifndef X_FIRST
#define X_FIRST 0
#endif
#ifndef MOST_TURNS
#define MOST_TURNS 15
#endif

#define FREE 0
#define CLAIMED 1
#define READY 2
#define TAKEN 3
/* A turn is a relink of the record in C (rf_word_relinks): its link was written anew. */
#define WORD(state, epoch, turn) (state | ((epoch) << 2) | ((turn) << 4))
#define STATE(w) (w & 3)
#define EPOCH(w) ((w >> 2) & 3)
#define TURN(w) (w >> 4)

/* rf_ready_again */
#ifdef READY_AS_NEW
#define AGAIN(epoch) WORD(READY, epoch, 0)
#else
#define AGAIN(epoch) WORD(READY, epoch, MOST_TURNS)
#endif

/* A record has the number of its slot; the numbers are in the order of publication. A link names a slot and an epoch;
 * 0 is no link. */
#define Y RECORDS
#define LINK(slot, epoch) (8 + slot + (epoch << 4))
#define LINK_SLOT(l) (l & 7)
#define LINK_EPOCH(l) (l >> 4)
#define IS_READY(slot, epoch) (STATE(words[slot]) == READY && EPOCH(words[slot]) == epoch)
#define LINK_IS_READY(l) (l != 0 && IS_READY(LINK_SLOT(l), LINK_EPOCH(l)))
#define HAS_TURNS(slot) (IS_READY(slot, 1) && TURN(words[slot]) < MOST_TURNS)
#define BIT(slot) (1 << (slot))

byte words[RECORDS + OTHER];
byte links[RECORDS + OTHER];
byte left = RECORDS + 2 * OTHER; /* the records that are not released */
byte give_backs = GIVE_BACKS;

/* Sets of records, only for the properties. */
byte earlier[RECORDS]; /* the records that go before this one */
byte fresh;            /* READY and never taken */
byte due;              /* READY, for the first time or again */

/* ---- The handle ----------------------------------------------------------------------------- */

/* link_anew: from now on `target` comes behind `before`. If not `won`, a taker took `target`. */
inline link_anew()
{
    atomic { own = links[target]; now = own; won = false };
    do
    :: atomic { HAS_TURNS(target) -> word = words[target] };
#ifdef LINK_STORED
       atomic { links[target] = LINK(before, 1); now = LINK(before, 1) };
#else
       if
       :: atomic { links[target] == now -> links[target] = LINK(before, 1); now = LINK(before, 1) }
       :: atomic { links[target] != now -> now = own; break } /* the slot has another record */
       fi;
#endif
#ifdef NO_TURN
       won = true;
       break
#else
#ifdef TURN_STORED
       atomic { words[target] = word + WORD(0, 0, 1); won = true; break }
#else
       if
       :: atomic { words[target] == word -> words[target] = word + WORD(0, 0, 1); won = true; break }
       :: atomic { words[target] != word -> skip }
       fi
#endif
#endif
    :: atomic { !HAS_TURNS(target) -> break }
    od;
    atomic {
        if
#ifndef LINK_LEFT
        :: !won && now != own && links[target] == now -> links[target] = own
#endif
        :: else
        fi;
        own = 0; now = 0; word = 0
    }
}

#define NEXT (entries - passed)

/* rf_chain_enter: the rows are READY, and the `passed` entries go behind them. */
inline enter()
{
    do
    :: atomic { passed == 0 -> break }
    :: atomic { passed > 0 -> target = firsts[NEXT]; before = end };
       link_anew();
       if
       :: atomic { won -> break }
#ifdef NOT_BEHIND
       :: atomic { !won -> passed-- }
#else
       :: atomic { !won && !IS_READY(lasts[NEXT], 1) -> passed-- }
       :: atomic { !won && IS_READY(lasts[NEXT], 1) -> target = record; before = lasts[NEXT] };
          do /* put_behind */
          :: atomic { target > end -> break }
          :: atomic { target <= end -> skip };
             link_anew();
             if
             :: atomic { won -> break }
             :: atomic { !won -> target++ }
             fi
          od;
          if
          :: atomic { target > end -> break } /* all rows were taken */
          :: atomic { target <= end -> passed-- }
          fi
#endif
       fi
    od
}

proctype publisher()
{
    byte record, end, passed, target, before, own, now, word, i;
    bool won;
    byte firsts[RECORDS], lasts[RECORDS], entries, last_link; /* the chain */
#ifdef LEAF_KEPT
    bool crossed;
#endif
    do
    :: atomic { record == RECORDS -> break }
    :: atomic { record < RECORDS -> end = record; i = record };
#if ROWS > 1
       do
       :: atomic { end + 1 < RECORDS && end + 1 < record + ROWS -> end++ }
       :: break
       od;
#endif
       do /* rf_chain_find_place; `i`: the earliest of the records that go behind */
       :: atomic {
            passed < entries && HAS_TURNS(firsts[NEXT - 1]) ->
                passed++;
                i = (firsts[NEXT] < i -> firsts[NEXT] : i)
          }
       :: break
       od;
       atomic { /* describe_slot: no other process reads the slot yet */
            links[record] = (passed == 0 -> last_link : (passed < entries -> LINK(lasts[NEXT - 1], 1) : 0));
            earlier[record] = BIT(i) - 1;
            i = record;
            do
            :: i < end ->
                links[i + 1] = LINK(i, 1);
                earlier[i + 1] = earlier[i] | BIT(i);
                i++
            :: else -> break
            od;
            i = record
       };
#ifdef LEAF_KEPT
       crossed = passed > 0;
#endif
#ifdef NEW_LINK_EARLY
       enter();
#endif
       do /* R1 */
       :: atomic {
            i <= end ->
                words[i] = WORD(READY, 1, 0);
                fresh = fresh | BIT(i);
                due = due | BIT(i);
                i++
          }
       :: atomic { i > end -> break }
       od;
#ifndef NEW_LINK_EARLY
       enter();
#endif
       atomic { /* rf_chain_append, in front of `passed` entries */
            if
#ifdef LEAF_KEPT
            :: passed == 0 && !crossed -> last_link = LINK(end, 1)
#else
            :: passed == 0 -> last_link = LINK(end, 1)
#endif
            :: else
            fi;
            i = entries;
            do
            :: i > NEXT -> firsts[i] = firsts[i - 1]; lasts[i] = lasts[i - 1]; i--
            :: else -> break
            od;
            firsts[i] = record;
            lasts[i] = end;
            entries++;
            record = end + 1;
            end = 0; passed = 0; target = 0; before = 0; i = 0; won = false
       }
    od
}

/* ---- The other handle and the takers -------------------------------------------------------- */

#if RECORDS + OTHER > 5
#define ANY_SLOT(one) :: one(0) :: one(1) :: one(2) :: one(3) :: one(4) :: one(5)
#elif RECORDS + OTHER > 4
#define ANY_SLOT(one) :: one(0) :: one(1) :: one(2) :: one(3) :: one(4)
#elif RECORDS + OTHER > 3
#define ANY_SLOT(one) :: one(0) :: one(1) :: one(2) :: one(3)
#else
#define ANY_SLOT(one) :: one(0) :: one(1) :: one(2)
#endif

#if OTHER
#define CLAIM(s) atomic { words[s] == WORD(FREE, 2, 0) -> words[s] = WORD(CLAIMED, 2, 0); slot = s }
proctype other()
{
    byte slot;
    if
    ANY_SLOT(CLAIM)
    fi;
    links[slot] = (X_FIRST -> 0 : LINK(Y, 1));
    atomic { words[slot] = WORD(READY, 2, 0); due = due | BIT(slot) }
}
#endif

/* Only a record that will be made READY again is TAKEN. Any other record is FREE as soon as it is taken: TAKEN and FREE
 * are both not READY, and the next claim of the slot may come late. */
#define COME_AGAIN(s) atomic { STATE(words[s]) == TAKEN -> words[s] = AGAIN(EPOCH(words[s])); due = due | BIT(s) }
proctype holders()
{
    do
    ANY_SLOT(COME_AGAIN)
    :: atomic { left == 0 -> break }
    od
}

#define LOOK(s) atomic { STATE(words[s]) == READY -> slot = s; seen = words[s] }
/* The swap from `seen` will fail, so the result of this look does not matter. Only a TAKEN word can return to `seen`,
 * because turns and epochs only grow. */
#define IN_VAIN (words[slot] != seen && STATE(words[slot]) != TAKEN)
proctype taker()
{
    byte slot, seen, link, hops;
    do
    :: if
       ANY_SLOT(LOOK)
       :: atomic { left == 0 -> break }
       fi;
       if /* must_wait: the link, then the word of the slot that it names. A18 <- R18 */
       :: atomic { IN_VAIN -> goto next }
       :: atomic { !IN_VAIN -> link = links[slot] }
       fi;
       if
       :: atomic { IN_VAIN -> skip }
       :: atomic {
            !IN_VAIN && LINK_IS_READY(link) ->
                link = links[slot]; /* the present link: `link` may have been replaced since */
                do
                :: hops < RECORDS && LINK_IS_READY(link) -> link = links[LINK_SLOT(link)]; hops++
                :: else -> break
                od;
                assert(hops < RECORDS)
          }
       :: atomic { !IN_VAIN && !LINK_IS_READY(link) -> skip };
          if
          :: atomic {
               words[slot] == seen ->
                   assert(due & BIT(slot));
                   assert(EPOCH(seen) != 1 || slot == Y || !(earlier[slot] & fresh));
                   assert(EPOCH(seen) != 2 || slot == Y || X_FIRST || !(BIT(Y) & fresh));
                   due = due & ~BIT(slot);
                   fresh = fresh & ~BIT(slot);
                   if
                   :: slot != Y -> earlier[slot] = 0 /* no earlier record can be fresh again */
                   :: else
                   fi;
                   if
                   :: words[slot] = WORD(FREE, EPOCH(seen) + 1, 0); left--
                   :: give_backs > 0 -> words[slot] = WORD(TAKEN, EPOCH(seen), 0); give_backs--
                   fi
             }
          :: atomic { words[slot] != seen -> skip }
          fi
       fi;
next:  atomic { slot = 0; seen = 0; link = 0; hops = 0 }
    od
}

init
{
    byte i;
    atomic {
        for (i : 0 .. RECORDS - 1) { words[i] = WORD(CLAIMED, 1, 0) }
#if OTHER
        words[Y] = WORD(READY, 1, 0);
        fresh = BIT(Y);
        due = BIT(Y);
        run other();
#endif
        run publisher();
        run holders();
        for (i : 1 .. TAKERS) { run taker() }
        i = 0
    }
}
