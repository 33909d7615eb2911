"""The sender and receiver processes of all transports of a table. Knows the transports only by their interface.

Each process opens its endpoint of every transport once and then executes commands from a pipe; without a command it
sleeps. All clocks are CLOCK_MONOTONIC, which processes share.
"""

from __future__ import annotations

import multiprocessing
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hops.interface import Job, Receiver, Rows, Sender
from measuring.helper_process import follow_the_parent

SPAWN = multiprocessing.get_context("spawn")
SLICE_SECONDS = 0.01  # after which a receiver checks whether other receivers got the rest
PACE_SECONDS = 0.0003  # from a record's arrival to the next measured one, so that the receiver sleeps by then
SENT_PER_CLOCK_READ = 16  # records
Endpoints = Mapping[str, tuple[type[Any], tuple[Any, ...]]]  # way -> class of the endpoint, and its arguments
WORD = np.dtype(np.int64)


@dataclass(frozen=True)
class Counts:
    """The counters of all processes of a table, in shared memory.

    Attributes
    ----------
    received : ctypes array
        Records of a round, by receiver.
    sent : ctypes value
        In `send_together`: how many records all senders send; negative until that is known.
    """

    received: Any
    sent: Any

    @classmethod
    def of(cls, receivers: int) -> Counts:
        return cls(SPAWN.RawArray("q", receivers), SPAWN.RawValue("q", -1))


@dataclass(frozen=True)
class Received:
    """The result of one receiver in a round.

    Attributes
    ----------
    count : int
    ended : float
        Arrival of the last record, `time.perf_counter()`.
    result : object
        Latencies or numbers, depending on the command.
    """

    count: int
    ended: float
    result: Any = None


class Endpoint:
    """A sender or receiver process, from the view of the measuring process."""

    def __init__(self, job: Job, number: int, ends: Endpoints, counts: Counts) -> None:
        self._connection, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=serve, args=(theirs, job, number, ends, counts), daemon=True)
        self.process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def order(self, way: str, what: str, *arguments: Any) -> None:
        self._connection.send((way, what, arguments))

    def answer(self, timeout: float | None = None) -> Any:
        """Wait for the result of a command; RuntimeError with the process's traceback if the command failed.

        TimeoutError if no result comes within `timeout`.
        """
        if not self._connection.poll(timeout):
            raise TimeoutError
        try:
            found = self._connection.recv()
        except EOFError:
            raise RuntimeError(f"a process of the benchmark ended with exit code {self.process.exitcode}") from None
        if isinstance(found, RuntimeError):
            raise found
        return found

    def close(self) -> None:
        self._connection.close()
        self.process.join(5.0)
        if self.process.is_alive():
            self.process.terminate()
            self.process.join()


def serve(connection: Any, job: Job, number: int, ends: Endpoints, counts: Counts) -> None:
    follow_the_parent()
    opened: dict[str, Any] = {}
    try:
        for way, (end, parts) in ends.items():
            opened[way] = end(job, *parts)
        connection.send("ready")
        while True:
            way, what, arguments = connection.recv()
            end = opened[way]
            if isinstance(end, Receiver):
                connection.send(RECEIVE[what](end, number, counts, *arguments))
            else:
                connection.send(SEND[what](end, number, counts, *arguments))
    except EOFError:  # the measuring process has closed the pipe
        for end in opened.values():
            end.close()
    except BaseException:
        connection.send(RuntimeError(traceback.format_exc()))
        raise


# ---- Commands of a sender ------------------------------------------------------------------------


def send_same(sender: Sender, number: int, counts: Counts, count: int) -> float:
    sender.send_many(np.zeros(sender.job.record_bytes, np.uint8), count)
    return time.perf_counter()


def send_numbered(sender: Sender, number: int, counts: Counts, count: int) -> float:
    record = np.zeros(sender.job.record_bytes, np.uint8)
    words = record.view(WORD)
    for which in range(count):
        words[:] = number * count + which
        sender.send(record)
    return time.perf_counter()


def send_paced(sender: Sender, number: int, counts: Counts, count: int) -> float:
    """Send each record after the previous one has arrived. For one sender."""
    record = np.zeros(sender.job.record_bytes, np.uint8)
    words = record.view(WORD)
    for sent in range(count):
        while sum(counts.received) < sent:
            time.sleep(PACE_SECONDS)
        time.sleep(PACE_SECONDS)
        words[0] = time.perf_counter_ns()
        sender.send(record)
    return time.perf_counter()


def send_for(sender: Sender, number: int, counts: Counts, seconds: float) -> int:
    """Send records for `seconds`; return how many."""
    record, sent, until = np.zeros(sender.job.record_bytes, np.uint8), 0, time.perf_counter() + seconds
    while sent == 0 or time.perf_counter() < until:
        sender.send_many(record, SENT_PER_CLOCK_READ)
        sent += SENT_PER_CLOCK_READ
    return sent


def fill(sender: Sender, number: int, counts: Counts, count: int) -> float:
    sender.fill_many(count)
    return time.perf_counter()


SEND: dict[str, Callable[..., Any]] = {
    "same": send_same,
    "numbered": send_numbered,
    "paced": send_paced,
    "fill": fill,
    "for": send_for,
}

# ---- Commands of a receiver ----------------------------------------------------------------------


def receive_all(
    receiver: Receiver, number: int, counts: Counts, total: int, use: Callable[[Rows], Any] = len
) -> Received:
    """Receive until all receivers together have `total` records."""
    alone = len(counts.received) == 1
    ended, mine = 0.0, 0
    while mine < total if alone else sum(counts.received) < total:
        count = receiver.receive(use, None if alone else SLICE_SECONDS)
        if count:
            mine += count
            counts.received[number] = mine
            ended = time.perf_counter()
    return Received(mine, ended)


def receive_numbers(receiver: Receiver, number: int, counts: Counts, total: int) -> Received:
    """Receive records of `send_numbered` and return their numbers; fail if one is torn."""
    numbers: list[int] = []

    def note(records: Rows) -> None:
        for record in records:
            words = np.asarray(record).view(WORD)
            assert (words == words[0]).all(), "a torn record"
            numbers.append(int(words[0]))

    return Received(**{**vars(receive_all(receiver, number, counts, total, note)), "result": numbers})


def receive_latencies(receiver: Receiver, number: int, counts: Counts, total: int) -> Received:
    """Receive records of `send_paced` and return the microseconds since the timestamp of each."""
    latencies: list[float] = []

    def note(records: Rows) -> None:
        now = time.perf_counter_ns()
        latencies.extend((now - int(np.asarray(record)[:8].view(WORD)[0])) / 1e3 for record in records)

    return Received(**{**vars(receive_all(receiver, number, counts, total, note)), "result": np.asarray(latencies)})


def receive_batches(receiver: Receiver, number: int, counts: Counts, total: int) -> Received:
    """Receive contiguous batches."""
    received, rows = 0, receiver.job.batch
    while received < total:
        received += receiver.receive_batch(len, min(rows, total - received))
    return Received(received, time.perf_counter())


def receive_until_told(receiver: Receiver, number: int, counts: Counts) -> Received:
    """Receive until the number of sent records is known and all have arrived. For one receiver.

    The measuring process sends one more record after it has set the number, because the receiver may already wait.
    """
    received = 0
    while not 0 <= counts.sent.value <= received:
        received += receiver.receive(len, None)
    return Received(received, time.perf_counter())


RECEIVE: dict[str, Callable[..., Any]] = {
    "all": receive_all,
    "numbers": receive_numbers,
    "latencies": receive_latencies,
    "batches": receive_batches,
    "until told": receive_until_told,
}
