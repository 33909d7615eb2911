"""A background thread that exists while there is work for it.

It may not know the work. Several threads at once, a forked child, and a signal handler that interrupts another caller
can all ask for the thread. So no lock is held while a thread starts: several may start, and the one that gets the lock
`_active` works.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable

from ..errors import RingFeedError

_STOP_SECONDS = 0.5
"""How long closing a client waits for a user's callback to return."""

_local = threading.local()  # .is_on_demand: this thread is an on-demand thread

_log = logging.getLogger("ringfeed.client")


class ThreadRefused(RingFeedError):
    """The system refused to start another thread."""


class OnDemandThread:
    """Runs `work` in a thread while there is work, and again if it ended too early.

    The owner refers to this object, and this object refers to the owner only while the thread runs. So the owner and
    its memory are freed with the last reference to the owner, not by the next full garbage collection.

    Parameters
    ----------
    name : str
        The name of the thread.
    work : method
        A method of the owner that returns when there is no work. It may not raise. An exception that other code raises
        into the thread is logged, and `work` is called again.
    is_needed : method
        A method of the owner that returns whether there is work.
    """

    def __init__(self, name: str, work: Callable[[], None], is_needed: Callable[[], bool]) -> None:
        self._name = name
        self._work = weakref.WeakMethod(work)
        self._is_needed = weakref.WeakMethod(is_needed)
        self._active = threading.Lock()
        self._worker: int | None = None

    @property
    def is_current(self) -> bool:
        """Whether the caller is this thread."""
        return self._worker == threading.get_ident()

    def ensure(self) -> None:
        """Start the thread if it does not run. Work that was added before this call is then done.

        Raises
        ------
        ThreadRefused
            The thread could not be started.
        """
        if self._active.locked():  # the thread checks for work once more after it has released the lock
            return
        methods = self._work(), self._is_needed()
        try:
            threading.Thread(target=self._run, args=methods, name=self._name, daemon=True).start()
        except (RuntimeError, MemoryError) as error:
            if not self._active.locked():
                raise ThreadRefused(
                    f"thread {self._name!r} could not be started ({error}): a limit on processes or memory is reached "
                    "(`ulimit -u`, the cgroup's pids.max). Raise it, or use predict, which needs no thread."
                ) from error

    def wait(self) -> bool:
        """Wait until the thread ends its work. Return False if it may continue.

        It may continue if a user's callback does not return, or if the caller is in a callback itself.
        """
        if getattr(_local, "is_on_demand", False):  # two such threads could wait for each other without end
            return False
        if not self._active.acquire(timeout=_STOP_SECONDS):
            return False
        self._active.release()
        return True

    def _run(self, work: Callable[[], None], is_needed: Callable[[], bool]) -> None:
        _local.is_on_demand = True
        while self._active.acquire(blocking=False):
            try:
                self._worker = threading.get_ident()
                work()
            except BaseException:
                _log.exception("thread %r was interrupted; it continues", self._name)
            finally:
                self._worker = None
                self._active.release()
            if not is_needed():
                return
