"""Feeds for the native op: a graph refers to a feed by its number.

This file may not know datasets or models. `csrc/feed/next.c` and `csrc/tf_op/op.c` take the elements and wait for them.
They call the wait hook of this file only when Ctrl-C was pressed, or while every slot of the ring is held.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from ... import _core
from ...ctrl_c import ctrl_c_raises
from ..tensors.elements import Element
from .dataset_steps import steps_that_hold_elements
from .interpreter_exit import inside_python
from .op import begin_round, next_element
from .waiting import CtrlC, Stall, main_thread_asks_for_an_element

if TYPE_CHECKING:
    from ...ring import Ring

# A graph holds only a number, so a ring's feeds live as long as the ring. Users with the same options share a feed.
_shared: WeakKeyDictionary[Ring, dict[Any, OpFeed]] = WeakKeyDictionary()
_by_number: WeakValueDictionary[int, OpFeed] = WeakValueDictionary()


class OpFeed:
    """A ring with options, for the native op. The feed ends with the ring, but the ring does not end with the feed.

    Parameters
    ----------
    ring : Ring
        The ring to take records from.
    most, least : int
        Maximum and minimum number of rows of an element.
    exact : int
        Number of rows of every element; 0 if it may vary.
    tickets : bool
        Each element has a ticket: an element that is dropped before it was delivered returns to the ring.
    shown : int
        Minimum number of rows of a tensor. Rows behind the element's own belong to neighbouring slots (see
        `csrc/feed/element.h`).
    linger : float
        Seconds to wait for more rows once `least` are ready.
    timeout : float or None
        Seconds to wait for an element; None waits for ever.
    round_seconds : float
        Seconds that a round may be idle; 0 for one endless round.
    copy : bool
        Elements have memory of their own, and their slots are free at once.

    Attributes
    ----------
    id : int
        The number by which the op finds the feed.
    """

    def __init__(
        self,
        ring: Ring,
        *,
        most: int,
        least: int = 1,
        exact: int = 0,
        tickets: bool = False,
        shown: int = 0,
        linger: float = 0.0,
        timeout: float | None = None,
        round_seconds: float = 0.0,
        copy: bool = False,
    ) -> None:
        self._native = _core.NativeFeed(ring, most, least, exact, tickets, shown, linger, timeout, round_seconds, copy)
        self._ring = weakref.ref(ring)
        self._name = ring.name
        self._ctrl_c = CtrlC()
        self._stall = Stall()
        self.id: int = self._native.id
        self.set_next_batch = self._native.set_next_batch
        self.drop_next_batch = self._native.drop_next_batch
        _by_number[self.id] = self

    @classmethod
    def shared(cls, ring: Ring, **options: Any) -> OpFeed:
        """Return the ring's feed with these options, which lives as long as the ring."""
        feeds = _shared.setdefault(ring, {})
        key = tuple(sorted(options.items()))
        if key not in feeds:
            feeds[key] = cls(ring, **options)
        return feeds[key]

    def begin_round(self) -> Any:
        """Add the op that begins a round, or ends the dataset."""
        return begin_round(self.id, self._name)

    def next_tensors(self, element: Element) -> list[Any]:
        """Add the op that returns the next element's tensors, or ends the round."""
        return next_element(self.id, element, self._name)[2]

    def next_with_ticket(self, element: Element) -> tuple[Any, list[Any]]:
        """Add the op that returns the next element's ticket and tensors, or ends the round."""
        return next_element(self.id, element, self._name)[1:]

    def while_waiting(self, interrupted: bool, stalled: bool) -> int:
        """Return what a waiting thread must do; this is the wait hook of one feed."""
        ring = self._ring()
        if stalled and ring is not None:
            self._stall.goes_on_at(self._name, ring.slots, lambda: steps_that_hold_elements(ring))
        if not interrupted:
            return _core.GO_ON
        must_be_answered = self._ctrl_c.must_be_answered()
        if must_be_answered is None:
            return _core.ASK_AGAIN
        if not must_be_answered:
            return _core.GO_ON
        # GeneratorSource._bring_back_to_python in generator_source.py explains the answers below.
        if not ctrl_c_raises():
            return _core.FAIL
        return _end_for_main_thread()


def _end_for_main_thread() -> int:
    return _core.GIVE_EMPTY if main_thread_asks_for_an_element() else _core.STOP


def _wait_hook(feed_id: int, interrupted: bool, stalled: bool) -> int:
    with inside_python():
        feed = _by_number.get(feed_id)
        return _core.STOP if feed is None else feed.while_waiting(interrupted, stalled)


_core.set_wait_hook(_wait_hook, _end_for_main_thread)
