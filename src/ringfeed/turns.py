"""Turns of threads at something that does one thing at a time.

Threads that work for a turn, such as one that reads items for it, are told by their context (`contextvars`): whoever
starts one has it run in a copy of its own. Threads that a library started outside of Python, as tf.data does, have no
such context: where one waits for long, it is warned of. It may not know what is done.
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

_LOOK_SECONDS = 0.5
"""So often whoever waits looks by itself: the word that a turn is over may be lost to a signal handler that raises."""

_PATIENCE_SECONDS = 5.0
"""So long a thread that Python did not start waits for its turn before it is worth a word."""


class _Turn(NamedTuple):
    what: str
    thread: int


_within: ContextVar[tuple[_Turn, ...]] = ContextVar("ringfeed_turns_within", default=())
"""The turns that this thread has, or works for. One that is over stays here where a thread outlives it, and counts as
nothing: a turn is compared by identity."""


class Turns:
    """Lets calls of several threads take turns. A stream, which may stay open for ever, is not waited for.

    Parameters
    ----------
    owner : str
        What messages call the thing, such as ``"this Predictor"``.
    remedy_after_fork : str
        What a forked child is told to do.
    """

    def __init__(self, owner: str, remedy_after_fork: str) -> None:
        self._owner = owner
        self._remedy_after_fork = remedy_after_fork
        self._process = os.getpid()
        self._changed = threading.Condition()
        self._now: _Turn | None = None

    @property
    def is_own_process(self) -> bool:
        """Whether this is the process that made it, and not a child that was forked."""
        return os.getpid() == self._process

    def require_own_process(self) -> None:
        """Raise in a forked child.

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
        """Wait for one's turn, and keep it for the block.

        Parameters
        ----------
        what : {"predict", "stream"}
        may_nest : bool
            A thread that has the turn may take it again, within it.

        Raises
        ------
        RingFeedError
            A stream is open; or this very thread has the turn already, or works for it, and would wait for itself.
        """
        self.require_own_process()
        me = threading.get_ident()
        if may_nest and (now := self._now) is not None and now.thread == me:
            yield
            return
        mine, outer = _Turn(what, me), _within.get()
        try:
            self._wait_for(mine)
            if what != "stream":  # that may end in another context than it began in, and is never waited for
                _within.set((*outer, mine))
            yield
        finally:
            # One step, which no signal handler that raises can come before; whoever waits looks again by itself.
            if self._now is mine:
                self._now = None
                self._tell()
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
                self._changed.wait(_LOOK_SECONDS)
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

    def _tell(self) -> None:
        if self.is_own_process:  # in a forked child a thread that it does not have may hold the lock
            with self._changed:
                self._changed.notify_all()  # one that was chosen may be interrupted before it goes on
