"""What this machine can do at best, measured in the same run as everything that is compared with it.

    limits.measure().cache_line_round_trip_seconds
    limits.fill_seconds_per_byte(cores=2)

Figures are medians of some rounds, taken once per process. Where there is no C compiler `why_missing()` says so, and
everything else raises `LimitsMissing`.
"""

from __future__ import annotations

import functools
import statistics
from dataclasses import dataclass

from limits.build import LimitsMissing, run, why_missing

__all__ = [
    "Limits",
    "LimitsMissing",
    "batch_seconds",
    "fill_seconds_per_byte",
    "futex_round_trip_seconds",
    "measure",
    "read_seconds_per_byte",
    "run",
    "wake_up_seconds",
    "why_missing",
]

ROUNDS = 5
HUNDREDTHS = 25  # of what the program does by itself
BATCHES = 4_000
NANOSECOND = 1e-9
GIGABYTE = 1e9


@dataclass(frozen=True)
class Limits:
    """Figures of this machine.

    Attributes
    ----------
    cache_line_round_trip_seconds : float
        Until a number that one core changed was changed by another core, and seen by the first.
    futex_round_trip_seconds : float
        Until a process on one core that woke another, asleep on another core, was woken by it.
    futex_round_trip_one_core_seconds : float
        The same with both on one core.
    fill_seconds_per_byte, read_seconds_per_byte : dict[int, float]
        Of large memory by so many cores at a time; of all of them together, so more cores need less.
    sample_fill_seconds_per_byte : dict[int, float]
        A number copied into 256 samples of 224x224x3 float32 in shared memory, lap after lap.
    batch_seconds : float
        64 records of 64 bytes from core to core behind one flag per batch, pipelined.
    batch_ping_pong_seconds : float
        The same with one buffer: written when it was read, read when it was written.
    """

    cache_line_round_trip_seconds: float
    futex_round_trip_seconds: float
    futex_round_trip_one_core_seconds: float
    fill_seconds_per_byte: dict[int, float]
    read_seconds_per_byte: dict[int, float]
    sample_fill_seconds_per_byte: dict[int, float]
    batch_seconds: float
    batch_ping_pong_seconds: float


@functools.cache
def measure() -> Limits:
    """Measure everything, in rounds; some ten seconds the first time."""
    rounds = [
        run("machine", [], BATCHES=HUNDREDTHS) | run("hop", ["flags", "ping_pong"], BATCHES=BATCHES)
        for _ in range(ROUNDS)
    ]
    median = {name: statistics.median(one[name] for one in rounds) * NANOSECOND for name in rounds[0]}

    def by_cores(what: str) -> dict[int, float]:
        counts = range(1, 1 + sum(name.rpartition("_")[0] == what for name in median))
        return {count: median[f"{what}_{count}"] / GIGABYTE for count in counts}

    return Limits(
        cache_line_round_trip_seconds=median["line_round_trip"],
        futex_round_trip_seconds=median["futex_round_trip"],
        futex_round_trip_one_core_seconds=median["futex_round_trip_1"],
        fill_seconds_per_byte=by_cores("fill"),
        read_seconds_per_byte=by_cores("read"),
        sample_fill_seconds_per_byte=by_cores("fill_samples"),
        batch_seconds=median["flags"],
        batch_ping_pong_seconds=median["ping_pong"],
    )


def futex_round_trip_seconds() -> float:
    """Return the faster of the two: the kernel may put both processes on one core."""
    found = measure()
    return min(found.futex_round_trip_seconds, found.futex_round_trip_one_core_seconds)


def wake_up_seconds(hundredths: int) -> float:
    """Measure now, for so long, the least that it takes to wake a sleeping process: half of the faster round trip."""
    found = run("machine", ["futex_round_trip", "futex_round_trip_1"], BATCHES=hundredths)
    return min(found.values()) / 2 * NANOSECOND


def fill_seconds_per_byte(cores: int) -> float:
    """Return the least that filling memory with so many cores takes, of large memory or of 256 samples."""
    found = measure()
    return min(found.fill_seconds_per_byte[cores], found.sample_fill_seconds_per_byte[cores])


def read_seconds_per_byte(cores: int) -> float:
    """Return the least that reading memory with so many cores takes."""
    return measure().read_seconds_per_byte[cores]


def batch_seconds() -> float:
    """Return the least that a batch of 64 records of 64 bytes takes from core to core."""
    found = measure()
    return min(found.batch_seconds, found.batch_ping_pong_seconds)
