"""pyzmq: PUSH and PULL sockets over `ipc://`. Records are buffers; ZeroMQ copies only the small ones."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import zmq

from hops.interface import Job, Receiver, Rows, Sender, Transport


class PushSender(Sender):
    def __init__(self, job: Job, addresses: list[str]) -> None:
        super().__init__(job)
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.PUSH)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.set_hwm(max(1, job.capacity // 2))  # the other half belongs to the receiver
        for address in addresses:
            self.socket.connect(address)

    def send(self, record: np.ndarray) -> None:
        self.socket.send(record.copy(), copy=False)  # ZeroMQ's thread may read the array later

    def send_many(self, record: np.ndarray, count: int) -> None:
        send = self.socket.send
        for _ in range(count):
            send(record, copy=False)  # records below zmq.COPY_THRESHOLD are copied anyway

    def close(self) -> None:
        self.socket.close()
        self.context.term()


class PullReceiver(Receiver):
    def __init__(self, job: Job, address: str) -> None:
        super().__init__(job)
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.PULL)
        self.socket.set_hwm(max(1, job.capacity // 2))
        self.socket.bind(address)

    def receive(self, use: Callable[[Rows], Any], timeout: float | None) -> int:
        self.socket.rcvtimeo = -1 if timeout is None else int(timeout * 1e3)
        try:
            frame = self.socket.recv(copy=self.job.record_bytes < zmq.COPY_THRESHOLD)
        except zmq.Again:
            return 0
        use((np.frombuffer(frame, np.uint8),))
        return 1

    def close(self) -> None:
        self.socket.close(linger=0)
        self.context.term()


class ZeroMq(Transport):
    sender, receiver = PushSender, PullReceiver

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._folder = tempfile.TemporaryDirectory(prefix="ringfeed-bench-")
        self._addresses = [f"ipc://{self._folder.name}/{number}" for number in range(job.receivers)]

    def to_senders(self, number: int) -> tuple[Any, ...]:
        return (self._addresses,)

    def to_receivers(self, number: int) -> tuple[Any, ...]:
        return (self._addresses[number],)

    def close(self) -> None:
        self._folder.cleanup()
