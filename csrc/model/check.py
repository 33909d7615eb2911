"""Check the model with spin: every configuration must hold, every mutation must be caught.

It may not know the protocol: that stands in the .pml files. Run by `make model` and `make model-smoke`; needs
python3, cpp, gcc and spin. Where spin is not installed, it is fetched into build/ with apt, without root.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

MODEL = Path(__file__).resolve().parent
BUILD = MODEL.parent.parent / "build" / "model"
MOST_MEGABYTES = 12000
BITSTATE_MINUTES = 30
SKIPPED = 77


@dataclass(frozen=True)
class Search:
    """What is set in segment.pml, a name for the table, and whether the smoke or the long run has it."""

    name: str
    sets: dict[str, int]
    smoke: bool = False
    long: bool = False
    model: str = "ring.pml"


class Configuration(Search):
    """Searched to its end."""


class Symmetry(Search):
    """Searched with symmetry.c and without: its states must stand for exactly those found without."""


@dataclass(frozen=True)
class Bitstate(Search):
    """Too large to be searched to the end: errors count, their absence proves nothing."""

    long: bool = True


@dataclass(frozen=True)
class Mutation:
    """A mistake in the protocol: the #ifdef that makes it, and in which configuration spin finds it."""

    name: str
    what: str
    sets: dict[str, int]
    smoke: bool = False
    long: bool = False
    model: str = "ring.pml"
    backwards: bool = False  # of several steps the last first: spin comes to this mistake sooner


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
    Mutation("READY_BEFORE_PAYLOAD", "R1: READY is swapped in before the payload is written", STEPS, smoke=True),
    Mutation("READY_BEFORE_LINK", "R1: READY is swapped in before the link is written", STEPS),
    Mutation("RELEASE_BEFORE_READ", "R2: FREE is swapped in before the payload has been read", STEPS, smoke=True),
    Mutation("NO_EPOCH", "a slot comes back with the epoch that it had", STEPS, smoke=True),
    Mutation("NO_LINK_CHECK", "takers do not follow links", STEPS, smoke=True),
    Mutation("WORD_READ_ANEW", "the swap of take_slot is from a word read behind the link", STEPS),
    Mutation("BLIND_CLAIM", "a claim is stored, not swapped in", STEPS),
    Mutation("BLIND_TAKE", "a take is stored, not swapped in", STEPS),
    Mutation("NO_LOOK_BEHIND_CLAIM", "F3: no look at finished behind the claim", STEPS),
    Mutation("FINISHED_READ_LATE", "F4: finished is read behind the words", STEPS),
    Mutation("CLAIMED_OVERLOOKED", "a finished ring's last claims are not waited for", STEPS),
    Mutation("NO_REDELIVERY", "a dead taker's record is freed", STEPS_AND_CRASH, smoke=True),
    Mutation("CLAIMS_FORGOTTEN", "a dead producer's claim is left as it is", STEPS_AND_CRASH),
    Mutation("RECOVERS_THE_LIVING", "recovery does not ask who lives", STEPS_AND_CRASH),
    Mutation("NO_SECOND_LOOK", "no look between the wish and the sleep", WAITING_2, smoke=True),
    Mutation("WISH_AFTER_LOOK", "F2: the wish is left behind the last look", WAITING_2),
    Mutation("KEY_AFTER_LOOK", "A5: the sequence is read behind the last look", WAITING_2),
    Mutation("NOTIFY_BEFORE_CHANGE", "F1: the publisher looks for waiters before READY", WAITING_2),
    Mutation("WISH_WITHDRAWN_LATE", "wake_all withdraws the wish behind the sequence", WAITING_2),
    Mutation("WAKE_ONE", "wake_all wakes one sleeper", WAITING_2),
    Mutation("RELEASE_SILENT", "release does not notify producers", WAITING_2),
    Mutation("UNCLAIM_SILENT", "a claim given back at the end does not notify takers", WAITING_2),
    Mutation("FINISH_SILENT", "rf_finish does not notify", WAITING_2),
    Mutation(
        "GIVE_BACK_SILENT",
        "who gives a record back does not notify takers",
        WAITING_1_GIVEN_BACK,
        smoke=True,
    ),
    Mutation("GIVE_BACK_BLIND", "a record is given back twice, and stored, not swapped in", STEPS_GIVEN_BACK),
    Mutation("GIVE_BACK_BEFORE_READ", "a record is given back while it is still read", STEPS_GIVEN_BACK, smoke=True),
    Mutation("NO_SLICE", "whom the dead one was about to wake sleeps on", WAITING_2_AND_CRASH),
    Mutation("BURIED_IN_SILENCE", "recovery does not notify", WAITING_2_AND_CRASH),
    Mutation("LEAVES_ROOM_UNUSED", "a taker goes to sleep beside room that is waited for", ROOM_1_TAKER, smoke=True),
    Mutation("FREE_SLOT_COUNTS", "a slot that comes back alone is one of those wished for", ROOM_1_TAKER),
    Mutation(
        "WAKES_FOR_NO_ROOM",
        "a taker that goes to sleep wakes producers for no room",
        PROGRESS | {"SLOTS": 1},
        smoke=True,
    ),
    Mutation(
        "READY_BEFORE_DESCRIBED", "publish: a word is READY before its row's link is written", RUNS | {"TAKERS": 2}
    ),
    Mutation("NO_MENDING", "a row names the one before it, which was taken back", RUNS_TAKEN_BACK, smoke=True),
    Mutation("RUN_READ_ANEW", "take: a word of a run is read behind the links", RUNS | {"TAKERS": 2}, backwards=True),
]

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
    Mutation("NO_EPOCH_CHECK", "an engine holds a cell whatever its epoch", CELLS_CALM, smoke=True, model=REPLIES),
    Mutation("TELL_BEFORE_SWAP", "F5: who sleeps is looked for before the answer is out", CELLS_CALM, model=REPLIES),
    Mutation("NO_COMPARE", "a client falls asleep whatever the word is by then", CELLS_CALM, model=REPLIES),
    Mutation(
        "STEAL_FROM_THE_LIVING", "an engine takes a cell that another holds", CELLS_1 | {"TWICE": 1}, model=REPLIES
    ),
    Mutation(
        "STEAL_FROM_THE_DEAD",
        "an engine takes a dead one's cell and does not bury it",
        CELLS_1 | {"TWICE": 1},
        smoke=True,
        model=REPLIES,
    ),
    Mutation("JOIN_BEFORE_BURIAL", "who joins buries the dead under a write lock", CELLS_1, model=REPLIES),
    Mutation("NO_PATIENCE", "a dying process's cell is taken for one in good hands", CELLS_1, model=REPLIES),
    Mutation("STALE_HOLDER", "a holder is found to live, the word is not looked at again", CELLS_1, model=REPLIES),
    Mutation("RECOVERER_WRITES", "recovery writes a cell's record", CELLS_1, model=REPLIES),
    Mutation("HELD_FORGOTTEN", "recovery leaves a dead engine's cells as they are", CELLS_1, model=REPLIES),
    Mutation("NOT_WANTED_FORGOTTEN", "recovery leaves a dead client's held cells as they are", CELLS_1, model=REPLIES),
    Mutation("RELEASE_EARLY", "an engine releases the row before it answers", CELLS_1, model=REPLIES),
    Mutation(
        "LET_GO_LATE",
        "a request is handed on before its cell is let go of",
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
    Mutation("FINISH_BLINDLY", "the end is stored, though somebody has entered", CALM, smoke=True, model=PRODUCING),
    Mutation("ENTER_BEFORE_OPENING", "R15: a producer enters and then opens its block", CALM, model=PRODUCING),
    Mutation(
        "LOOK_BEFORE_END", "F8: who leaves looks for others and then ends its block", CALM, smoke=True, model=PRODUCING
    ),
    Mutation("INSIDE_COUNTS", "a block inside another enters", CALM | {"INSIDE": 1, "EXPECTED": 2}, model=PRODUCING),
    Mutation("BLOCKS_FORGOTTEN", "recovery leaves the blocks of the dead open", BLOCKS, smoke=True, model=PRODUCING),
    Mutation("BURIED_WITHOUT_LOOK", "recovery does not look whether somebody is left", BLOCKS, model=PRODUCING),
    Mutation(
        "LOOK_FOR_OPEN_BLOCKS_ALONE", "recovery looks only where the dead had a block open", BLOCKS, model=PRODUCING
    ),
    Mutation(
        "CLEARED_BEFORE_LOOK", "recovery clears the entry before it looks", BLOCKS | {"CRASHES": 2}, model=PRODUCING
    ),
    Mutation(
        "WAITERS_DO_NOT_LOOK", "who waits leaves the look to who stands still", CALM | {"STOPS": 1}, model=PRODUCING
    ),
    Mutation("TEXT_READY_EARLY", "R17: a text is READY before it is whole", FAILURES, smoke=True, model=PRODUCING),
    Mutation("SECOND_IN_SILENCE", "who finds no room for its text says nothing", FAILURES, model=PRODUCING),
    Mutation("MORE_LOST", "recovery drops the mark of another that failed", FAILURES, model=PRODUCING),
    Mutation("MORE_IS_IN_THE_WAY", "the mark of another keeps a text from being READY", FAILURES, model=PRODUCING),
    Mutation("FAIL_BEHIND_THE_BLOCK", "a producer leaves and then tells", FAILURES, model=PRODUCING),
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
    Mutation("NO_TURN", "a new link, and the word stays as it was", CHAIN, smoke=True, model=CHAIN_PML),
    Mutation("LINK_STORED", "a new link is stored, not swapped in", CHAIN_OTHER, smoke=True, model=CHAIN_PML),
    Mutation("TURN_STORED", "a new turn is stored, not swapped in", CHAIN, smoke=True, model=CHAIN_PML),
    Mutation("NEW_LINK_EARLY", "R18: a link names a record that is not READY yet", CHAIN, smoke=True, model=CHAIN_PML),
    Mutation("LEAF_KEPT", "what follows names a record that was taken already", CHAIN, smoke=True, model=CHAIN_PML),
    Mutation(
        "NOT_BEHIND",
        "rows do not come behind a run that was taken in part",
        CHAIN_4 | {"ROWS": 2},
        smoke=True,
        model=CHAIN_PML,
    ),
    Mutation(
        "READY_AS_NEW",
        "records are put in front of one that is READY again",
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
    Mutation("ONE_LOOK", "a finished ring's words are looked at once", MOVING, smoke=True, model=MOVING_PML),
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
    Mutation("SLICE_STORED", "a slice is taken by a store, not swapped in", LOOKING_STOPS, model=LOOKING_PML),
    Mutation("LOOKER_TAKES_TURNS", "who looked last sleeps for a round", LOOKER_KILLED, smoke=True, model=LOOKING_PML),
    Mutation("OFFICE", "who looked last keeps its office while it is stopped", LOOKING_STOPS, model=LOOKING_PML),
    Mutation("GAPS", "turns are numbers of entries, waiting or not", LOOKER_KILLED, smoke=True, model=LOOKING_PML),
    Mutation("LOWERED_EARLY", "planned is lowered, then the patient are woken", LOOKING_LEFT, model=LOOKING_PML),
    Mutation(
        "RAISED_LATE",
        "more wait, and planned is raised behind the number",
        LOOKER_KILLED,
        smoke=True,
        model=LOOKING_PML,
    ),
]


# ---- spin -------------------------------------------------------------------------------------


def run(command: list[str | Path], **more: object) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and keep what it says."""
    return subprocess.run(command, capture_output=True, text=True, **more)  # type: ignore[call-overload, no-any-return]


def fetch_spin() -> str | None:
    """Fetch Debian's package into build/, without root: with apt's lists as they are, else with lists of our own."""
    folder = BUILD / "spin"
    found = folder / "usr" / "bin" / "spin"
    if found.exists():
        return str(found)
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return None
    state = folder / "apt"
    (state / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (state / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    private = [f"-oDir::State::lists={state}/lists", f"-oDir::Cache={state}", "-oAPT::Sandbox::User="]
    timeout = ["-oAcquire::http::Timeout=20", "-oAcquire::Retries=1"]
    for options in ([], private):
        if options:
            run(["apt-get", "-qq", *timeout, *options, "update"])
        run(["apt-get", "-qq", *timeout, *options, "download", "spin"], cwd=folder)
        for package in sorted(folder.glob("spin_*.deb")):
            run(["dpkg-deb", "-x", package, folder])
        if found.exists():
            return str(found)
    return None


# ---- One check --------------------------------------------------------------------------------


@dataclass
class Result:
    """What pan said. `error` is the property that did not hold; "" when all did."""

    states: int
    stood_for: int
    hash_factor: float
    seconds: float
    megabytes: float
    error: str
    complete: bool


def with_symmetry(folder: Path) -> None:
    """Have pan.c store representatives: symmetry.c."""
    pan = folder / "pan.c"
    text, calls = re.subn(r"II = [bh]_store\(\(char \*\)&now, vsize\)", "II = store_representative()", pan.read_text())
    if not calls:
        sys.exit("symmetry.c: this spin stores states in another way")
    pan.write_text(f'int store_representative(void);\n{text}\n#include "{MODEL / "symmetry.c"}"\n')


def compiler_flags(sets: dict[str, int], mutation: str, orbits: bool, bitstate: bool) -> list[str]:
    flags = ["-O0" if mutation else "-O2", "-w", "-DSAFETY", f"-DMEMLIM={MOST_MEGABYTES}"]
    flags.append("-DBITSTATE" if bitstate else "-DCOLLAPSE")
    if "SYMMETRY" in sets:
        flags.append("-DNOREDUCE")
        flags += [f"-D{name}={sets[name]}" for name in ("PRODUCERS", "TAKERS", "SLOTS", "RECORDS")]
    return flags + (["-DORBITS"] if orbits else [])


def check(
    spin: str,
    folder: Path,
    sets: dict[str, int],
    mutation: str = "",
    *,
    model: str = "ring.pml",
    symmetry: bool = True,
    orbits: bool = False,
    bitstate: bool = False,
    backwards: bool = False,
) -> Result:
    """Build and run the checker of one configuration."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)

    def must(command: list[str | Path]) -> None:
        done = run(command, cwd=folder)
        if done.returncode != 0:
            sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")

    defines = [f"-D{name}={value}" for name, value in sets.items()] + ([f"-D{mutation}"] if mutation else [])
    must(["cpp", "-P", *defines, MODEL / model, folder / "model.pml"])
    must([spin, "-a", "model.pml"])
    if sets.get("SYMMETRY") and symmetry:
        with_symmetry(folder)
    order = ["-DT_REVERSE", "-DP_REVERSE"] if backwards else []
    must(["gcc", *compiler_flags(sets, mutation, orbits, bitstate), *order, "-o", "pan", "pan.c"])
    options = ["-w34", f"-Q{BITSTATE_MINUTES}"] if bitstate else []
    begun = time.monotonic()
    said = run(["./pan", "-m8000000", *options], cwd=folder).stdout
    seconds = time.monotonic() - begun

    def number(pattern: str) -> float:
        found = re.search(pattern, said)
        return float(found.group(1)) if found else 0.0

    error = re.search(r"^pan:\d+: (.*?) \(at depth", said, re.MULTILINE)
    errors = re.search(r"errors: (\d+)", said)
    complete = bool(errors) and "Search not completed" not in said and "max search depth too small" not in said
    return Result(
        states=int(number(r"([\d.e+]+) states, stored")),
        stood_for=int(number(r"(\d+) states stood for")),
        hash_factor=number(r"hash factor: ([\d.e+]+)"),
        seconds=seconds,
        megabytes=number(r"([\d.]+)\s+total actual memory"),
        error=error.group(1) if error else "",
        complete=complete,
    )


def property_of(error: str) -> str:
    """Return the property in words, by the assertion that spin shows."""
    for sign, words in (
        ("invalid end state", "no deadlock"),
        ("since", "a slice is one looker's"),
        ("spared", "who runs looks within a round"),
        ("unhurt", "who looked goes on"),
        ("steady", "the next look comes within three ticks"),
        ("planned", "no sleeper planned by more"),
        ("done", "no lost request, no lost wake-up"),
        ("answers", "answered once"),
        ("==held", "a held cell is its engine's alone"),
        ("outputs", "nothing torn, nothing of another's"),
        ("writer", "nothing torn"),
        ("assertion violated 0", "no lost wake-up"),
        ("in_vain", "no wake-ups without end"),
        ("payload", "nothing torn, doubled or out of order"),
        ("under_way", "no lost record"),
        ("reader", "nothing torn"),
        ("==self", "a record is its owner's alone"),
        ("seen_by", "a held slot is its owner's alone"),
        ("words", "no lost slot"),
        ("inside", "nobody is shut out, and all have come"),
        ("raised", "every failure is told"),
        ("text_state", "a text is whole"),
        ("entered", "the end comes"),
        ("fresh", "the order of a chain"),
        ("hops", "no circle"),
        ("due", "no doubled record"),
    ):
        if sign in error:
            return words
    return error


def show(name: str, result: Result, verdict: str) -> None:
    print(
        f"{name:60} {result.states:>11,} states {result.seconds:6.1f} s {result.megabytes:5.0f} MB  {verdict}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="only what takes seconds")
    parser.add_argument("--long", action="store_true", help="also what takes hours and gigabytes")
    parser.add_argument("--only", help="only what has this in its name")
    arguments = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    spin = os.environ.get("SPIN") or shutil.which("spin") or fetch_spin()
    if not spin:
        print("SKIP model: no spin in PATH, and apt could not fetch it; install the package `spin`")
        return 0 if arguments.smoke else SKIPPED

    def wanted(entry: Configuration | Symmetry | Bitstate | Mutation) -> bool:
        return (
            (entry.smoke or not arguments.smoke)
            and (arguments.long or not entry.long)
            and (not arguments.only or arguments.only in entry.name)
        )

    failed = checked = 0
    for configuration in filter(wanted, CONFIGURATIONS):
        result = check(spin, BUILD / "pan", configuration.sets, model=configuration.model)
        holds = result.complete and not result.error
        failed += not holds
        checked += 1
        show(configuration.name, result, "holds" if holds else f"FAILED {result.error or 'not searched to the end'}")
    for pair in filter(wanted, SYMMETRIES):
        result = check(spin, BUILD / "pan", pair.sets, orbits=True)
        plain = check(spin, BUILD / "pan", pair.sets, symmetry=False)
        same = result.complete and plain.complete and result.stood_for == plain.states
        failed += not same
        checked += 1
        show(pair.name, result, f"{'' if same else 'FAILED '}stand for {result.stood_for:,} of {plain.states:,}")
    for large in filter(wanted, BITSTATES):
        result = check(spin, BUILD / "pan", large.sets, bitstate=True)
        failed += bool(result.error)
        checked += 1
        verdict = f"FAILED {result.error}" if result.error else "nothing found, NOT EXHAUSTIVE:"
        ended = "ran to its end" if result.complete else f"ended after {BITSTATE_MINUTES} minutes"
        show(large.name, result, f"{verdict} {ended}, hash factor {result.hash_factor:.1f}")
    for mutation in filter(wanted, MUTATIONS):
        result = check(
            spin, BUILD / "pan", mutation.sets, mutation.name, model=mutation.model, backwards=mutation.backwards
        )
        failed += not result.error
        checked += 1
        verdict = f"caught: {property_of(result.error)}" if result.error else "FAILED: not caught"
        print(f"{mutation.name:22} {mutation.what:62} {result.seconds:6.1f} s  {verdict}", flush=True)
    print(f"model: {checked} checks, {failed} failed")
    return 1 if failed or not checked else 0


if __name__ == "__main__":
    sys.exit(main())
