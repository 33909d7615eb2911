"""Rows become calls of the model: whole batches of good rows; if a call fails, the rows that cause it are found.

It may not know rings, workers or how the model is called. The model never sees a row without a sample, because its item
failed or is not wanted any more: the model may compute across rows, or refuse the contents of such a row.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ItemError, ModelError
from .failures import message_of
from .item_errors import shorten
from .item_order import ItemOrder
from .rows import Rows, gather_rows

_MANY_IN_SUCCESSION = 4
"""After this many failed single rows, the next rows are run alone, too: halving costs up to two calls per row."""

_NO_ROWS: npt.NDArray[np.int64] = np.empty(0, np.int64)


@dataclass
class Chunk:
    """The result of one call of the model, or items that failed."""

    indices: npt.NDArray[np.int64]
    """Items of the rows of `outputs`, shape (rows,)."""
    outputs: Any = None
    """Nest of arrays (rows, ...), as the model nests them; None if there are no rows."""
    failures: Sequence[ItemError] = ()

    @classmethod
    def of_failures(cls, failures: Sequence[ItemError]) -> Chunk:
        """Return a chunk without rows."""
        return cls(_NO_ROWS, failures=failures)


class CommonError(Exception):
    """The model cannot be called in this way, or its outputs are no rows: no single row is the cause.

    Attributes
    ----------
    error : Exception
        The error to raise instead.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class PendingRows:
    """Rows that wait for their call, and are taken in the order of their items or in the order in which they came.

    A row is copied once when it leaves its batch, and once when its call is put together, into memory that TensorFlow
    can borrow.
    """

    def __init__(self) -> None:
        self._parts: list[Rows] = []

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def add(self, rows: Rows) -> None:
        """Keep rows. Call `detach` before the batch of lent rows is released."""
        if len(rows):
            self._parts.append(rows)

    def detach(self) -> None:
        """Copy the rows that still belong to a batch."""
        self._parts = [part.copy() if part.is_lent else part for part in self._parts]

    def count_before(self, frontier: int) -> int:
        """Return how many rows belong to items below an index."""
        return sum(int((part.indices < frontier).sum()) for part in self._parts)

    def take(self, count: int, in_order: bool) -> Rows:
        """Remove and return this many rows: those of the first items, or those that came first."""
        numbers = np.concatenate([part.indices for part in self._parts])
        order = (np.argsort(numbers) if in_order else np.arange(len(numbers)))[:count]
        taken = gather_rows(self._parts, order)
        left = np.ones(len(numbers), bool)
        left[order] = False
        parts, self._parts, start = self._parts, [], 0
        for part in parts:
            here = left[start : start + len(part)]
            start += len(part)
            if here.all():
                self._parts.append(part)
            elif here.any():
                self._parts.append(part.select(np.flatnonzero(here)))
        return taken


