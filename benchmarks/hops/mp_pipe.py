"""`multiprocessing.Pipe`, a pipe per sender: `send_bytes` and `recv_bytes_into`, which avoid pickling."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
from collections.abc import Callable
from typing import Any

import numpy as np

from hops.interface import Job, Receiver, Rows, Sender, Transport


class PipeSender(Sender):
    def __init__(self, job: Job, connection: Any) -> None:
        super().__init__(job)
        self.connection = connection

    def send(self, record: np.ndarray) -> None:
        self.connection.send_bytes(record)


class PipeReceiver(Receiver):
    def __init__(self, job: Job, connections: list[Any]) -> None:
        super().__init__(job)
        self.connections = connections
        self._record = np.zeros(job.record_bytes, np.uint8)

    def receive(self, use: Callable[[Rows], Any], timeout: float | None) -> int:
        if len(self.connections) == 1 and timeout is None:
            return self._use(self.connections[0], use)
        return sum(self._use(each, use) for each in multiprocessing.connection.wait(self.connections, timeout))

    def receive_up_to(self, use: Callable[[Rows], Any], rows: int) -> int:
        return self._use(multiprocessing.connection.wait(self.connections)[0], use)

    def _use(self, connection: Any, use: Callable[[Rows], Any]) -> int:
        connection.recv_bytes_into(self._record)
        use((self._record,))
        return 1


class Pipe(Transport):
    sender, receiver = PipeSender, PipeReceiver

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._pairs = [multiprocessing.get_context("spawn").Pipe(duplex=False) for _ in range(job.senders)]

    @staticmethod
    def missing(job: Job) -> str | None:
        return "a pipe has one reader" if job.receivers > 1 else None

    def to_senders(self, number: int) -> tuple[Any, ...]:
        return (self._pairs[number][1],)

    def to_receivers(self, number: int) -> tuple[Any, ...]:
        return ([reader for reader, _ in self._pairs],)

    def close(self) -> None:
        for pair in self._pairs:
            for end in pair:
                end.close()
