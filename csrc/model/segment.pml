/*
 * The parts of the segment that the protocol needs (layout.h, atomics.h); the definitions of a step and of a
 * crash; the variables of the properties.
 *
 * It may not know the order of steps of any participant.
 */

/* ---- The configuration; check.py sets it ---------------------------------------------------- */

#ifndef PRODUCERS
#define PRODUCERS 2
#endif
#ifndef TAKERS
#define TAKERS 2
#endif
#ifndef SLOTS
#define SLOTS 3 /* at most */
#endif
#ifndef CRASHES
#define CRASHES 1 /* at most */
#endif
#ifndef WAITING
#define WAITING 0 /* 1: with the event count; 0: a process that finds no slot takes no step until it would */
#endif

#ifndef VICTIM
#define VICTIM ANYBODY /* the process that may crash: PRODUCER_1, TAKER_1 or OWNER */
#endif

#ifndef FINE
#define FINE 1 /* 0: steps that no other process can come between are one step (README.md) */
#endif
#ifndef RECORDS
#define RECORDS 1 /* 0: a slot has a state and an owner only. With WAITING; README.md shows that it is enough */
#endif
#ifndef CALLS
#define CALLS 0 /* 1: a producer that waits notifies takers; see last_look in producer.pml */
#endif
#ifndef ROOM
#define ROOM 1 /* 2: producers wish for 1 or 2 free slots, and takers leave no room unused. With CALLS */
#endif
#ifndef PROGRESS
#define PROGRESS 0 /* 1: a process looks again only after a notification; wake-ups without a change are counted */
#endif
#ifndef ROWS
#define ROWS 1 /* 2: claims and batches have one row or two: runs.pml. With FINE, without WAITING */
#endif
#ifndef TAKE_BACKS
#define TAKE_BACKS 0 /* bound on the claims of living producers that are taken back. With ROWS=2 */
#endif
#ifndef GIVE_BACKS
#define GIVE_BACKS 0 /* bound on the records that takers give back without reading them */
#endif
#ifndef SYMMETRY
#define SYMMETRY 0 /* 1: symmetry.c stores one state for all symmetric states */
#endif

/* ---- Steps and the crash -------------------------------------------------------------------- */

#define NOBODY 0
#define PRODUCER_1 1 /* and 2 */
#define TAKER_1 3    /* and 4 */
#define OWNER 5      /* of the segment: it calls rf_finish */
#define RECOVERER 6  /* represents every waiter that recovers the dead */

byte crashed = NOBODY; /* the process that was killed: one at most */
byte departed;         /* the number of participants that have ended, killed or not */

#define ANYBODY 0
#define IS_VICTIM(self, first) (self == first && (VICTIM == ANYBODY || VICTIM == first))

/* All producers run the same code, and so do all takers: it is enough that the first of each may be killed.
 * symmetry.c merges states in which two of them have changed places, so with it both may be killed. */
#define MAY_CRASH(self) \
    (CRASHES && crashed == NOBODY && \
     (IS_VICTIM(self, PRODUCER_1) || SYMMETRY && IS_VICTIM(self - 1, PRODUCER_1) || IS_VICTIM(self, OWNER) || \
      TAKERS > 1 && /* a taker remains */ \
          (IS_VICTIM(self, TAKER_1) || SYMMETRY && IS_VICTIM(self - 1, TAKER_1))))
#define TAKER_CRASHED (crashed == TAKER_1 || crashed == TAKER_1 + 1)

#define KILLED \
    atomic { MAY_CRASH(self) -> crashed = self; DEPART; CRASHED; goto gone }

/* One atomic access of the C code, with the private work beside it. The process may be killed before it. */
#define STEP(...) \
    if \
    :: atomic { __VA_ARGS__ } \
    :: KILLED \
    fi

/* ---- The words ------------------------------------------------------------------------------ */

#define FREE 0
#define CLAIMED 1
#define READY 2
#define TAKEN 3

/* As in layout.h, with fewer bits. */
#define WORD(state, owner, epoch) ((state) | (owner) << 3 | (epoch) << 6)
#define STATE(w) ((w) & 7)
#define WORD_OWNER(w) ((w) >> 3 & 7)
#define EPOCH(w) ((w) >> 6)

/* rf_slot.link: names a record by slot and epoch; 0 names none. */
#define LINK(s, epoch) ((s) << 4 | (epoch))
#define LINK_SLOT(l) ((l) >> 4)
#define LINK_IS_READY(l, w) (STATE(w) == READY && EPOCH(w) == ((l) & 15))

short words[3] = WORD(FREE, NOBODY, 1);
byte links[3];    /* rf_slot.link */
byte payloads[3]; /* the record whose bytes are in the slot: RECORD, or 0 */
bool finished;    /* header->finished, or header->closed */

