"""Join the outputs of many batches into the arrays of one result.

This file may not know models or inputs. Each result has memory of its own: a model may return its input or a part of
it, and the ring reuses that memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ...errors import ModelError

_COMPOSITES = (tf.SparseTensor, tf.RaggedTensor)


def own_tensor(output: Any) -> Any:
    """Return an output as a tensor in memory of its own; None stays None."""
    if output is None:
        return None
    if isinstance(output, _COMPOSITES):  # their components may share the memory of an input
        return tf.nest.map_structure(own_tensor, output, expand_composites=True)
    return tf.constant(output.numpy() if tf.is_tensor(output) else output)


def to_numpy(output: Any) -> Any:
    """Return a tensor as an array in memory of its own; sparse and ragged tensors stay tensors, as in Keras."""
    if output is None or isinstance(output, _COMPOSITES):
        return own_tensor(output)
    return output.numpy() if tf.is_tensor(output) else np.array(output)


def all_to_numpy(outputs: Any) -> Any:
    """Apply `to_numpy` to each tensor of a nest."""
    return outputs.numpy() if isinstance(outputs, tf.Tensor) else tf.nest.map_structure(to_numpy, outputs)


def join_outputs(batches: Sequence[Any]) -> Any:
    """Join the outputs of several batches into those of one batch.

    Parameters
    ----------
    batches : sequence of nests of tensors
        Outputs of the same structure.

    Returns
    -------
    nest of tensors
        Joined by the rules of `OutputCollector.result`.
    """
    return batches[0] if len(batches) == 1 else tf.nest.map_structure(lambda *parts: concatenate(parts), *batches)


def _view(tensor: Any) -> npt.NDArray[Any]:
    """Return a view of the tensor's memory, valid until the next call; a copy if the tensor exports no buffer."""
    try:
        return np.asarray(memoryview(tensor))
    except (TypeError, ValueError):  # bfloat16 has no buffer format
        return np.asarray(tensor.numpy())


def _kind(output: Any) -> tuple[Any, ...]:
    """Return the properties that must be equal in all batches: kind of tensor, dtype, and rank or fixed row shape."""
    if output is None:
        return (None,)
    if isinstance(output, tf.RaggedTensor):
        return "ragged", output.dtype, output.shape.rank
    if isinstance(output, tf.SparseTensor):
        return "sparse", output.dtype, tuple(output.dense_shape.numpy()[1:].tolist())
    return "dense", output.dtype, output.shape.rank


