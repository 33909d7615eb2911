"""What an engine did, in numbers and in one sentence, and for Prometheus.

It may not know TensorFlow, nor how the numbers came about: it reads meters and counters.
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from .. import _core

STAGES = {
    "slot": "waiting for a slot (requests)",
    "preprocess": "from claim to publish, where the sample is written",
    "queue": "waiting in the ring until taken into a batch",
    "copy": "making a batch ready for the model",
    "compute": "the model",
    "reply": "writing the answers of a batch",
    "total": "from asking to the answer (requests)",
}
_ENDS_SECONDS: list[float] = [end / 1e9 for end in _core.BUCKET_ENDS_NS]


@dataclass(frozen=True)
class StageTimes:
    """How long one stage took.

    Attributes
    ----------
    count : int
    total_seconds, mean_seconds : float
    p50_seconds, p90_seconds, p99_seconds : float
        At most a quarter too large: the end of the histogram's bucket.
    """

    count: int
    total_seconds: float
    mean_seconds: float
    p50_seconds: float
    p90_seconds: float
    p99_seconds: float

    @classmethod
    def of(cls, count: int, sum_ns: int, buckets: Sequence[int]) -> StageTimes:
        """Read a meter's histogram."""
        total = sum_ns / 1e9
        quantiles = (_quantile(buckets, share) for share in (0.5, 0.9, 0.99))
        return cls(count, total, total / count if count else 0.0, *quantiles)


def _quantile(buckets: Sequence[int], share: float) -> float:
    wanted, seen = share * sum(buckets), 0
    for count, end in zip(buckets, _ENDS_SECONDS, strict=True):
        seen += count
        if seen >= wanted and count:
            return end
    return 0.0


@dataclass(frozen=True)
class EngineStats:
    """What an engine did since it was started.

    Attributes
    ----------
    ring, model : str
    devices : tuple of str
    device_rows : tuple of int
        Rows that each of them has run, in their order.
    uptime_seconds : float
    rows, batches : int
        That the model has seen.
    failed, expired, withdrawn : int
        Rows that were answered with an error; whose deadline had passed; that nobody waited for any more.
    batch_sizes : dict of int to int
        How many batches had so many rows.
    stages : dict of str to StageTimes
        By the names of `STAGES`.
    busy_seconds, starved_seconds, batching_seconds, reply_seconds : float
        Of all devices together: running the model; waiting while nothing was ready; waiting for a batch to grow;
        writing answers.
    ready, slots : int
        Records that wait now, and how many can.
    producers : int
        Processes that records came from.
    ceiling_rows : int
        Most rows that every device has memory for, as far as is known.
    out_of_memory : int
        How often a device had too little memory for a batch.
    dead_letters : int
        Records of the ring that were set aside, by any taker: too many had died or failed over them.
    """

    ring: str
    model: str
    devices: tuple[str, ...]
    device_rows: tuple[int, ...]
    uptime_seconds: float
    rows: int
    batches: int
    failed: int
    expired: int
    withdrawn: int
    batch_sizes: dict[int, int]
    stages: dict[str, StageTimes]
    busy_seconds: float
    starved_seconds: float
    batching_seconds: float
    reply_seconds: float
    ready: int
    slots: int
    producers: int
    ceiling_rows: int
    out_of_memory: int
    dead_letters: int = 0

    @classmethod
    def of(cls, ring: Any, model: str, meter: _core.Meter, replicas: Sequence[Any], **more: Any) -> EngineStats:
        """Read an engine's ring, meter and replicas; `more` are the fields that these do not tell."""
        stages = {stage: StageTimes.of(*reading) for stage, reading in meter.read().items()}
        starved, batching = meter.idle()
        now = time.monotonic_ns()
        # Waits that are not over yet: what they were for is known when a batch comes.
        starved += sum(now - since for replica in replicas if (since := replica.waiting_since) is not None)
        sizes = [dict(replica.batch_sizes) for replica in replicas]
        batch_sizes = {rows: sum(each.get(rows, 0) for each in sizes) for each in sizes for rows in each}
        return cls(
            ring=ring.name,
            model=model,
            devices=tuple(replica.device for replica in replicas),
            device_rows=tuple(sum(rows * count for rows, count in each.items()) for each in sizes),
            rows=sum(rows * count for rows, count in batch_sizes.items()),
            batches=sum(batch_sizes.values()),
            failed=sum(replica.failed for replica in replicas),
            dead_letters=sum(level.stats()["dead_letters"] for level in ring.levels),
            batch_sizes=dict(sorted(batch_sizes.items())),
            stages=stages,
            busy_seconds=stages["compute"].total_seconds + stages["copy"].total_seconds,
            starved_seconds=starved / 1e9,
            batching_seconds=batching / 1e9,
            reply_seconds=stages["reply"].total_seconds,
            ready=0 if ring.closed else sum(level.ready for level in ring.levels),
            slots=0 if ring.closed else ring.slots,
            producers=meter.producers(),
            ceiling_rows=min(replica.ceiling.rows for replica in replicas),
            out_of_memory=sum(replica.ceiling.lowered for replica in replicas),
            **more,
        )

    @property
    def advice(self) -> str:
        """What to change, in a sentence."""
        device_seconds = self.busy_seconds + self.starved_seconds + self.batching_seconds + self.reply_seconds
        if not self.batches or device_seconds <= 0:
            return f"the model of ring {self.ring!r} has seen no record yet."
        starved = self.starved_seconds / device_seconds
        batching = self.batching_seconds / device_seconds
        replying = self.reply_seconds / device_seconds
        if starved >= 0.1:
            return f"the model waits {starved:.0%} of the time for producers: {self._more_producers(starved)}."
        if batching >= 0.1:
            return (
                f"the model waits {batching:.0%} of the time for batches to grow: a shorter linger would answer "
                "sooner, more producers would fill batches."
            )
        if replying >= 0.1:
            return f"writing answers takes {replying:.0%} of the time: return smaller outputs, or add an engine."
        busy = f"the model is busy {self.busy_seconds / device_seconds:.0%} of the time"
        if self.ready >= self.slots * 0.5:
            return f"{busy} and {self.ready} of {self.slots} slots wait for it: add a device or an engine."
        return f"{busy}: producers and model keep step."

    def _more_producers(self, starved: float) -> str:
        # n producers keep the model busy for 1 - starved of the time; so n / (1 - starved) would for all of it.
        if starved > 0.99:
            return "nearly nothing comes"
        more = math.ceil(self.producers * starved / (1 - starved))
        return f"add about {more} {'worker' if more == 1 else 'workers'}"

    def __str__(self) -> str:
        lines = [
            f"engine of model {self.model!r} on ring {self.ring!r}: {self.rows} rows in {self.batches} batches, "
            f"{self.failed} failed, {self.expired} expired, {self.withdrawn} withdrawn"
        ]
        for name, times in self.stages.items():
            lines.append(
                f"  {name:<10} {times.count:>9} times, mean {1e3 * times.mean_seconds:9.3f} ms, "
                f"p50 {1e3 * times.p50_seconds:9.3f}, p99 {1e3 * times.p99_seconds:9.3f}   {STAGES[name]}"
            )
        return "\n".join([*lines, f"  {self.advice}"])


