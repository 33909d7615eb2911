"""One thread that collects the answers to futures, for all of a client's threads and event loops.

It may not know how anything is asked. There is such a thread only while something is under way, and shortly after.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from ._core import Reply
from .answers import RowsAnswer, answer_of
from .errors import DeadlineExceeded, RingClosed, RingFeedError
from .replies import ReplyPool

_LIFE_SECONDS = 0.025
"""How often it looks whether an engine is left that can answer."""

_LINGER_SECONDS = 0.5
"""For so long after the last answer it waits at the cells: the next request then need not start it."""


class Pending:
    """A future, and the replies that it is made of.

    The future does not refer to it: a result that is a view goes with the last reference to the future.

    Attributes
    ----------
    future : concurrent.futures.Future
    until_ns : int
        CLOCK_MONOTONIC nanoseconds at which its time is over.
    """

    def __init__(self, rows: int | None, until_ns: int, copy: bool) -> None:
        self.future: Future[Any] = Future()
        self.until_ns = until_ns
        self._parts: list[tuple[int, Reply]] = []
        self._copy = copy
        self._rows = None if rows is None else RowsAnswer(rows)
        self._settled = False
        self._lock = threading.Lock()
        itself = weakref.ref(self)

        def withdraw_if_cancelled(future: Future[Any]) -> None:
            pending = itself()
            if pending is not None and future.cancelled():
                pending.withdraw()

        self.future.add_done_callback(withdraw_if_cancelled)

    def add(self, start: int, reply: Reply) -> bool:
        """Add the reply to come to rows from `start` on. Returns whether it has come already."""
        self._parts.append((start, reply))
        if self.future.done():  # cancelled, or failed meanwhile
            self.withdraw()
            return False
        try:
            return reply.done()
        except RingFeedError:  # the collector has taken it meanwhile
            return False

    @property
    def replies(self) -> list[Reply]:
        """What is not answered yet."""
        return [reply for _, reply in self._parts.copy()]

    def withdraw(self) -> None:
        """Let go of what is not answered: nobody waits for it."""
        while self._parts:
            try:
                self._parts.pop()[1].withdraw()
            except IndexError:  # another thread does the same
                return

    def collect(self) -> bool:
        """Take what is answered. Returns whether something was."""
        found = False
        for part in self._parts.copy():
            start, reply = part
            try:
                if not reply.done():
                    continue
                found = True
                if self._rows is None:
                    self._settle(answer_of(reply, copy=self._copy))
                elif self._rows.store(start, reply):
                    self._settle(self._rows.arrays)
                self._parts.remove(part)
                reply.withdraw()
            except Exception as error:  # also where it was cancelled in this very moment
                self.fail(error)
                return True
        return found

    def check(self, hopeless: bool) -> None:
        """Fail where nobody will answer."""
        try:
            for reply in self.replies:
                if hopeless:
                    reply.give_up()
                reply.check_if_dropped()
        except Exception as error:
            self.fail(error)

    def fail_late(self) -> None:
        """Fail because its time is over."""
        name = next((reply.ring.name for reply in self.replies), "?")
        self.fail(
            DeadlineExceeded(f"ring {name!r}: no answer within the timeout. Wait longer, send less, or add engines.")
        )

    def fail(self, error: BaseException) -> None:
        """Give the future an exception, and withdraw the rest."""
        self.withdraw()
        self._settle(None, error)

    def _settle(self, result: Any, error: BaseException | None = None) -> None:
        with self._lock:
            if self._settled:
                return
            self._settled = True
        if not self.future.set_running_or_notify_cancel():
            return
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)


class Collector:
    """Waits for the answers in a pool.

    Parameters
    ----------
    pool : ReplyPool
    patient : bool
        Wait also while no engine lives.
    """

    def __init__(self, pool: ReplyPool, patient: bool) -> None:
        self._pool = pool
        self._patient = patient
        self._pending: list[Pending] = []
        self._lock = threading.Lock()
        self._stopping: BaseException | None = None
        self._thread: threading.Thread | None = None

    def follow(self, pending: Pending) -> None:
        """Wait for a future's answers from now on."""
        with self._lock:
            if self._stopping is not None:
                raise self._stopping
            self._pending.append(pending)
            if self._thread is None:
                name = f"ringfeed-answers-{self._pool.cells.name}"
                self._thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._thread.start()

    def wake(self) -> None:
        """Have it look: something came before it was waited for."""
        self._pool.wake()

    def stop(self, reason: BaseException) -> None:
        """End the thread; what is under way fails with `reason`."""
        with self._lock:
            self._stopping = reason
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            self._pool.wake()
            thread.join()

    def _run(self) -> None:
        error: BaseException = RingClosed(f"ring {self._pool.cells.name!r}: the client was closed.")
        try:
            self._collect_until_idle()
        except Exception as reason:  # nobody may wait for what nobody collects
            error = reason
        with self._lock:
            if self._thread is not threading.current_thread():
                return  # it was idle; what comes now is another thread's
            self._thread = None
            left, self._pending = self._pending, []
        for pending in left:
            pending.fail(self._stopping or error)

    @property
    def is_calling(self) -> bool:
        """Whether the caller is the collecting thread itself: in a callback of a future."""
        return self._thread is threading.current_thread()

    def _collect_until_idle(self) -> None:
        looked = idle_since = time.monotonic()
        while self._stopping is None:
            key = self._pool.prepare()
            found = self._each(Pending.collect)
            now = time.monotonic()
            if now - looked >= _LIFE_SECONDS:
                looked = now
                self._look_for_life()
            if self._pending:
                idle_since = now
            elif now - idle_since >= _LINGER_SECONDS and self._has_ended():
                return
            if not found:
                self._pool.sleep(key, self._seconds_left())

    def _has_ended(self) -> bool:
        with self._lock:
            if not self._pending:
                self._thread = None
            return self._thread is None

    def _look_for_life(self) -> None:
        for ring in {reply.ring for pending in self._pending.copy() for reply in pending.replies}:
            ring.recover()
        hopeless = bool(self._pending) and self._pool.has_died(self._patient)
        self._each(lambda pending: pending.check(hopeless))

    def _each(self, what: Callable[[Pending], Any]) -> bool:
        """Do something with each, and forget those that are done. Returns whether it came to something."""
        found = False
        now_ns = time.monotonic_ns()
        for pending in self._pending.copy():
            if not pending.future.done():
                found = bool(what(pending)) or found
            if now_ns >= pending.until_ns and not pending.future.done():
                pending.fail_late()
        with self._lock:
            self._pending = [pending for pending in self._pending if not pending.future.done()]
        return found

    def _seconds_left(self) -> float:
        until = min((pending.until_ns for pending in self._pending.copy()), default=None)
        left = _LIFE_SECONDS if until is None else (until - time.monotonic_ns()) / 1e9
        return min(max(left, 0.0), _LIFE_SECONDS)
