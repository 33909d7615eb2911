"""How long an item may take: told by the worker, watched by the pool.

It may not know how a worker is ended, nor what becomes of the item.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..machine.memory_files import OwnDescriptor
from .failures import Failure, timed_out
from .item_board import ItemBoard, make_file

_LOOKS = 8
_LONGEST_PAUSE_SECONDS = 0.05


def timeout_failure(seconds: float) -> Failure:
    """Return the failure of an item that took too long."""
    text = f"preprocess took longer than item_timeout={seconds!r} s; its worker process was ended and replaced."
    return timed_out(text)


class ItemTimer:
    """A worker's side: says on the board when an item begins, and that it has ended.

    What counts is reading the item, its function, and making arrays of what that returned; waiting for a slot does not.
    """

    def __init__(self, board: ItemBoard, worker: int, seconds: float) -> None:
        self.board = board
        self.failure = timeout_failure(seconds)
        self._worker = worker

    def begin(self, tag: int) -> None:
        """Begin an item."""
        self.board.begin(self._worker, tag)

    def end(self) -> None:
        """End it."""
        self.board.end(self._worker)

    def ending(self, do: Callable[[int, Any, Any], None]) -> Callable[[int, Any, Any], None]:
        """Return ``do(tag, function, message)``, which begins the item itself, made to end it."""
        end = self.end

        def timed(tag: int, function: Any, message: Any) -> None:
            try:
                do(tag, function, message)
            finally:
                end()

        return timed


class EndingRing:
    """A ring for a worker's rows: who asks for a slot of it has ended the item, and what it waits there is not counted.

    What the function returned may still compute when it is made an array, so the end of the function is too early.
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


class ItemWatch:
    """The pool's side: finds the workers whose item takes too long, or that are stopped for too long.

    Only time in which the pool looks counts, and of a pause between two looks at most a part of the limit: a program
    that was stopped as a whole (Ctrl-Z, a suspended machine) finds none of its items late when it goes on.

    Parameters
    ----------
    seconds : float
    workers : int
    """

    def __init__(self, seconds: float, workers: int) -> None:
        self.seconds = seconds
        self._file = OwnDescriptor(make_file(workers))
        self._is_closed = False
        self._board = ItemBoard(self.descriptor, workers)
        self._pause = min(seconds / _LOOKS, _LONGEST_PAUSE_SECONDS)
        self._last_look = time.monotonic()
        self._seen: list[Any] = [None] * workers
        self._so_far = [0.0] * workers

    @property
    def descriptor(self) -> int:
        """The board's, for workers; it stays the watch's own."""
        return self._file.number

    def hanging(self, process_ids: Sequence[int]) -> list[tuple[int, int | None]]:
        """Return the workers that hang, each with the tag of its item, which is then on the list of those given up.

        The tag is None for a worker that was stopped while it was at no item. Cheap: most calls read a clock.
        """
        now = time.monotonic()
        elapsed = now - self._last_look
        if elapsed < self._pause:
            return []
        self._last_look = now
        found: list[tuple[int, int | None]] = []
        with self._closed_meanwhile():
            self._look(process_ids, min(elapsed, max(self.seconds / _LOOKS, self._pause)), found)
        return found

    def _look(self, process_ids: Sequence[int], elapsed: float, found: list[tuple[int, int | None]]) -> None:
        for worker, process_id in enumerate(process_ids):
            line = self._board.line(worker)
            seen: Any = line or ("stopped" if _is_stopped(process_id) else None)
            if seen is None or seen != self._seen[worker]:
                self._seen[worker], self._so_far[worker] = seen, 0.0
                continue
            self._so_far[worker] += elapsed
            if self._so_far[worker] > self.seconds:
                tag = None if line is None else line[0]
                if tag is not None:
                    self._board.give_up(tag)
                found.append((worker, tag))
                self._so_far[worker] = 0.0

    @contextlib.contextmanager
    def _closed_meanwhile(self) -> Iterator[None]:
        """Let a look end where another thread, or a signal handler within it, closes the board."""
        try:
            yield
        except ValueError:
            if not self._is_closed:
                raise

    def restarted(self, worker: int) -> None:
        """Forget what a worker was at: its process is gone."""
        with self._closed_meanwhile():
            self._board.end(worker)
        self._seen[worker], self._so_far[worker] = None, 0.0

    def close(self) -> None:
        """Let go of the board; twice does no harm."""
        self._is_closed = True
        self._file.close()
        self._board.close()


def _is_stopped(process_id: int) -> bool:
    """Tell whether a child of ours is stopped, by SIGSTOP or the like."""
    try:
        status = os.waitid(os.P_PID, process_id, os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False  # it is gone
    return status is not None
