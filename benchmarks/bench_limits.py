"""The machine's limits, and RingFeed's C level compared with its peers and with the least cost of the same bytes.

Every way runs for a moment in a separate program, in rounds that alternate. The heads of `limits/machine.c` and
`limits/hop.c` describe each way.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import pytest

import limits
from measuring.rounds import Role, Sample, Way, Work

NANOSECOND = 1e-9
CORES = range(1, len(os.sched_getaffinity(0)) + 1)
MEMORY = {"fill": "memory filled", "read": "memory read", "fill_samples": "256 samples of 224x224x3 float32 filled"}
ROUND_TRIPS = {
    "a cache line": ("cache-line round trip", "line_round_trip"),
    "a futex, on two cores": ("futex round trip", "futex_round_trip"),
    "a futex, on one core": ("futex round trip", "futex_round_trip_1"),
}
# The role, program, figure and relative number of batches of each way; all take milliseconds.
HOP: dict[str, tuple[Role, str, str, float]] = {
    "RingFeed, C, 64 slots": ("ringfeed", "hop", "ringfeed", 1),
    "RingFeed, C, all 64 in one slot": ("ringfeed", "hop", "bundle", 1),
    "one flag per batch, no protocol": ("limit", "hop", "flags", 1),
    "one buffer in turn, no protocol": ("limit", "hop", "ping_pong", 1),
    "cache-line round trip": ("limit", "machine", "line_round_trip", 1),
    "a pipe, a write for each record": ("peer", "hop", "pipe", 0.05),
    "a pipe, one write for all 64": ("peer", "hop", "pipe_bundle", 1),
    "buffers behind a robust mutex, by hand": ("peer", "hop", "mutex", 1),
}


def by_cores(cores: int) -> str:
    return "1 core" if cores == 1 else f"{cores} cores"


def measured(program: str, figure: str, amount: int) -> Callable[[], Sample]:
    def measure() -> Sample:
        started = time.perf_counter()
        value = limits.run(program, [figure], BATCHES=amount)[figure] * NANOSECOND
        return Sample(value, time.perf_counter() - started)

    return measure


def measure(work: Work, ways: list[Way], rounds: int, budget_seconds: float, say: Any) -> Work:
    reason = limits.why_missing()
    if reason:
        work.missing |= dict.fromkeys([way.name for way in ways], reason)
        return work
    return work.measure(ways, rounds, warm_up=0, budget_seconds=budget_seconds, say=say)


@pytest.fixture(scope="module")
def round_trips(scale: Any, say: Any) -> dict[str, Work]:
    works = {}
    for what, (axis, figure) in ROUND_TRIPS.items():
        work = works.setdefault(axis, Work(f"the machine's limits: {axis}", "limits", {"what": axis}))
        ways = [Way(what, "limit", measured("machine", figure, scale.of(1, 20, 50)))]
        measure(work, ways, scale.of(1, 7, 15), scale.of(1.0, 1.5, 4.0), say)
    return works


@pytest.fixture(scope="module")
def memory(scale: Any, say: Any) -> dict[str, Work]:
    works = {}
    for figure, what in MEMORY.items():
        # A unit is a gigabyte.
        works[figure] = Work(f"the machine's limits: {what}", "limits", {"what": what}, bytes_per_unit=10**9)
        amount = scale.of(1, 10, 50)
        ways = [Way(by_cores(cores), "limit", measured("machine", f"{figure}_{cores}", amount)) for cores in CORES]
        measure(works[figure], ways, scale.of(1, 5, 9), scale.of(1.0, 3.0, 8.0), say)
    return works


@pytest.fixture(scope="module")
def hop(scale: Any, say: Any) -> Work:
    work = Work("a batch of 64 records of 64 bytes from core to core, in C", "c_hop", {"record_bytes": 64, "rows": 64})
    # Rounds of milliseconds, so that on a shared machine some of them run undisturbed.
    amounts = {"hop": scale.of(200, 2_000, 5_000), "machine": scale.of(1, 3, 10)}
    ways = [
        Way(name, role, measured(program, figure, int(part * amounts[program])))
        for name, (role, program, figure, part) in HOP.items()
    ]
    return measure(work, ways, scale.of(1, 41, 151), scale.of(1.0, 4.0, 15.0), say)


@pytest.mark.parametrize("what", ROUND_TRIPS)
def bench_round_trip(tell: Any, round_trips: dict[str, Work], what: str) -> None:
    tell(round_trips[ROUND_TRIPS[what][0]], what)


@pytest.mark.parametrize("cores", CORES)
@pytest.mark.parametrize("figure", MEMORY)
def bench_memory(tell: Any, memory: dict[str, Work], figure: str, cores: int) -> None:
    tell(memory[figure], by_cores(cores))


@pytest.mark.parametrize("way", HOP)
def bench_hop_in_c(tell: Any, hop: Work, way: str) -> None:
    tell(hop, way)
