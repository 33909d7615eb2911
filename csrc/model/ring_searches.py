"""The configurations and mutations of ring.pml: slots, the event count, runs."""

from __future__ import annotations

from searches import Bitstate, Configuration, Mutation, Symmetry

ALL = {"PRODUCERS": 2, "TAKERS": 2}
SLOTS_3 = ALL | {"SLOTS": 3, "FINE": 0}
SLOTS_2_FINE = ALL | {"SLOTS": 2, "FINE": 1}
WAITING = ALL | {"FINE": 0, "WAITING": 1, "RECORDS": 0, "SYMMETRY": 1}
WAITING_RECORDS = WAITING | {"RECORDS": 1}
GIVEN_BACK_2 = SLOTS_3 | {"SLOTS": 2, "CRASHES": 1, "GIVE_BACKS": 2}
WAITING_2_GIVEN_BACK = WAITING | {"SLOTS": 2, "CRASHES": 0, "GIVE_BACKS": 1}
WAITING_1_GIVEN_BACK = WAITING_2_GIVEN_BACK | {"PRODUCERS": 1}

# Producers wish for one free slot or two; takers leave no room unused.
ROOM = WAITING | {"SLOTS": 2, "CRASHES": 0, "ROOM": 2, "CALLS": 1}
ROOM_1_TAKER = ROOM | {"TAKERS": 1}
PROGRESS = ROOM_1_TAKER | {"PROGRESS": 1}
# Claims and batches of one row or two.
RUNS = {"PRODUCERS": 1, "TAKERS": 1, "SLOTS": 3, "FINE": 1, "CRASHES": 0, "ROWS": 2}
RUNS_TAKEN_BACK = RUNS | {"TAKE_BACKS": 1}

CONFIGURATIONS = [
    Configuration("slots: 2 producers, 2 takers, 3 slots, a crash", SLOTS_3 | {"CRASHES": 1}),
    Configuration("slots: 2 producers, 2 takers, 2 slots, a crash", SLOTS_3 | {"SLOTS": 2, "CRASHES": 1}, smoke=True),
    Configuration("slots, every step: 2 producers, 2 takers, 2 slots", SLOTS_2_FINE | {"CRASHES": 0}),
    Configuration(
        "slots, every step: 1 producer, 2 takers, 2 slots, a crash", SLOTS_2_FINE | {"PRODUCERS": 1, "CRASHES": 1}
    ),
    Configuration(
        "event count: 1 producer, 2 takers, 2 slots", WAITING | {"PRODUCERS": 1, "SLOTS": 2, "CRASHES": 0}, smoke=True
    ),
    Configuration("event count: 2 producers, 2 takers, 3 slots, no crash", WAITING | {"SLOTS": 3, "CRASHES": 0}),
    Configuration("event count: 2 producers, 2 takers, 3 slots, a crash", WAITING | {"SLOTS": 3, "CRASHES": 1}),
    Configuration(
        "event count, producers call takers: 2 and 1, 2 slots, a crash",
        WAITING | {"TAKERS": 1, "SLOTS": 2, "CRASHES": 1, "CALLS": 1},
    ),
    Configuration("event count, room: 2 producers, 1 taker, 2 slots", ROOM_1_TAKER),
    Configuration("event count, room: 1 producer, 2 takers, 3 slots", ROOM | {"PRODUCERS": 1, "SLOTS": 3}),
    Configuration(
        "event count, room: 1 producer, 2 takers, 2 slots, a crash", ROOM | {"PRODUCERS": 1, "CRASHES": 1}, long=True
    ),
    Configuration("event count, no wake-ups without end: 2 and 1, 2 slots", PROGRESS, smoke=True),
    Configuration("event count, no wake-ups without end: 2 and 1, 1 slot", PROGRESS | {"SLOTS": 1}),
    Configuration("runs: 1 producer, 1 taker, 3 slots", RUNS),
    Configuration("runs: 1 producer, 2 takers, 2 slots", RUNS | {"TAKERS": 2, "SLOTS": 2}),
    Configuration("runs: 1 producer, 1 taker, 3 slots, a claim taken back", RUNS_TAKEN_BACK, smoke=True),
    Configuration("slots, given back: 2 producers, 2 takers, 2 slots, a crash", GIVEN_BACK_2, smoke=True),
    Configuration(
        "slots, given back: 2 producers, 2 takers, 3 slots, a crash",
        GIVEN_BACK_2 | {"SLOTS": 3, "GIVE_BACKS": 1},
    ),
    Configuration("slots, every step, given back: 2 and 2, 2 slots", SLOTS_2_FINE | {"CRASHES": 0, "GIVE_BACKS": 1}),
    Configuration(
        "slots, every step, given back: 1 and 2, 2 slots, a crash",
        SLOTS_2_FINE | {"PRODUCERS": 1, "CRASHES": 1, "GIVE_BACKS": 2},
    ),
    Configuration("event count, given back: 1 producer, 2 takers, 2 slots", WAITING_1_GIVEN_BACK, smoke=True),
    Configuration("event count, given back: 2 and 2, 2 slots, no crash", WAITING_2_GIVEN_BACK),
    Configuration("event count, given back: 1 and 2, 2 slots, a crash", WAITING_1_GIVEN_BACK | {"CRASHES": 1}),
    Configuration("both: 2 producers, 2 takers, 1 slot, no crash", WAITING_RECORDS | {"SLOTS": 1, "CRASHES": 0}),
    Configuration("both: 2 producers, 2 takers, 1 slot, a crash", WAITING_RECORDS | {"SLOTS": 1, "CRASHES": 1}),
    Configuration("both: 2 producers, 2 takers, 2 slots", WAITING_RECORDS | {"SLOTS": 2, "CRASHES": 0}, long=True),
]