class ModelCalls:
    """Calls the model for the rows of one call of `predict` or `stream`.

    Parameters
    ----------
    call_model : callable
        ``call_model(rows)`` returns the model's outputs for rows, as a nest of arrays (rows, ...) of their own memory.
        `rows` maps each field's name to an array (rows, ...): a `Batch`, or a dict of arrays. It raises `CommonError`
        if no single row is the cause.
    batch_size : int
    gathers : bool
        If rows of a batch are left out, wait for as many others before the model is called.
    order : ItemOrder, optional
        The rows of each call follow each other as their items do, so that a model that computes across rows sees the
        batches of Keras. Rows that come before their turn are copied and kept. By default a call has the rows that came
        together.
    """

    def __init__(
        self, call_model: Callable[[Any], Any], batch_size: int, gathers: bool, order: ItemOrder | None = None
    ) -> None:
        self._call_model = call_model
        self._batch_size = batch_size
        self.gathers = gathers
        self._order = order
        self._pending = PendingRows()
        self._known: tuple[int, Any] | None = None

    @property
    def room(self) -> int:
        """Rows that the next call still has room for."""
        return self._batch_size - self._in_turn

    @property
    def _in_turn(self) -> int:
        """Number of pending rows with no missing item before them."""
        return len(self._pending) if self._order is None else self._pending.count_before(self._order.frontier)

    @property
    def waits_for_a_turn(self) -> bool:
        """Whether a pending row has a missing item before it."""
        return self._in_turn < len(self._pending)

    def add(
        self,
        batch: Any,
        indices: npt.NDArray[np.int64],
        items: list[Any],
        good: npt.NDArray[np.bool_],
        without: Sequence[int] = (),
    ) -> Iterator[Chunk]:
        """Run the model on the good rows of a batch, or keep them for the next call.

        The batch is released before a chunk is yielded.

        Parameters
        ----------
        batch : Batch
            At most `room` rows.
        indices, items
            Of each row.
        good : array of bool
            The rows that the model may see.
        without : sequence of int
            Items that turned out to have no row.
        """
        outcome: _Returned | _Raised | None = None
        rows: Rows | None = None
        with batch:
            all_good = bool(good.all())
            if all_good and not len(self._pending) and self._is_a_call(indices):
                outcome = self._outcome(batch)
            if good.any() and not isinstance(outcome, _Returned):
                rows = Rows(batch, indices, items, is_lent=True)
                rows = rows if all_good else rows.select(np.flatnonzero(good))
                if outcome is not None:
                    rows = rows.copy()
            if self._order is not None:
                self._order.settle(indices[good])
                self._order.settle(np.asarray(without, np.int64))
            if rows is not None and outcome is None:
                self._pending.add(rows)
                rows = self._next_call()
                self._pending.detach()
        if isinstance(outcome, _Returned):
            yield Chunk(indices, outcome.outputs)
        elif isinstance(outcome, _Raised):
            assert rows is not None
            yield from self._bisect(rows, outcome.error)
        elif rows is not None:
            yield from self._run(rows)
        yield from self._complete_calls()

    def _is_a_call(self, indices: npt.NDArray[np.int64]) -> bool:
        """Tell whether these rows are exactly the next call of the model."""
        is_full = len(indices) == self._batch_size
        if self._order is None:
            return is_full or not self.gathers
        return is_full and self._order.is_next(indices)

    def keep(self, batch: Any, indices: npt.NDArray[np.int64], items: list[Any], good: npt.NDArray[np.bool_]) -> None:
        """Keep the good rows of a batch for the next call, and release it. They are next in the order of items."""
        with batch:
            self._pending.add(Rows(batch, indices, items).select(np.flatnonzero(good)).copy())
        if self._order is not None:
            self._order.settle(indices[good])

    def add_row(self, arrays: dict[str, npt.NDArray[Any]], index: int, item: Any) -> Iterator[Chunk]:
        """Keep one row, each array of shape (1, ...), and run the model once there are `batch_size` rows."""
        self._pending.add(Rows(arrays, np.array([index], np.int64), [item]))
        if self.room <= 0:
            yield from self.rest()

    def remember(self, index: int, outputs: Any) -> None:
        """Remember the model's outputs for an item's row by itself; None if the model was not run on it.

        If the next call has that row alone, the model is not called again: only a model with a state would notice.
        """
        self._known = None if outputs is None else (index, outputs)

    def leave_out(self, indices: Sequence[int]) -> Iterator[Chunk]:
        """Note that items have no rows, and run the model on the rows that waited for them."""
        if self._order is not None and len(indices):
            self._order.settle(np.asarray(indices, np.int64))
            yield from self._complete_calls()

    def _next_call(self) -> Rows | None:
        """Return the rows of the next call, or None if some are missing."""
        if not len(self._pending):
            return None
        if self._order is None:
            return (
                self._pending.take(len(self._pending), in_order=False) if self.room <= 0 or not self.gathers else None
            )
        return self._pending.take(self._batch_size, in_order=True) if self.room <= 0 else None

    def _complete_calls(self) -> Iterator[Chunk]:
        """Run the model on each call whose rows are complete."""
        while (rows := self._next_call()) is not None:
            yield from self._run(rows)

    def rest(self) -> Iterator[Chunk]:
        """Run the model on the pending rows, which are less than a batch."""
        if len(self._pending):
            yield from self._run(self._pending.take(len(self._pending), in_order=self._order is not None))

    def _run(self, rows: Rows) -> Iterator[Chunk]:
        known, self._known = self._known, None
        if known is not None and rows.indices.tolist() == [known[0]]:
            yield Chunk(rows.indices, known[1])
            return
        outcome = self._outcome(rows.arrays)
        if isinstance(outcome, _Raised):
            yield from self._bisect(rows, outcome.error)
        else:
            yield Chunk(rows.indices, outcome.outputs)

    def _bisect(self, rows: Rows, error: Exception) -> Iterator[Chunk]:
        """Run rows over which the model raised in parts, until each error belongs to a single row, run alone.

        The rows are halved. After some failed rows in succession, rows are run one by one, so that an error of all rows
        costs little more than one call per row. A caller that raises the first error asks for no more chunks, and saves
        the remaining calls.
        """
        if len(rows) == 1:
            yield self._failure(rows, error)
            return
        middle = len(rows) // 2
        bounds = [(middle, len(rows)), (0, middle)]
        in_succession = 0
        while bounds:
            start, stop = bounds.pop()
            if stop - start > 1 and in_succession >= _MANY_IN_SUCCESSION:
                bounds += [(start + 1, stop), (start, start + 1)]
                continue
            part = rows.part(start, stop)
            outcome = self._outcome(part.arrays)
            if isinstance(outcome, _Returned):
                in_succession = 0
                yield Chunk(part.indices, outcome.outputs)
            elif stop - start == 1:
                in_succession += 1
                yield self._failure(part, outcome.error)
            else:
                middle = (start + stop) // 2
                bounds += [(middle, stop), (start, middle)]

    def _failure(self, row: Rows, error: Exception) -> Chunk:
        return Chunk.of_failures([model_error(error, int(row.indices[0]), row.items[0])])

    def _outcome(self, rows: Any) -> _Returned | _Raised:
        # An error is returned, not raised: otherwise the error of a part would have that of the whole as its context,
        # whose frames keep the batch.
        try:
            return _Returned(self._call_model(rows))
        except CommonError as common:
            error = common.error
            clear_frames(common)
            clear_frames(error)
        except Exception as raised:
            clear_frames(raised)
            return _Raised(raised)
        raise error


