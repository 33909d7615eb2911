"""The results of a stream: held until their turn, or released as they come.

It may not know the source of the chunks, nor the reader of the stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...workers.model_calls import Chunk
from .ordered_outputs import rows_by_index

_LEFT_OUT = object()


class StreamOutputs:
    """The outputs of items that are done, and not yet yielded.

    Parameters
    ----------
    is_ordered : bool
        Release them in the order of items, or as they come.
    returns_errors : bool
        The error of a failed item takes the place of its outputs; otherwise the item is left out.
    """

    def __init__(self, is_ordered: bool, returns_errors: bool) -> None:
        self._is_ordered = is_ordered
        self._returns_errors = returns_errors
        self._done: dict[int, Any] = {}
        self._next_index = 0
        self._passed = 0

    def add(self, chunk: Chunk) -> None:
        """Add the items of a chunk."""
        self._done.update(rows_by_index(chunk.indices, chunk.outputs))
        for failure in chunk.failures:
            self._done[failure.index] = failure if self._returns_errors else _LEFT_OUT

    def release(self) -> Iterator[tuple[int, Any]]:
        """Yield (index, outputs) of each item whose turn it is."""
        while self._done:
            index = self._next_index if self._is_ordered else next(iter(self._done))
            if index not in self._done:
                break
            outputs = self._done.pop(index)
            self._next_index += 1
            self._passed += 1
            if outputs is not _LEFT_OUT:
                yield index, outputs

    def take_passed(self) -> int:
        """Return how many items were released or left out since the last call."""
        passed, self._passed = self._passed, 0
        return passed
