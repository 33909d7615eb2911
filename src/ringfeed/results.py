"""The outputs of a call, put in the items' order as they come.

It may not know where they come from.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter
from typing import Any

import numpy as np

from .errors import ItemError
from .nest import map_leaves, put_together, take_apart
from .pipeline import Chunk


class Results:
    """The outputs of a call, put in order as they come."""

    def __init__(self, count: int | None) -> None:
        self._count = count
        self._template: Any = None
        self._arrays: list[np.ndarray[Any, Any]] | None = None
        self._chunks: list[tuple[np.ndarray[Any, Any], list[np.ndarray[Any, Any]]]] = []
        self._highest = -1

    def add(self, chunk: Chunk) -> None:
        """Take the outputs of a chunk."""
        for failure in chunk.failures:
            self._highest = max(self._highest, failure.index)
        if chunk.outputs is None:
            return
        self._highest = max(self._highest, int(chunk.indices.max()))
        self._template, leaves = take_apart(chunk.outputs)
        if self._count is None:
            self._chunks.append((chunk.indices, leaves))
            return
        if self._arrays is None:
            self._arrays = [np.empty((self._count, *leaf.shape[1:]), leaf.dtype) for leaf in leaves]
        for array, leaf in zip(self._arrays, leaves, strict=True):
            array[chunk.indices] = leaf

    def _collected(self) -> list[np.ndarray[Any, Any]]:
        if self._arrays is None and self._chunks:
            total = self._highest + 1
            first = self._chunks[0][1]
            self._arrays = [np.empty((total, *leaf.shape[1:]), leaf.dtype) for leaf in first]
            for indices, leaves in self._chunks:
                for array, leaf in zip(self._arrays, leaves, strict=True):
                    array[indices] = leaf
            self._chunks = []
        return self._arrays or []

    def stacked(self, without: set[int]) -> Any:
        """Return the nest of arrays (items, ...), without the rows of failed items."""
        arrays = self._collected()
        if not arrays:
            if without:
                return None
            raise ValueError("predict got no items: x is empty.")
        if without:
            kept = np.ones(len(arrays[0]), bool)
            kept[list(without)] = False
            arrays = [array[kept] for array in arrays]
        return put_together(self._template, arrays)

    def by_item(self, failures: list[ItemError]) -> list[Any]:
        """Return for each item its outputs, or its error."""
        arrays = self._collected()
        failed = {failure.index: failure for failure in failures}
        return [
            failed[index] if index in failed else put_together(self._template, [array[index] for array in arrays])
            for index in range(self._highest + 1)
        ]


def rows_by_index(chunk: Chunk) -> Iterator[tuple[int, Any]]:
    """Iterate the outputs of a chunk as (index, outputs without the batch axis)."""
    for row, index in enumerate(chunk.indices.tolist()):
        yield index, map_leaves(itemgetter(row), chunk.outputs)
