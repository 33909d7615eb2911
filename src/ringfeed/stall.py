"""Detection of stalls: waits for a ring all of whose slots are held, perhaps by the waiting program itself.

A wait checks for a stall about every 50 ms. First it collects garbage, since a reference cycle may hold a slot. If the
stall lasts, one warning names the holders. It may not know rings: the binding reports their state.
"""

from __future__ import annotations

import gc
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

STALL_SECONDS = 5.0
"""How long a stall lasts before a warning."""

GARBAGE_SECONDS = 0.5
"""How long a wait stalls before garbage is collected, which may take as long in a large program."""

_COLLECTING_SHARE = 0.05  # the largest share of the time that goes into collecting garbage
_FORGOTTEN_SECONDS = 1.0  # after a longer pause between two checks, a new stall begins

_next_collection = 0.0
_said: dict[str, int] = {}  # the rings with a warning, and their number of moves at that time

Waiter = TypeVar("Waiter", bound=Callable[..., Any])


class StalledRingWarning(RuntimeWarning):
    """A wait for a ring lasts, and every slot is held by batches, arrays or claims that are alive."""


class Holding(NamedTuple):
    """The slots of a ring that one participant holds.

    Attributes
    ----------
    pid : int
        The participant's process id in its own namespace.
    ours : bool
        Whether it is this process.
    claimed, held : int
        The slots that it claimed and has not published; the slots that its batches, arrays and views hold.
    """

    pid: int
    ours: bool
    claimed: int
    held: int


def minds_stalls(while_waiting: Waiter) -> Waiter:
    """Mark a `while_waiting` that checks for stalls itself, so that there is only one warning."""
    setattr(while_waiting, "minds_stalls", True)  # noqa: B010  a function has no such attribute for mypy
    return while_waiting


def who_holds(holdings: list[Holding]) -> str:
    """Return the holders of slots, for a message: ``"6 by batches of this process, 2 by other processes"``."""
    parts = []
    for ours, where in ((True, "this process"), (False, "other processes")):
        mine = [holding for holding in holdings if holding.ours == ours]
        pids = "" if ours else _pids(mine)
        if held := sum(holding.held for holding in mine):
            parts.append(f"{held} by batches, arrays or views of {where}{pids}")
        if claimed := sum(holding.claimed for holding in mine):
            parts.append(f"{claimed} by claims of {where}{pids} that are not published")
    return ", ".join(parts) or "none by a known participant"


REMEDY = (
    "Keep copies (`batch[name].copy()`) and release the rest (`del batch`, a claim's `publish` or `discard`), or "
    "create the ring with more slots."
)


def _pids(holdings: list[Holding]) -> str:
    pids = sorted({holding.pid for holding in holdings})
    more = ", ..." if len(pids) > 4 else ""
    return f" (pid {', '.join(map(str, pids[:4]))}{more})"


class Stall:
    """Collects garbage and warns when a stall lasts.

    Parameters
    ----------
    category : type of Warning
    patience : callable
        Returns the seconds after which to warn.
    garbage_seconds : float
        The seconds after which to collect garbage.
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
        """Report that there is no stall."""
        self._since = None

    def goes_on(self, say: Callable[[float], str | None]) -> None:
        """Report that the stall continues: first collect garbage, later warn once.

        Parameters
        ----------
        say : callable
            Returns the text of the warning for a stall of this many seconds; None if another thread has warned.
        """
        now = time.monotonic()
        if self._since is None or now - self._seen > _FORGOTTEN_SECONDS:
            self._since = now
            self._collected = False
        lasted = now - self._since
        if not self._collected:
            self._collected = lasted >= self._garbage_seconds and self._collect(now)
        elif lasted >= self._patience():
            self._since = float("inf")  # warn once
            if (text := say(lasted)) is not None:
                warnings.warn(text, self._category, stacklevel=_level_of_user())
        self._seen = time.monotonic()

    def _collect(self, now: float) -> bool:
        """Collect garbage, unless that happened recently: often a slow model, not this program, holds the slots."""
        global _next_collection
        if self._garbage_seconds and now < _next_collection:
            return False
        gc.collect()
        done = time.monotonic()
        _next_collection = done + (done - now) / _COLLECTING_SHARE
        return True


class RingStall:
    """The stall detection of one wait for slots or records.

    Parameters
    ----------
    name : str
        The name of the ring.
    what : str
        The waiting operation, such as ``"a take"``.
    slots : str
        The number of slots, such as ``"64 slots"``.
    remedy : str, optional
        The remedy for the message.
    """

    def __init__(self, name: str, what: str, slots: str, remedy: str = REMEDY) -> None:
        self._name = name
        self._remedy = remedy
        self._what = what
        self._slots = slots
        self._stall = Stall(garbage_seconds=GARBAGE_SECONDS)
        self._moves: int | None = None

    def look(self, holdings: list[Holding] | None, moves: int, is_finished: bool = False) -> None:
        """Report the state of the ring at one check.

        Parameters
        ----------
        holdings : list of Holding, or None
            The holders, if all slots are held and this process holds some of them; else None.
        moves : int
            A number that changes with every event in the ring.
        is_finished : bool
            The ring is finished, and a take waits for the claims of these holders.
        """
        if holdings is None or moves != self._moves:
            self._stall.over()
        self._moves = moves
        if holdings is not None:
            self._stall.goes_on(lambda lasted: self._say(holdings, lasted, is_finished))

    def _say(self, holdings: list[Holding], lasted: float, is_finished: bool) -> str | None:
        if _said.get(self._name) == self._moves:  # another thread has warned of the same stall
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
    """Return the `stacklevel` with which the caller's warning names the innermost frame outside of this package."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "ringfeed":
        level, frame = level + 1, frame.f_back
    return level
