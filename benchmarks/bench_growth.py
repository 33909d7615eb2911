"""How cost grows with slots, fields, record size, rows and producers, and how fairly many producers share the cores.

No step of RingFeed may be more than linear. Rounds go through all sizes of a family in turn, so that machine noise
affects them alike. Producers are real processes. All other families run in one process that puts and takes records,
which shows the cost of each step best. The peers do the same in `stores/`.
"""

from __future__ import annotations

import functools
import mmap
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import posix_ipc
import pytest

import ringfeed
from hops.comparison import TransportComparison
from hops.interface import TRANSPORTS, Job
from measuring.machine import core_count
from measuring.other_load import OtherLoad
from measuring.rounds import Sample, Work, role_by_name, timed
from measuring.scale import Scale
from stores.interface import MOST_AT_ONCE, SEGMENTS, STORES, Entry, Places, Record, Store

WAY = "RingFeed"
FIELD_BYTES = 64
FEW_SLOTS = 4  # in the family of record sizes, so that the same part of the records is in the cache
SOME_SLOTS = 256
FREE = 2 * MOST_AT_ONCE  # in the family of held slots: all others are held
Measure = Callable[[], Sample]
Make = Callable[[int, ExitStack, float], Measure]  # n, and the seconds of each measurement


def of_slots(count: int) -> Places:
    return Places(1, FIELD_BYTES, count)


def of_held_slots(count: int) -> Places:
    """Other claims hold all slots but a few, so that each put and take must search for a free or ready slot."""
    return Places(1, FIELD_BYTES, count, held=count - FREE)


def of_fields(count: int) -> Places:
    return Places(count, FIELD_BYTES, SOME_SLOTS)


def of_record_bytes(count: int) -> Places:
    return Places(1, count, FEW_SLOTS)


# ---- Ways ----------------------------------------------------------------------------------------


def put_and_take(store: Store, seconds: float) -> Sample:
    """Put and take some records repeatedly; the value is the time of one record."""
    put, record, rows, names = store.put, store.places.record(), store.places.at_once, store.places.names

    def inspect(taken: Record) -> None:
        for name in names:
            taken[name]

    started, done = time.perf_counter(), 0
    while not done or time.perf_counter() - started < seconds:
        for _ in range(rows):
            put(record)
        store.take(rows, inspect)
        done += rows
    elapsed = time.perf_counter() - started
    return Sample(elapsed / done, elapsed)


def stored(entry: Entry, made_of: Callable[[int], Places]) -> Make:
    def make(count: int, stack: ExitStack, seconds: float) -> Measure:
        store = entry.load()(made_of(count))
        stack.callback(store.close)
        store.check()
        return lambda: put_and_take(store, seconds)

    return make


def created(entry: Entry) -> Make:
    def make(count: int, stack: ExitStack, seconds: float) -> Measure:
        create_and_attach, places = entry.load(), of_slots(count)
        return lambda: timed(lambda: create_and_attach(places))

    return make


def only_copied(record_bytes: Callable[[int], int], slots: int) -> Make:
    return lambda count, stack, seconds: lambda: copied(record_bytes(count), slots, seconds)


def copied(record_bytes: int, slots: int, seconds: float) -> Sample:
    """Copy records into many places in turn, some at a time; the value is the time of one record."""
    rows = min(MOST_AT_ONCE, slots)
    source, places = np.zeros(record_bytes, np.uint8), np.ones((slots, record_bytes), np.uint8)
    firsts = range(0, slots - rows + 1, rows)
    started, done = time.perf_counter(), 0
    while not done or time.perf_counter() - started < seconds:
        for first in firsts:
            places[first : first + rows] = source
        done += len(firsts) * rows
    elapsed = time.perf_counter() - started
    return Sample(elapsed / done, elapsed)


