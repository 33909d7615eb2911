"""The numbers of engines for Prometheus, in the form that prometheus-client asks for.

It may not know TensorFlow, nor how the numbers come about: it reads `EngineStats` and meters.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from .. import _core
from .metrics import EngineStats


class EngineCollector:
    """The collector of one registry of prometheus-client; `Engine.register_metrics` makes it.

    The collector keeps no engine alive, and shows no engine that is gone. The label "engine" is the least free number:
    a process that makes one engine after the other needs no more labels than it has engines at a time.
    """

    _of_registry: ClassVar[WeakKeyDictionary[Any, EngineCollector]] = WeakKeyDictionary()
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self) -> None:
        self._engines: list[weakref.ref[Any]] = []

    @classmethod
    def show(cls, engine: Any, registry: Any) -> EngineCollector:
        """Show an engine in a registry. A second call does nothing.

        Parameters
        ----------
        engine : Engine
            Or any object with ``stats()`` and ``meter``.
        registry : prometheus_client.CollectorRegistry

        Returns
        -------
        EngineCollector
            The collector of the registry, made if it has none.
        """
        with cls._lock:
            collector = cls._of_registry.get(registry)
            if collector is None:
                collector = cls._of_registry[registry] = cls()
            # Every time, because it may have been unregistered. It describes no metrics, so it collides with none.
            registry.register(collector)
            collector._add(engine)
        return collector

    def _add(self, engine: Any) -> None:
        known = [reference() for reference in self._engines]
        if any(each is engine for each in known):
            return
        free = [number for number, each in enumerate(known) if each is None or getattr(each, "has_ended", False)]
        if free:
            self._engines[free[0]] = weakref.ref(engine)
        else:
            self._engines.append(weakref.ref(engine))

    def describe(self) -> Iterable[Any]:
        """Return no metrics: the engines may differ at each scrape."""
        return []

    def collect(self) -> Iterator[Any]:
        """Yield the families of metrics; prometheus-client calls this at each scrape."""
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
    seconds = _family(families, CounterMetricFamily, "device_seconds", "Time of the devices, by their state.", "state")
    for state, value in _device_seconds(stats):
        seconds.add_metric([*values, state], value)


def _add_histograms(families: dict[str, Any], stats: EngineStats, phases: dict[str, Any], number: str) -> None:
    from prometheus_client.core import HistogramMetricFamily

    values = [stats.ring, stats.model, number]
    text = "Time of each phase, of a row or of a batch."
    times = _family(families, HistogramMetricFamily, "phase_seconds", text, "phase")
    for phase, (count, sum_ns, buckets) in phases.items():
        times.add_metric([*values, phase], _cumulative(buckets, count), sum_ns / 1e9)
    sizes = _family(families, HistogramMetricFamily, "batch_rows", "Rows of the batches.")
    sizes.add_metric(values, _cumulative_sizes(stats.batch_sizes), sum(n * c for n, c in stats.batch_sizes.items()))


def _family(families: dict[str, Any], kind: Any, name: str, text: str, *labels: str) -> Any:
    if name not in families:
        families[name] = kind(f"ringfeed_engine_{name}", text, labels=["ring", "model", "engine", *labels])
    return families[name]


def _counters(stats: EngineStats) -> Iterable[tuple[str, str, float]]:
    yield "rows", "Rows that the model has run.", stats.rows
    yield "batches", "Batches that the model has run.", stats.batches
    yield "failed_rows", "Rows that were answered with an error.", stats.failed
    yield "expired_rows", "Rows whose deadline had passed before the model ran them.", stats.expired
    yield "withdrawn_rows", "Rows whose client no longer waited.", stats.withdrawn
    yield "dead_letter_rows", "Records set aside: too many takers had died or failed over them.", stats.dead_letters
    yield "out_of_memory", "Batches that a device had too little memory for.", stats.out_of_memory


def _gauges(stats: EngineStats) -> Iterable[tuple[str, str, float]]:
    yield "ready_rows", "Records that wait in the ring.", stats.ready
    yield "ring_fill_ratio", "Share of the ring's slots that wait to be taken.", stats.ready / max(stats.slots, 1)
    yield "memory_limit_rows", "Most rows known to fit into every device's memory.", stats.memory_limit_rows
    yield "producers", "Processes that records came from.", stats.producers


def _device_seconds(stats: EngineStats) -> Iterable[tuple[str, float]]:
    yield "busy", stats.busy_seconds
    yield "starved", stats.starved_seconds
    yield "batching", stats.batching_seconds
    yield "replies", stats.reply_seconds


def _cumulative(buckets: Sequence[int], count: int) -> list[tuple[str, float]]:
    """Return the buckets of Prometheus: one for each power of two from about a microsecond to about a minute."""
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
