"""`multiprocessing.Queue`: a thread of the sender pickles arrays, and the receiver unpickles them."""

from __future__ import annotations

import multiprocessing
import queue
from collections.abc import Callable
from typing import Any

import numpy as np

from hops.interface import Job, Receiver, Rows, Sender, Transport


class QueueSender(Sender):
    def __init__(self, job: Job, channel: Any) -> None:
        super().__init__(job)
        self.channel = channel

    def send(self, record: np.ndarray) -> None:
        self.channel.put(record.copy())  # its thread reads the array later

    def send_many(self, record: np.ndarray, count: int) -> None:
        put = self.channel.put
        for _ in range(count):
            put(record)

    def close(self) -> None:
        self.channel.close()
        self.channel.cancel_join_thread()


class QueueReceiver(Receiver):
    def __init__(self, job: Job, channel: Any) -> None:
        super().__init__(job)
        self.channel = channel

    def receive(self, use: Callable[[Rows], Any], timeout: float | None) -> int:
        try:
            record = self.channel.get(timeout=timeout)
        except queue.Empty:
            return 0
        use((self.array(record),))
        return 1

    def array(self, received: Any) -> np.ndarray:
        """Return the received object as an array."""
        return received


class Queue(Transport):
    sender, receiver = QueueSender, QueueReceiver

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.channel = self.new_channel()

    def new_channel(self) -> Any:
        return multiprocessing.get_context("spawn").Queue(maxsize=self.job.capacity)

    def to_senders(self, number: int) -> tuple[Any, ...]:
        return (self.channel,)

    def to_receivers(self, number: int) -> tuple[Any, ...]:
        return (self.channel,)

    def close(self) -> None:
        self.channel.close()
        self.channel.join_thread()
