"""Whole batches of records that lay apart in the ring: copies, which several threads may gather at a time.

It may not know how batches are taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from ..tensors.elements import Element
from ..tensors.zero_copy import aligned_empty


class PartialBatch:
    """Rows of several batches, copied."""

    def __init__(self, element: Element, rows: int, cut: bool) -> None:
        self.rows = 0
        self.arrays = zeros(element, rows, cut)

    def add(self, arrays: Sequence[npt.NDArray[Any]]) -> None:
        """Copy rows behind those that are there, as many as there is room for."""
        rows = min(len(arrays[0]), len(self.arrays[0]) - self.rows)
        for ours, theirs in zip(self.arrays, arrays, strict=True):
            ours[self.rows : self.rows + rows] = theirs[:rows]
        self.rows += rows

    def drop(self, rows: int) -> None:
        """Drop rows from the front."""
        for array in self.arrays:
            array[: self.rows - rows] = array[rows : self.rows].copy()
        self.rows -= rows


def complete_first(parts: list[PartialBatch]) -> PartialBatch | None:
    """Return the first part, filled up with rows of the others, if that makes it whole; it leaves the list then."""
    first = parts[0]
    for other in parts[1:]:
        before = first.rows
        first.add([array[: other.rows] for array in other.arrays])
        other.drop(first.rows - before)
    parts[:] = [part for part in parts if part.rows]
    return parts.pop(0) if first.rows == len(first.arrays[0]) else None


def zeros(element: Element, rows: int, cut: bool) -> list[npt.NDArray[Any]]:
    """Return an array of zeros for each field of an element, which TensorFlow can borrow."""
    made = []
    for spec in element.specs(rows, cut=cut).values():
        made.append(aligned_empty(tuple(spec.shape), spec.dtype.as_numpy_dtype))
        made[-1][...] = 0
    return made
