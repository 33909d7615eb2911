"""Futures of answers, and the replies that each is made of.

It may not know how anything is asked, nor which thread collects.
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
from .results import RowsAnswer, answer_of

FOREVER_NS = 2**63 - 1
GRACE_SECONDS = 0.1
"""So long after its own time the one who waits for a future gives whoever collects the answers to say so first."""

FIRST_LOOK_SECONDS = 0.05
LONGEST_LOOK_SECONDS = 12.5
"""How often the one who waits for a future looks for the answer itself: at first, and in the end."""

_log = logging.getLogger("ringfeed.client")


class _Here(threading.local):
    """What callbacks raised that this thread calls for a client; None while it calls none."""

    raised: list[BaseException] | None = None


_here = _Here()


class AnswerFuture(Future[Any]):
    """The future of an answer: it ends with its own time, whatever became of the thread that collects answers.

    Callbacks are guarded: what one raises ends neither that thread nor the callbacks behind it.

    Parameters
    ----------
    until_ns : int
        CLOCK_MONOTONIC nanoseconds at which its time is over.
    """

    def __init__(self, until_ns: int) -> None:
        super().__init__()
        self.until_ns = until_ns
        self._pid = os.getpid()
        self._end: Callable[[], Any] = lambda: None
        self._look: Callable[[], Any] = lambda: None

    def add_done_callback(self, fn: Callable[[Future[Any]], Any]) -> None:
        """Call a function with the future when it is done; see `concurrent.futures.Future`."""
        super().add_done_callback(functools.partial(_call_guarded, fn))

    def result(self, timeout: float | None = None) -> Any:
        """Return the answer; see `concurrent.futures.Future`."""
        try:
            self._wait(timeout)
            return super().result(0)
        finally:
            del self  # an error that is raised would keep this frame, and the frame the future, which has the error

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the error, if it is one; see `concurrent.futures.Future`."""
        self._wait(timeout)
        return super().exception(0)

    def result_for_good(self) -> Any:
        """Return the answer of a future that nobody else has; an error that is raised stays with who catches it."""
        try:
            return self.result()
        finally:
            self.forget_error()

    def forget_error(self) -> None:
        """Let go of the error, once it is raised: its frames refer to this future, and to all that they work on."""
        self._exception = None

    @property
    def seconds_left(self) -> float | None:
        """After so many seconds nobody needs to wait any more; None for never."""
        if self.until_ns >= FOREVER_NS:
            return None
        return max((self.until_ns - time.monotonic_ns()) / 1e9, 0.0) + GRACE_SECONDS

    def look(self) -> None:
        """Look for the answer in the caller's thread, in case that nobody else does."""
        self._look()

    def end_late(self) -> None:
        """Let it fail: its time is over."""
        self._end()

    def _wait(self, timeout: float | None) -> None:
        if self._pid != os.getpid() and self._state not in ("FINISHED", "CANCELLED", "CANCELLED_AND_NOTIFIED"):
            raise RingFeedError(
                f"this request was made by process {self._pid}, of which this one was forked: only that gets the "
                "answer. Ask again here."
            )
        if self.done():
            return
        own = self.seconds_left
        end = time.monotonic() + min(math.inf if each is None else each for each in (own, timeout))
        look = FIRST_LOOK_SECONDS
        while not self._is_done_within(min(look, max(end - time.monotonic(), 0.0))):
            if time.monotonic() >= end:
                if self.until_ns <= time.monotonic_ns():
                    self.end_late()
                return
            # The thread that collects may be kept: by a callback, or by a lock of whom this signal handler interrupts.
            self.look()
            look = min(2 * look, LONGEST_LOOK_SECONDS)

    def _is_done_within(self, seconds: float) -> bool:
        with contextlib.suppress(CancelledError, FutureTimeout):
            super().exception(seconds)
        return self.done()


def _call_guarded(function: Callable[[Future[Any]], Any], future: Future[Any]) -> None:
    try:
        function(future)
    except Exception:
        raise  # the future logs it
    except BaseException as error:
        if _here.raised is None:
            raise  # the user's own thread: it cancels, or adds a callback to what is done
        _here.raised.append(error)
        _log.exception("a callback of a request's future raised %s; the client goes on", type(error).__name__)


def _without_frames(error: Exception) -> Exception:
    """Return an error that is to be a future's: frames of the thread that collects would keep all that it works on."""
    return error.with_traceback(None)


class Pending:
    """A future, and the replies that it is made of.

    The future does not refer to it: a result that is a view goes with the last reference to the future.

    Attributes
    ----------
    future : AnswerFuture
    until_ns : int
        CLOCK_MONOTONIC nanoseconds at which its time is over.
    is_hopeless : callable
        Tells whether no engine is left that could answer.
    """

    def __init__(self, name: str, rows: int | None, until_ns: int, copy: bool) -> None:
        self.future = AnswerFuture(until_ns)
        self.until_ns = until_ns
        self._name = name
        self._parts: list[tuple[int, Reply]] = []
        self._copy = copy
        self._rows = None if rows is None else RowsAnswer(rows)
        self.is_hopeless: Callable[[], bool] = lambda: False
        self._collecting = threading.Lock()
        self._settled = threading.Lock()  # taken for good, and never waited for: a signal handler may settle, too
        itself = weakref.ref(self)

        def withdraw_if_cancelled(future: Future[Any]) -> None:
            pending = itself()
            if pending is not None and future.cancelled():
                pending.withdraw()

        def end_late() -> None:
            pending = itself()
            if pending is not None:
                pending.fail_late()

        def look() -> None:
            pending = itself()
            if pending is not None and not pending.collect():
                pending.check(pending.is_hopeless())

        self.future._end, self.future._look = end_late, look
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
        if not self._collecting.acquire(blocking=False):  # another thread does, or one that this one interrupts
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
            except Exception as error:  # also where it was cancelled in this very moment
                self.fail(_without_frames(error))
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
            self.fail(_without_frames(error))

    def fail_late(self) -> None:
        """Fail because its time is over."""
        self.fail(
            DeadlineExceeded(
                f"ring {self._name!r}: no answer within the timeout. Wait longer, send less, or add engines."
            )
        )

    def fail(self, error: BaseException) -> None:
        """Give the future an exception, and withdraw the rest."""
        self.withdraw()
        self._settle(None, error)

    def _settle(self, result: Any, error: BaseException | None = None) -> None:
        if not self._settled.acquire(blocking=False):
            return
        outer, _here.raised = _here.raised, []
        try:
            if not self.future.set_running_or_notify_cancel():
                return
            if error is None:
                self.future.set_result(result)
            else:
                self.future.set_exception(error)
        finally:
            raised, _here.raised = _here.raised, outer
        for each in raised:  # of the main thread it is Ctrl-C, whatever it interrupted
            if isinstance(each, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
                raise each