def idle_shares(stats: EngineStats) -> dict[str, float]:
    """Return which share of its time a device spends on what: busy, starved, batching, replies."""
    parts = {
        "busy": stats.busy_seconds,
        "starved": stats.starved_seconds,
        "batching": stats.batching_seconds,
        "replies": stats.reply_seconds,
    }
    total = sum(parts.values())
    return {name: seconds / total if total else 0.0 for name, seconds in parts.items()}


# ---- Prometheus ------------------------------------------------------------------------------------------


class EngineCollector:
    """The numbers of engines for prometheus-client: one for each registry; made by `Engine.register_metrics`.

    It keeps no engine alive; one that is gone is not shown any more. The label "engine" is the least free number:
    a process that makes one engine after the other needs no more labels than it has engines at a time.
    """

    _of_registry: ClassVar[WeakKeyDictionary[Any, EngineCollector]] = WeakKeyDictionary()
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self) -> None:
        self._engines: list[weakref.ref[Any]] = []

    @classmethod
    def show(cls, engine: Any, registry: Any) -> EngineCollector:
        """Show an engine, anything with ``stats()`` and ``meter``, in a registry. Showing it twice does no harm."""
        with cls._lock:
            collector = cls._of_registry.get(registry)
            if collector is None:
                collector = cls._of_registry[registry] = cls()
            # Also a second time: it may have been unregistered. It describes nothing, so it stands in nobody's way.
            registry.register(collector)
            collector._add(engine)
        return collector

    def _add(self, engine: Any) -> None:
        there = [reference() for reference in self._engines]
        if any(each is engine for each in there):
            return
        free = [number for number, each in enumerate(there) if each is None or getattr(each, "is_over", False)]
        if free:
            self._engines[free[0]] = weakref.ref(engine)
        else:
            self._engines.append(weakref.ref(engine))

    def describe(self) -> Iterable[Any]:
        """Return nothing: which engines there are is seen at each scrape."""
        return []

    def collect(self) -> Iterator[Any]:
        """Yield the families of metrics, as prometheus-client asks for them at each scrape."""
        families: dict[str, Any] = {}
        for number, reference in enumerate(self._engines):
            engine = reference()
            if engine is None:
                continue
            stats = engine.stats()
            _add_numbers(families, stats, str(number))
            _add_histograms(families, stats, engine.meter.read(), str(number))
        yield from families.values()


