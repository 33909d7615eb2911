"""A thread of a client's own, which is there while it has something to do.

It may not know what that is. It can be asked for at any time: by several threads at once, in a forked child, and in a
signal handler that interrupts who asks for it. So nobody holds a lock while a thread is started: several may start,
and the one that gets the seat works.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable

from ..errors import RingFeedError

_STOP_SECONDS = 0.5
"""So long a client that is closed waits for a callback of its user's to return."""

_here = threading.local()  # .works: this thread is one of these

_log = logging.getLogger("ringfeed.client")


class ThreadRefused(RingFeedError):
    """The system lets this process start no more threads."""


class OwnThread:
    """Runs `work` in a thread while there is something to do, and again whenever it ended too early.

    Whose thread it is refers to this, and this refers to that only while the thread is there: the owner, and the memory
    of what it has open, go with the last reference to it, not with the next full garbage collection.

    Parameters
    ----------
    name : str
        Of the thread.
    work : method
        Of the owner. Returns when there is nothing to do. It may raise nothing; what is raised into the thread from
        without is logged, and work begins again.
    is_needed : method
        Of the owner. Tells whether there is something to do.
    """

    def __init__(self, name: str, work: Callable[[], None], is_needed: Callable[[], bool]) -> None:
        self._name = name
        self._work = weakref.WeakMethod(work)
        self._is_needed = weakref.WeakMethod(is_needed)
        self._seat = threading.Lock()
        self._worker: int | None = None

    @property
    def is_current(self) -> bool:
        """Whether the caller is that thread."""
        return self._worker == threading.get_ident()

    def ensure(self) -> None:
        """See to it that what was added before this call is worked on. The owner asks for it.

        Raises
        ------
        ThreadRefused
            No thread could be started.
        """
        if self._seat.locked():  # a worker looks once more after it has left the seat
            return
        methods = self._work(), self._is_needed()
        try:
            threading.Thread(target=self._run, args=methods, name=self._name, daemon=True).start()
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

    def _run(self, work: Callable[[], None], is_needed: Callable[[], bool]) -> None:
        _here.works = True
        while self._seat.acquire(blocking=False):
            try:
                self._worker = threading.get_ident()
                work()
            except BaseException:
                _log.exception("thread %r was interrupted; it goes on", self._name)
            finally:
                self._worker = None
                self._seat.release()
            if not is_needed():
                return