SYMMETRIES = [
    Symmetry(
        "symmetry, given back: 1 producer, 2 takers, 2 slots",
        WAITING_RECORDS | {"PRODUCERS": 1, "SLOTS": 2, "CRASHES": 0, "GIVE_BACKS": 1},
    ),
    Symmetry(
        "symmetry: 1 producer, 2 takers, 2 slots, a crash",
        WAITING | {"PRODUCERS": 1, "SLOTS": 2, "CRASHES": 1},
    ),
    Symmetry("symmetry: 2 producers, 1 taker, 2 slots", WAITING_RECORDS | {"TAKERS": 1, "SLOTS": 2, "CRASHES": 0}),
    Symmetry("symmetry, room: 2 producers, 1 taker, 1 slot", ROOM_1_TAKER | {"SLOTS": 1}),
    Symmetry(
        "symmetry: 1 producer, 1 taker, 3 slots",
        WAITING_RECORDS | {"PRODUCERS": 1, "TAKERS": 1, "SLOTS": 3, "CRASHES": 0},
        smoke=True,
    ),
]

BITSTATES = [
    Bitstate("both: 2 producers, 2 takers, 3 slots, a crash", WAITING_RECORDS | {"SLOTS": 3, "CRASHES": 1}),
]

STEPS = SLOTS_2_FINE | {"CRASHES": 0}
STEPS_AND_CRASH = SLOTS_2_FINE | {"CRASHES": 1}
STEPS_GIVEN_BACK = STEPS | {"PRODUCERS": 1, "GIVE_BACKS": 1}
WAITING_2 = WAITING | {"SLOTS": 2, "CRASHES": 0}
WAITING_2_AND_CRASH = WAITING | {"SLOTS": 2, "CRASHES": 1}