def _add_numbers(families: dict[str, Any], stats: EngineStats, number: str) -> None:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    values = [stats.ring, stats.model, number]
    for kind, numbers in ((CounterMetricFamily, _counters(stats)), (GaugeMetricFamily, _gauges(stats))):
        for name, text, value in numbers:
            _family(families, kind, name, text).add_metric(values, value)
    seconds = _family(
        families, CounterMetricFamily, "device_seconds", "Time of the devices, by what they did.", "state"
    )
    for state, value in _device_seconds(stats):
        seconds.add_metric([*values, state], value)


def _add_histograms(families: dict[str, Any], stats: EngineStats, stages: dict[str, Any], number: str) -> None:
    from prometheus_client.core import HistogramMetricFamily

    values = [stats.ring, stats.model, number]
    text = "Time of each stage, of a row or of a batch."
    times = _family(families, HistogramMetricFamily, "stage_seconds", text, "stage")
    for stage, (count, sum_ns, buckets) in stages.items():
        times.add_metric([*values, stage], _cumulative(buckets, count), sum_ns / 1e9)
    sizes = _family(families, HistogramMetricFamily, "batch_rows", "Rows of the batches.")
    sizes.add_metric(values, _cumulative_sizes(stats.batch_sizes), sum(n * c for n, c in stats.batch_sizes.items()))


def _family(families: dict[str, Any], kind: Any, name: str, text: str, *labels: str) -> Any:
    if name not in families:
        families[name] = kind(f"ringfeed_engine_{name}", text, labels=["ring", "model", "engine", *labels])
    return families[name]


def _counters(stats: EngineStats) -> Iterable[tuple[str, str, float]]:
    yield "rows", "Rows that the model has seen.", stats.rows
    yield "batches", "Batches that the model has seen.", stats.batches
    yield "failed_rows", "Rows that were answered with an error.", stats.failed
    yield "expired_rows", "Rows whose deadline had passed before the model saw them.", stats.expired
    yield "withdrawn_rows", "Rows that nobody waited for any more.", stats.withdrawn
    yield "dead_letter_rows", "Records set aside: too many takers had died or failed over them.", stats.dead_letters
    yield "out_of_memory", "Batches that a device had too little memory for.", stats.out_of_memory


def _gauges(stats: EngineStats) -> Iterable[tuple[str, str, float]]:
    yield "ready_rows", "Records that wait in the ring.", stats.ready
    yield "ring_fill_ratio", "Share of the ring's slots that wait to be taken.", stats.ready / max(stats.slots, 1)
    yield "ceiling_rows", "Most rows that every device has memory for, as far as is known.", stats.ceiling_rows
    yield "producers", "Processes that records came from.", stats.producers


def _device_seconds(stats: EngineStats) -> Iterable[tuple[str, float]]:
    yield "busy", stats.busy_seconds
    yield "starved", stats.starved_seconds
    yield "batching", stats.batching_seconds
    yield "replies", stats.reply_seconds


def _cumulative(buckets: Sequence[int], count: int) -> list[tuple[str, float]]:
    """Return Prometheus' buckets: one for each power of two from about a microsecond to about a minute."""
    found, seen = [], 0
    for number, (rows, end) in enumerate(zip(buckets, _core.BUCKET_ENDS_NS, strict=True)):
        seen += rows
        if number % 4 == 3 and 2**10 <= end <= 2**36:
            found.append((repr(end / 1e9), float(seen)))
    return [*found, ("+Inf", float(count))]


def _cumulative_sizes(sizes: dict[int, int]) -> list[tuple[str, float]]:
    largest = max(sizes, default=1)
    ends = [2**power for power in range(max(largest - 1, 0).bit_length() + 1)]
    found = [(str(float(end)), float(sum(count for rows, count in sizes.items() if rows <= end))) for end in ends]
    return [*found, ("+Inf", float(sum(sizes.values())))]
