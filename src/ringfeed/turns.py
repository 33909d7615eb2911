"""Turns: threads use an object that does one thing at a time, such as a Predictor, one after the other.

The context (`contextvars`) of a thread tells for which turn it works, as a thread that reads items does. So code that
starts such a thread runs it in a copy of its own context. A thread that a library started outside of Python, as tf.data
does, has no such context; if it waits for long, there is a warning. It may not know the work of a turn.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from .errors import RingFeedError

_CHECK_SECONDS = 0.5
"""How often a waiting thread checks by itself: a signal handler that raises may prevent the notification."""

_PATIENCE_SECONDS = 5.0
"""How long a thread that Python did not start waits for its turn before a warning."""


class _Turn(NamedTuple):
    what: str
    thread: int


_within: ContextVar[tuple[_Turn, ...]] = ContextVar("ringfeed_turns_within", default=())
"""The turns that this thread has or works for. A turn that has ended may remain here if the thread outlives it; it has
no effect, since turns are compared by identity."""


class Turns:
    """Lets calls of several threads take turns. No call waits for a stream, which may stay open without limit.

    Parameters
    ----------
    owner : str
        The name of the object in messages, such as ``"this Predictor"``.
    remedy_after_fork : str
        The remedy in the message for a forked child.
    """

    def __init__(self, owner: str, remedy_after_fork: str) -> None:
        self._owner = owner
        self._remedy_after_fork = remedy_after_fork
        self._process = os.getpid()
        self._changed = threading.Condition()
        self._now: _Turn | None = None

    @property
    def is_own_process(self) -> bool:
        """Whether this process created the object, and is no forked child of that process."""
        return os.getpid() == self._process

    def require_own_process(self) -> None:
        """Raise an error in a forked child.

        Raises
        ------
        RingFeedError
        """
        if not self.is_own_process:
            raise RingFeedError(
                f"{self._owner} was made in process {self._process}, and this is process {os.getpid()}, which was "
                f"forked from it: {self._remedy_after_fork}"
            )

    @contextmanager
    def turn(self, what: str, *, may_nest: bool = False) -> Iterator[None]:
        """Wait for the turn, and keep it during the block.

        Parameters
        ----------
        what : {"predict", "stream"}
        may_nest : bool
            Whether a thread that has the turn may enter again.

        Raises
        ------
        RingFeedError
            A stream is open; or this thread has the turn or works for it, and would wait for itself.
        """
        self.require_own_process()
        me = threading.get_ident()
        if may_nest and (now := self._now) is not None and now.thread == me:
            yield
            return
        mine, outer = _Turn(what, me), _within.get()
        try:
            self._wait_for(mine)
            if what != "stream":  # a stream may end in another context than it began in, and no call waits for it
                _within.set((*outer, mine))
            yield
        finally:
            # One step, so that no signal handler can raise in between. A waiting thread also checks by itself.
            if self._now is mine:
                self._now = None
                self._notify()
            if what != "stream":
                _within.set(outer)

    def _wait_for(self, mine: _Turn) -> None:
        is_foreign = isinstance(threading.current_thread(), threading._DummyThread)
        warn_at = time.monotonic() + _PATIENCE_SECONDS if is_foreign else float("inf")
        with self._changed:
            while (now := self._now) is not None:
                if now.what == "stream":
                    raise RingFeedError(
                        f"{self._owner} has a stream open that has not come to its end: finish or close its stream "
                        "first (stream.close()), or make another one for what is to run beside it."
                    )
                if now.thread == mine.thread:
                    raise RingFeedError(
                        f"{self._owner} is predicting in this very thread already: a callback, an item's iterator or "
                        "the model asks it to predict again. Make another one for that."
                    )
                if any(one is now for one in _within.get()):
                    raise RingFeedError(
                        f"{self._owner} is predicting already, and waits for this thread, which works for that call: "
                        "an item's iterator asks it to predict again. Make another one for that."
                    )
                self._changed.wait(_CHECK_SECONDS)
                if time.monotonic() >= warn_at:
                    warn_at = float("inf")
                    warnings.warn(
                        f"{self._owner} is predicting, and a thread that Python did not start, such as one of "
                        f"tf.data's, has waited {_PATIENCE_SECONDS:.0f} s for its turn. If it makes items for that "
                        "very call, both wait for ever: make another one for what it asks.",
                        RuntimeWarning,
                        stacklevel=5,
                    )
            self._now = mine

    def _notify(self) -> None:
        if self.is_own_process:  # in a forked child, a thread of the parent may hold the lock for ever
            with self._changed:
                self._changed.notify_all()  # all, since a signal handler may end the wait of one thread
