"""Compose batches of a fixed size from records that are not contiguous in the ring, by copying them.

This file may not know how batches are taken. Several threads may compose batches at a time, each its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from ..tensors.elements import Element
from ..tensors.zero_copy import aligned_empty


class PartialBatch:
    """A batch of fixed size that is being filled with copies of rows."""

    def __init__(self, element: Element, rows: int, cut: bool) -> None:
        self.rows = 0
        self.arrays = zeros(element, rows, cut)

    def add(self, arrays: Sequence[npt.NDArray[Any]]) -> None:
        """Append copies of as many rows as there is space for."""
        rows = min(len(arrays[0]), len(self.arrays[0]) - self.rows)
        for ours, theirs in zip(self.arrays, arrays, strict=True):
            ours[self.rows : self.rows + rows] = theirs[:rows]
        self.rows += rows

    def drop(self, rows: int) -> None:
        """Remove rows from the front."""
        for array in self.arrays:
            array[: self.rows - rows] = array[rows : self.rows].copy()
        self.rows -= rows


def complete_first(parts: list[PartialBatch]) -> PartialBatch | None:
    """Move rows of the other parts into the first; if that completes it, remove it from the list and return it."""
    first = parts[0]
    for other in parts[1:]:
        before = first.rows
        first.add([array[: other.rows] for array in other.arrays])
        other.drop(first.rows - before)
    parts[:] = [part for part in parts if part.rows]
    return parts.pop(0) if first.rows == len(first.arrays[0]) else None


def zeros(element: Element, rows: int, cut: bool) -> list[npt.NDArray[Any]]:
    """Return an array of zeros, in memory that TensorFlow can borrow, for each field of an element."""
    made = []
    for spec in element.specs(rows, cut=cut).values():
        made.append(aligned_empty(tuple(spec.shape), spec.dtype.as_numpy_dtype))
        made[-1][...] = 0
    return made
