"""Rows become calls of the model: whole batches of good rows, and, where a call fails, the row that is to blame.

It may not know rings, workers or how the model is called. Rows that hold nothing, because their item failed or nobody
wants it any more, are never shown to the model: it may look across rows, or refuse what lies there.
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
from .item_order import ItemOrder
from .kept_rows import KeptRows, Rows
from .pool import shorten

_MANY_IN_TURN = 4
"""After so many single rows that failed, the next ones are run alone, too: halving costs up to two calls a row."""

_NO_ROWS: npt.NDArray[np.int64] = np.empty(0, np.int64)


@dataclass
class Chunk:
    """What one call of the model brought, or what failed."""

    indices: npt.NDArray[np.int64]
    """Items of the rows of `outputs`, shape (rows,)."""
    outputs: Any = None
    """Nest of arrays (rows, ...), as the model nests them; None when there are no rows."""
    failures: Sequence[ItemError] = ()

    @classmethod
    def of_failures(cls, failures: Sequence[ItemError]) -> Chunk:
        """Return one without rows."""
        return cls(_NO_ROWS, failures=failures)


class CommonError(Exception):
    """The model cannot be called so, or its outputs are no rows: no single row is to blame.

    Attributes
    ----------
    error : Exception
        What is to be raised instead.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class ModelCalls:
    """Calls the model for the rows of one call of `predict` or `stream`.

    Parameters
    ----------
    call_model : callable
        ``call_model(rows)`` returns the model's outputs for rows, as a nest of arrays (rows, ...) of their own memory.
        `rows` maps each field's name to an array (rows, ...): a `Batch`, or a dict of arrays. It raises `CommonError`
        where no row is to blame.
    batch_size : int
    gathers : bool
        Where rows of a batch are left out, wait for as many others before the model is called.
    order : ItemOrder, optional
        The rows of each call are to follow each other as their items do, so that a model that looks across rows sees
        what Keras would show it. Rows that come before their turn are copied, and kept until then. By default a call
        has the rows that came together.
    """

    def __init__(
        self, call_model: Callable[[Any], Any], batch_size: int, gathers: bool, order: ItemOrder | None = None
    ) -> None:
        self._call_model = call_model
        self._batch_size = batch_size
        self.gathers = gathers
        self._order = order
        self._kept = KeptRows()
        self._known: tuple[int, Any] | None = None

    @property
    def room(self) -> int:
        """Rows that the next call still has room for."""
        return self._batch_size - self._in_turn

    @property
    def _in_turn(self) -> int:
        """How many of the kept rows are behind no item that is missing."""
        return len(self._kept) if self._order is None else self._kept.before(self._order.frontier)

    @property
    def waits_for_a_turn(self) -> bool:
        """Whether there are rows before whose turn others have to come."""
        return self._in_turn < len(self._kept)

    def add(
        self,
        batch: Any,
        indices: npt.NDArray[np.int64],
        items: list[Any],
        good: npt.NDArray[np.bool_],
        without: Sequence[int] = (),
    ) -> Iterator[Chunk]:
        """Run the model on the good rows of a batch, or keep them for the next call.

        The batch is released before anything is yielded.

        Parameters
        ----------
        batch : Batch
            At most `room` rows.
        indices, items
            Of each row.
        good : array of bool
            Which rows the model is to see.
        without : sequence of int
            Items that turned out to have no row.
        """
        outcome: _Returned | _Raised | None = None
        rows: Rows | None = None
        with batch:
            all_good = bool(good.all())
            if all_good and not len(self._kept) and self._is_a_call(indices):
                outcome = self._outcome(batch)
            if good.any() and not isinstance(outcome, _Returned):
                rows = Rows(batch, indices, items, is_lent=True)
                rows = rows if all_good else rows.picked(np.flatnonzero(good))
                if outcome is not None:
                    rows = rows.copied()
            if self._order is not None:
                self._order.settle(indices[good])
                self._order.settle(np.asarray(without, np.int64))
            if rows is not None and outcome is None:
                self._kept.add(rows)
                rows = self._next_call()
                self._kept.settle()
        if isinstance(outcome, _Returned):
            yield Chunk(indices, outcome.outputs)
        elif isinstance(outcome, _Raised):
            assert rows is not None
            yield from self._blamed(rows, outcome.error)
        elif rows is not None:
            yield from self._run(rows)
        yield from self._due()

    def _is_a_call(self, indices: npt.NDArray[np.int64]) -> bool:
        """Tell whether these rows are what the model is to be given next."""
        is_full = len(indices) == self._batch_size
        if self._order is None:
            return is_full or not self.gathers
        return is_full and self._order.is_next(indices)

    def keep(self, batch: Any, indices: npt.NDArray[np.int64], items: list[Any], good: npt.NDArray[np.bool_]) -> None:
        """Keep the good rows of a batch for the next call, and release it. They are the next in the items' order."""
        with batch:
            self._kept.add(Rows(batch, indices, items).picked(np.flatnonzero(good)).copied())
        if self._order is not None:
            self._order.settle(indices[good])

    def add_row(self, arrays: dict[str, npt.NDArray[Any]], index: int, item: Any) -> Iterator[Chunk]:
        """Keep one row, each array of shape (1, ...), and run the model when `batch_size` are there."""
        self._kept.add(Rows(arrays, np.array([index], np.int64), [item]))
        if self.room <= 0:
            yield from self.rest()

    def remember(self, index: int, outputs: Any) -> None:
        """Take note of what the model has returned for an item's row by itself; None where it was not run so.

        If the next call has that row alone it is not made again: nobody would see it but a model that keeps a state.
        """
        self._known = None if outputs is None else (index, outputs)

    def leave_out(self, indices: Sequence[int]) -> Iterator[Chunk]:
        """Take note that items have no rows, and run the model on what waited for them."""
        if self._order is not None and len(indices):
            self._order.settle(np.asarray(indices, np.int64))
            yield from self._due()

    def _next_call(self) -> Rows | None:
        """Return the rows of the next call, if they are there."""
        if not len(self._kept):
            return None
        if self._order is None:
            return self._kept.taken(len(self._kept), in_order=False) if self.room <= 0 or not self.gathers else None
        return self._kept.taken(self._batch_size, in_order=True) if self.room <= 0 else None

    def _due(self) -> Iterator[Chunk]:
        """Run the model on the calls that are complete."""
        while (rows := self._next_call()) is not None:
            yield from self._run(rows)

    def rest(self) -> Iterator[Chunk]:
        """Run the model on the rows that were kept, and are less than a batch."""
        if len(self._kept):
            yield from self._run(self._kept.taken(len(self._kept), in_order=self._order is not None))

    def _run(self, rows: Rows) -> Iterator[Chunk]:
        known, self._known = self._known, None
        if known is not None and rows.indices.tolist() == [known[0]]:
            yield Chunk(rows.indices, known[1])
            return
        outcome = self._outcome(rows.arrays)
        if isinstance(outcome, _Raised):
            yield from self._blamed(rows, outcome.error)
        else:
            yield Chunk(rows.indices, outcome.outputs)

    def _blamed(self, rows: Rows, error: Exception) -> Iterator[Chunk]:
        """Run rows over which the model raised in parts, until each error is one over a single row, run alone.

        They are halved. After some rows in turn that failed, rows are run one by one, so that an error of all of them
        costs one call a row and few more. Who asks for no more chunks, because an error is to be raised, saves the
        calls behind it.
        """
        if len(rows) == 1:
            yield self._failure(rows, error)
            return
        middle = len(rows) // 2
        bounds = [(middle, len(rows)), (0, middle)]
        failed_in_turn = 0
        while bounds:
            start, stop = bounds.pop()
            if stop - start > 1 and failed_in_turn >= _MANY_IN_TURN:
                bounds += [(start + 1, stop), (start, start + 1)]
                continue
            part = rows.part(start, stop)
            outcome = self._outcome(part.arrays)
            if isinstance(outcome, _Returned):
                failed_in_turn = 0
                yield Chunk(part.indices, outcome.outputs)
            elif stop - start == 1:
                failed_in_turn += 1
                yield self._failure(part, outcome.error)
            else:
                middle = (start + stop) // 2
                bounds += [(middle, stop), (start, middle)]

    def _failure(self, row: Rows, error: Exception) -> Chunk:
        return Chunk.of_failures([model_error(error, int(row.indices[0]), row.items[0])])

    def _outcome(self, rows: Any) -> _Returned | _Raised:
        # An error is returned, so that one over a part does not have that over the whole for its context, whose frames
        # keep the batch.
        try:
            return _Returned(self._call_model(rows))
        except CommonError as common:
            error = common.error
            let_go(common)
            let_go(error)
        except Exception as raised:
            let_go(raised)
            return _Raised(raised)
        raise error


@dataclass
class _Returned:
    outputs: Any


@dataclass
class _Raised:
    error: Exception


def let_go(error: BaseException) -> None:
    """Empty the frames of an error and of those behind it: they look at the batch, and would keep its slots.

    Whoever catches an error may keep it, and one in a circle with its frames stays until garbage is collected.
    """
    behind: list[BaseException | None] = [error]
    seen: set[int] = set()
    while behind:
        one = behind.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        traceback.clear_frames(one.__traceback__)
        behind += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]


def model_error(error: Exception, index: int, item: Any) -> ModelError:
    """Return the error of an item over whose row the model raised.

    It is a `ModelError` and, where Python allows it, of the class of the model's own exception as well, so that
    programs that catch that one go on to do so.
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
    """A `ModelError` that is an instance of another class of exceptions, too."""

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self) -> tuple[Any, ...]:
        return ModelError, (self.args[0], self.index, self.item)