def bare_segment(slots: int) -> None:
    """Create shared memory of the size of a ring, open it again, map it twice, and remove it."""
    size, name = segment_bytes(slots), f"/ringfeed-bench-{os.getpid()}"
    with open(posix_ipc.SharedMemory(name, posix_ipc.O_CREX).fd, "rb+") as made:
        try:
            os.posix_fallocate(made.fileno(), 0, size)
            with open(posix_ipc.SharedMemory(name).fd, "rb+") as attached:
                for segment in (made, attached):
                    mmap.mmap(segment.fileno(), size).close()
        finally:
            posix_ipc.unlink_shared_memory(name)


@functools.cache
def segment_bytes(slots: int) -> int:
    with ringfeed.Ring.create(None, {"x": ((FIELD_BYTES,), "uint8")}, slots) as ring:
        return ring.segment_bytes


# ---- Families ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Family:
    """Measurements of all ways at several sizes n.

    Attributes
    ----------
    ways : dict of str to callable
        Way -> a function that makes it from n.
    missing : dict of str to str
        Way -> why it does not take part.
    """

    quantity: str
    sizes: list[int]
    ways: dict[str, Make]
    missing: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        quantity: str,
        sizes: list[int],
        entries: Sequence[Entry],
        make: Callable[[Entry], Make],
        limit: tuple[str, Make],
        held: bool = False,
    ) -> Family:
        """Return the family of the available entries and a limit."""
        missing = {entry.way: reason for entry in entries if (reason := entry.missing(held))}
        ways = {entry.way: make(entry) for entry in entries if entry.way not in missing}
        return cls(quantity, sizes, ways | dict([limit]), missing)

    @classmethod
    def of_stores(cls, sizes: list[int], made_of: Callable[[int], Places], limit: tuple[str, Make]) -> Family:
        """Return the family of all stores that support such places."""

        held = made_of(sizes[-1]).held > 0
        return cls.of(PUT_AND_TAKEN, sizes, STORES, lambda entry: stored(entry, made_of), limit, held)


RECORD_BYTES = "record_bytes"
PUT_AND_TAKEN = "time of a record, put and taken"
SLOTS = [16, 64, 256, 1024, 4096, 16384, 65536]
COPIED = "limit: copied into own memory"
COPY = (COPIED, only_copied(lambda n: FIELD_BYTES, SOME_SLOTS))
COPY_FIELDS = (COPIED, only_copied(lambda n: FIELD_BYTES * n, SOME_SLOTS))
# The cost of memory itself has a step at the size of the cache.
COPY_AROUND = ("limit: copied into own memory, as much as the ring", only_copied(lambda n: n, FEW_SLOTS))
BARE: tuple[str, Make] = (
    "limit: bare shared memory of that size",
    lambda count, stack, seconds: lambda: timed(lambda: bare_segment(count)),
)
FAMILIES = {
    "slots": Family.of_stores(SLOTS, of_slots, COPY),
    "slots, all but 32 of them held": Family.of_stores(SLOTS[1:], of_held_slots, COPY),
    "slots, to create and attach": Family.of("time of both", SLOTS, SEGMENTS, created, BARE),
    "fields": Family.of_stores([1, 2, 4, 8, 16], of_fields, COPY_FIELDS),
    RECORD_BYTES: Family.of_stores([64 << shift for shift in range(0, 21, 2)], of_record_bytes, COPY_AROUND),
}
POINTS = [
    (of, n, way) for of, family in FAMILIES.items() for n in family.sizes for way in (*family.ways, *family.missing)
]