/* The private variables of each process. They are global only for REMEMBERED, FORGET_LINKS and IS_FRESH. */
byte slot_of[7];      /* the slot that it reads or holds */
short seen_by[7];     /* the slot's word, as last read or written; 0: none */
byte before_by[7];    /* of a taker: the link that it follows */
byte last_link_of[7]; /* of a producer: names the record that it published last */
byte rest_of[7];      /* the slots that its search has not read yet: a mask */
bool ended_by[7];     /* of a taker: `finished` was set when its look began */
bool claimed_by[7];   /* of a taker: it saw a claim since then */
#define slot slot_of[self]
#define seen seen_by[self]
#define before before_by[self]
#define last_link last_link_of[self]
#define rest rest_of[self]
#define ended ended_by[self]
#define claimed claimed_by[self]
#define word words[slot]
#define link links[slot]
#define payload payloads[slot]

/* ---- Unbounded epochs ----------------------------------------------------------------------- */

/* Words and links are compared for equality only. So a slot gets, in place of epoch + 1, the lowest epoch that no
 * process remembers for it. The number of laps is unbounded, and the number of states is finite. A link to a record
 * that was released can never make a taker wait again: it becomes 0. */
#define REMEMBERS(other, epoch) \
    (other != self && seen_by[other] != 0 && slot_of[other] == slot && EPOCH(seen_by[other]) == epoch)
#if ROWS > 1
#define NEXT_OF(s) ((s) + 1 == SLOTS -> 0 : (s) + 1)
short second_by[7]; /* the word of the next slot, as last read or written; 0: none */
#define second second_by[self]
#define FORGET_SLOT slot = 0; seen = 0; second = 0
#define KNOWS_AS_SECOND(other, i) (second_by[other] != 0 && NEXT_OF(slot_of[other]) == i)
#define REMEMBERS_SECOND(other, epoch) \
    (other != self && KNOWS_AS_SECOND(other, slot) && EPOCH(second_by[other]) == epoch)
#else
#define FORGET_SLOT slot = 0; seen = 0
#define KNOWS_AS_SECOND(other, i) false
#define REMEMBERS_SECOND(other, epoch) false
#endif
#define REMEMBERED(epoch) \
    (REMEMBERS(1, epoch) || REMEMBERS(2, epoch) || REMEMBERS(3, epoch) || REMEMBERS(4, epoch) || \
     REMEMBERS_SECOND(1, epoch) || REMEMBERS_SECOND(2, epoch) || \
     REMEMBERS_SECOND(3, epoch) || REMEMBERS_SECOND(4, epoch))
#if defined NO_EPOCH || !RECORDS
#define NEXT_EPOCH EPOCH(seen)
#define FORGET_LINKS skip
#else
#define NEXT_EPOCH (!REMEMBERED(1) -> 1 : (!REMEMBERED(2) -> 2 : (!REMEMBERED(3) -> 3 : (!REMEMBERED(4) -> 4 : 5))))
#define FORGET_LINK(l) l = (l == LINK(slot, EPOCH(seen)) -> 0 : l)
#define FORGET_LINKS \
    link = 0; \
    FORGET_LINK(links[0]); FORGET_LINK(links[1]); FORGET_LINK(links[2]); \
    FORGET_LINK(last_link_of[PRODUCER_1]); FORGET_LINK(last_link_of[PRODUCER_1 + 1]); \
    FORGET_LINK(before_by[TAKER_1]); FORGET_LINK(before_by[TAKER_1 + 1])
#endif

/* release.c: the swap of rf_free_slot, and of release_rows for one row. R2 -> A2 (claim_slot). */
#define SWAP_TO_FREE \
    assert(word == seen); \
    FORGET_LINKS; \
    payload = 0; \
    word = WORD(FREE, NOBODY, NEXT_EPOCH); \
    WORD_CHANGED; \
    CHANGED(WRITABLE)

/* ---- Searching ------------------------------------------------------------------------------ */

/* The cursors are hints and any value is correct, so a search starts at any slot and goes on in any order. All
 * free slots that no process remembers are symmetric: a search needs to read only the first of them. */
#define KNOWS(other, i) (seen_by[other] != 0 && slot_of[other] == i || KNOWS_AS_SECOND(other, i))
#define IS_FRESH(i) \
    (words[i] == WORD(FREE, NOBODY, 1) && !KNOWS(1, i) && !KNOWS(2, i) && !KNOWS(3, i) && !KNOWS(4, i) && \
     rest_of[1] == 0 && rest_of[2] == 0 && rest_of[3] == 0 && rest_of[4] == 0)
