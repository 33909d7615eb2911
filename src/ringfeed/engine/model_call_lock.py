"""A lock around model calls: most calls share it, a call that may crash the process holds it exclusively.

If the process dies during an exclusive call, only the batch of that call can be the cause.
It may not know what a call does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# A call may wait for another call of this process: a model may ask an engine. So no thread waits longer than this.
_LONGEST_WAIT_SECONDS = 5.0


class ModelCallLock:
    """Lets shared calls run side by side, and an exclusive call alone.

    The lock itself is the context manager of a shared call; `exclusive` returns that of an exclusive one.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        # Thread -> number of its shared calls. A thread changes only its own entry, by single dict operations, so a
        # shared call takes no lock. It first writes its entry, then reads `_exclusive`; an exclusive call first writes
        # `_exclusive`, then reads the entries. One of the two therefore sees the other.
        self._shared: dict[int, int] = {}
        self._exclusive = 0  # calls that run exclusively, or wait to
        self._turn = threading.Lock()

    def __enter__(self) -> None:
        thread = threading.get_ident()
        self._shared[thread] = self._shared.get(thread, 0) + 1
        if self._exclusive:
            self._leave(thread)
            with self._changed:
                self._wait_until(lambda: not self._exclusive)
                self._shared[thread] = self._shared.get(thread, 0) + 1

    def __exit__(self, *_: object) -> None:
        self._leave(threading.get_ident())

    def _leave(self, thread: int) -> None:
        if self._shared[thread] == 1:
            del self._shared[thread]
        else:
            self._shared[thread] -= 1
        if self._exclusive:
            with self._changed:
                self._changed.notify_all()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Wait until no other call runs, and keep other calls waiting until the block ends."""
        got_turn = self._turn.acquire(timeout=_LONGEST_WAIT_SECONDS)
        with self._changed:
            self._exclusive += 1
            self._wait_until(lambda: not self._shared)
        try:
            yield
        finally:
            with self._changed:
                self._exclusive -= 1
                self._changed.notify_all()
            if got_turn:
                self._turn.release()

    def _wait_until(self, is_so: Callable[[], bool]) -> None:
        until = time.monotonic() + _LONGEST_WAIT_SECONDS
        while not is_so() and (left := until - time.monotonic()) > 0:
            self._changed.wait(left)
