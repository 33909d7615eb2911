"""Calling functions that write a sample into `out`, and publishing the sample.

`out` is the slot itself, zeroed, if the function releases it. A function that keeps `out`, or a view of it, would keep
the slot from all others, and could still write while the model reads. From then on it gets memory of its own, which is
copied into the slot. It may not know the function, nor where its item comes from.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from ..nest import unflatten
from ..record_spec import Field
from ..ring import Ring
from .failures import Failure, describe_exception
from .items import aligned_room

_Arrays = list[np.ndarray[Any, Any]]


class SlotFiller:
    """Fills the slots of a ring.

    Parameters
    ----------
    rows : Ring
    template : nest of int
        The number of the field in place of each array of `out`.
    """

    def __init__(self, rows: Ring, template: Any) -> None:
        self._rows = rows
        self._template = template
        self._fields = list(rows.spec.values())
        self._lends_slots: bool | None = None  # the first item, in memory of its own, decides it

    def fill(
        self, slot: Any, tag: int, write: Callable[[Any], object], begin: Callable[[int], None] | None
    ) -> Failure | None:
        """Call ``write(out)`` and publish the contents of `out`; return the failure if it raised, or None.

        Parameters
        ----------
        slot : Claim
            Of one slot; it is published, or discarded if `write` raised.
        begin : callable or None
            Called with the tag just before `write`.
        """
        if not self._lends_slots:
            return self._fill_memory(slot, tag, write, begin)
        arrays = [slot[field.name] for field in self._fields]
        _set_to_zero(arrays)
        failure, is_kept = self._call(tag, write, arrays, begin)
        if is_kept:
            self._lends_slots = False
            gc.collect()  # an exception in a reference cycle keeps the array until then
            arrays = [array.copy() for array in arrays]
            # The slot is neither published nor discarded, which would make the arrays read-only. It stays claimed until
            # the function releases the array, and late writes to it have no effect.
            if failure is None:
                self._publish(self._rows.claim(), tag, arrays)
            return failure
        arrays.clear()  # a slot with views at the time of publishing is not recycled after it is taken
        if failure is None:
            slot.tag = tag
            slot.publish()
        else:
            slot.discard()
        return failure

    def _fill_memory(
        self, slot: Any, tag: int, write: Callable[[Any], object], begin: Callable[[int], None] | None
    ) -> Failure | None:
        arrays = [_own_memory(field) for field in self._fields]
        failure, is_kept = self._call(tag, write, arrays, begin)
        if self._lends_slots is None:
            self._lends_slots = not is_kept
        if failure is None:
            self._publish(slot, tag, arrays)
        else:
            slot.discard()
        return failure

    def _call(
        self, tag: int, write: Callable[[Any], object], arrays: _Arrays, begin: Callable[[int], None] | None
    ) -> tuple[Failure | None, bool]:
        """Call the function; return its failure, and whether it keeps one of the arrays."""
        failure = None
        before = _references(arrays)
        if begin is not None:
            begin(tag)
        try:
            if returns_other_array(write(unflatten(self._template, arrays)), arrays):
                failure = Failure("unfit", RETURNED_ARRAY)
        except BaseException as error:  # also SystemExit: the worker would end, and the item would be lost with it
            failure = describe_exception(error)
        return failure, _references(arrays) != before

    def _publish(self, slot: Any, tag: int, arrays: _Arrays) -> None:
        with slot:
            for field, array in zip(self._fields, arrays, strict=True):
                slot[field.name] = array
            slot.tag = tag


RETURNED_ARRAY = (
    "preprocess(item, out) returned an array of its own, which nobody reads; write it into out, as in "
    "out[...] = array, or take the item alone: preprocess(item)."
)


def returns_other_array(result: Any, arrays: _Arrays) -> bool:
    """Tell whether a function that fills arrays returned another array instead, as OpenCV does for `dst`."""
    return isinstance(result, np.ndarray) and not any(np.may_share_memory(result, array) for array in arrays)


def _own_memory(field: Field) -> np.ndarray[Any, Any]:
    """Return zeros aligned to 64 bytes, as in a slot.

    The array lies directly over memory that is no array. NumPy makes a view of a view a view of the innermost array,
    which would hold no reference to this array.
    """
    array: np.ndarray[Any, Any] = np.ndarray(field.shape, field.dtype, aligned_room(field.sample_bytes).data)
    array[...] = 0
    return array


def _set_to_zero(arrays: _Arrays) -> None:
    for array in arrays:
        array[...] = 0


def _references(arrays: _Arrays) -> list[int]:
    """Return the number of references to each array and to its base; a view holds one reference to either."""
    return [
        count
        for array in arrays
        for count in (sys.getrefcount(array), 0 if array.base is None else sys.getrefcount(array.base))
    ]
