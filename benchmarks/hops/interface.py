"""The interface of all transports of the comparison, and the list of them. Knows no transport.

A transport carries records, arrays of `record_bytes` bytes, from sender processes to receiver processes that share the
work. To add a peer, write a class like those beside this file, as the peer's own documentation recommends, and add a
line below.
"""

from __future__ import annotations

import importlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

BATCH = 64  # most records received or sent at a time
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
        """The capacity of the transport in records: 4,096, or as many as fit into 128 MiB, but at least 16."""
        return max(16, min(4096, MOST_BYTES // self.record_bytes))

    @property
    def batch(self) -> int:
        """Most records at a time: at most a quarter of the capacity, so that both ends can be busy."""
        return min(BATCH, self.capacity // 4)


class Sender(ABC):
    """The endpoint of a sending process. The constructor makes all preparations that are possible once."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._own = np.zeros(job.record_bytes, np.uint8)

    @abstractmethod
    def send(self, record: np.ndarray) -> None:
        """Send one record. The caller may overwrite it afterwards."""

    def send_many(self, record: np.ndarray, count: int) -> None:
        """Send a record `count` times, as fast as possible."""
        for _ in range(count):
            self.send(record)

    def fill_many(self, count: int) -> None:
        """Make float32 records by filling them with a number, in place if possible, and send them."""
        floats = self._own.view(np.float32)
        for number in range(count):
            floats[...] = number
            self.send(self._own)

    def close(self) -> None:  # noqa: B027 - most need nothing
        pass


class Receiver(ABC):
    """The endpoint of a receiving process."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._together = np.zeros((job.batch, job.record_bytes), np.uint8)

    @abstractmethod
    def receive(self, use: Callable[[Rows], Any], timeout: float | None) -> int:
        """Call `use` with up to `job.batch` records, valid during the call; return how many, 0 after the timeout."""

    def receive_batch(self, use: Callable[[np.ndarray], Any], rows: int) -> int:
        """Call `use` with one contiguous array of `rows` records, or fewer if some are not contiguous; return how many.

        This default collects the records by copying.
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
        """Like `receive` without a timeout, but at most `rows`. Only for receivers of several records at a time."""
        return self.receive(use, None)

    def close(self) -> None:  # noqa: B027
        pass


class Transport(ABC):
    """The connection of the processes. The measuring process makes it; the endpoints' arguments go to the others."""

    sender: type[Sender]
    receiver: type[Receiver]

    def __init__(self, job: Job) -> None:
        self.job = job

    @staticmethod
    def missing(job: Job) -> str | None:
        """Return why the transport cannot do this job here; None if it can."""
        return None

    def to_senders(self, number: int) -> tuple[Any, ...]:
        """The arguments of sender `number`, besides the job. Picklable during the start of a process."""
        return ()

    def to_receivers(self, number: int) -> tuple[Any, ...]:
        return ()

    def close(self) -> None:  # noqa: B027
        pass


@dataclass(frozen=True)
class Entry:
    """The module of a transport, and its name in the tables.

    Attributes
    ----------
    needs : str
        The required module.
    heavy : bool
        The transport takes long to start and only takes part in a full run.
    single : bool
        False if the way equals another way of its library when a single record is sent.
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
        """Return why the transport does not take part; None if it does."""
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
