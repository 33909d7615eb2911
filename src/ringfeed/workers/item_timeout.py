"""The limit of an item's time: recorded by the worker, watched by the pool.

It may not know how a worker is ended, nor how its item fails.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..machine.memory_files import OwnDescriptor
from .failures import Failure, describe_timeout
from .item_status import ItemStatusPage, make_file

_CHECKS_PER_LIMIT = 8
_LONGEST_PAUSE_SECONDS = 0.05


def timeout_failure(seconds: float) -> Failure:
    """Return the failure of an item that took too long."""
    text = f"preprocess took longer than item_timeout={seconds!r} s; its worker process was ended and replaced."
    return describe_timeout(text)


class ItemTimer:
    """The worker's side: records the begin and the end of an item on the page.

    Counted are reading the item, its function, and making arrays of the function's result; waiting for a slot is not.
    """

    def __init__(self, page: ItemStatusPage, worker: int, seconds: float) -> None:
        self.page = page
        self.failure = timeout_failure(seconds)
        self._worker = worker

    def begin(self, tag: int) -> None:
        """Begin an item."""
        self.page.begin(self._worker, tag)

    def end(self) -> None:
        """End it."""
        self.page.end(self._worker)

    def ending(self, do: Callable[[int, Any, Any], None]) -> Callable[[int, Any, Any], None]:
        """Return ``do(tag, function, message)``, which begins the item itself, as a function that also ends it."""
        end = self.end

        def timed(tag: int, function: Any, message: Any) -> None:
            try:
                do(tag, function, message)
            finally:
                end()

        return timed


class TimerStoppingRing:
    """A ring for a worker's rows. A claim ends the item, so that waiting for a slot is not counted.

    The function's result may still compute while it becomes an array, so the return of the function is too early.
    """

    def __init__(self, ring: Any, timer: ItemTimer) -> None:
        self._ring = ring
        self._end = timer.end

    def claim(self, *arguments: Any, **options: Any) -> Any:
        """Claim as the ring does."""
        self._end()
        return self._ring.claim(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ring, name)


class ItemWatchdog:
    """The pool's side: finds the workers whose item takes too long, or that are stopped for too long.

    Only time in which the pool checks counts, and a pause between two checks counts at most as a part of the limit. A
    program that was stopped as a whole (Ctrl-Z, a suspended machine) finds none of its items late afterwards.

    Parameters
    ----------
    seconds : float
    workers : int
    """

    def __init__(self, seconds: float, workers: int) -> None:
        self.seconds = seconds
        self._file = OwnDescriptor(make_file(workers))
        self._is_closed = False
        self._page = ItemStatusPage(self.descriptor, workers)
        self._pause = min(seconds / _CHECKS_PER_LIMIT, _LONGEST_PAUSE_SECONDS)
        self._last_check = time.monotonic()
        self._seen: list[Any] = [None] * workers
        self._elapsed = [0.0] * workers

    @property
    def descriptor(self) -> int:
        """The descriptor of the page, for workers; the watchdog owns it."""
        return self._file.number

    def find_overdue(self, process_ids: Sequence[int]) -> list[tuple[int, int | None]]:
        """Return the overdue workers, each with the tag of its item, which is then on the list of the page.

        The tag is None for a worker that was stopped while it had no item. Cheap: most calls only read a clock.
        """
        now = time.monotonic()
        elapsed = now - self._last_check
        if elapsed < self._pause:
            return []
        self._last_check = now
        found: list[tuple[int, int | None]] = []
        with self._unless_closed():
            self._check(process_ids, min(elapsed, max(self.seconds / _CHECKS_PER_LIMIT, self._pause)), found)
        return found

    def _check(self, process_ids: Sequence[int], elapsed: float, found: list[tuple[int, int | None]]) -> None:
        for worker, process_id in enumerate(process_ids):
            entry = self._page.entry(worker)
            seen: Any = entry or ("stopped" if _is_stopped(process_id) else None)
            if seen is None or seen != self._seen[worker]:
                self._seen[worker], self._elapsed[worker] = seen, 0.0
                continue
            self._elapsed[worker] += elapsed
            if self._elapsed[worker] > self.seconds:
                tag = None if entry is None else entry[0]
                if tag is not None:
                    self._page.add_timed_out(tag)
                found.append((worker, tag))
                self._elapsed[worker] = 0.0

    @contextlib.contextmanager
    def _unless_closed(self) -> Iterator[None]:
        """Let a check end if another thread, or a signal handler within it, closes the page."""
        try:
            yield
        except ValueError:
            if not self._is_closed:
                raise

    def restarted(self, worker: int) -> None:
        """Forget the item of a worker: its process is gone."""
        with self._unless_closed():
            self._page.end(worker)
        self._seen[worker], self._elapsed[worker] = None, 0.0

    def close(self) -> None:
        """Close the page; a second call has no effect."""
        self._is_closed = True
        self._file.close()
        self._page.close()


def _is_stopped(process_id: int) -> bool:
    """Tell whether a child process is stopped, by SIGSTOP or the like."""
    try:
        status = os.waitid(os.P_PID, process_id, os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False  # it is gone
    return status is not None