def _can_be_joined(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return one == other or (one[1:] == other[1:] and {one[0], other[0]} == {"ragged", "dense"})


def _describe(kind: tuple[Any, ...]) -> str:
    if kind[0] is None:
        return "None"
    layout, dtype, size = kind
    described = f"and row shape {size}" if layout == "sparse" else f"with {size} axes"
    return f"a {layout} tensor of {dtype.name} {described}"


class _Column:
    """One output of all batches: written into one array if the number of rows is known, else kept in parts."""

    def __init__(self, rows: int | None) -> None:
        self._rows = rows
        self._kind: tuple[Any, ...] | None = None
        self._array: npt.NDArray[Any] | None = None
        self._filled = 0
        self._parts: list[Any] = []

    def add(self, output: Any) -> str:
        """Add the next batch's output; return the reason if it cannot be joined with the others, else ''."""
        if output is not None and not isinstance(output, (tf.Tensor, *_COMPOSITES)):
            # A model that runs eagerly may return an array, a number or a variable.
            output = tf.convert_to_tensor(output)
        kind = _kind(output)
        if self._kind is None:
            self._kind = kind
        elif not _can_be_joined(kind, self._kind):
            return f"{_describe(kind)}, but {_describe(self._kind)} in the batches before it"
        if not self._parts and self._write(output):
            return ""
        if self._array is not None:  # this output has another shape: continue in parts
            self._parts.append(tf.constant(self._array[: self._filled]))
            self._array = None
        self._parts.append(own_tensor(output))
        return ""

    def _write(self, output: Any) -> bool:
        """Write the next rows; return False if they do not fit into one array of the expected number of rows."""
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
        joined = concatenate(self._parts)
        return joined if joined is None or isinstance(joined, _COMPOSITES) else joined.numpy()


class OutputCollector:
    """Collects the outputs of one batch after another.

    Parameters
    ----------
    rows : int or None
        Number of rows of all batches together; None if it is unknown. If it is known, the first batch allocates one
        array per output, and each batch is copied into it once. Outputs with more or fewer rows than the inputs are
        joined at the end.
    """

    def __init__(self, rows: int | None = None) -> None:
        self._rows = rows
        self._template: Any = None
        self._columns: list[_Column] | None = None
        self._batches = 0

    def add(self, outputs: Any) -> None:
        """Copy the next batch's outputs, a nest of tensors of shape (rows, ...).

        Raises
        ------
        ModelError
            The outputs have another structure than those of earlier batches, or an output has another dtype, kind or
            number of axes. No output is cast or broadcast.
        """
        self._batches += 1
        leaves = tf.nest.flatten(outputs)
        if self._columns is None:
            self._template = tf.nest.map_structure(lambda _: None, outputs)
            self._columns = [_Column(self._rows) for _ in leaves]
        elif tf.nest.is_nested(outputs) or tf.nest.is_nested(self._template):
            self._check_structure(outputs)
        for number, (column, leaf) in enumerate(zip(self._columns, leaves, strict=True)):
            if trouble := column.add(leaf):
                name = _name_of_leaf(self._template, number)
                raise ModelError(
                    f"batch {self._batches}: the model's output{name} is {trouble}. Outputs are not cast: let the "
                    "model return the same kind for every batch, or predict these batches one by one."
                )

    def _check_structure(self, outputs: Any) -> None:
        try:
            tf.nest.assert_same_structure(self._template, outputs)
        except (TypeError, ValueError):
            given, before = (tf.nest.map_structure(lambda _: "...", nest) for nest in (outputs, self._template))
            raise ModelError(
                f"batch {self._batches}: the model's outputs have the structure {given!r}, but {before!r} in the "
                "batches before it. Let the model return the same structure for every batch."
            ) from None

    def result(self) -> Any:
        """Return the nest of arrays of all batches.

        The rules are those of ``keras.Model.predict``. Outputs without a batch axis are stacked. Outputs whose inner
        shapes differ between batches become a ragged tensor. Sparse and ragged outputs keep their kind. An output that
        is None in every batch is None.

        Raises
        ------
        ValueError
            No batch was added.
        """
        if self._columns is None:
            raise ValueError("there was no batch, so there are no outputs; give at least one row.")
        return tf.nest.pack_sequence_as(self._template, [column.result() for column in self._columns])


def _name_of_leaf(template: Any, number: int) -> str:
    """Return the subscript that leads to leaf `number` of a nest, such as ``['a'][0]``; '' if the nest is a leaf."""

    def find(nest: Any) -> str | None:
        if nest == number:
            return ""
        if isinstance(nest, dict):
            branches = [(f"[{key!r}]", value) for key, value in nest.items()]
        elif isinstance(nest, (list, tuple)):
            branches = [(f"[{index}]", value) for index, value in enumerate(nest)]
        else:
            return None
        return next((step + rest for step, value in branches if (rest := find(value)) is not None), None)

    count = len(tf.nest.flatten(template))
    return find(tf.nest.pack_sequence_as(template, list(range(count)))) or ""


def concatenate(parts: Sequence[Any]) -> Any:
    """Join the batches of one output by the rules of Keras' `potentially_ragged_concat`."""
    first = parts[0]
    if len(parts) == 1 or first is None:
        return first
    if isinstance(first, tf.SparseTensor):
        return tf.sparse.concat(axis=0, sp_inputs=list(parts))
    if any(isinstance(part, tf.RaggedTensor) for part in parts):
        return tf.concat(list(parts), axis=0)
    shapes = np.array([part.shape.as_list()[1:] for part in parts])
    constant = np.all(shapes == shapes[:1], axis=0)
    if constant.all():
        return tf.concat(list(parts), axis=0) if first.shape.rank else tf.stack(list(parts))
    inner = int(np.argmin(constant[::-1]))  # number of trailing axes whose length is equal in all batches
    inner_shape = tuple(first.shape[-inner:]) if inner else None
    # tf.ragged.constant accepts only numbers that have a Python type. A float32 represents every bfloat16 and float8.
    has_python_type = first.dtype == tf.string or first.dtype.as_numpy_dtype.__module__ == "numpy"
    arrays = [(part if has_python_type else tf.cast(part, tf.float32)).numpy() for part in parts]
    ragged = tf.ragged.constant(arrays, inner_shape=inner_shape).merge_dims(0, 1)
    return ragged if has_python_type else tf.cast(ragged, first.dtype)
