"""Waits for a ring whose every slot is held: if what waits is what holds them, it waits for ever.

A stall is noticed by looking, about every 50 ms of a wait. At first garbage is collected, for what holds a slot may be
in a circle of references; when the stall lasts, one warning says who holds what. It may not know rings: the binding
tells it what it sees.
"""

from __future__ import annotations

import gc
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

STALL_SECONDS = 5.0
"""So long nothing moves before it is worth a word."""

GARBAGE_SECONDS = 0.5
"""So long a wait of a ring's stalls before garbage is collected, which may take a large program as long."""

_COLLECTING_SHARE = 0.05  # at most so much of the time goes into collecting garbage
_FORGOTTEN_SECONDS = 1.0  # who did not look for so long did not wait meanwhile

_next_collection = 0.0
_said: dict[str, int] = {}  # of which rings it was said that nothing moves, and behind which move

Waiter = TypeVar("Waiter", bound=Callable[..., Any])


class StalledRingWarning(RuntimeWarning):
    """A wait for a ring lasts, and every slot is held by batches, arrays or claims that are alive."""


class Holding(NamedTuple):
    """What one participant holds of a ring.

    Attributes
    ----------
    pid : int
        Its process, as that knows itself.
    ours : bool
        Whether it is this very process.
    claimed, held : int
        Slots that it claimed and has not published; slots that its batches, arrays and views keep.
    """

    pid: int
    ours: bool
    claimed: int
    held: int


def minds_stalls(while_waiting: Waiter) -> Waiter:
    """Mark a `while_waiting` that looks for stalls itself, so that nobody says it twice."""
    setattr(while_waiting, "minds_stalls", True)  # noqa: B010  a function has no such attribute for mypy
    return while_waiting


def who_holds(holdings: list[Holding]) -> str:
    """Return who holds slots, in words: ``"6 by batches or arrays of this process, 2 by other processes (pid 34)"``."""
    parts = []
    for ours, where in ((True, "this process"), (False, "other processes")):
        mine = [holding for holding in holdings if holding.ours == ours]
        pids = "" if ours else _pids(mine)
        if held := sum(holding.held for holding in mine):
            parts.append(f"{held} by batches, arrays or views of {where}{pids}")
        if claimed := sum(holding.claimed for holding in mine):
            parts.append(f"{claimed} by claims of {where}{pids} that are not published")
    return ", ".join(parts) or "none by anyone who is known"


REMEDY = (
    "Keep copies (`batch[name].copy()`) and let go of the rest (`del batch`, a claim's `publish` or `discard`), or "
    "create the ring with more slots."
)


def _pids(holdings: list[Holding]) -> str:
    pids = sorted({holding.pid for holding in holdings})
    more = ", ..." if len(pids) > 4 else ""
    return f" (pid {', '.join(map(str, pids[:4]))}{more})"


class Stall:
    """Notices that a stall lasts.

    Parameters
    ----------
    category : type of Warning
    patience : callable
        Returns the seconds after which to warn.
    garbage_seconds : float
        How soon garbage is collected.
    """

    def __init__(
        self,
        category: type[StalledRingWarning] = StalledRingWarning,
        patience: Callable[[], float] = lambda: STALL_SECONDS,
        garbage_seconds: float = 0.0,
    ) -> None:
        self._category = category
        self._patience = patience
        self._garbage_seconds = garbage_seconds
        self._since: float | None = None
        self._seen = 0.0
        self._collected = False

    def over(self) -> None:
        """Say that there is none."""
        self._since = None

    def goes_on(self, say: Callable[[float], str | None]) -> None:
        """Collect garbage, at first; warn, once, when it has lasted.

        Parameters
        ----------
        say : callable
            Returns the warning's text for a stall of so many seconds; None where it was said already.
        """
        now = time.monotonic()
        if self._since is None or now - self._seen > _FORGOTTEN_SECONDS:
            self._since = now
            self._collected = False
        lasted = now - self._since
        if not self._collected:
            self._collected = lasted >= self._garbage_seconds and self._collect(now)
        elif lasted >= self._patience():
            self._since = float("inf")  # once is enough
            if (text := say(lasted)) is not None:
                warnings.warn(text, self._category, stacklevel=_level_of_user())
        self._seen = time.monotonic()

    def _collect(self, now: float) -> bool:
        """Collect garbage, unless that was done a moment ago: a wait that stalls is often a slow model's, not ours."""
        global _next_collection
        if self._garbage_seconds and now < _next_collection:
            return False
        gc.collect()
        done = time.monotonic()
        _next_collection = done + (done - now) / _COLLECTING_SHARE
        return True


class RingStall:
    """A wait for slots or records of rings, looked at again and again.

    Parameters
    ----------
    name : str
        The ring's.
    what : str
        What waits, such as ``"a take"``.
    slots : str
        All that there are, such as ``"64 slots"``.
    remedy : str, optional
        What is to be done about it.
    """

    def __init__(self, name: str, what: str, slots: str, remedy: str = REMEDY) -> None:
        self._name = name
        self._remedy = remedy
        self._what = what
        self._slots = slots
        self._stall = Stall(garbage_seconds=GARBAGE_SECONDS)
        self._moves: int | None = None

    def look(self, holdings: list[Holding] | None, moves: int, is_finished: bool = False) -> None:
        """Take note of one look.

        Parameters
        ----------
        holdings : list of Holding, or None
            Who holds the slots, where all are held and this process has some of them; else None.
        moves : int
            A number that changes with whatever happens in the ring.
        is_finished : bool
            The ring is finished, and a take waits for what these have claimed.
        """
        if holdings is None or moves != self._moves:
            self._stall.over()
        self._moves = moves
        if holdings is not None:
            self._stall.goes_on(lambda lasted: self._say(holdings, lasted, is_finished))

    def _say(self, holdings: list[Holding], lasted: float, is_finished: bool) -> str | None:
        if _said.get(self._name) == self._moves:  # another thread waits for the same
            return None
        _said[self._name] = self._moves or 0
        if is_finished:
            return (
                f"ring {self._name!r} is finished, and for {lasted:.0f} s {self._what} has waited for slots that are "
                f"claimed: {who_holds([each._replace(held=0) for each in holdings])}. Publish or discard these claims, "
                "or end the process that forgot them."
            )
        return (
            f"ring {self._name!r}: {self._what} waits, and for {lasted:.0f} s all {self._slots} have been held: "
            f"{who_holds(holdings)}. {self._remedy}"
        )


def _level_of_user() -> int:
    """Return the `stacklevel`, for who warns in our caller, of the innermost frame outside of this package."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "ringfeed":
        level, frame = level + 1, frame.f_back
    return level
