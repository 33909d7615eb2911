"""The configurations and mutations of the other models: cells, producing blocks, chains, moved records, looks."""

from __future__ import annotations

from searches import Configuration, Mutation

CONFIGURATIONS: list[Configuration] = []
MUTATIONS: list[Mutation] = []

CELLS = {"CLIENTS": 2, "CELLS": 1, "CRASHES": 1}
CELLS_1 = CELLS | {"CLIENTS": 1}
CELLS_CALM = CELLS | {"CRASHES": 0}
REPLIES = "replies.pml"

CONFIGURATIONS += [
    Configuration("cells: 2 clients, 2 engines, 1 cell", CELLS_CALM, smoke=True, model=REPLIES),
    Configuration("cells: 2 clients, 2 engines, 2 cells", CELLS_CALM | {"CELLS": 2}, model=REPLIES),
    Configuration("cells: 2 clients, 2 engines, 1 cell, a crash", CELLS, model=REPLIES),
    Configuration("cells: the same, rows of the dead dropped", CELLS | {"DROPS": 1}, model=REPLIES),
    Configuration("cells: 1 client, 2 engines, two crashes", CELLS_1 | {"CRASHES": 2}, smoke=True, model=REPLIES),
    Configuration(
        "cells: the same, a request handed on or given back", CELLS_1 | {"CRASHES": 2, "HAND_ONS": 1}, model=REPLIES
    ),
    Configuration("cells: the same, the request twice", CELLS_1 | {"CRASHES": 2, "TWICE": 1}, model=REPLIES),
    Configuration(
        "cells: the same, twice and handed on, a crash", CELLS_1 | {"TWICE": 1, "HAND_ONS": 1}, model=REPLIES
    ),
    Configuration("cells: 2 clients, 2 engines, a crash, a request handed on", CELLS | {"HAND_ONS": 1}, model=REPLIES),
]

MUTATIONS += [
    Mutation("FREE_HELD", "a client that withdraws frees a held cell", CELLS_CALM, smoke=True, model=REPLIES),
    Mutation("NO_EPOCH_CHECK", "an engine does not compare the epoch of a cell", CELLS_CALM, smoke=True, model=REPLIES),
    Mutation("TELL_BEFORE_SWAP", "F5: an engine looks for sleepers before its answer", CELLS_CALM, model=REPLIES),
    Mutation("NO_COMPARE", "a client falls asleep without comparing the word", CELLS_CALM, model=REPLIES),
    Mutation(
        "STEAL_FROM_THE_LIVING", "an engine takes over a cell that another holds", CELLS_1 | {"TWICE": 1}, model=REPLIES
    ),
    Mutation(
        "STEAL_FROM_THE_DEAD",
        "an engine takes over a dead engine's cell, not reaping it",
        CELLS_1 | {"TWICE": 1},
        smoke=True,
        model=REPLIES,
    ),
    Mutation("JOIN_BEFORE_BURIAL", "a new engine reaps the dead under a write lock", CELLS_1, model=REPLIES),
    Mutation("NO_PATIENCE", "an engine takes a dying holder for a living one", CELLS_1, model=REPLIES),
    Mutation("STALE_HOLDER", "an engine finds a living holder and does not reread the word", CELLS_1, model=REPLIES),
    Mutation("RECOVERER_WRITES", "recovery writes a cell's record", CELLS_1, model=REPLIES),
    Mutation("HELD_FORGOTTEN", "recovery leaves a dead engine's cells as they are", CELLS_1, model=REPLIES),
    Mutation("NOT_WANTED_FORGOTTEN", "recovery leaves a dead client's held cells as they are", CELLS_1, model=REPLIES),
    Mutation("RELEASE_EARLY", "an engine releases the row before it answers", CELLS_1, model=REPLIES),
    Mutation(
        "LET_GO_LATE",
        "an engine hands a request on while it holds its cell",
        CELLS_1 | {"CRASHES": 0, "HAND_ONS": 1},
        model=REPLIES,
    ),
]

BLOCKS = {"PRODUCERS": 2, "CRASHES": 1}
BLOCKS_3 = BLOCKS | {"PRODUCERS": 3}
FAILURES = BLOCKS | {"FAILURES": 1}
PRODUCING = "producing.pml"

