"""No transport: senders fill private memory, as much as their part of a ring, and notify no process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hops.interface import Entry, Job, Receiver, Rows, Sender, Transport

WAY = "limit: the same processes fill own memory"


class OwnMemorySender(Sender):
    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._slots = np.zeros((job.capacity // job.senders, job.record_bytes), np.uint8)

    def send(self, record: np.ndarray) -> None:
        self._slots[0] = record

    def fill_many(self, count: int) -> None:
        slots, floats = len(self._slots), self._slots.view(np.float32)
        for number in range(count):
            floats[number % slots] = number


class NothingReceiver(Receiver):
    def receive(self, use: Callable[[Rows], Any], timeout: float | None) -> int:
        return 0

    def receive_batch(self, use: Callable[[np.ndarray], Any], rows: int) -> int:
        return rows


class FillPrivateMemory(Transport):
    sender, receiver = OwnMemorySender, NothingReceiver


ENTRY = Entry(WAY, "hops.private_memory", "FillPrivateMemory")