#if SYMMETRY
#define MAY_LOOK_AT(i) (i < SLOTS)
#else
#define MAY_LOOK_AT(i) \
    (i < SLOTS && !(IS_FRESH(i) && (i > 0 && IS_FRESH(0) || i > 1 && IS_FRESH(1))))
#endif

/* The load that finds a word in the wished state, with the work that follows in the same step. */
#define FIND_AT(i, wished, ...) \
    atomic { AWAKE && MAY_LOOK_AT(i) && STATE(words[i]) == wished -> slot = i; seen = word; __VA_ARGS__ }
#define FIND(wished, ...) \
    FIND_AT(0, wished, __VA_ARGS__) :: FIND_AT(1, wished, __VA_ARGS__) :: FIND_AT(2, wished, __VA_ARGS__)

/* Loads of words, one after the other, until no slot is left, or until one word has not `passed`. */
#if WAITING
#define IS_TURN(i) (rest & 1 << i)
#else /* only rf_count_states decides, and it reads the slots in order */
#define IS_TURN(i) ((rest & 1 << i) && (rest & (1 << i) - 1) == 0)
#endif
#define NOT_AT(i, passed) \
    atomic { \
        IS_TURN(i) && passed(words[i]) -> \
            NOTE(words[i]); rest = rest & ~(1 << i); \
            if \
            :: rest == 0 -> break \
            :: else \
            fi \
    }
#define FOUND_AT(i, passed) \
    atomic { IS_TURN(i) && !passed(words[i]) -> rest = 0; FORGET_LOOK; FORGET_KEY; goto look }
#define FIND_NONE(passed) \
    do \
    :: NOT_AT(0, passed) :: NOT_AT(1, passed) :: NOT_AT(2, passed) \
    :: FOUND_AT(0, passed) :: FOUND_AT(1, passed) :: FOUND_AT(2, passed) \
    :: KILLED \
    od
#define ALL_SLOTS ((1 << SLOTS) - 1)

/* ---- Variables of the properties ------------------------------------------------------------ */

/* A record is identified by its place among the records of its producer that have not been taken yet. 1 is the
 * next one; 0 has been taken. */
#define RECORD(producer, place) ((producer) << 4 | (place))
#define RECORD_PRODUCER(r) ((r) >> 4)
#define RECORD_PLACE(r) ((r) & 15)

byte reader[3];   /* the taker that may be reading the payload */
bool again[3];    /* the record may be taken once more: its taker died or gave it back */
byte untaken[3];  /* of each producer: records published and never taken yet */
byte under_way;   /* records published and not yet released */
#if GIVE_BACKS
byte given_back;  /* the records given back so far */
#endif
bool recovered;

#define IS_SLOT(i, state) (i < SLOTS && STATE(words[i]) == state)
#define SOME_SLOT_IS(state) (IS_SLOT(0, state) || IS_SLOT(1, state) || IS_SLOT(2, state))
#define SOME_SLOT_IS_NOT(state) \
    (STATE(words[0]) != state || SLOTS > 1 && STATE(words[1]) != state || SLOTS > 2 && STATE(words[2]) != state)

/* No torn record: the process that writes a payload holds the slot, and no other process may read it. */
#define CHECK_WRITE assert(word == seen && STATE(word) == CLAIMED && WORD_OWNER(word) == self && reader[slot] == NOBODY)

/* No doubled record, and the order of each producer. A record is taken after all records that its producer published
 * before it. It is taken again only after recovery or its taker made it READY again. */
#define MOVE_UP(i) \
    payloads[i] = (RECORD_PRODUCER(payloads[i]) == RECORD_PRODUCER(payload) && RECORD_PLACE(payloads[i]) > 0 && \
                   i != slot -> payloads[i] - 1 : payloads[i])
#if RECORDS
#define CHECK_TAKE \
    assert(payload != 0 && reader[slot] == NOBODY); \
    if \
    :: again[slot] -> again[slot] = false; assert(RECORD_PLACE(payload) == 0) \
    :: else -> assert(RECORD_PLACE(payload) == 1); \
       MOVE_UP(0); MOVE_UP(1); MOVE_UP(2); \
       payload = payload - 1; \
       untaken[RECORD_PRODUCER(payload)]-- \
    fi; \
    reader[slot] = self
#else
#define CHECK_TAKE assert(reader[slot] == NOBODY); reader[slot] = self
#endif

/* A process that ends, killed or not, remembers nothing and reads no payload. */
#define NO_LONGER_READ_BY(self, i) reader[i] = (reader[i] == self -> NOBODY : reader[i])
#define DEPART \
    NO_LONGER_READ_BY(self, 0); NO_LONGER_READ_BY(self, 1); NO_LONGER_READ_BY(self, 2); \
    FORGET_SLOT; FORGET_KEY; rest = 0; before = 0; last_link = 0; ended = false; claimed = false; departed++
