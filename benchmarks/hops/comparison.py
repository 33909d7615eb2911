"""All transports of one table between the same processes, and the measurements of each transport."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np

from hops.endpoints import Counts, Endpoint, Endpoints
from hops.interface import TRANSPORTS, Entry, Job, Transport
from measuring.processes import processor_seconds
from measuring.rounds import Sample

FIRST_GUESS = 64  # records in the first round of a transport
ONLY_IN_FULL = "takes long to start: only in the full run"
MOST_RECORDS = 400_000  # in a round
LOST_SECONDS = 30.0  # after the last record was sent: a record that has not arrived by then is lost


class TransportComparison:
    """The transports that support a job, and a process for each sender and each receiver.

    Attributes
    ----------
    ways : list of str
        The names of the transports.
    missing : dict
        Way -> why it does not take part.
    """

    def __init__(self, job: Job, entries: Iterable[Entry] = TRANSPORTS, *, with_heavy: bool = True) -> None:
        self.job = job
        self.missing: dict[str, str] = {}
        self._counts: dict[tuple[str, str], int] = {}
        with ExitStack() as stack:
            transports: dict[str, Transport] = {}
            for entry in entries:
                reason = entry.missing(job)
                if not reason and entry.heavy and not with_heavy:
                    reason = ONLY_IN_FULL
                if reason:
                    self.missing[entry.way] = reason
                    continue
                transports[entry.way] = entry.load()(job)
                stack.callback(transports[entry.way].close)
            self.ways = list(transports)
            self._shared = Counts.of(job.receivers)
            # Receivers first, so that sockets are bound and subscribers known before the first record is sent.
            self.receivers, self.senders = [], []
            for number in range(job.receivers):
                ends = {way: (each.receiver, each.to_receivers(number)) for way, each in transports.items()}
                self.receivers.append(self._start(number, ends, stack))
            for number in range(job.senders):
                ends = {way: (each.sender, each.to_senders(number)) for way, each in transports.items()}
                self.senders.append(self._start(number, ends, stack))
            for end in [*self.receivers, *self.senders]:
                assert end.answer() == "ready"
            self._stack = stack.pop_all()

    def _start(self, number: int, ends: Endpoints, stack: ExitStack) -> Endpoint:
        end = Endpoint(self.job, number, ends, self._shared)
        stack.callback(end.close)
        return end

    def close(self) -> None:
        """End all processes and remove the transports' resources."""
        self._stack.close()

    def check(self, way: str) -> None:
        """Check that every record arrives once and whole; else RuntimeError."""
        each = max(2, min(self.job.capacity, 1000))
        received, _, _ = self._round(way, "numbered", "numbers", each)
        numbers = sorted(number for one in received for number in one.result)
        if numbers != list(range(self.job.senders * each)):
            raise RuntimeError(f"{way}: {self.job.senders * each} records were sent, others came")

    def throughput(self, way: str, seconds: float) -> Sample:
        """Measure a round of about `seconds`; the value is the time of one record."""
        return self._timed(way, "same", "all", seconds)

    def filling(self, way: str, seconds: float) -> Sample:
        """The same for records that the senders make and the receivers take as contiguous batches."""
        return self._timed(way, "fill", "batches", seconds)

    def in_place(self, way: str, seconds: float) -> Sample:
        """The same for records that the senders make in the transport's own memory and that no receiver reads."""
        return self._timed(way, "fill", "all", seconds)

    def latency(self, way: str, count: int) -> Sample:
        """Send `count` records, each to a waiting receiver; the value is the median time from process to process."""
        received, _, seconds = self._round(way, "paced", "latencies", count)
        latencies = np.concatenate([one.result for one in received])
        return Sample(float(np.median(latencies)) / 1e6, seconds, latencies)

    def carry(self, way: str, count: int) -> Sample:
        """Send `count` records from each sender."""
        _, _, seconds = self._round(way, "same", "all", count)
        return Sample(seconds / (count * self.job.senders), seconds)

    @contextmanager
    def waiting(self, way: str) -> Iterator[None]:
        """Let the receiver wait for a record, which is sent at the end."""
        for number in range(self.job.receivers):
            self._shared.received[number] = 0
        self.receivers[0].order(way, "all", 1)
        try:
            yield
        finally:
            self.senders[0].order(way, "same", 1)
            self.senders[0].answer()
            self.receivers[0].answer()

    def receiver_seconds(self) -> float:
        """Processor time of the first receiver so far."""
        return processor_seconds([self.receivers[0].pid])

    def pids(self) -> list[int]:
        """All processes at both ends."""
        return [end.pid for end in [*self.receivers, *self.senders]]

    def send_together(self, way: str, seconds: float) -> tuple[Sample, list[int]]:
        """Let all senders send to one receiver for `seconds`.

        The value is the time of one record until all have arrived. Also returns how many records each sender sent.
        """
        assert self.job.receivers == 1
        self._shared.sent.value = -1
        self.receivers[0].order(way, "until told")
        started = time.perf_counter()
        for sender in self.senders:
            sender.order(way, "for", seconds)
        sent = [sender.answer() for sender in self.senders]
        self._shared.sent.value = total = sum(sent) + 1
        self.senders[0].order(way, "same", 1)
        self.senders[0].answer()
        try:
            received = self.receivers[0].answer(LOST_SECONDS)
        except TimeoutError:
            raise RuntimeError(f"{way}: {total} records were sent, fewer came") from None
        elapsed = received.ended - started
        return Sample(elapsed / total, elapsed), sent

    def _timed(self, way: str, send: str, receive: str, seconds: float) -> Sample:
        key = way, send
        if key not in self._counts:
            self._counts[key] = FIRST_GUESS
            while (found := self._once(way, send, receive)).seconds < seconds / 4:
                if self._counts[key] * self.job.senders >= MOST_RECORDS:
                    break
                self._counts[key] = int(self._counts[key] * min(8.0, max(2.0, seconds / found.seconds)))
            wanted = seconds / found.value / self.job.senders
            self._counts[key] = max(self.job.batch, min(int(wanted), MOST_RECORDS // self.job.senders))
        return self._once(way, send, receive)

    def _once(self, way: str, send: str, receive: str) -> Sample:
        each = self._counts[way, send]
        _, _, seconds = self._round(way, send, receive, each)
        return Sample(seconds / (each * self.job.senders), seconds)

    def _round(self, way: str, send: str, receive: str, each: int):  # type: ignore[no-untyped-def]
        for number in range(self.job.receivers):
            self._shared.received[number] = 0
        for receiver in self.receivers:
            receiver.order(way, receive, each * self.job.senders)
        started = time.perf_counter()
        for sender in self.senders:
            sender.order(way, send, each)
        ended = [sender.answer() for sender in self.senders]
        received = [receiver.answer() for receiver in self.receivers]
        return received, ended, max(*ended, *(one.ended for one in received)) - started
