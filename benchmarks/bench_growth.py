"""How RingFeed's cost grows with what one makes large: no step may be more than linear. And is a crowd treated fairly?

Rounds go through all sizes of a family in turn, so that the machine's moods hit them alike. Crowds are real processes;
the rest is one process that puts records and takes them, where the cost of each step shows best.
"""

from __future__ import annotations

import functools
import mmap
import os
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import posix_ipc
import pytest

import ringfeed
from hops.hall import Hall
from hops.interface import TRANSPORTS, Job
from measuring.contest import Sample, Work
from measuring.scale import Scale

WAY = "RingFeed"
SMALL = {"x": ((64,), "uint8")}
TAKEN = 16  # records at a time
FEW_SLOTS = 4  # where records grow: so the same part of them is in the cache
Measure = Callable[[], Sample]


def put_and_take(ring: ringfeed.Ring, record: dict[str, np.ndarray], seconds: float) -> Sample:
    """Put some records and take them, again and again; the value is the time of one record."""
    rows = min(TAKEN, ring.slots // 2)
    started, done = time.perf_counter(), 0
    while not done or time.perf_counter() - started < seconds:
        for _ in range(rows):
            ring.put(record)
        with ring.take(rows, min_rows=rows):
            done += rows
    elapsed = time.perf_counter() - started
    return Sample(elapsed / done, elapsed)


def with_slots(count: int, stack: ExitStack, seconds: float) -> Measure:
    ring = stack.enter_context(ringfeed.Ring.create(None, SMALL, count))
    record = {"x": np.zeros(64, np.uint8)}
    return lambda: put_and_take(ring, record, seconds)


def held_elsewhere(count: int, stack: ExitStack, seconds: float) -> Measure:
    """All slots but a few are held by others, who do not move: one has to find one's way around them."""
    ring = stack.enter_context(ringfeed.Ring.create(None, SMALL, count))
    held = stack.enter_context(ring.claim(rows=ring.slots - 2 * TAKEN))
    stack.callback(held.discard)
    record = {"x": np.zeros(64, np.uint8)}
    return lambda: put_and_take(ring, record, seconds)


def created(count: int, stack: ExitStack, seconds: float) -> Measure:
    def measure() -> Sample:
        started = time.perf_counter()
        with ringfeed.Ring.create(None, SMALL, count) as ring, ringfeed.Ring.attach(ring.name):
            pass
        del ring  # and with it what is left of its memory
        elapsed = time.perf_counter() - started
        return Sample(elapsed, elapsed)

    return measure


def with_fields(count: int, stack: ExitStack, seconds: float) -> Measure:
    fields = {f"x{number}": ((64,), "uint8") for number in range(count)}
    ring = stack.enter_context(ringfeed.Ring.create(None, fields, 256))
    record = {name: np.zeros(64, np.uint8) for name in fields}
    return lambda: put_and_take(ring, record, seconds)


def copied(record_bytes: int, slots: int, seconds: float) -> Sample:
    """Copy records into so many places in turn, as many at once as are taken at once; the value is the time of one."""
    rows = min(TAKEN, slots)
    source, places = np.zeros(record_bytes, np.uint8), np.ones((slots, record_bytes), np.uint8)
    firsts = range(0, slots - rows + 1, rows)
    started, done = time.perf_counter(), 0
    while not done or time.perf_counter() - started < seconds:
        for first in firsts:
            places[first : first + rows] = source
        done += len(firsts) * rows
    elapsed = time.perf_counter() - started
    return Sample(elapsed / done, elapsed)


def bare_segment(slots: int, seconds: float) -> Sample:
    """Make shared memory of the size of such a ring, open it again, map both, and let go of it."""
    size, name = segment_bytes(slots), f"/ringfeed-bench-{os.getpid()}"
    started = time.perf_counter()
    with open(posix_ipc.SharedMemory(name, posix_ipc.O_CREX).fd, "rb+") as made:
        try:
            os.posix_fallocate(made.fileno(), 0, size)
            with open(posix_ipc.SharedMemory(name).fd, "rb+") as attached:
                for segment in (made, attached):
                    mmap.mmap(segment.fileno(), size).close()
        finally:
            posix_ipc.unlink_shared_memory(name)
    elapsed = time.perf_counter() - started
    return Sample(elapsed, elapsed)


@functools.cache
def segment_bytes(slots: int) -> int:
    with ringfeed.Ring.create(None, SMALL, slots) as ring:
        return ring.segment_bytes


def with_record_bytes(count: int, stack: ExitStack, seconds: float) -> Measure:
    ring = stack.enter_context(ringfeed.Ring.create(None, {"x": ((count,), "uint8")}, FEW_SLOTS))
    record = {"x": np.zeros(count, np.uint8)}
    return lambda: put_and_take(ring, record, seconds)


RECORD_BYTES = "record_bytes"
PUT_AND_TAKEN = "time of a record, put and taken"
COPIED = "limit: copied into own memory"
COPIED_ROUND = "limit: copied into own memory, as much as the ring"
BARE = "limit: bare shared memory of that size"


@dataclass(frozen=True)
class Family:
    """What grows, and the least that each size of it takes."""

    make: Callable[[int, ExitStack, float], Measure]
    quantity: str
    sizes: list[int]
    limit: str
    at_least: Callable[[int, float], Sample]


SLOTS = [16, 64, 256, 1024, 4096, 16384, 65536]
FAMILIES: dict[str, Family] = {
    "slots": Family(with_slots, PUT_AND_TAKEN, SLOTS, COPIED, lambda n, seconds: copied(64, 256, seconds)),
    "slots, all but 32 of them held": Family(
        held_elsewhere, PUT_AND_TAKEN, SLOTS[1:], COPIED, lambda n, seconds: copied(64, 256, seconds)
    ),
    "slots, to create and attach": Family(created, "time of both", SLOTS, BARE, bare_segment),
    "fields": Family(
        with_fields, PUT_AND_TAKEN, [1, 2, 4, 8, 16], COPIED, lambda n, seconds: copied(64 * n, 256, seconds)
    ),
    # Memory has a step of its own, where it leaves the cache.
    RECORD_BYTES: Family(
        with_record_bytes,
        PUT_AND_TAKEN,
        [64 << shift for shift in range(0, 21, 2)],
        COPIED_ROUND,
        lambda n, seconds: copied(n, FEW_SLOTS, seconds),
    ),
}
POINTS = [(of, n, way) for of, family in FAMILIES.items() for n in family.sizes for way in (WAY, family.limit)]


@pytest.fixture(scope="module")
def grown(scale: Scale, say: Callable[[str], None]) -> dict[tuple[str, int], Work]:
    """Every family, one after the other, because all their rings together would be large."""
    works = {}
    for of, family in FAMILIES.items():
        with ExitStack() as stack:
            seconds = scale.of(0.0, 0.01, 0.05)
            measures = {n: family.make(n, stack, seconds) for n in family.sizes}
            for n in family.sizes:
                works[of, n] = Work(f"growth: {of}: {n:,}", "growth", {"of": of, "n": n}, family.quantity)
            for number in range(scale.of(1, 6, 16)):
                for n, measure in measures.items():
                    sample, least = measure(), family.at_least(n, seconds)
                    if number or scale.name == "smoke":  # the first warms up
                        works[of, n].add(WAY, "ringfeed", sample)
                        works[of, n].add(family.limit, "limit", least)
        say(f"growth: {of}")
    return works


@pytest.mark.parametrize(("of", "n", "way"), POINTS)
def bench_growth(tell: Any, grown: dict[tuple[str, int], Work], of: str, n: int, way: str) -> None:
    tell(grown[of, n], way)


# ---- Crowds --------------------------------------------------------------------------------------

CROWDS = [1, 2, 4, 8, 16, 32, 64]
PUT = [entry for entry in TRANSPORTS if entry.way == "RingFeed, put"]


@pytest.fixture(scope="module", params=CROWDS)
def crowd(request: pytest.FixtureRequest, scale: Scale, say: Callable[[str], None]) -> Work:
    """Senders put 64-byte records for the same time: what a record takes, and the slowest of them beside their mean."""
    count = request.param
    if count not in scale.of([2], [1, 8, 64], CROWDS):
        pytest.skip("not at this scale")
    title, quantity = f"growth: producers: {count}", "time of a record, sent and received"
    work = Work(title, "growth", {"of": "producers", "n": count}, quantity)
    slowest = []
    with closing(Hall(Job(64, senders=count), PUT)) as hall:
        way = hall.ways[0]
        for number in range(scale.of(1, 3, 12)):
            sample, sent = hall.race(way, scale.of(0.05, max(0.5, 0.06 * count), max(0.5, 0.1 * count)))
            least = copied(64, 256, scale.of(0.0, 0.01, 0.05))
            if number or scale.name == "smoke":
                work.add(WAY, "ringfeed", sample)
                work.add(COPIED, "limit", least)
                slowest.append(min(sent) / (sum(sent) / len(sent)))
    work.notes[WAY] = {"slowest / mean": float(np.median(slowest))}
    say(work.title)
    return work


@pytest.mark.parametrize("way", [WAY, COPIED])
def bench_crowd(tell: Any, crowd: Work, way: str) -> None:
    tell(crowd, way)
