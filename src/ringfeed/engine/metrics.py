"""What an engine did, in numbers, and in one sentence of advice.

It may not know TensorFlow, nor how the numbers come about: it reads meters and counters.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .. import _core

PHASES = {
    "slot": "waiting for a slot (requests)",
    "preprocess": "from claim to publish, while the sample is written",
    "queue": "waiting in the ring until taken into a batch",
    "copy": "making a batch ready for the model",
    "compute": "the model",
    "reply": "writing the answers of a batch",
    "total": "from the request to its answer (requests)",
}
"""The phases of a record or of a batch, and what each of them is."""

_ENDS_SECONDS: list[float] = [end / 1e9 for end in _core.BUCKET_ENDS_NS]


@dataclass(frozen=True)
class PhaseTimes:
    """How long one phase took.

    Attributes
    ----------
    count : int
    total_seconds, mean_seconds : float
    p50_seconds, p90_seconds, p99_seconds : float
        At most a quarter too large: each is the end of a bucket of the histogram.
    """

    count: int
    total_seconds: float
    mean_seconds: float
    p50_seconds: float
    p90_seconds: float
    p99_seconds: float

    @classmethod
    def of(cls, count: int, sum_ns: int, buckets: Sequence[int]) -> PhaseTimes:
        """Read a meter's histogram.

        Parameters
        ----------
        count : int
            Times that were measured.
        sum_ns : int
            Their sum, in nanoseconds.
        buckets : sequence of int
            How many times lie in each bucket; the buckets end at ``BUCKET_ENDS_NS``.
        """
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
        Names.
    devices : tuple of str
    device_rows : tuple of int
        Rows that each device has run, in their order.
    uptime_seconds : float
    rows, batches : int
        Rows and batches that the model has run.
    failed, expired, withdrawn : int
        Rows that were answered with an error; rows whose deadline had passed; rows whose client no longer waited.
    batch_sizes : dict of int to int
        Number of rows -> number of batches with so many rows.
    phases : dict of str to PhaseTimes
        By the names of `PHASES`.
    busy_seconds, starved_seconds, batching_seconds, reply_seconds : float
        Of all devices together: running the model; waiting while no record was ready; waiting for a batch to grow;
        writing answers.
    ready, slots : int
        Records that wait now, and how many can.
    producers : int
        Processes that records came from.
    memory_limit_rows : int
        Most rows known to fit into the memory of every device.
    out_of_memory : int
        How often a device had too little memory for a batch.
    dead_letters : int
        Records of the ring that were set aside, by any taker: too many takers had died or failed over them.
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
    phases: dict[str, PhaseTimes]
    busy_seconds: float
    starved_seconds: float
    batching_seconds: float
    reply_seconds: float
    ready: int
    slots: int
    producers: int
    memory_limit_rows: int
    out_of_memory: int
    dead_letters: int = 0

    @classmethod
    def of(cls, ring: Any, model: str, meter: _core.Meter, replicas: Sequence[Any], **more: Any) -> EngineStats:
        """Read an engine's ring, meter and replicas; `more` holds the other fields."""
        phases = {phase: PhaseTimes.of(*reading) for phase, reading in meter.read().items()}
        starved, batching = meter.idle()
        now = time.monotonic_ns()
        # A wait that is not over counts as starved: its cause is known only when a batch comes.
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
            failed=sum(replica.failed_rows for replica in replicas),
            dead_letters=sum(level.stats()["dead_letters"] for level in ring.levels),
            batch_sizes=dict(sorted(batch_sizes.items())),
            phases=phases,
            busy_seconds=phases["compute"].total_seconds + phases["copy"].total_seconds,
            starved_seconds=starved / 1e9,
            batching_seconds=batching / 1e9,
            reply_seconds=phases["reply"].total_seconds,
            ready=0 if ring.closed else sum(level.ready for level in ring.levels),
            slots=0 if ring.closed else ring.slots,
            producers=meter.producers(),
            memory_limit_rows=min(replica.memory_limit.rows for replica in replicas),
            out_of_memory=sum(replica.memory_limit.times_lowered for replica in replicas),
            **more,
        )

    @property
    def advice(self) -> str:
        """What to change, in one sentence."""
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
        # n producers keep the model busy for 1 - starved of the time, so n / (1 - starved) keep it busy all the time.
        if starved > 0.99:
            return "almost no records come"
        more = math.ceil(self.producers * starved / (1 - starved))
        return f"add about {more} {'worker' if more == 1 else 'workers'}"

    def __str__(self) -> str:
        lines = [
            f"engine of model {self.model!r} on ring {self.ring!r}: {self.rows} rows in {self.batches} batches, "
            f"{self.failed} failed, {self.expired} expired, {self.withdrawn} withdrawn"
        ]
        for name, times in self.phases.items():
            lines.append(
                f"  {name:<10} {times.count:>9} times, mean {1e3 * times.mean_seconds:9.3f} ms, "
                f"p50 {1e3 * times.p50_seconds:9.3f}, p99 {1e3 * times.p99_seconds:9.3f}   {PHASES[name]}"
            )
        return "\n".join([*lines, f"  {self.advice}"])


def idle_shares(stats: EngineStats) -> dict[str, float]:
    """Return the shares of its time that a device is busy, starved, batching, and writing replies."""
    parts = {
        "busy": stats.busy_seconds,
        "starved": stats.starved_seconds,
        "batching": stats.batching_seconds,
        "replies": stats.reply_seconds,
    }
    total = sum(parts.values())
    return {name: seconds / total if total else 0.0 for name, seconds in parts.items()}