@dataclass
class _Returned:
    outputs: Any


@dataclass
class _Raised:
    error: Exception


def clear_frames(error: BaseException) -> None:
    """Empty the frames of an error and of its causes: they refer to the batch, and would keep its slots.

    A program that catches an error may keep it, and an error in a reference cycle with its frames stays until the
    garbage collector runs.
    """
    chain: list[BaseException | None] = [error]
    seen: set[int] = set()
    while chain:
        one = chain.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        traceback.clear_frames(one.__traceback__)
        chain += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]


def model_error(error: Exception, index: int, item: Any) -> ModelError:
    """Return the error of an item over whose row the model raised.

    It is a `ModelError` and, if Python allows it, also an instance of the class of the model's own exception, so that
    programs that catch that class still catch it.
    """
    message = f"item {index} ({shorten(item)}): the model raised {message_of(error)}"
    made: ModelError
    try:
        both: Any = type("ModelError", (_RaisedByModel, type(error)), {"__module__": ModelError.__module__})
        made = both.__new__(both, message)
        made.__dict__.update(error.__dict__)
        made.args = (message,)
        made.index, made.item = index, item
    except Exception:  # classes whose instances differ in their layout, or that guard their attributes
        made = ModelError(message, index, item)
    made.__cause__ = error
    return made


class _RaisedByModel(ModelError):
    """A `ModelError` that is also an instance of another class of exceptions."""

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self) -> tuple[Any, ...]:
        return ModelError, (self.args[0], self.index, self.item)
