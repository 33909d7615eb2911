"""The outputs of many batches become the arrays of one result.

It may not know of models or inputs. Every array is the caller's own: a model may return its input, or a part of it,
as its output, and that memory is reused.
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
    """Return an output as a tensor over memory of its own; None stays None."""
    if output is None:
        return None
    if isinstance(output, _COMPOSITES):  # their parts may lie over the memory of an input, as any tensor may
        return tf.nest.map_structure(own_tensor, output, expand_composites=True)
    return tf.constant(output.numpy() if tf.is_tensor(output) else output)


def to_numpy(output: Any) -> Any:
    """Return a tensor as an array of its own memory; sparse and ragged tensors stay tensors, as in Keras."""
    if output is None or isinstance(output, _COMPOSITES):
        return own_tensor(output)
    return output.numpy() if tf.is_tensor(output) else np.array(output)


def all_to_numpy(outputs: Any) -> Any:
    """Return a nest of tensors as `to_numpy` returns each."""
    return outputs.numpy() if isinstance(outputs, tf.Tensor) else tf.nest.map_structure(to_numpy, outputs)


def join_outputs(batches: Sequence[Any]) -> Any:
    """Return the outputs of several batches as those of one.

    Parameters
    ----------
    batches : sequence of nests of tensors
        All of one structure.

    Returns
    -------
    nest of tensors
        The rules are those of `Gather.result`.
    """
    return batches[0] if len(batches) == 1 else tf.nest.map_structure(lambda *parts: concatenate(parts), *batches)


def _view(tensor: Any) -> npt.NDArray[Any]:
    """Return the tensor's memory as an array, to copy from at once; a copy where it has no buffer to show."""
    try:
        return np.asarray(memoryview(tensor))
    except (TypeError, ValueError):  # bfloat16 has no buffer format
        return np.asarray(tensor.numpy())


def _kind(output: Any) -> tuple[Any, ...]:
    """Return what must be the same in all batches: the kind of tensor, its dtype, and its rank or what may not vary."""
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
    form, dtype, size = kind
    return f"a {form} tensor of {dtype.name} " + (f"and row shape {size}" if form == "sparse" else f"with {size} axes")


class _Column:
    """One output over all batches: written into one array when the number of rows is known, else kept in parts."""

    def __init__(self, rows: int | None) -> None:
        self._rows = rows
        self._kind: tuple[Any, ...] | None = None
        self._array: npt.NDArray[Any] | None = None
        self._filled = 0
        self._parts: list[Any] = []

    def add(self, output: Any) -> str:
        """Take the next batch's output; return why it cannot be joined with the others, or nothing."""
        if output is not None and not isinstance(output, (tf.Tensor, *_COMPOSITES)):
            output = tf.convert_to_tensor(output)  # of a model that runs eagerly: an array, a number, a variable
        kind = _kind(output)
        if self._kind is None:
            self._kind = kind
        elif not _can_be_joined(kind, self._kind):
            return f"{_describe(kind)}, but {_describe(self._kind)} in the batches before it"
        if not self._parts and self._write(output):
            return ""
        if self._array is not None:  # the outputs turned out to be of other shapes: go on in parts
            self._parts.append(tf.constant(self._array[: self._filled]))
            self._array = None
        self._parts.append(own_tensor(output))
        return ""

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
        joined = concatenate(self._parts)
        return joined if joined is None or isinstance(joined, _COMPOSITES) else joined.numpy()


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
        self._batches = 0

    def add(self, outputs: Any) -> None:
        """Copy the next batch's outputs, a nest of tensors of shape (rows, ...).

        Raises
        ------
        ModelError
            The outputs have another structure, or one has another dtype, kind or number of axes than in
            the batches before. Nothing is cast or broadcast.
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
                    f"batch {self._batches}: the model's output{name} is {trouble}. Nothing is cast: let the model "
                    "return the same for every batch, or predict such batches one by one."
                )

    def _check_structure(self, outputs: Any) -> None:
        try:
            tf.nest.assert_same_structure(self._template, outputs)
        except (TypeError, ValueError):
            given, before = (tf.nest.map_structure(lambda _: "...", nest) for nest in (outputs, self._template))
            raise ModelError(
                f"batch {self._batches}: the model's outputs have the structure {given!r}, but {before!r} in the "
                "batches before it. Let the model return the same for every batch."
            ) from None

    def result(self) -> Any:
        """Return the nest of arrays over all batches.

        As ``keras.Model.predict`` does: outputs without a batch axis are stacked, outputs whose
        inner shapes differ between batches become a ragged tensor, sparse and ragged ones stay so.
        An output that is None in every batch is None.

        Raises
        ------
        ValueError
            No batch was added.
        """
        if self._columns is None:
            raise ValueError("there was no batch, so there are no outputs; give at least one row.")
        return tf.nest.pack_sequence_as(self._template, [column.result() for column in self._columns])


def _name_of_leaf(template: Any, number: int) -> str:
    """Return how a program reaches the leaf of that number in a nest, such as ``['a'][0]``; nothing for a bare one."""

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
    """Join one output's batches; the rules are those of Keras' `potentially_ragged_concat`."""
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
    inner = int(np.argmin(constant[::-1]))  # trailing axes of one length throughout
    inner_shape = tuple(first.shape[-inner:]) if inner else None
    # It knows no numbers that Python has no type for. Every bfloat16 and float8 is a float32, too.
    has_python_type = first.dtype == tf.string or first.dtype.as_numpy_dtype.__module__ == "numpy"
    arrays = [(part if has_python_type else tf.cast(part, tf.float32)).numpy() for part in parts]
    ragged = tf.ragged.constant(arrays, inner_shape=inner_shape).merge_dims(0, 1)
    return ragged if has_python_type else tf.cast(ragged, first.dtype)
