"""RingFeed: `put` record by record, or `claim(rows)` for many at a time."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

import ringfeed
from hops.interface import Job, Receiver, Rows, Sender, Transport

CACHE_BYTES = 1 << 20  # bytes; the second-level cache of a core holds at least this


FILLED_AT_A_TIME = 8


def small_ring(job: Job) -> int:
    """Return the slots of a ring of that size, but at least four."""
    return max(4, CACHE_BYTES // job.record_bytes)


class PutSender(Sender):
    def __init__(self, job: Job, name: str) -> None:
        super().__init__(job)
        self.ring = ringfeed.Ring.attach(name)

    def send(self, record: np.ndarray) -> None:
        self.ring.put({"x": record})

    def send_many(self, record: np.ndarray, count: int) -> None:
        put, fields = self.ring.put, {"x": record}
        for _ in range(count):
            put(fields)

    def fill_many(self, count: int) -> None:
        for number in range(count):
            with self.ring.claim() as slot:
                slot["x"].view(np.float32)[...] = number

    def close(self) -> None:
        self.ring.close()


class ClaimSender(PutSender):
    def send_many(self, record: np.ndarray, count: int) -> None:
        rows, sent = self.job.batch, 0
        while sent < count:
            with self.ring.claim(rows=min(rows, count - sent)) as slots:
                slots["x"][...] = record
                sent += len(slots)

    def fill_many(self, count: int) -> None:
        number = 0
        while number < count:
            with self.ring.claim(rows=min(FILLED_AT_A_TIME, count - number)) as slots:
                for floats in slots["x"].view(np.float32):
                    floats[...] = number
                    number += 1


class RingReceiver(Receiver):
    def __init__(self, job: Job, name: str) -> None:
        super().__init__(job)
        self.ring = ringfeed.Ring.attach(name)

    def receive(self, use: Callable[[Rows], Any], timeout: float | None) -> int:
        try:
            with self.ring.take(self.job.batch, timeout=timeout) as batch:
                use(batch["x"])
                return len(batch)
        except ringfeed.RingEmpty:
            return 0

    def receive_batch(self, use: Callable[[np.ndarray], Any], rows: int) -> int:
        with self.ring.take(rows, min_rows=rows) as batch:
            use(batch["x"])
            return len(batch)

    def close(self) -> None:
        self.ring.close()


class RingFeedPut(Transport):
    sender, receiver = PutSender, RingReceiver
    huge_pages = False

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        fields = {"x": ((job.record_bytes,), "uint8")}
        self.ring = ringfeed.Ring.create(None, fields, self.slots(), huge_pages=self.huge_pages)

    def slots(self) -> int:
        return self.job.capacity

    def to_senders(self, number: int) -> tuple[Any, ...]:
        return (self.ring.name,)

    def to_receivers(self, number: int) -> tuple[Any, ...]:
        return (self.ring.name,)

    def close(self) -> None:
        self.ring.close()


class RingFeedClaim(RingFeedPut):
    sender = ClaimSender


class RingFeedHugePages(RingFeedClaim):
    """A ring in pages of 2 MiB, which large NumPy arrays have by default."""

    huge_pages = True

    @staticmethod
    def missing(job: Job) -> str | None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ringfeed.MemoryOptionWarning)
            with ringfeed.Ring.create(None, {"x": ((64,), "uint8")}, 4, huge_pages=True) as ring:
                answer = ring.memory["huge_pages"]
        return None if answer == "granted" else answer


class RingFeedSmallRing(RingFeedPut):
    """A ring of about the size of a core's cache, for batches of a few rows."""

    @staticmethod
    def missing(job: Job) -> str | None:
        return "the ring is that small as it is" if job.capacity * job.record_bytes <= CACHE_BYTES else None

    def slots(self) -> int:
        return small_ring(self.job)