CONFIGURATIONS += [
    Configuration("producing: 2 producers, a crash", BLOCKS, smoke=True, model=PRODUCING),
    Configuration("producing: 2 producers that may fail, two crashes", FAILURES | {"CRASHES": 2}, model=PRODUCING),
    Configuration("producing: 3 producers that may fail", BLOCKS_3 | {"FAILURES": 1, "CRASHES": 0}, model=PRODUCING),
    Configuration("producing: 3 producers, a crash", BLOCKS_3, model=PRODUCING),
    Configuration(
        "producing: 2 that come twice, for 3, a crash",
        BLOCKS | {"BLOCKS": 2, "EXPECTED": 3},
        smoke=True,
        model=PRODUCING,
    ),
    Configuration(
        "producing: 2 for 2, blocks inside others, a crash", BLOCKS | {"INSIDE": 1, "EXPECTED": 2}, model=PRODUCING
    ),
    Configuration(
        "producing: 2 that may fail, finished, a crash", FAILURES | {"FINISHES": 1, "SIDE_BY_SIDE": 1}, model=PRODUCING
    ),
    Configuration(
        "producing: 2 producers, one stands still, a crash", BLOCKS | {"STOPS": 1}, smoke=True, model=PRODUCING
    ),
    Configuration(
        "producing: 2 that may fail, one stands still", FAILURES | {"CRASHES": 0, "STOPS": 1}, model=PRODUCING
    ),
]

CALM = BLOCKS | {"CRASHES": 0}
MUTATIONS += [
    Mutation("FINISH_BLINDLY", "the end is stored although a producer has entered", CALM, smoke=True, model=PRODUCING),
    Mutation("ENTER_BEFORE_OPENING", "R15: a producer enters and then opens its block", CALM, model=PRODUCING),
    Mutation(
        "LOOK_BEFORE_END", "F8: a producer looks for others, then ends its block", CALM, smoke=True, model=PRODUCING
    ),
    Mutation("INSIDE_COUNTS", "a block inside another enters", CALM | {"INSIDE": 1, "EXPECTED": 2}, model=PRODUCING),
    Mutation("BLOCKS_FORGOTTEN", "recovery leaves the blocks of the dead open", BLOCKS, smoke=True, model=PRODUCING),
    Mutation("BURIED_WITHOUT_LOOK", "recovery does not look for remaining producers", BLOCKS, model=PRODUCING),
    Mutation("LOOK_FOR_OPEN_BLOCKS_ALONE", "recovery looks only if the dead had a block open", BLOCKS, model=PRODUCING),
    Mutation(
        "CLEARED_BEFORE_LOOK", "recovery clears the entry before it looks", BLOCKS | {"CRASHES": 2}, model=PRODUCING
    ),
    Mutation(
        "WAITERS_DO_NOT_LOOK",
        "a waiter does not look in place of a stopped producer",
        CALM | {"STOPS": 1},
        model=PRODUCING,
    ),
    Mutation("TEXT_READY_EARLY", "R17: a text is READY before it is complete", FAILURES, smoke=True, model=PRODUCING),
    Mutation("SECOND_IN_SILENCE", "a producer that finds no room for its text sets no mark", FAILURES, model=PRODUCING),
    Mutation("MORE_LOST", "recovery drops the mark of another failed producer", FAILURES, model=PRODUCING),
    Mutation("MORE_IS_IN_THE_WAY", "the mark of another producer blocks a text", FAILURES, model=PRODUCING),
    Mutation("FAIL_BEHIND_THE_BLOCK", "a producer leaves before it reports its failure", FAILURES, model=PRODUCING),
]

