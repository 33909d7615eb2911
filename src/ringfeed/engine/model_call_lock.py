"""Work that nothing else of this process is to run beside: what a process dies over is then known.

It may not know what the work is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Work may wait for other work of this process, as a model that asks an engine does: nobody waits longer than this.
_PATIENCE_SECONDS = 5.0


class Alone:
    """Lets work run side by side, but for some that runs alone.

    As a context manager it is around work that may run beside other; `alone` is around work that may not.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        # How often each thread is inside. It changes its own entry alone, by single operations of a dict, and takes no
        # lock: it says that it runs, then looks whether somebody is alone, who says that first, and then looks here.
        self._running: dict[int, int] = {}
        self._alone = 0  # run alone, or wait for that
        self._turn = threading.Lock()

    def __enter__(self) -> None:
        thread = threading.get_ident()
        self._running[thread] = self._running.get(thread, 0) + 1
        if self._alone:
            self._leave(thread)
            with self._changed:
                self._wait_until(lambda: not self._alone)
                self._running[thread] = self._running.get(thread, 0) + 1

    def __exit__(self, *_: object) -> None:
        self._leave(threading.get_ident())

    def _leave(self, thread: int) -> None:
        if self._running[thread] == 1:
            del self._running[thread]
        else:
            self._running[thread] -= 1
        if self._alone:
            with self._changed:
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Run work when no other runs, and have others wait meanwhile."""
        got_turn = self._turn.acquire(timeout=_PATIENCE_SECONDS)
        with self._changed:
            self._alone += 1
            self._wait_until(lambda: not self._running)
        try:
            yield
        finally:
            with self._changed:
                self._alone -= 1
                self._changed.notify_all()
            if got_turn:
                self._turn.release()

    def _wait_until(self, is_so: Callable[[], bool]) -> None:
        until = time.monotonic() + _PATIENCE_SECONDS
        while not is_so() and (left := until - time.monotonic()) > 0:
            self._changed.wait(left)
