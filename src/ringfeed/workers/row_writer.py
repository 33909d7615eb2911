"""Writing rows in a worker: an item goes through the function, and its sample into the slot of its row.

It may not know where tasks come from, nor how long an item may take.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..ring import Ring
from .commands import OpenRings
from .failure_record import write_failure
from .failures import Failure, describe_exception
from .items import read_item
from .row_layout import choose_layout, part_for_layout, row_for_layout
from .samples import Unfit, sample_of
from .slot_filler import SlotFiller
from .tags import FAILED, FIRST


class RowWriter:
    """Writes the rows of items, in one set of rings.

    Parameters
    ----------
    rows, failures : Ring
    command : OpenRings
    spill_descriptor : int
        Of the spill file.
    """

    begin: Callable[[int], None] | None = None
    """Called with the tag before an item is read, if it is set."""

    def __init__(self, rows: Ring, failures: Ring, command: OpenRings, spill_descriptor: int) -> None:
        self._rows = rows
        self._failures = failures
        self._layout = command.layout
        self._spec = command.spec
        self._spill_descriptor = spill_descriptor
        self._names = list(rows.spec)
        self._only = command.layout.fields[0]
        self._is_one_array = command.layout.picked == 0
        self._filler = SlotFiller(rows, command.layout.template)
        self._slot: Any = None

    def claim(self) -> None:
        """Claim the slot of the next item, as soon as its task was taken.

        Slots are then nearly always in the order of their items, and batches in that order need no copy.
        """
        self._slot = self._rows.claim()

    def write(self, tag: int, function: Callable[..., Any], message: Any) -> None:
        """Call ``function(item)`` and copy its result into the slot."""
        failure: Failure | None = None
        leaves = None
        slot, self._slot = self._slot, None
        if self.begin is not None:
            self.begin(tag)
        try:
            result = function(read_item(message, self._spill_descriptor))
            if tag & FIRST:
                failure = self._new_layout(result)
            if failure is None and not self._is_the_row(result):
                leaves = row_for_layout(result, self._layout, self._spec)
        except BaseException as error:  # also SystemExit: the worker would end, and the item would be lost with it
            failure = failure_of(error)
        if failure is not None:
            self._report(tag, failure)
            tag |= FAILED
        elif leaves is None:
            slot[self._only.name] = result
        else:
            for name, leaf in zip(self._names, leaves, strict=True):
                slot[name][...] = leaf  # it has the field's shape, and its numbers stay the same
        slot.tag = tag
        slot.publish()

    def _new_layout(self, result: Any) -> Failure | None:
        """Return a failure that describes the sample of a first item, if it needs rings of another layout."""
        sample = sample_of(result)
        layout = choose_layout(self._spec, sample)
        return None if layout == self._layout else Failure("unlike", "", sample=part_for_layout(sample, layout))

    def fill(self, tag: int, function: Callable[..., Any], message: Any) -> None:
        """Call ``function(item, out)`` with zeros in `out`: the slot itself, unless the function keeps it."""
        slot, self._slot = self._slot, None
        failure = self._filler.fill(
            slot, tag, lambda out: function(read_item(message, self._spill_descriptor), out), self.begin
        )
        if failure is not None:
            self.fail(tag, failure)

    def fail(self, tag: int, failure: Failure) -> None:
        """Publish the failure, then a row without a sample, so that the predictor counts the item."""
        self._report(tag, failure)
        slot, self._slot = self._slot or self._rows.claim(), None
        slot.tag = tag | FAILED
        slot.publish()

    def _report(self, tag: int, failure: Failure) -> None:
        with self._failures.claim() as slot:
            write_failure(slot["failure"], failure)
            slot.tag = tag

    def _is_the_row(self, result: Any) -> bool:
        """Tell, quickly, whether a result can be copied byte by byte."""
        return (
            self._is_one_array
            and type(result) is np.ndarray
            and result.shape == self._only.shape
            and result.dtype == self._only.dtype
            and result.flags.c_contiguous
        )


def failure_of(error: BaseException) -> Failure:
    """Return the failure of an item whose preprocessing raised."""
    # By its type: `isinstance` asks the exception for its class, which may raise.
    return Failure("unfit", str(error)) if issubclass(type(error), Unfit) else describe_exception(error)
