"""A thread of a client's own, which is there while it has something to do.

It may not know what that is. It can be asked for at any time: by several threads at once, in a forked child, and in a
signal handler that interrupts who asks for it. So nobody holds a lock while a thread is started: several may start,
and the one that gets the seat works.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from .errors import RingFeedError

_STOP_SECONDS = 0.5
"""So long a client that is closed waits for a callback of its user's to return."""

_here = threading.local()  # .works: this thread is one of these

_log = logging.getLogger("ringfeed.client")


class ThreadRefused(RingFeedError):
    """The system lets this process start no more threads."""


class OwnThread:
    """Runs `work` in a thread while there is something to do, and again whenever it ended too early.

    Parameters
    ----------
    name : str
        Of the thread.
    work : callable
        Returns when there is nothing to do. It may raise nothing; what is raised into the thread from without is
        logged, and work begins again.
    is_needed : callable
        Tells whether there is something to do.
    """

    def __init__(self, name: str, work: Callable[[], None], is_needed: Callable[[], bool]) -> None:
        self._name = name
        self._work = work
        self._is_needed = is_needed
        self._seat = threading.Lock()
        self._worker: int | None = None

    @property
    def is_current(self) -> bool:
        """Whether the caller is that thread."""
        return self._worker == threading.get_ident()

    def ensure(self) -> None:
        """See to it that what was added before this call is worked on.

        Raises
        ------
        ThreadRefused
            No thread could be started.
        """
        if self._seat.locked():  # a worker looks once more after it has left the seat
            return
        try:
            threading.Thread(target=self._run, name=self._name, daemon=True).start()
        except (RuntimeError, MemoryError) as error:
            if not self._seat.locked():
                raise ThreadRefused(
                    f"thread {self._name!r} could not be started ({error}): a limit of processes or memory is reached "
                    "(`ulimit -u`, the cgroup's pids.max). Raise it, or use predict, which needs no thread."
                ) from error

    def wait(self) -> bool:
        """Wait until it does not work any more. False when it may go on.

        That is so where a callback of the user's does not return, and where the caller is in a callback itself.
        """
        if getattr(_here, "works", False):  # two that wait for each other would both go on waiting
            return False
        if not self._seat.acquire(timeout=_STOP_SECONDS):
            return False
        self._seat.release()
        return True

    def _run(self) -> None:
        _here.works = True
        while self._seat.acquire(blocking=False):
            try:
                self._worker = threading.get_ident()
                self._work()
            except BaseException:
                _log.exception("thread %r was interrupted; it goes on", self._name)
            finally:
                self._worker = None
                self._seat.release()
            if not self._is_needed():
                return