CHAIN_PML = "chain.pml"
CHAIN = {"TAKERS": 2, "RECORDS": 3}
CHAIN_4 = CHAIN | {"RECORDS": 4}
CHAIN_OTHER = CHAIN | {"OTHER": 1}
CHAIN_AGAIN = CHAIN | {"GIVE_BACKS": 1}
CHAIN_4_AGAIN = CHAIN_4 | {"GIVE_BACKS": 1}
ROWS_AGAIN = CHAIN_4_AGAIN | {"ROWS": 3}
CONFIGURATIONS += [
    Configuration("chain: 2 handles, 3 records put in front of others", CHAIN_OTHER, smoke=True, model=CHAIN_PML),
    Configuration("chain: the same, X has no link", CHAIN_OTHER | {"X_FIRST": 1}, model=CHAIN_PML),
    Configuration("chain: 2 handles, 4 records put in front of others", CHAIN_4 | {"OTHER": 1}, model=CHAIN_PML),
    Configuration("chain: 3 records, one comes again", CHAIN_AGAIN, smoke=True, model=CHAIN_PML),
    Configuration("chain: 3 records, two come again, or one twice", CHAIN | {"GIVE_BACKS": 2}, model=CHAIN_PML),
    Configuration("chain: 3 records, one comes again, 3 takers", CHAIN_AGAIN | {"TAKERS": 3}, model=CHAIN_PML),
    Configuration("chain: 2 handles, 3 records, one comes again", CHAIN_OTHER | {"GIVE_BACKS": 1}, model=CHAIN_PML),
    Configuration("chain: 4 records in runs, one comes again", ROWS_AGAIN, model=CHAIN_PML),
    Configuration("chain: 4 records in runs, one comes again, 1 turn", ROWS_AGAIN | {"MOST_TURNS": 1}, model=CHAIN_PML),
    Configuration(
        "chain: 4 records in runs, two come again", ROWS_AGAIN | {"GIVE_BACKS": 2}, long=True, model=CHAIN_PML
    ),
]
MUTATIONS += [
    Mutation("NO_TURN", "a link is written anew and the word stays the same", CHAIN, smoke=True, model=CHAIN_PML),
    Mutation(
        "LINK_STORED", "a new link is stored without a compare-and-swap", CHAIN_OTHER, smoke=True, model=CHAIN_PML
    ),
    Mutation("TURN_STORED", "a new turn is stored without a compare-and-swap", CHAIN, smoke=True, model=CHAIN_PML),
    Mutation(
        "NEW_LINK_EARLY", "R18: a new link names a record that is not READY yet", CHAIN, smoke=True, model=CHAIN_PML
    ),
    Mutation("LEAF_KEPT", "the next record names a record that was already taken", CHAIN, smoke=True, model=CHAIN_PML),
    Mutation(
        "NOT_BEHIND",
        "rows do not go behind a run that was taken in part",
        CHAIN_4 | {"ROWS": 2},
        smoke=True,
        model=CHAIN_PML,
    ),
    Mutation(
        "READY_AS_NEW",
        "records go in front of one that was made READY again",
        CHAIN_4_AGAIN | {"ROWS": 2},
        smoke=True,
        model=CHAIN_PML,
    ),
    Mutation(
        "LINK_LEFT",
        "a record that was taken meanwhile keeps its new link",
        CHAIN_AGAIN,
        smoke=True,
        model=CHAIN_PML,
    ),
]

MOVING_PML = "moving.pml"
MOVING = {"PRODUCERS": 2, "TAKERS": 1}
CONFIGURATIONS += [
    Configuration("moving: 2 producers, 1 taker, 3 slots", MOVING, smoke=True, model=MOVING_PML),
    Configuration("moving: 2 producers, 2 takers, 3 slots", MOVING | {"TAKERS": 2}, model=MOVING_PML),
    Configuration("moving: 2 producers, 1 taker, 4 slots", MOVING | {"SLOTS": 4}, model=MOVING_PML),
]
MUTATIONS += [
    Mutation("ONE_LOOK", "a taker reads a finished ring's words only once", MOVING, smoke=True, model=MOVING_PML),
    Mutation("APART_FIRST", "R19: a claim is set apart before its copy is READY", MOVING, smoke=True, model=MOVING_PML),
]

LOOKING_PML = "looking.pml"
LOOKING = {"WAITERS": 4, "KILLS": 3}
LOOKER_KILLED = LOOKING | {"KILLS": 1, "LOOKERS_ALONE": 1}
LOOKING_LEFT = LOOKING | {"LEFT": 1}
LOOKING_STOPS = {"WAITERS": 3, "STOPS": 1}
CONFIGURATIONS += [
    Configuration("looking: 4 waiters, the last looker is killed", LOOKER_KILLED, smoke=True, model=LOOKING_PML),
    Configuration("looking: few, the last looker is killed", LOOKER_KILLED | {"FEW": 4}, smoke=True, model=LOOKING_PML),
    Configuration("looking: 4 waiters, three are killed", LOOKING, model=LOOKING_PML),
    Configuration("looking: the same, where a fifth has left", LOOKING_LEFT, model=LOOKING_PML),
    Configuration("looking: 3 waiters, one at a time is stopped", LOOKING_STOPS, model=LOOKING_PML),
]
MUTATIONS += [
    Mutation("SLICE_STORED", "a slice is stored without a compare-and-swap", LOOKING_STOPS, model=LOOKING_PML),
    Mutation("LOOKER_TAKES_TURNS", "the last looker sleeps for a round", LOOKER_KILLED, smoke=True, model=LOOKING_PML),
    Mutation("OFFICE", "the last looker keeps its role while it is stopped", LOOKING_STOPS, model=LOOKING_PML),
    Mutation("GAPS", "turns count entries without a waiter too", LOOKER_KILLED, smoke=True, model=LOOKING_PML),
    Mutation("LOWERED_EARLY", "`planned` is lowered before the patient are woken", LOOKING_LEFT, model=LOOKING_PML),
    Mutation(
        "RAISED_LATE",
        "`planned` is raised after the number of waiters",
        LOOKER_KILLED,
        smoke=True,
        model=LOOKING_PML,
    ),
]
