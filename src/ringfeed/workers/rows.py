"""Rows of arrays with the item of each row; and rows of several batches, put together in memory of their own.

It may not know rings or models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .items import aligned_room

Indices = npt.NDArray[np.int64]

_LARGE_ROW_BYTES = 4096
"""A row of at least this size is copied by a call of its own, which is faster than NumPy's copy by an index array."""


@dataclass
class Rows:
    """Rows of arrays, and the item of each row.

    Attributes
    ----------
    arrays : mapping of str to array of shape (any, ...)
        A batch that is held, or memory of their own.
    indices : array of int64, shape (rows,)
        The index of each row's item.
    items : list
    places : array of int64, shape (rows,), or None
        Where each row lies in the arrays; None if the arrays hold exactly these rows, in this order.
    is_lent : bool
        The arrays belong to a batch that will be released.
    """

    arrays: Mapping[str, npt.NDArray[Any]]
    indices: Indices
    items: list[Any]
    places: Indices | None = None
    is_lent: bool = False

    def __len__(self) -> int:
        return len(self.items)

    def select(self, rows: Indices) -> Rows:
        """Return some of the rows, over the same arrays."""
        places = rows if self.places is None else self.places[rows]
        return Rows(self.arrays, self.indices[rows], [self.items[row] for row in rows.tolist()], places, self.is_lent)

    def part(self, start: int, stop: int) -> Rows:
        """Return adjacent rows."""
        if self.places is not None:
            return self.select(np.arange(start, stop))
        arrays = {name: array[start:stop] for name, array in self.arrays.items()}
        return Rows(arrays, self.indices[start:stop], self.items[start:stop], None, self.is_lent)

    def copy(self) -> Rows:
        """Return the rows in memory of their own."""
        return gather_rows([self])


def gather_rows(parts: Sequence[Rows], order: Indices | None = None) -> Rows:
    """Return rows of several parts, put together in memory of their own that is aligned to 64 bytes.

    Parameters
    ----------
    parts : sequence of Rows
        At least one; all have the same arrays.
    order : array of int64, optional
        Which rows, counted through all parts, and in which order; by default all rows in their order.
    """
    counts = [len(part) for part in parts]
    of_part = np.repeat(np.arange(len(parts)), counts)
    row_of = np.concatenate([np.arange(count) for count in counts])
    if order is not None:
        of_part, row_of = of_part[order], row_of[order]
    indices = np.empty(len(row_of), np.int64)
    items: list[Any] = [None] * len(row_of)
    first = parts[0].arrays
    arrays = {name: _aligned(len(row_of), first[name]) for name in first}
    for number, part in enumerate(parts):
        targets = np.flatnonzero(of_part == number)
        rows = row_of[targets]
        indices[targets] = part.indices[rows]
        for target, row in zip(targets.tolist(), rows.tolist(), strict=True):
            items[target] = part.items[row]
        places = rows if part.places is None else part.places[rows]
        for name, target_array in arrays.items():
            _copy(target_array, targets, part.arrays[name], places)
    return Rows(arrays, indices, items)


def _aligned(rows: int, like: npt.NDArray[Any]) -> npt.NDArray[Any]:
    length = rows * like[:0].itemsize * int(np.prod(like.shape[1:], dtype=np.int64))
    return np.ndarray((rows, *like.shape[1:]), like.dtype, aligned_room(length).data)


def _copy(target: npt.NDArray[Any], targets: Indices, source: npt.NDArray[Any], places: Indices) -> None:
    if len(targets) == 0:
        return
    if int(targets[-1]) - int(targets[0]) == len(targets) - 1 and (np.diff(places) == 1).all():
        target[targets[0] : targets[-1] + 1] = source[places[0] : places[-1] + 1]
    elif target[:1].nbytes >= _LARGE_ROW_BYTES:
        for to, place in zip(targets.tolist(), places.tolist(), strict=True):
            target[to] = source[place]
    else:
        target[targets] = source[places]
