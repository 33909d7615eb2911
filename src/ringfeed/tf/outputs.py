"""The outputs of many batches become the arrays of one result.

It may not know of models or inputs. Every array is the caller's own: a model may return its input, or a part of it,
as its output, and that memory is reused.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf


def to_numpy(output: Any) -> Any:
    """Return a tensor as an array of its own memory; sparse and ragged tensors as they are, as Keras does."""
    if output is None or isinstance(output, (tf.SparseTensor, tf.RaggedTensor)):
        return output
    return output.numpy() if tf.is_tensor(output) else np.array(output)


def all_to_numpy(outputs: Any) -> Any:
    """Return a nest of tensors as `to_numpy` returns each."""
    return outputs.numpy() if isinstance(outputs, tf.Tensor) else tf.nest.map_structure(to_numpy, outputs)


def _view(tensor: Any) -> npt.NDArray[Any]:
    """Return the tensor's memory as an array, to copy from at once; a copy where it has no buffer to show."""
    try:
        return np.asarray(memoryview(tensor))
    except (TypeError, ValueError):  # bfloat16 has no buffer format
        return np.asarray(tensor.numpy())


class _Column:
    """One output over all batches: written into one array when the number of rows is known, else kept in parts."""

    def __init__(self, rows: int | None) -> None:
        self._rows = rows
        self._array: npt.NDArray[Any] | None = None
        self._filled = 0
        self._parts: list[Any] = []

    def add(self, output: Any) -> None:
        if not self._parts and self._write(output):
            return
        if self._array is not None:  # the outputs turned out to be of other shapes: go on in parts
            self._parts.append(tf.constant(self._array[: self._filled]))
            self._array = None
        # A copy: the tensor may be over memory that is soon reused. Parts of other kinds own theirs.
        self._parts.append(tf.constant(output.numpy()) if isinstance(output, tf.Tensor) else output)

    def _write(self, output: Any) -> bool:
        """Write the next rows; False if they do not fit into one array of the expected rows."""
        if self._rows is None or not isinstance(output, tf.Tensor) or output.dtype == tf.string:
            return False
        if output.shape.rank == 0:
            return False
        batch = _view(output)
        if self._array is None:
            if len(batch) > self._rows:
                return False
            self._array = np.empty((self._rows, *batch.shape[1:]), batch.dtype)
        end = self._filled + len(batch)
        if end > self._rows or batch.shape[1:] != self._array.shape[1:]:
            return False
        self._array[self._filled : end] = batch
        self._filled = end
        return True

    def result(self) -> Any:
        if self._array is not None:
            return self._array if self._filled == len(self._array) else self._array[: self._filled].copy()
        return to_numpy(_concatenate(self._parts))


class Gather:
    """Collects the outputs of one batch after the other.

    Parameters
    ----------
    rows : int or None
        Rows of all batches together, None where that is not known. One array per output is made
        with the first batch and every batch is copied into it once; outputs with more or fewer
        rows than the inputs are put together at the end.
    """

    def __init__(self, rows: int | None = None) -> None:
        self._rows = rows
        self._template: Any = None
        self._columns: list[_Column] | None = None

    def add(self, outputs: Any) -> None:
        """Copy the next batch's outputs, a nest of tensors of shape (rows, ...)."""
        leaves = tf.nest.flatten(outputs)
        if self._columns is None:
            self._template = tf.nest.map_structure(lambda _: None, outputs)
            self._columns = [_Column(self._rows) for _ in leaves]
        for column, leaf in zip(self._columns, leaves, strict=True):
            column.add(leaf)

    def result(self) -> Any:
        """Return the nest of arrays over all batches.

        As ``keras.Model.predict`` does: outputs without a batch axis are stacked, outputs whose
        inner shapes differ between batches become a ragged tensor, sparse and ragged ones stay so.

        Raises
        ------
        ValueError
            No batch was added.
        """
        if self._columns is None:
            raise ValueError("there was no batch, so there are no outputs; give at least one row.")
        return tf.nest.pack_sequence_as(self._template, [column.result() for column in self._columns])


def _concatenate(parts: list[Any]) -> Any:
    """Join one output's batches; the rules are those of Keras' `potentially_ragged_concat`."""
    first = parts[0]
    if len(parts) == 1 or first is None:
        return first
    if isinstance(first, tf.SparseTensor):
        return tf.sparse.concat(axis=0, sp_inputs=parts)
    if isinstance(first, tf.RaggedTensor):
        return tf.concat(parts, axis=0)
    shapes = np.array([part.shape.as_list()[1:] for part in parts])
    constant = np.all(shapes == shapes[:1], axis=0)
    if constant.all():
        return tf.concat(parts, axis=0) if first.shape.rank else tf.stack(parts)
    inner = int(np.argmin(constant[::-1]))  # trailing axes of one length throughout
    inner_shape = tuple(first.shape[-inner:]) if inner else None
    return tf.ragged.constant([part.numpy() for part in parts], inner_shape=inner_shape).merge_dims(0, 1)
