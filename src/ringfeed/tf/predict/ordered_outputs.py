"""The outputs of many calls of the model, in the order of the items.

It may not know where the outputs come from. tensors/outputs.py collects outputs of calls without workers: those calls
come in order, and an output need not have one row for each item.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ...errors import ItemError, ModelError
from ...nest import flatten, map_leaves, unflatten
from ..tensors.outputs import concatenate

Indices = npt.NDArray[np.int64]
_Kind = tuple[str, str, Any]
"""The properties that all calls share: the kind of tensor, its dtype, and its rank or its fixed axes."""


def require_rows(outputs: Any, rows: int, model_name: str) -> None:
    """Raise unless each output of a call has one row for each row of the inputs.

    Parameters
    ----------
    outputs : nest of numpy.ndarray, tf.SparseTensor, tf.RaggedTensor or None

    Raises
    ------
    ModelError
        An output has another number of rows, so its rows cannot be assigned to items.
    """
    template, leaves = flatten(outputs)
    for number, leaf in enumerate(leaves):
        if leaf is None or _rows_of(leaf) == rows:
            continue
        which = "" if template == 0 else f"output {number}: "
        kind = str(getattr(leaf.dtype, "name", leaf.dtype))
        raise ModelError(
            f"model {model_name!r}: {which}it returned {kind}{list(leaf.shape)} for {rows} rows. With preprocess= each "
            "item gets one row of each output: return one row for each row of the inputs, or preprocess beforehand and "
            "use a Predictor without preprocess=, which returns what Keras returns."
        )


def _kind_of(leaf: Any) -> _Kind:
    if leaf is None:
        return "None", "", 0
    dtype = str(getattr(leaf.dtype, "name", leaf.dtype))
    if isinstance(leaf, tf.SparseTensor):
        return "sparse", dtype, tuple(leaf.dense_shape.numpy()[1:].tolist())
    return "ragged" if isinstance(leaf, tf.RaggedTensor) else "dense", dtype, len(leaf.shape)


def _describe(kind: _Kind) -> str:
    form, dtype, size = kind
    if form == "None":
        return form
    return f"a {form} tensor of {dtype} " + (f"and row shape {size}" if form == "sparse" else f"with {size} axes")


def _rows_of(leaf: Any) -> int:
    """Return the length of axis 0; -1 for a scalar."""
    if isinstance(leaf, tf.RaggedTensor):
        return int(leaf.nrows())
    if isinstance(leaf, tf.SparseTensor):
        return int(leaf.dense_shape[0])
    return int(leaf.shape[0]) if len(leaf.shape) else -1


class OrderedOutputs:
    """The outputs of a call of `predict`, put in order.

    Parameters
    ----------
    count : int or None
        Number of items, if it is known.
    """

    def __init__(self, count: int | None) -> None:
        self._count = count
        self._template: Any = None
        self._columns: list[_Column] | None = None
        self._done: list[Indices] = []

    @property
    def is_empty(self) -> bool:
        """Whether there are no outputs."""
        return self._columns is None

    def add(self, indices: Indices, outputs: Any) -> None:
        """Add the outputs of a call: row k belongs to item ``indices[k]``."""
        template, leaves = flatten(outputs)
        if self._columns is None:
            self._template = template
            self._columns = [_Column(self._count) for _ in leaves]
        if template != self._template:
            raise ModelError(f"the model returned outputs of another structure than before: {template!r:.200}.")
        for column, leaf in zip(self._columns, leaves, strict=True):
            column.add(indices, leaf)
        self._done.append(indices)

    def _order(self) -> Indices:
        """Return the indices of the items that are done, sorted."""
        return np.sort(np.concatenate(self._done)) if self._done else np.empty(0, np.int64)

    def stacked(self) -> Any:
        """Return the nest of outputs, each with a row for each item that is done, in the items' order.

        Outputs whose inner shapes differ become a ragged tensor, as in ``keras.Model.predict``; sparse and ragged
        outputs stay sparse and ragged.
        """
        assert self._columns is not None
        order = self._order()
        return unflatten(self._template, [column.result(order) for column in self._columns])

    def by_item(self, failures: Sequence[ItemError]) -> list[Any]:
        """Return the outputs or the error of each item that is done, in the order of the items."""
        found: dict[int, Any] = {failure.index: failure for failure in failures}
        for index, leaves in self._rows():
            found[index] = unflatten(self._template, leaves)
        return [found[index] for index in sorted(found)]

    def _rows(self) -> Iterator[tuple[int, list[Any]]]:
        if self._columns is None:
            return
        rows = [column.rows() for column in self._columns]
        for index in self._order().tolist():
            yield index, [row[index] for row in rows]


class _Column:
    """One output: in one array if the number of items and the shape of a row are known, else in parts."""

    def __init__(self, count: int | None) -> None:
        self._count = count
        self._kind: _Kind | None = None
        self._array: npt.NDArray[Any] | None = None
        self._indices: list[Indices] = []
        self._parts: list[tuple[Indices, Any]] = []

    def add(self, indices: Indices, leaf: Any) -> None:
        self._require_kind(_kind_of(leaf))
        if self._write(indices, leaf):
            return
        if self._array is not None:  # rows of another shape than before: continue in parts
            before = np.concatenate(self._indices)
            self._parts.append((before, self._array[before]))
            self._array, self._indices = None, []
        self._parts.append((indices, leaf))

    def _require_kind(self, kind: _Kind) -> None:
        if self._kind is None:
            self._kind = kind
        is_joined = kind[1:] == self._kind[1:] and {kind[0], self._kind[0]} == {"ragged", "dense"}
        if kind != self._kind and not is_joined:
            raise ModelError(
                f"the model returned one output as {_describe(kind)}, and as {_describe(self._kind)} in the batches "
                "before. Nothing is cast: let the model return the same for every batch."
            )

    def _write(self, indices: Indices, leaf: Any) -> bool:
        if self._count is None or self._parts or not isinstance(leaf, np.ndarray):
            return False
        if self._array is None:
            self._array = np.empty((self._count, *leaf.shape[1:]), leaf.dtype)
        if leaf.shape[1:] != self._array.shape[1:] or leaf.dtype != self._array.dtype:
            return False
        self._array[indices] = leaf
        self._indices.append(indices)
        return True

    def result(self, order: Indices) -> Any:
        if self._array is not None:
            return self._array if len(order) == len(self._array) else self._array[order]
        leaves = [leaf for _, leaf in self._parts]
        if any(leaf is None for leaf in leaves):
            return None
        if all(isinstance(leaf, np.ndarray) for leaf in leaves):
            return self._dense_or_ragged(order)
        came = np.concatenate([indices for indices, _ in self._parts])
        joined = concatenate([tf.constant(leaf) if isinstance(leaf, np.ndarray) else leaf for leaf in leaves])
        return _reordered(joined, came)

    def _dense_or_ragged(self, order: Indices) -> Any:
        first = self._parts[0][1]
        if all(leaf.shape[1:] == first.shape[1:] for _, leaf in self._parts):
            array = np.empty((len(order), *first.shape[1:]), first.dtype)
            for indices, leaf in self._parts:
                array[np.searchsorted(order, indices)] = leaf
            return array
        rows = self.rows()
        return concatenate([tf.constant(rows[index][np.newaxis]) for index in order.tolist()])

    def rows(self) -> dict[int, Any]:
        """Return the row of each item."""
        if self._array is not None:
            return {index: self._array[index] for indices in self._indices for index in indices.tolist()}
        return {index: row_of(leaf, row) for indices, leaf in self._parts for row, index in enumerate(indices.tolist())}


def _reordered(joined: Any, came: Indices) -> Any:
    """Return the rows of a ragged or sparse tensor, which came in the order `came`, in the order of their items."""
    if isinstance(joined, tf.RaggedTensor):
        return tf.gather(joined, np.argsort(came))
    places = np.empty(len(came), np.int64)
    places[np.argsort(came)] = np.arange(len(came))
    indices = joined.indices.numpy().copy()
    indices[:, 0] = places[indices[:, 0]]
    return tf.sparse.reorder(tf.SparseTensor(indices, joined.values, joined.dense_shape))


def row_of(leaf: Any, row: int) -> Any:
    """Return one row of an output, without the axis of rows."""
    if leaf is None:
        return None
    if isinstance(leaf, tf.SparseTensor):
        shape = leaf.dense_shape.numpy()
        start = [row, *(0 for _ in shape[1:])]
        part = tf.sparse.slice(leaf, start, [1, *shape[1:]])
        return tf.sparse.reshape(part, shape[1:])
    return leaf[row]


def rows_by_index(indices: Indices, outputs: Any) -> Iterator[tuple[int, Any]]:
    """Iterate over the outputs of a call as (index, outputs without the axis of rows)."""
    for row, index in enumerate(indices.tolist()):
        yield index, map_leaves(partial(row_of, row=row), outputs)
