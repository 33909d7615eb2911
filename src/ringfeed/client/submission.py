"""The submission of requests that have a future: limiting their number, and sending them as room becomes free.

It may not know which form of the inputs a user gives, nor how a session waits for room.
"""

from __future__ import annotations

import itertools
import time
from queue import Empty, SimpleQueue
from typing import Any

from ..errors import RingFull
from ..terminations import wait_in_slices
from .on_demand_thread import OnDemandThread
from .pending_answer import AnswerFuture, PendingAnswer
from .request import RequestOptions
from .session import Session

_SLICE_SECONDS = 0.05
"""How long the submitter waits for room before it checks again which submissions are cancelled or too late."""


class InFlightLimit:
    """Limits the number of a client's futures that are in flight, like a semaphore.

    It is no semaphore of `threading`: that holds a lock, for which a signal handler that interrupts the holder would
    wait without end.

    Parameters
    ----------
    most : int
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._freed: SimpleQueue[None] = SimpleQueue()
        self._numbers = itertools.count()
        self._all_numbers_used = False

    def enter(self, timeout: float | None) -> bool:
        """Wait until one more may be in flight. Return False if `timeout` seconds pass first."""
        try:
            self._freed.get_nowait()
            return True
        except Empty:
            pass
        if not self._all_numbers_used:
            if next(self._numbers) < self.most:
                return True
            self._all_numbers_used = True
        return wait_in_slices(timeout, self._take_place)

    def _take_place(self, seconds: float) -> bool:
        try:
            self._freed.get(block=seconds > 0, timeout=seconds or None)
            return True
        except Empty:
            return False

    def leave(self, _: Any = None) -> None:
        """Let one more in: a future is done."""
        self._freed.put(None)


class Submission:
    """The request, or the requests for rows, of one call, until all of them are sent.

    Parameters
    ----------
    session : Session
    in_flight : InFlightLimit
    record, rows
        As `record_or_rows` returns them.
    options : RequestOptions
    copy : bool
        Whether the answer has memory of its own.

    Attributes
    ----------
    session : Session
    options : RequestOptions
    """

    def __init__(
        self,
        session: Session,
        in_flight: InFlightLimit,
        record: Any,
        rows: int | None,
        options: RequestOptions,
        copy: bool,
    ) -> None:
        self.session = session
        self.options = options
        self._in_flight = in_flight
        self._record = record
        self._rows = rows
        self._pending = PendingAnswer(session.ring.name, rows, options.deadline_ns, copy)
        self._is_counted = self._is_followed = False
        self._sent_rows = 0

    @property
    def future(self) -> AnswerFuture:
        """The future of the answer."""
        return self._pending.future

    @property
    def is_rejected_when_full(self) -> bool:
        """Whether `RingFull` is final, because the engine rejects requests above `max_queue_size`."""
        return self._is_counted and self._sent_rows == 0 and self.session.pool.settings.rejects

    def send_some(self, timeout: float | None) -> bool:
        """Send as many requests as there is room for, after waiting for some room. Return whether all are sent.

        Raises
        ------
        RingFull
            There was no room within `timeout`; the next call continues.
        """
        if self.future.done():
            return True
        self._count(timeout)
        session, pending = self.session, self._pending
        if self._rows is None:
            is_answered = pending.add(0, session.send(self._record, self.options, timeout, notify=True))
            session.collector.follow(pending)
        else:
            if not self._is_followed:  # before sending: collected answers free the cells that later rows wait for
                session.collector.follow(pending)
                self._is_followed = True
            first = self._sent_rows
            reply = session.send_rows(self._record, first, self._rows, self.options, timeout, notify=True)
            self._sent_rows += reply.rows
            is_answered = pending.add(first, reply)
        if is_answered:
            session.collector.wake()
        return self._rows is None or self._sent_rows >= self._rows

    def _count(self, timeout: float | None) -> None:
        if self._is_counted:
            return
        # In a callback this is the collector's thread, which would wait for itself to make room.
        if not self._in_flight.enter(0 if self.session.collector.is_current_thread else timeout):
            raise RingFull(
                f"ring {self.session.ring.name!r}: {self._in_flight.most} requests of this client are under way, which "
                "is its max_in_flight. Wait for some (not in a future's callback), or raise max_in_flight.",
                resource="max_in_flight",
            )
        self._is_counted = True
        self.future.add_done_callback(self._in_flight.leave)

    def send_all(self) -> AnswerFuture:
        """Send all requests, waiting for room; return their future."""
        try:
            while not self.send_some(self.options.timeout):
                pass
        except BaseException as error:
            self.abandon(error)
            raise
        return self.future

    def fail(self, error: BaseException) -> None:
        """Withdraw the requests and set the future's exception."""
        self._pending.fail(error)

    def abandon(self, error: BaseException) -> None:
        """Withdraw the requests because of an error that the caller raises; no user has the future."""
        self.fail(error)
        self.future.forget_error()


class Submitter:
    """A thread that waits for room in place of coroutines, one submission after the other.

    Parameters
    ----------
    name : str
        The name of the ring.
    """

    def __init__(self, name: str) -> None:
        self._waiting: dict[Submission, None] = {}  # changed by single operations, so that it needs no lock
        self._thread = OnDemandThread(f"ringfeed-submits-{name}", self._submit_waiting, self._is_needed)

    def _is_needed(self) -> bool:
        return bool(self._waiting)

    def add(self, submission: Submission) -> None:
        """Send the submission's requests when there is room; its future reports the outcome.

        Raises
        ------
        ThreadRefused
            The thread could not be started.
        """
        self._waiting[submission] = None
        try:
            self._thread.ensure()
        except BaseException:
            self._waiting.pop(submission, None)
            raise

    def stop(self, reason: BaseException) -> None:
        """Fail the submissions that wait."""
        for submission in list(self._waiting):
            self._waiting.pop(submission, None)
            submission.fail(reason)

    def _submit_waiting(self) -> None:
        while self._waiting:
            wait = _SLICE_SECONDS
            for submission in list(self._waiting):
                left = (submission.options.deadline_ns - time.monotonic_ns()) / 1e9
                # Only the first waits for room, so that no other overtakes it. The others end at their deadlines.
                if wait or left <= 0 or submission.future.done():
                    self._continue(submission, min(wait, max(left, 0.0)))
                    wait = 0.0

    def _continue(self, submission: Submission, wait: float) -> None:
        try:
            if not submission.send_some(wait):
                return
        except RingFull as error:
            if not submission.is_rejected_when_full and time.monotonic_ns() < submission.options.deadline_ns:
                try:
                    submission.session.check_engine()
                    return
                except Exception as death:
                    submission.fail(death)
            else:
                submission.fail(error)
        except Exception as error:
            submission.fail(error)
        self._waiting.pop(submission, None)
