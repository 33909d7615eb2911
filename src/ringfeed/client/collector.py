"""The thread that collects the answers for the futures of all of a client's threads and event loops.

It may not know how requests are sent. The thread exists only while requests are in flight, and shortly after.
"""

from __future__ import annotations

import contextlib
import time
import weakref
from collections.abc import Callable
from typing import Any

from ..errors import RingFeedError
from .on_demand_thread import OnDemandThread
from .pending_answer import PendingAnswer
from .reply_pool import ReplyPool

_LIVENESS_SECONDS = 0.025
"""How often the thread checks whether an engine is left that can answer."""

_IDLE_SECONDS = 0.5
"""How long the thread stays after the last answer, so that the next request need not start it again."""


class Collector:
    """Waits for the answers in a reply pool.

    The set of pending answers is changed by single dict operations. A lock would block a signal handler that interrupts
    its holder.

    Parameters
    ----------
    pool : ReplyPool
    wait_for_engine : bool
        Keep waiting while no engine is alive.
    """

    def __init__(self, pool: ReplyPool, wait_for_engine: bool) -> None:
        self._pool = pool
        self._wait_for_engine = wait_for_engine
        self._pending: dict[PendingAnswer, None] = {}
        self._stopping: BaseException | None = None
        name = f"ringfeed-answers-{pool.cells.name}"
        self._thread = OnDemandThread(name, self._collect, self._is_needed)

    def _is_needed(self) -> bool:
        return bool(self._pending)

    def follow(self, pending: PendingAnswer) -> None:
        """Collect the replies of a pending answer from now on.

        Raises
        ------
        ThreadRefused
            The thread could not be started.
        """
        self._check_not_stopping()
        reference = weakref.ref(self)
        pending.has_no_engine = lambda: (collector := reference()) is not None and collector.has_no_engine
        self._pending[pending] = None
        try:
            self._thread.ensure()
            self._check_not_stopping()  # it may have been stopped meanwhile
        except BaseException:
            self._pending.pop(pending, None)
            raise

    def _check_not_stopping(self) -> None:
        if self._stopping is not None:
            raise self._stopping

    def wake(self) -> None:
        """Let the thread check its replies: one was answered before the collector followed it."""
        self._pool.wake()

    def stop(self, reason: BaseException) -> None:
        """End the thread; the pending answers fail with `reason`."""
        self._stopping = reason
        if self.is_current_thread:
            return  # a callback called this: the thread fails the pending answers after the callback
        with contextlib.suppress(RingFeedError):
            self._pool.wake()
        self._thread.wait()
        self._fail_all(reason)

    @property
    def is_current_thread(self) -> bool:
        """Whether the caller is this thread, in a callback of a future."""
        return self._thread.is_current

    def _collect(self) -> None:
        try:
            self._collect_until_idle()
        except Exception as error:  # without the thread, the futures would stay pending
            self._fail_all(self._stopping or error)
        if self._stopping is not None:
            self._fail_all(self._stopping)

    def _collect_until_idle(self) -> None:
        checked = idle_since = time.monotonic()
        while self._stopping is None:
            key = self._pool.prepare()
            found = self._each(PendingAnswer.collect)
            now = time.monotonic()
            if now - checked >= _LIVENESS_SECONDS:
                checked = now
                self._check_engine()
            if self._pending:
                idle_since = now
            elif now - idle_since >= _IDLE_SECONDS:
                return
            if not found:
                self._pool.sleep(key, self._seconds_left())

    @property
    def has_no_engine(self) -> bool:
        """Whether no engine is left that could answer."""
        return self._pool.no_engine_left(self._wait_for_engine)

    def _check_engine(self) -> None:
        for ring in {reply.ring for pending in list(self._pending) for reply in pending.replies}:
            ring._reap()
        without_engine = bool(self._pending) and self.has_no_engine
        self._each(lambda pending: pending.check(without_engine))

    def _each(self, action: Callable[[PendingAnswer], Any]) -> bool:
        """Call `action` with each pending answer, and drop those that are done. Return whether a call returned true."""
        found = False
        now_ns = time.monotonic_ns()
        for pending in list(self._pending):
            if not pending.future.done():
                found = bool(action(pending)) or found
            if now_ns >= pending.deadline_ns and not pending.future.done():
                pending.expire()
            if pending.future.done():
                self._pending.pop(pending, None)
        return found

    def _fail_all(self, reason: BaseException) -> None:
        interrupted: KeyboardInterrupt | None = None
        while self._pending:
            try:
                pending, _ = self._pending.popitem()
            except KeyError:  # another thread took the last
                break
            try:
                pending.fail(reason)
            except KeyboardInterrupt as error:
                interrupted = error
        if interrupted is not None:
            raise interrupted

    def _seconds_left(self) -> float:
        deadline_ns = min((pending.deadline_ns for pending in list(self._pending)), default=None)
        if deadline_ns is None:
            return _LIVENESS_SECONDS
        # The pause grows with the number of clients: the one that finds the engine dead wakes the others.
        return min(max((deadline_ns - time.monotonic_ns()) / 1e9, 0.0), self._pool.seconds_to_check())