@pytest.fixture(scope="module")
def grown(scale: Scale, say: Callable[[str], None]) -> dict[tuple[str, int], Work]:
    """Every family, one after the other, because all their stores together would use much memory."""
    works = {}
    for of, family in FAMILIES.items():
        load = OtherLoad()
        sizes = scale.of(family.sizes[:2], family.sizes[:-1:2], family.sizes)
        with ExitStack() as stack:
            seconds = scale.of(0.0, 0.01, 0.05)
            measures = {n: [(way, make(n, stack, seconds)) for way, make in family.ways.items()] for n in sizes}
            for n in sizes:
                axes = {"of": of, "n": n}
                works[of, n] = Work(f"growth: {of}: {n:,}", "growth", axes, family.quantity, missing=family.missing)
            for number in range(scale.of(1, 6, 16)):
                for n, ways in measures.items():
                    first = number % len(ways)
                    for way, measure in ways[first:] + ways[:first]:
                        sample = measure()
                        if number or scale.name == "smoke":  # the first round warms up
                            works[of, n].add(way, role_by_name(way), sample)
        for n in sizes:
            works[of, n].others_share = load.cores() / core_count()
        say(f"growth: {of}")
    return works


@pytest.mark.parametrize(("of", "n", "way"), POINTS)
def bench_growth(tell: Any, grown: dict[tuple[str, int], Work], of: str, n: int, way: str) -> None:
    if (of, n) not in grown:
        pytest.skip("not at this scale")
    tell(grown[of, n], way)


# ---- Crowds --------------------------------------------------------------------------------------

CROWDS = [1, 2, 4, 8, 16, 32, 64]
# Name in the tables -> name of the transport. Each sends one record at a time, unlike RingFeed's claim of many rows.
CROWD_WAYS = {WAY: "RingFeed, put"} | {
    way: way for way in ("Pipe, send_bytes", "iceoryx2, events", "faster-fifo, put", "multiprocessing.Queue")
}
QUICK_CROWD_WAYS = [WAY, "Pipe, send_bytes", "iceoryx2, events"]


@pytest.fixture(scope="module", params=CROWDS)
def crowd(request: pytest.FixtureRequest, scale: Scale, say: Callable[[str], None]) -> Work:
    """Senders put 64-byte records for the same time: what a record takes, and the slowest of them beside their mean."""
    count = request.param
    if count not in scale.of([2], [1, 16], CROWDS):
        pytest.skip("not at this scale")
    title, quantity = f"growth: producers: {count}", "time of a record, sent and received"
    work = Work(title, "growth", {"of": "producers", "n": count}, quantity)
    slowest: dict[str, list[float]] = {way: [] for way in CROWD_WAYS}
    taking_part = scale.of([*CROWD_WAYS], QUICK_CROWD_WAYS, [*CROWD_WAYS])
    work.missing = dict.fromkeys(CROWD_WAYS.keys() - taking_part, "only in a full run")
    entries = [entry for entry in TRANSPORTS if entry.way in [CROWD_WAYS[way] for way in taking_part]]
    load = OtherLoad()
    with closing(TransportComparison(Job(64, senders=count), entries)) as comparison:
        work.missing |= comparison.missing
        ways = [way for way, name in CROWD_WAYS.items() if name in comparison.ways]
        seconds = scale.of(0.05, max(0.4, 0.04 * count), max(0.5, 0.1 * count))
        for number in range(scale.of(1, 3, 16 if count <= 8 else 8)):  # the larger, the longer
            first = number % len(ways)
            counts = number or scale.name == "smoke"  # the first round warms up
            for way in ways[first:] + ways[:first]:
                sample, sent = comparison.send_together(CROWD_WAYS[way], seconds)
                if counts:
                    work.add(way, role_by_name(way), sample)
                    slowest[way].append(min(sent) / (sum(sent) / len(sent)))
            if counts:
                work.add(COPIED, "limit", copied(FIELD_BYTES, SOME_SLOTS, scale.of(0.0, 0.01, 0.05)))
    for way in ways:
        work.notes[way] = {"slowest / mean": float(np.median(slowest[way]))}
    work.others_share = load.cores() / core_count()
    say(work.title)
    return work


@pytest.mark.parametrize("way", [*CROWD_WAYS, COPIED])
def bench_crowd(tell: Any, crowd: Work, way: str) -> None:
    tell(crowd, way)
