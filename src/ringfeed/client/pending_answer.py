"""Futures of answers, and the replies from which each answer is collected.

It may not know how requests are sent, nor which thread collects their replies.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

from .._core import Reply
from ..errors import DeadlineExceeded, RingFeedError
from .request import FOREVER_NS
from .results import RowsAnswer, answer_of

GRACE_SECONDS = 0.1
"""How long after its deadline a future waits for the collector to report the deadline first."""

FIRST_CHECK_SECONDS = 0.05
MAX_CHECK_SECONDS = 12.5
"""The first and the longest pause between two checks for the answer by the thread that waits for a future."""

_log = logging.getLogger("ringfeed.client")


class _CallbackErrors(threading.local):
    """The errors of the callbacks that this thread is calling; None while it calls none."""

    raised: list[BaseException] | None = None


_callback_errors = _CallbackErrors()


class AnswerFuture(Future[Any]):
    """The future of an answer. It ends at its deadline even if the collector's thread is blocked or dead.

    Callbacks are guarded: an exception in a callback stops neither the collector's thread nor other callbacks.

    Parameters
    ----------
    deadline_ns : int
        CLOCK_MONOTONIC nanoseconds at which the request expires.
    """

    def __init__(self, deadline_ns: int) -> None:
        super().__init__()
        self.deadline_ns = deadline_ns
        self._pid = os.getpid()
        self._expire: Callable[[], Any] = lambda: None
        self._check: Callable[[], Any] = lambda: None

    def add_done_callback(self, fn: Callable[[Future[Any]], Any]) -> None:
        """Call a function with the future when it is done; as `concurrent.futures.Future`."""
        super().add_done_callback(functools.partial(_call_guarded, fn))

    def result(self, timeout: float | None = None) -> Any:
        """Return the answer; as `concurrent.futures.Future`."""
        try:
            self._wait(timeout)
            return super().result(0)
        finally:
            del self  # breaks a reference cycle: the error keeps this frame, the frame the future, the future the error

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the exception, or None; as `concurrent.futures.Future`."""
        self._wait(timeout)
        return super().exception(0)

    def take_result(self) -> Any:
        """Return the answer of a future that no user has. The future does not keep an exception that it raises."""
        try:
            return self.result()
        finally:
            self.forget_error()

    def forget_error(self) -> None:
        """Drop the exception after it was raised: its frames refer to this future and to their local objects."""
        self._exception = None

    @property
    def seconds_left(self) -> float | None:
        """The seconds until waiting is useless; None for no limit."""
        if self.deadline_ns >= FOREVER_NS:
            return None
        return max((self.deadline_ns - time.monotonic_ns()) / 1e9, 0.0) + GRACE_SECONDS

    def check(self) -> None:
        """Check for the answer in the caller's thread, in case the collector cannot."""
        self._check()

    def expire(self) -> None:
        """Fail with `DeadlineExceeded`."""
        self._expire()

    def _wait(self, timeout: float | None) -> None:
        if self._pid != os.getpid() and self._state not in ("FINISHED", "CANCELLED", "CANCELLED_AND_NOTIFIED"):
            raise RingFeedError(
                f"this request was made by process {self._pid}, from which this one was forked, and only that process "
                "gets the answer. Ask again here."
            )
        if self.done():
            return
        own = self.seconds_left
        end = time.monotonic() + min(math.inf if each is None else each for each in (own, timeout))
        pause = FIRST_CHECK_SECONDS
        while not self._is_done_within(min(pause, max(end - time.monotonic(), 0.0))):
            if time.monotonic() >= end:
                if self.deadline_ns <= time.monotonic_ns():
                    self.expire()
                return
            # The collector may be blocked by a callback, or by a lock of the thread that this handler interrupts.
            self.check()
            pause = min(2 * pause, MAX_CHECK_SECONDS)

    def _is_done_within(self, seconds: float) -> bool:
        with contextlib.suppress(CancelledError, FutureTimeout):
            super().exception(seconds)
        return self.done()


