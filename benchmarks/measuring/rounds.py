"""Ways to do one piece of work, measured in alternating rounds. Knows no particular way or piece of work.

The speed of a shared machine varies over seconds. Therefore each round measures every way once, in an order that
rotates, and figures of the same round are compared: a ratio is the median of paired ratios.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from measuring.machine import core_count
from measuring.other_load import OtherLoad

Role = Literal["ringfeed", "peer", "limit"]

PERCENTS = (50.0, 99.0, 99.9)


@dataclass(frozen=True)
class Sample:
    """The measurement of one way in one round.

    Attributes
    ----------
    value : float
        The compared figure: seconds per unit of work, or the work's `quantity`. Less is better.
    seconds : float
        The duration of the whole round, for pytest-benchmark.
    latencies_us : array, optional
        The latencies of single units.
    """

    value: float
    seconds: float
    latencies_us: np.ndarray | None = None


@dataclass(frozen=True)
class Way:
    """One way: its name in the tables, its role, and a function that measures it once."""

    name: str
    role: Role
    measure: Callable[[], Sample]


def role_by_name(way: str) -> Role:
    """Return the role of a way by the prefix of its name."""
    return "ringfeed" if way.startswith("RingFeed") else "limit" if way.startswith("limit") else "peer"


@dataclass
class Work:
    """A piece of work and the measurements of each way: one table of the report.

    Attributes
    ----------
    title : str
        The work, with sizes and counts.
    figure : str
        The plot, or the family of tables, that the work belongs to.
    axes : dict
        The position in that family: `{"record_bytes": 64, "producers": 1}`.
    quantity, unit : str
        The measured quantity and its unit: `"s"`, `"MB"`, `"%"`.
    bytes_per_unit : int
        For a rate in GB/s; 0 if a rate has no meaning.
    samples : dict
        Way -> one sample per round.
    missing : dict
        Way -> why it does not take part.
    notes : dict
        Further figures of a way, for its row: way -> name -> value.
    others_share : float
        The share of the machine that other programs took meanwhile.
    """

    title: str
    figure: str
    axes: dict[str, float | str] = field(default_factory=dict)
    quantity: str = "time"
    unit: str = "s"
    bytes_per_unit: int = 0
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    roles: dict[str, Role] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    notes: dict[str, dict[str, float]] = field(default_factory=dict)
    others_share: float = 0.0

    def measure(
        self,
        ways: Iterable[Way],
        rounds: int,
        *,
        warm_up: int = 1,
        budget_seconds: float | None = None,
        say: Callable[[str], None] | None = None,
    ) -> Work:
        """Measure every way once per round.

        Parameters
        ----------
        rounds : int
            The most rounds.
        budget_seconds : float, optional
            After two rounds, a round starts only if it would end in time, assuming the duration of the last round.
        say : callable, optional
            Called with a line of progress after each round.
        """
        ways = list(ways)
        if not ways:
            return self
        for way in ways:
            for _ in range(warm_up):
                way.measure()
        load, started, longest = OtherLoad(), time.monotonic(), 0.0
        for number in range(rounds):
            begun = time.monotonic()
            if budget_seconds is not None and number >= 2 and begun - started + longest > budget_seconds:
                break
            first = number % len(ways)
            for way in ways[first:] + ways[:first]:
                self.add(way.name, way.role, way.measure())
            longest = max(longest, time.monotonic() - begun)
            if say:
                say(f"{self.title}: round {number + 1}")
        self.others_share = max(self.others_share, load.cores() / core_count())
        return self

    def add(self, name: str, role: Role, sample: Sample) -> None:
        """Record one round of one way."""
        self.roles[name] = role
        self.samples.setdefault(name, []).append(sample)

    def as_json(self, name: str) -> dict[str, Any]:
        """Return the report's data of one way."""
        samples = self.samples[name]
        latencies = [sample.latencies_us for sample in samples if sample.latencies_us is not None]
        return {
            "way": name,
            "role": self.roles[name],
            "figure": self.figure,
            "axes": self.axes,
            "quantity": self.quantity,
            "unit": self.unit,
            "bytes_per_unit": self.bytes_per_unit,
            "values": [sample.value for sample in samples],
            "latency_us": percentiles(latencies) if latencies else None,
            "notes": self.notes.get(name, {}),
            "others_share": self.others_share,
        }


def percentiles(latencies_us: Sequence[np.ndarray]) -> dict[str, float]:
    """Return p50, p99 and p99.9 of all rounds together, and the number of latencies."""
    joined = np.concatenate(latencies_us)
    found = np.percentile(joined, PERCENTS)
    return {f"{percent:g}": float(value) for percent, value in zip(PERCENTS, found, strict=True)} | {
        "count": len(joined)
    }


def timed(call: Callable[[], Any], units: int = 1) -> Sample:
    """Measure one call that does `units` units of work."""
    started = time.perf_counter()
    call()
    seconds = time.perf_counter() - started
    return Sample(seconds / units, seconds)


def paired_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the median of the ratios of paired rounds."""
    count = min(len(above), len(below))
    return float(np.median(np.asarray(above[:count]) / np.asarray(below[:count])))


def missing_modules(needed: Mapping[str, str]) -> dict[str, str]:
    """Return the ways whose module cannot be imported: way -> reason."""
    import importlib.util

    return {
        way: f"{module} is not installed" for way, module in needed.items() if importlib.util.find_spec(module) is None
    }
