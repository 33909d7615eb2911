"""One thread that collects the answers to futures, for all of a client's threads and event loops.

It may not know how anything is asked. It sleeps while nothing is under way.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from ._core import Reply
from .answers import RowsAnswer, answer_of
from .errors import DeadlineExceeded, RingClosed
from .replies import ReplyPool

_LIFE_SECONDS = 0.05
"""How often it looks whether an engine is left that can answer."""

_LINGER_SECONDS = 0.5
"""For so long after the last answer it waits at the cells: the next request then need not wake it."""


class Pending:
    """A future, and the replies that it is made of.

    Attributes
    ----------
    future : concurrent.futures.Future
    """

    def __init__(self, rows: int | None, until_ns: int, copy: bool) -> None:
        self.future: Future[Any] = Future()
        self.until_ns = until_ns
        self._parts: list[tuple[int, Reply]] = []
        self._copy = copy
        self._rows = None if rows is None else RowsAnswer(rows)
        self.future.add_done_callback(self._withdraw_if_cancelled)

    def add(self, start: int, reply: Reply) -> None:
        """Add the reply to come to rows from `start` on."""
        self._parts.append((start, reply))
        if self.future.cancelled():
            self.withdraw()

    def withdraw(self) -> None:
        """Let go of what is not answered: nobody waits for it."""
        while self._parts:
            self._parts.pop()[1].withdraw()

    def _withdraw_if_cancelled(self, future: Future[Any]) -> None:
        if future.cancelled():
            self.withdraw()

    def collect(self) -> bool:
        """Take what is answered. Returns whether something was."""
        found = False
        for part in list(self._parts):
            start, reply = part
            try:
                if not reply.done():
                    continue
                found = True
                if self._rows is None:
                    self._finish(answer_of(reply, copy=self._copy))
                elif self._rows.store(start, reply):
                    self._finish(self._rows.arrays)
                self._parts.remove(part)
                reply.withdraw()
            except Exception as error:
                if self.future.done():  # cancelled meanwhile: the reply is gone
                    return True
                self.fail(error)
                return True
        return found

    def check(self, patient: bool, now_ns: int) -> None:
        """Fail where nobody will answer, or the time is over."""
        if now_ns >= self.until_ns:
            self.fail(DeadlineExceeded(self._why_late()))
            return
        try:
            for _, reply in list(self._parts):
                reply.check_for_life(patient)
        except Exception as error:
            if not self.future.done():
                self.fail(error)

    def _why_late(self) -> str:
        name = self._parts[0][1].ring.name if self._parts else "?"
        return f"ring {name!r}: no answer within the timeout. Wait longer, send less, or add engines."

    def _finish(self, result: Any) -> None:
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Give the future an exception, and withdraw the rest."""
        self.withdraw()
        if not self.future.done() and self.future.set_running_or_notify_cancel():
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
        self._something = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def follow(self, pending: Pending) -> None:
        """Wait for a future's answers from now on."""
        with self._lock:
            if self._stopping:
                raise RingClosed("this client was closed. Make a new one.")
            self._pending.append(pending)
            if self._thread is None:
                name = f"ringfeed-answers-{self._pool.cells.name}"
                self._thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._thread.start()
        self._something.set()

    def stop(self) -> None:
        """End the thread; what is under way fails with `RingClosed`."""
        with self._lock:
            self._stopping = True
            thread = self._thread
        self._something.set()
        if thread is not None and thread is not threading.current_thread():
            self._pool.wake()
            thread.join()

    def _run(self) -> None:
        looked = idle_since = time.monotonic()
        while not self._stopping:
            key = self._pool.prepare()
            found = self._each(Pending.collect)
            now = time.monotonic()
            if now - looked >= _LIFE_SECONDS:
                looked = now
                self._each(self._check)
            if self._pending:
                idle_since = now
            elif now - idle_since >= _LINGER_SECONDS:
                self._something.clear()
                if not self._pending and not self._stopping:
                    self._something.wait()
                idle_since = time.monotonic()
                continue
            if not found:
                self._pool.sleep(key, self._seconds_left())
        error = RingClosed(f"ring {self._pool.cells.name!r}: the client was closed.")
        for pending in self._pending:
            pending.fail(error)

    def _check(self, pending: Pending) -> None:
        pending.check(self._patient, time.monotonic_ns())

    def _each(self, what: Callable[[Pending], Any]) -> bool:
        """Do something with each, and forget those that are done. Returns whether it came to something."""
        found = False
        for pending in self._pending.copy():
            if not pending.future.done():
                found = bool(what(pending)) or found
        with self._lock:
            self._pending = [pending for pending in self._pending if not pending.future.done()]
        return found

    def _seconds_left(self) -> float:
        until = min((pending.until_ns for pending in self._pending.copy()), default=0)
        left = (until - time.monotonic_ns()) / 1e9
        return min(max(left, 0.0005), _LIFE_SECONDS)