def _call_guarded(function: Callable[[Future[Any]], Any], future: Future[Any]) -> None:
    try:
        function(future)
    except Exception:
        raise  # concurrent.futures logs it
    except BaseException as error:
        if _callback_errors.raised is None:
            raise  # in the user's thread, which cancels the future or adds a callback to a done one
        _callback_errors.raised.append(error)
        _log.exception("a callback of a request's future raised %s; the client continues", type(error).__name__)


def _without_frames(error: Exception) -> Exception:
    """Return an error without its traceback, whose frames would keep the collector's objects alive."""
    return error.with_traceback(None)


class PendingAnswer:
    """The future of an answer, and the replies from which the answer is collected.

    The future does not refer to this object, so a result that is a view dies with the last reference to the future.

    Attributes
    ----------
    future : AnswerFuture
    deadline_ns : int
        CLOCK_MONOTONIC nanoseconds at which the request expires.
    has_no_engine : callable
        Returns whether no engine is left that could answer.
    """

    def __init__(self, name: str, rows: int | None, deadline_ns: int, copy: bool) -> None:
        self.future = AnswerFuture(deadline_ns)
        self.deadline_ns = deadline_ns
        self._name = name
        self._parts: list[tuple[int, Reply]] = []
        self._copy = copy
        self._rows = None if rows is None else RowsAnswer(rows)
        self.has_no_engine: Callable[[], bool] = lambda: False
        self._collecting = threading.Lock()
        self._settled = threading.Lock()  # acquired once, and never waited for: a signal handler may settle, too
        reference = weakref.ref(self)

        def withdraw_if_cancelled(future: Future[Any]) -> None:
            pending = reference()
            if pending is not None and future.cancelled():
                pending.withdraw()

        def expire() -> None:
            pending = reference()
            if pending is not None:
                pending.expire()

        def check() -> None:
            pending = reference()
            if pending is not None and not pending.collect():
                pending.check(pending.has_no_engine())

        self.future._expire, self.future._check = expire, check
        self.future.add_done_callback(withdraw_if_cancelled)

    def add(self, start: int, reply: Reply) -> bool:
        """Add the reply to the rows from `start` on. Return whether it is answered already."""
        self._parts.append((start, reply))
        if self.future.done():  # cancelled or failed meanwhile
            self.withdraw()
            return False
        try:
            return reply.done()
        except RingFeedError:  # the collector has released it meanwhile
            return False

    @property
    def replies(self) -> list[Reply]:
        """The replies that are not answered yet."""
        return [reply for _, reply in self._parts.copy()]

    def withdraw(self) -> None:
        """Withdraw the requests that are not answered."""
        while self._parts:
            try:
                self._parts.pop()[1].withdraw()
            except IndexError:  # another thread does the same
                return

    def collect(self) -> bool:
        """Collect the replies that are answered. Return whether there was one."""
        if not self._collecting.acquire(blocking=False):  # another thread is collecting
            return False
        try:
            return self._collect()
        finally:
            self._collecting.release()

    def _collect(self) -> bool:
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
            except Exception as error:  # also if the future was cancelled at this moment
                self.fail(_without_frames(error))
                return True
        return found

    def check(self, without_engine: bool) -> None:
        """Fail the future if no engine will answer one of its requests."""
        try:
            for reply in self.replies:
                if without_engine:
                    reply.give_up()
                reply.check_if_dropped()
        except Exception as error:
            self.fail(_without_frames(error))

    def expire(self) -> None:
        """Fail with `DeadlineExceeded`."""
        self.fail(
            DeadlineExceeded(
                f"ring {self._name!r}: no answer within the timeout. Wait longer, send less, or add engines."
            )
        )

    def fail(self, error: BaseException) -> None:
        """Withdraw the requests that are not answered, and set the future's exception."""
        self.withdraw()
        self._settle(None, error)

    def _settle(self, result: Any, error: BaseException | None = None) -> None:
        if not self._settled.acquire(blocking=False):
            return
        outer, _callback_errors.raised = _callback_errors.raised, []
        try:
            if not self.future.set_running_or_notify_cancel():
                return
            if error is None:
                self.future.set_result(result)
            else:
                self.future.set_exception(error)
        finally:
            raised, _callback_errors.raised = _callback_errors.raised, outer
        for each in raised:  # in the main thread this is Ctrl-C, which must reach the program
            if isinstance(each, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
                raise each