MUTATIONS = [
    Mutation("READY_BEFORE_PAYLOAD", "R1: the word is READY before the payload is written", STEPS, smoke=True),
    Mutation("READY_BEFORE_LINK", "R1: the word is READY before the link is written", STEPS),
    Mutation("RELEASE_BEFORE_READ", "R2: the word is FREE before the payload has been read", STEPS, smoke=True),
    Mutation("NO_EPOCH", "a slot is freed without a new epoch", STEPS, smoke=True),
    Mutation("NO_LINK_CHECK", "takers do not follow links", STEPS, smoke=True),
    Mutation("WORD_READ_ANEW", "take_slot swaps from a word that it read after the link", STEPS),
    Mutation("BLIND_CLAIM", "a claim is stored without a compare-and-swap", STEPS),
    Mutation("BLIND_TAKE", "a take is stored without a compare-and-swap", STEPS),
    Mutation("NO_LOOK_BEHIND_CLAIM", "F3: no look at `finished` after the claim", STEPS),
    Mutation("FINISHED_READ_LATE", "F4: `finished` is read after the words", STEPS),
    Mutation("CLAIMED_OVERLOOKED", "a taker does not wait for a finished ring's last claims", STEPS),
    Mutation("NO_REDELIVERY", "recovery frees a dead taker's record", STEPS_AND_CRASH, smoke=True),
    Mutation("CLAIMS_FORGOTTEN", "recovery leaves a dead producer's claim as it is", STEPS_AND_CRASH),
    Mutation("RECOVERS_THE_LIVING", "recovery does not check that the owner is dead", STEPS_AND_CRASH),
    Mutation("NO_SECOND_LOOK", "a waiter does not look between its wish and its sleep", WAITING_2, smoke=True),
    Mutation("WISH_AFTER_LOOK", "F2: a waiter leaves its wish after its last look", WAITING_2),
    Mutation("KEY_AFTER_LOOK", "A5: a waiter reads the sequence after its last look", WAITING_2),
    Mutation("NOTIFY_BEFORE_CHANGE", "F1: the publisher looks for waiters before READY", WAITING_2),
    Mutation("WISH_WITHDRAWN_LATE", "wake_all withdraws the wish after it moves the sequence", WAITING_2),
    Mutation("WAKE_ONE", "wake_all wakes only one sleeper", WAITING_2),
    Mutation("RELEASE_SILENT", "release does not notify producers", WAITING_2),
    Mutation("UNCLAIM_SILENT", "rf_unclaim in a finished ring does not notify takers", WAITING_2),
    Mutation("FINISH_SILENT", "rf_finish does not notify", WAITING_2),
    Mutation(
        "GIVE_BACK_SILENT",
        "a taker that gives a record back does not notify takers",
        WAITING_1_GIVEN_BACK,
        smoke=True,
    ),
    Mutation("GIVE_BACK_BLIND", "a record is given back twice, without a compare-and-swap", STEPS_GIVEN_BACK),
    Mutation(
        "GIVE_BACK_BEFORE_READ", "a record is given back while its taker still reads it", STEPS_GIVEN_BACK, smoke=True
    ),
    Mutation("NO_SLICE", "a slice does not wake a waiter after a crash", WAITING_2_AND_CRASH),
    Mutation("BURIED_IN_SILENCE", "recovery does not notify", WAITING_2_AND_CRASH),
    Mutation(
        "LEAVES_ROOM_UNUSED", "a taker goes to sleep beside room that producers wait for", ROOM_1_TAKER, smoke=True
    ),
    Mutation("FREE_SLOT_COUNTS", "rf_free_slot only lowers the wish by one slot", ROOM_1_TAKER),
    Mutation(
        "WAKES_FOR_NO_ROOM",
        "a taker that goes to sleep wakes producers without room",
        PROGRESS | {"SLOTS": 1},
        smoke=True,
    ),
    Mutation(
        "READY_BEFORE_DESCRIBED", "publish: a word is READY before its row's link is written", RUNS | {"TAKERS": 2}
    ),
    Mutation("NO_MENDING", "a row keeps its link to a row that was taken back", RUNS_TAKEN_BACK, smoke=True),
    Mutation("RUN_READ_ANEW", "take: a word of a run is read after the links", RUNS | {"TAKERS": 2}, backwards=True),
]
