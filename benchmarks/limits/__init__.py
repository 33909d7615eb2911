"""The machine's limits, measured in the same run as the compared figures.

    limits.measure().cache_line_round_trip_seconds
    limits.fill_seconds_per_byte(cores=2)

Figures are medians of some rounds, measured once per process. Without a C compiler `why_missing()` returns the reason,
and every other function raises `LimitsMissing`.
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
        From one core's change of a number to its view of another core's reply in the same number.
    futex_round_trip_seconds : float
        From a process's wake-up of a process that sleeps on another core to its own wake-up by that process.
    futex_round_trip_one_core_seconds : float
        The same with both processes on one core.
    fill_seconds_per_byte, read_seconds_per_byte : dict[int, float]
        Number of cores -> time per byte of large memory, for all these cores together.
    sample_fill_seconds_per_byte : dict[int, float]
        The same for a number copied into 256 samples of 224x224x3 float32 in shared memory, lap after lap.
    batch_seconds : float
        64 records of 64 bytes from core to core, with one flag per batch, pipelined.
    batch_ping_pong_seconds : float
        The same with one buffer, which the two cores write and read in turn.
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
    """Measure all figures in rounds; the first call takes about ten seconds."""
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
    """Return the faster of the two round trips, because the kernel may put both processes on one core."""
    found = measure()
    return min(found.futex_round_trip_seconds, found.futex_round_trip_one_core_seconds)


def wake_up_seconds(hundredths: int) -> float:
    """Measure now the least time to wake a sleeping process: half of the faster round trip.

    `hundredths` is the amount of work, in percent of the usual one.
    """
    found = run("machine", ["futex_round_trip", "futex_round_trip_1"], BATCHES=hundredths)
    return min(found.values()) / 2 * NANOSECOND


def fill_seconds_per_byte(cores: int) -> float:
    """Return the least time per byte to fill memory with `cores`, large memory or 256 samples."""
    found = measure()
    return min(found.fill_seconds_per_byte[cores], found.sample_fill_seconds_per_byte[cores])


def read_seconds_per_byte(cores: int) -> float:
    """Return the least time per byte to read memory with `cores`."""
    return measure().read_seconds_per_byte[cores]


def batch_seconds() -> float:
    """Return the least time of a batch of 64 records of 64 bytes from core to core."""
    found = measure()
    return min(found.batch_seconds, found.batch_ping_pong_seconds)
