"""Ways to do one piece of work, measured in rounds that alternate. Knows no way and no piece of work in particular.

Shared machines have moods of seconds. So each round measures every way once, in an order that rotates, and what is
compared are figures of the same round: a ratio is the median of paired ratios.
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
    """What one way took in one round.

    Attributes
    ----------
    value : float
        What is compared: seconds of one unit of work, or whatever the work's `quantity` says. Less is better.
    seconds : float
        Of the whole round, as pytest-benchmark shows it.
    latencies_us : array, optional
        Of single units.
    """

    value: float
    seconds: float
    latencies_us: np.ndarray | None = None


@dataclass(frozen=True)
class Way:
    """One entrant: what it is called in the tables, whose it is, and a function that measures it once."""

    name: str
    role: Role
    measure: Callable[[], Sample]


def role_by_name(way: str) -> Role:
    """Return whose a way is, where its name says so."""
    return "ringfeed" if way.startswith("RingFeed") else "limit" if way.startswith("limit") else "peer"


@dataclass
class Work:
    """A piece of work, and what each way took for it: one table of the report.

    Attributes
    ----------
    title : str
        What everyone does, with sizes and counts.
    figure : str
        The plot, or the family of tables, that it belongs to.
    axes : dict
        Where it stands in that family: `{"record_bytes": 64, "producers": 1}`.
    quantity, unit : str
        What a value is, and in what it is counted: `"s"`, `"MB"`, `"%"`.
    bytes_per_unit : int
        Where a rate in GB/s says something.
    samples : dict
        Way -> one sample per round.
    missing : dict
        Way -> why it is not here.
    notes : dict
        Further figures of a way, for its row: way -> name -> value.
    others_share : float
        The part of the machine that other programs took meanwhile.
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
        """Measure every way once a round.

        Parameters
        ----------
        rounds : int
            At most so many.
        budget_seconds : float, optional
            After two rounds no further one starts that would end later than this, if it took as long as the last.
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
        """Note one round of one way."""
        self.roles[name] = role
        self.samples.setdefault(name, []).append(sample)

    def as_json(self, name: str) -> dict[str, Any]:
        """Return what the report needs to know of one way."""
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
    """Return p50, p99 and p99.9 of all rounds together, and the number they are of."""
    joined = np.concatenate(latencies_us)
    found = np.percentile(joined, PERCENTS)
    return {f"{percent:g}": float(value) for percent, value in zip(PERCENTS, found, strict=True)} | {
        "count": len(joined)
    }


def timed(call: Callable[[], Any], units: int = 1) -> Sample:
    """Measure one call that does so many units of work."""
    started = time.perf_counter()
    call()
    seconds = time.perf_counter() - started
    return Sample(seconds / units, seconds)


def paired_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the median of the ratios of the same rounds."""
    count = min(len(above), len(below))
    return float(np.median(np.asarray(above[:count]) / np.asarray(below[:count])))


def missing_modules(needed: Mapping[str, str]) -> dict[str, str]:
    """Return for each way whose module can not be imported why: way -> reason."""
    import importlib.util

    return {
        way: f"{module} is not installed" for way, module in needed.items() if importlib.util.find_spec(module) is None
    }
