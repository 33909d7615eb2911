"""One thread that collects the answers to futures, for all of a client's threads and event loops.

It may not know how anything is asked. There is such a thread only while something is under way, and shortly after.
"""

from __future__ import annotations

import contextlib
import time
import weakref
from collections.abc import Callable
from typing import Any

from ..errors import RingFeedError
from .own_thread import OwnThread
from .pending import Pending
from .reply_pool import ReplyPool

_LIFE_SECONDS = 0.025
"""How often it looks whether an engine is left that can answer."""

_LINGER_SECONDS = 0.5
"""For so long after the last answer it waits at the cells: the next request then need not start it."""


class Collector:
    """Waits for the answers in a pool.

    Whoever changes what is pending does so by one operation of a dict: no lock is held that a signal handler, which
    interrupts the holder, would wait for.

    Parameters
    ----------
    pool : ReplyPool
    patient : bool
        Wait also while no engine lives.
    """

    def __init__(self, pool: ReplyPool, patient: bool) -> None:
        self._pool = pool
        self._patient = patient
        self._pending: dict[Pending, None] = {}
        self._stopping: BaseException | None = None
        name = f"ringfeed-answers-{pool.cells.name}"
        self._thread = OwnThread(name, self._collect, self._is_needed)

    def _is_needed(self) -> bool:
        return bool(self._pending)

    def follow(self, pending: Pending) -> None:
        """Wait for a future's answers from now on.

        Raises
        ------
        ThreadRefused
            No thread could be started that would.
        """
        self._check_not_stopping()
        itself = weakref.ref(self)
        pending.is_hopeless = lambda: (collector := itself()) is not None and collector.is_hopeless
        self._pending[pending] = None
        try:
            self._thread.ensure()
            self._check_not_stopping()  # since just now
        except BaseException:
            self._pending.pop(pending, None)
            raise

    def _check_not_stopping(self) -> None:
        if self._stopping is not None:
            raise self._stopping

    def wake(self) -> None:
        """Have it look: something came before it was waited for."""
        self._pool.wake()

    def stop(self, reason: BaseException) -> None:
        """End the thread; what is under way fails with `reason`."""
        self._stopping = reason
        if self.is_calling:
            return  # what is under way fails behind the callback that we are in
        with contextlib.suppress(RingFeedError):
            self._pool.wake()
        self._thread.wait()
        self._fail_all(reason)

    @property
    def is_calling(self) -> bool:
        """Whether the caller is the collecting thread itself: in a callback of a future."""
        return self._thread.is_current

    def _collect(self) -> None:
        try:
            self._collect_until_idle()
        except Exception as error:  # nobody may wait for what nobody collects
            self._fail_all(self._stopping or error)
        if self._stopping is not None:
            self._fail_all(self._stopping)

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
            elif now - idle_since >= _LINGER_SECONDS:
                return
            if not found:
                self._pool.sleep(key, self._seconds_left())

    @property
    def is_hopeless(self) -> bool:
        """Whether no engine is left that could answer."""
        return self._pool.has_died(self._patient)

    def _look_for_life(self) -> None:
        for ring in {reply.ring for pending in list(self._pending) for reply in pending.replies}:
            ring._look()
        hopeless = bool(self._pending) and self.is_hopeless
        self._each(lambda pending: pending.check(hopeless))

    def _each(self, what: Callable[[Pending], Any]) -> bool:
        """Do something with each, and forget those that are done. Returns whether it came to something."""
        found = False
        now_ns = time.monotonic_ns()
        for pending in list(self._pending):
            if not pending.future.done():
                found = bool(what(pending)) or found
            if now_ns >= pending.until_ns and not pending.future.done():
                pending.fail_late()
            if pending.future.done():
                self._pending.pop(pending, None)
        return found

    def _fail_all(self, reason: BaseException) -> None:
        interrupted: KeyboardInterrupt | None = None
        while self._pending:
            try:
                pending, _ = self._pending.popitem()
            except KeyError:  # another thread does the same
                break
            try:
                pending.fail(reason)
            except KeyboardInterrupt as error:
                interrupted = error
        if interrupted is not None:
            raise interrupted

    def _seconds_left(self) -> float:
        until = min((pending.until_ns for pending in list(self._pending)), default=None)
        if until is None:
            return _LIFE_SECONDS
        # Longer where many clients wait: they are woken when an engine is found dead.
        return min(max((until - time.monotonic_ns()) / 1e9, 0.0), self._pool.seconds_to_look())
