"""faster-fifo: `put` or `put_many`, and `get_many`. Records are bytes, the type that pickles fastest."""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty
from typing import Any

import faster_fifo
import faster_fifo_reduction  # noqa: F401 - its documentation asks for it where queues go to spawned processes
import numpy as np

from hops.interface import Job, Receiver, Rows, Sender, Transport

FRAME_BYTES = 64  # bytes per record: a generous estimate of the overhead of pickle and the queue
PATIENCE_SECONDS = 60.0  # its methods require a finite timeout


class PutSender(Sender):
    def __init__(self, job: Job, queue: Any) -> None:
        super().__init__(job)
        self.queue = queue

    def send(self, record: np.ndarray) -> None:
        self.queue.put(record.tobytes(), timeout=PATIENCE_SECONDS)

    def send_many(self, record: np.ndarray, count: int) -> None:
        put, message = self.queue.put, record.tobytes()
        for _ in range(count):
            put(message, timeout=PATIENCE_SECONDS)


class PutManySender(PutSender):
    def send_many(self, record: np.ndarray, count: int) -> None:
        messages = [record.tobytes()] * self.job.batch
        for sent in range(0, count, len(messages)):
            self.queue.put_many(messages[: count - sent], timeout=PATIENCE_SECONDS)


class GetManyReceiver(Receiver):
    def __init__(self, job: Job, queue: Any) -> None:
        super().__init__(job)
        self.queue = queue

    def receive(self, use: Callable[[Rows], Any], timeout: float | None) -> int:
        return self._get(use, self.job.batch, PATIENCE_SECONDS if timeout is None else timeout)

    def receive_up_to(self, use: Callable[[Rows], Any], rows: int) -> int:
        return self._get(use, rows, PATIENCE_SECONDS)

    def _get(self, use: Callable[[Rows], Any], rows: int, timeout: float) -> int:
        try:
            messages = self.queue.get_many(max_messages_to_get=rows, timeout=timeout)
        except Empty:
            return 0
        use([np.frombuffer(message, np.uint8) for message in messages])
        return len(messages)


class FasterFifoPut(Transport):
    sender, receiver = PutSender, GetManyReceiver

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.queue = faster_fifo.Queue(max_size_bytes=job.capacity * (job.record_bytes + FRAME_BYTES))

    def to_senders(self, number: int) -> tuple[Any, ...]:
        return (self.queue,)

    def to_receivers(self, number: int) -> tuple[Any, ...]:
        return (self.queue,)

    def close(self) -> None:
        self.queue.close()


class FasterFifoPutMany(FasterFifoPut):
    sender = PutManySender
