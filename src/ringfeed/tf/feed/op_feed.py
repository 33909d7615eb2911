"""Feeds for the native op: what a graph names by a number, and what Python has to say while one waits.

It may not know of datasets or models. Taking, waiting and handing over are `csrc/feed/feed.c` and `csrc/tf_op/op.c`;
Python
is asked only when Ctrl-C was pressed or every slot of the ring is held.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from ... import _core
from ...ctrl_c import ctrl_c_raises
from ..tensors.elements import Element
from .dataset_steps import holders
from .op import goes_on, next_element
from .waiting import CtrlC, Stall, inside_python, main_thread_asks_for_an_element

if TYPE_CHECKING:
    from ...ring import Ring

# A graph holds no more than a number: a ring's feeds live as long as the ring. One serves all that want the same of it.
_shared: WeakKeyDictionary[Ring, dict[Any, OpFeed]] = WeakKeyDictionary()
_by_number: WeakValueDictionary[int, OpFeed] = WeakValueDictionary()


class OpFeed:
    """A ring with a plan, for the op. The ring's end is the feed's, and not the other way round.

    Parameters
    ----------
    ring : Ring
        Whose records.
    most, least : int
        Rows of an element.
    exact : int
        Rows of every element, where not 0.
    ahead : bool
        Elements come with a ticket: dropped before they were delivered, they go back.
    shown : int
        Show at least so many rows; what lies behind an element's own is its neighbours' (see `csrc/feed/element.h`).
    linger : float
        Seconds.
    timeout : float or None
        Seconds.
    turn : float
        Seconds that a turn may be idle; 0 for no turns.
    copy : bool
        Elements have memory of their own, and their slots are free at once.

    Attributes
    ----------
    id : int
        What the op takes.
    """

    def __init__(
        self,
        ring: Ring,
        *,
        most: int,
        least: int = 1,
        exact: int = 0,
        ahead: bool = False,
        shown: int = 0,
        linger: float = 0.0,
        timeout: float | None = None,
        turn: float = 0.0,
        copy: bool = False,
    ) -> None:
        self._native = _core.NativeFeed(ring, most, least, exact, ahead, shown, linger, timeout, turn, copy)
        self._ring = weakref.ref(ring)
        self._name = ring.name
        self._ctrl_c = CtrlC()
        self._stall = Stall()
        self.id: int = self._native.id
        self.park = self._native.park
        self.unpark = self._native.unpark
        _by_number[self.id] = self

    @classmethod
    def shared(cls, ring: Ring, **plan: Any) -> OpFeed:
        """Return the ring's feed of that plan, which lives as long as the ring."""
        feeds = _shared.setdefault(ring, {})
        key = tuple(sorted(plan.items()))
        if key not in feeds:
            feeds[key] = cls(ring, **plan)
        return feeds[key]

    def goes_on(self) -> Any:
        """Add the op that begins a turn, or ends the dataset."""
        return goes_on(self.id, self._name)

    def next_tensors(self, element: Element) -> list[Any]:
        """Add the op that gives the next element's tensors, or ends the turn."""
        return next_element(self.id, element, self._name)[2]

    def next_with_ticket(self, element: Element) -> tuple[Any, list[Any]]:
        """Add the same op, with its ticket."""
        return next_element(self.id, element, self._name)[1:]

    def answer(self, interrupted: bool, stalled: bool) -> int:
        """Say what a thread is to do that waits."""
        ring = self._ring()
        if stalled and ring is not None:
            self._stall.goes_on_at(self._name, ring.slots, lambda: holders(ring))
        if not interrupted:
            return _core.GO_ON
        deaf = self._ctrl_c.look()
        if deaf is None:
            return _core.ASK_AGAIN
        if not deaf:
            return _core.GO_ON
        # Why so: Source._bring_back_to_python in generator.py.
        if not ctrl_c_raises():
            return _core.FAIL
        return _end_for_main_thread()


def _end_for_main_thread() -> int:
    return _core.GIVE_EMPTY if main_thread_asks_for_an_element() else _core.STOP


def _answer(feed_id: int, interrupted: bool, stalled: bool) -> int:
    with inside_python():
        feed = _by_number.get(feed_id)
        return _core.STOP if feed is None else feed.answer(interrupted, stalled)


_core.set_wait_hook(_answer, _end_for_main_thread)
