"""Requests on their way into a ring: counted, asked for by and by where there is little room, and followed.

It may not know in which form a user asks, nor how a session waits for room.
"""

from __future__ import annotations

import itertools
import time
from queue import Empty, SimpleQueue
from typing import Any

from ..errors import RingFull
from ..terminations import hear_within
from .own_thread import OwnThread
from .pending import AnswerFuture, Pending
from .session import Session

_SLICE_SECONDS = 0.05
"""So long a thread that asks for others waits for room without a look at who was cancelled, or is too late."""


class InFlight:
    """Counts the futures of a client that are under way, and lets no more in than there may be.

    A semaphore of `threading` holds a lock that a signal handler, which interrupts its holder, would wait for.

    Parameters
    ----------
    most : int
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._left: SimpleQueue[None] = SimpleQueue()
        self._numbers = itertools.count()
        self._all_let_in = False

    def enter(self, timeout: float | None) -> bool:
        """Wait until there may be one more. False when `timeout` seconds were over before."""
        try:
            self._left.get_nowait()
            return True
        except Empty:
            pass
        if not self._all_let_in:
            if next(self._numbers) < self.most:
                return True
            self._all_let_in = True
        return hear_within(timeout, self._take_place)

    def _take_place(self, seconds: float) -> bool:
        try:
            self._left.get(block=seconds > 0, timeout=seconds or None)
            return True
        except Empty:
            return False

    def leave(self, _: Any = None) -> None:
        """Make room for another one."""
        self._left.put(None)


class Asking:
    """One call's request, or requests for rows, on the way into the ring.

    Parameters
    ----------
    session : Session
    in_flight : InFlight
    record, rows
        As of `Session.record_of`.
    priority, tag, until
        As for `Session.ask`.
    timeout : float or None
        Seconds that the user gave.
    copy : bool

    Attributes
    ----------
    future : AnswerFuture
    timeout : float or None
    is_asked_partly : bool
        A queue that rejects takes or rejects what was asked for together as a whole.
    """

    def __init__(
        self,
        session: Session,
        in_flight: InFlight,
        record: Any,
        rows: int | None,
        priority: int,
        tag: int,
        until: int,
        timeout: float | None,
        copy: bool,
    ) -> None:
        self.session = session
        self.timeout = timeout
        self._in_flight = in_flight
        self._record = record
        self._rows = rows
        self._request = priority, tag, until
        self._pending = Pending(session.ring.name, rows, until, copy)
        self._is_counted = self._is_followed = False
        self._asked_rows = 0

    @property
    def future(self) -> AnswerFuture:
        """What the caller waits for."""
        return self._pending.future

    @property
    def until_ns(self) -> int:
        """CLOCK_MONOTONIC nanoseconds at which its time is over."""
        return self._pending.until_ns

    @property
    def is_rejected_when_full(self) -> bool:
        """Whether `RingFull` of a step is final, because the engine rejects more than `max_queue_size`."""
        return self._is_counted and self._asked_rows == 0 and self.session.pool.settings.rejects

    def step(self, timeout: float | None) -> bool:
        """Ask for what there is room for, waiting for some of it. Returns whether all is asked.

        Raises
        ------
        RingFull
            There was no room within `timeout`; the next step goes on.
        """
        if self.future.done():
            return True
        self._count(timeout)
        priority, tag, until = self._request
        session, pending = self.session, self._pending
        if self._rows is None:
            come = pending.add(0, session.ask(self._record, priority, tag, until, timeout, told=True))
            session.collector.follow(pending)
        else:
            if not self._is_followed:  # before it asks: cells that are answered are emptied for those that wait
                session.collector.follow(pending)
                self._is_followed = True
            first = self._asked_rows
            reply = session.ask_rows(self._record, first, self._rows, priority, tag, until, timeout, told=True)
            self._asked_rows += reply.rows
            come = pending.add(first, reply)
        if come:
            session.collector.wake()
        return self._rows is None or self._asked_rows >= self._rows

    def _count(self, timeout: float | None) -> None:
        if self._is_counted:
            return
        # In a callback this is the thread that would have to make room.
        if not self._in_flight.enter(0 if self.session.collector.is_calling else timeout):
            raise RingFull(
                f"ring {self.session.ring.name!r}: {self._in_flight.most} requests of this client are under way, and "
                "max_in_flight is no more. Wait for some (not in a future's callback), or raise it."
            )
        self._is_counted = True
        self.future.add_done_callback(self._in_flight.leave)

    def ask_all(self) -> AnswerFuture:
        """Ask for all of it, waiting for room; return its future."""
        try:
            while not self.step(self.timeout):
                pass
        except BaseException as error:
            self.end(error)
            raise
        return self.future

    def fail(self, error: BaseException) -> None:
        """Give the future an exception; what was asked is withdrawn."""
        self._pending.fail(error)

    def end(self, error: BaseException) -> None:
        """Withdraw what was asked because of an error that is raised, before anybody has the future."""
        self.fail(error)
        self.future.forget_error()


class Asker:
    """A thread that waits for room for coroutines, one after the other; who is cancelled need not wait for it.

    Parameters
    ----------
    name : str
        Of the ring.
    """

    def __init__(self, name: str) -> None:
        self._waiting: dict[Asking, None] = {}  # each change is one operation, so that it needs no lock
        self._thread = OwnThread(f"ringfeed-asks-{name}", self._ask, self._is_needed)

    def _is_needed(self) -> bool:
        return bool(self._waiting)

    def add(self, asking: Asking) -> None:
        """Ask for it when there is room; its future tells how it goes.

        Raises
        ------
        ThreadRefused
            No thread could be started that would.
        """
        self._waiting[asking] = None
        try:
            self._thread.ensure()
        except BaseException:
            self._waiting.pop(asking, None)
            raise

    def stop(self, reason: BaseException) -> None:
        """Fail what waits."""
        for asking in list(self._waiting):
            self._waiting.pop(asking, None)
            asking.fail(reason)

    def _ask(self) -> None:
        while self._waiting:
            wait = _SLICE_SECONDS
            for asking in list(self._waiting):
                left = (asking.until_ns - time.monotonic_ns()) / 1e9
                # The first waits for room; the others must not pass it by, but are not kept past their time.
                if wait or left <= 0 or asking.future.done():
                    self._go_on(asking, min(wait, max(left, 0.0)))
                    wait = 0.0

    def _go_on(self, asking: Asking, wait: float) -> None:
        try:
            if not asking.step(wait):
                return
        except RingFull as error:
            if not asking.is_rejected_when_full and time.monotonic_ns() < asking.until_ns:
                try:
                    asking.session.check_for_life()
                    return
                except Exception as death:
                    asking.fail(death)
            else:
                asking.fail(error)
        except Exception as error:
            asking.fail(error)
        self._waiting.pop(asking, None)
