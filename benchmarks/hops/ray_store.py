"""Ray's object store: an actor's generator yields arrays into it, and this process gets them, large ones as views.

It is not among the transports, because Ray starts its own processes, which use the processor even without work. It runs
after the others and ends before the next table.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from hops.interface import Job
from measuring import ray_cluster
from measuring.rounds import Sample

WAY = "Ray object store, streaming generator"


class RayStore:
    def __init__(self, job: Job) -> None:
        import ray

        self._ray, self._count = ray, 16
        record_bytes = job.record_bytes  # Ray's processes cannot import this module

        @ray.remote
        class Producer:
            @ray.method(num_returns="streaming", _generator_backpressure_num_objects=job.capacity)
            def produce(self, count: int) -> Iterator[np.ndarray]:
                for number in range(count):
                    yield np.full(record_bytes, number % 251, np.uint8)

        self._producer = Producer.remote()  # type: ignore[attr-defined]

    def check(self) -> None:
        """Check that every record arrives once, whole and in order; else RuntimeError."""
        for number, reference in enumerate(self._producer.produce.remote(100)):
            if not (self._ray.get(reference) == number).all():
                raise RuntimeError(f"{WAY}: another record came than was sent")

    def throughput(self, seconds: float) -> Sample:
        """Measure a round of about `seconds`; the value is the time of one record."""
        while (sample := self._round()).seconds < seconds / 2:
            self._count *= 2
        return sample

    def _round(self) -> Sample:
        started = time.perf_counter()
        for reference in self._producer.produce.remote(self._count):
            self._ray.get(reference)
        elapsed = time.perf_counter() - started
        return Sample(elapsed / self._count, elapsed)


@contextmanager
def started(job: Job) -> Iterator[RayStore]:
    """Start Ray for one table."""
    with ray_cluster.cluster():
        yield RayStore(job)


def missing(job: Job) -> str | None:
    """Return why Ray does not take part; None if it does."""
    if reason := ray_cluster.missing():
        return reason
    return "measured with one sender and one receiver" if (job.senders, job.receivers) != (1, 1) else None
