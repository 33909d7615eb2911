"""What every transport of the comparison gets and owes, and which there are. Knows no transport.

A transport carries records, arrays of `record_bytes` bytes, from sender processes to receiver processes that share the
work. To add a peer: write a class like those beside this file, the way its own documentation recommends, and add a line
below.
"""

from __future__ import annotations

import importlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

BATCH = 64  # most records that are received, or sent, at a time
MOST_BYTES = 128 << 20  # in a transport
Rows = Sequence[np.ndarray] | np.ndarray


@dataclass(frozen=True)
class Job:
    """The sizes of one table.

    Attributes
    ----------
    record_bytes : int
        A multiple of 64.
    senders, receivers : int
        Processes at either end.
    """

    record_bytes: int
    senders: int = 1
    receivers: int = 1

    @property
    def capacity(self) -> int:
        """Records that fit into the transport: 4,096, or as many as 128 MiB hold, but at least 16."""
        return max(16, min(4096, MOST_BYTES // self.record_bytes))

    @property
    def batch(self) -> int:
        """Most records at a time: a quarter of the capacity, so that both ends can be busy."""
        return min(BATCH, self.capacity // 4)


class Sender(ABC):
    """One process's end. Everything that can be prepared once is prepared by the constructor."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._own = np.zeros(job.record_bytes, np.uint8)

    @abstractmethod
    def send(self, record: np.ndarray) -> None:
        """Send one record; it may be overwritten afterwards."""

    def send_many(self, record: np.ndarray, count: int) -> None:
        """Send a record so many times, as fast as it goes."""
        for _ in range(count):
            self.send(record)

    def fill_many(self, count: int) -> None:
        """Make records of float32 by writing a number all over them, in place where that is possible, and send them."""
        floats = self._own.view(np.float32)
        for number in range(count):
            floats[...] = number
            self.send(self._own)

    def close(self) -> None:  # noqa: B027 - most need nothing
        pass


class Receiver(ABC):
    """One process's end."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._together = np.zeros((job.batch, job.record_bytes), np.uint8)

    @abstractmethod
    def receive(self, use: Callable[[Rows], Any], timeout: float | None) -> int:
        """Call `use` with up to `job.batch` records, valid during the call; return how many. 0 after the timeout."""

    def receive_batch(self, use: Callable[[np.ndarray], Any], rows: int) -> int:
        """Call `use` with one contiguous array of `rows` records, or fewer where some lie apart; return how many.

        Here they are collected by copying.
        """
        received = 0

        def collect(records: Rows) -> None:
            nonlocal received
            for record in records:
                self._together[received] = record
                received += 1

        while received < rows:
            self.receive_up_to(collect, rows - received)
        use(self._together[:rows])
        return rows

    def receive_up_to(self, use: Callable[[Rows], Any], rows: int) -> int:
        """Like `receive`, without a timeout, but no more than `rows`. Only for who receives several at a time."""
        return self.receive(use, None)

    def close(self) -> None:  # noqa: B027
        pass


class Transport(ABC):
    """What is between the processes. Made by the process that measures; the connectors go to the others."""

    sender: type[Sender]
    receiver: type[Receiver]

    def __init__(self, job: Job) -> None:
        self.job = job

    @staticmethod
    def missing(job: Job) -> str | None:
        """Say why it can not do this job here; None where it can."""
        return None

    def to_senders(self, number: int) -> tuple[Any, ...]:
        """What sender `number` is made of, besides the job. Picklable while a process is being started."""
        return ()

    def to_receivers(self, number: int) -> tuple[Any, ...]:
        return ()

    def close(self) -> None:  # noqa: B027
        pass


@dataclass(frozen=True)
class Entry:
    """Where to find a transport, and its name in the tables.

    Attributes
    ----------
    needs : str
        The module that must be there.
    heavy : bool
        Takes long to start: only in a full run.
    single : bool
        Differs from the other ways of its library where one record is sent; else only where many are.
    """

    way: str
    module: str
    class_name: str
    needs: str = ""
    heavy: bool = False
    single: bool = True

    def load(self) -> type[Transport]:
        transport: type[Transport] = getattr(importlib.import_module(self.module), self.class_name)
        return transport

    def missing(self, job: Job) -> str | None:
        """Say why it does not take part; None where it does."""
        if self.needs and importlib.util.find_spec(self.needs) is None:
            return f"{self.needs} is not installed"
        return self.load().missing(job)


TRANSPORTS = (
    Entry("RingFeed, put", "hops.ringfeed_ring", "RingFeedPut"),
    Entry("RingFeed, claim of many rows", "hops.ringfeed_ring", "RingFeedClaim", single=False),
    Entry("RingFeed, put, a ring of 1 MiB", "hops.ringfeed_ring", "RingFeedSmallRing", single=False),
    Entry("faster-fifo, put", "hops.faster_fifo_queue", "FasterFifoPut", "faster_fifo"),
    Entry("faster-fifo, put_many", "hops.faster_fifo_queue", "FasterFifoPutMany", "faster_fifo", single=False),
    Entry("iceoryx2, polling", "hops.iceoryx", "IceoryxPolling", "iceoryx2"),
    Entry("iceoryx2, events", "hops.iceoryx", "IceoryxEvents", "iceoryx2"),
    Entry("pyzmq, ipc", "hops.zeromq", "ZeroMq", "zmq"),
    Entry("Pipe, send_bytes", "hops.mp_pipe", "Pipe"),
    Entry("multiprocessing.Queue", "hops.mp_queue", "Queue"),
    Entry("shared_memory, pool by hand", "hops.mp_shared_memory", "Pool"),
    Entry("shared_memory, a block a record", "hops.mp_shared_memory", "Blocks"),
    Entry("PyTorch queue", "hops.torch_queue", "TorchQueue", "torch", heavy=True),
)
