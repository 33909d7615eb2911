"""Arrays of any library, cut into batches of rows.

It may not know of models, or of what yields batches by itself. Frameworks other than TensorFlow are recognised by the
names of their types: none is imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from .handover import aligned_copy
from .structure import pack_inputs

_Cut = Callable[[int, int], Any]
"""Rows from start to stop of one leaf, as an array or tensor."""


def _package(value: Any) -> str:
    return type(value).__module__.partition(".")[0]


def _is_array(value: Any) -> bool:
    return (
        value is None
        or isinstance(value, np.ndarray)
        or tf.is_tensor(value)
        or hasattr(value, "__array__")
        or (_package(value) == "scipy" and hasattr(value, "tocsr"))
    )


def holds_arrays(x: Any) -> bool:
    """Tell whether `x` is an array or tensor, or a nest of nothing else."""
    if not tf.nest.is_nested(x):
        return x is not None and _is_array(x)
    leaves = tf.nest.flatten(x)
    return any(leaf is not None for leaf in leaves) and all(map(_is_array, leaves))


class ArraySource:
    """A nest of arrays, to be cut into batches.

    Parameters
    ----------
    x : nest of arrays or tensors, each of shape (rows, ...)
        None is an optional input that is left out.
    floatx : str or None
        Cast arrays of other floats to this dtype, batch by batch.

    Attributes
    ----------
    rows : int
        Of every array.

    Raises
    ------
    ValueError
        The arrays have no rows, no axis for them, or differ in their number.
    """

    def __init__(self, x: Any, floatx: str | None) -> None:
        self._structure = pack_inputs(x)
        leaves = [_standard(leaf) for leaf in tf.nest.flatten(self._structure)]
        shapes = [None if leaf is None else tuple(leaf.shape) for leaf in leaves]
        self.rows = _common_rows([shape for shape in shapes if shape is not None])
        self._cuts = [_cut(leaf, floatx) for leaf in leaves]

    def all(self) -> Any:
        """Return all rows as one batch."""
        return self._batch(0, self.rows)

    def batches(self, batch_size: int) -> Iterator[Any]:
        """Yield batches of `batch_size` rows, the last of what is left.

        An array that needs no cast is not copied: its batches are views.
        """
        for start in range(0, self.rows, batch_size):
            yield self._batch(start, min(start + batch_size, self.rows))

    def _batch(self, start: int, stop: int) -> Any:
        leaves = [cut(start, stop) for cut in self._cuts]
        return tf.nest.pack_sequence_as(self._structure, leaves) if tf.nest.is_nested(self._structure) else leaves[0]


def _common_rows(shapes: list[tuple[int | None, ...]]) -> int:
    if not all(shapes):
        raise ValueError("x holds a scalar, which has no axis for the rows; give arrays of shape (rows, ...).")
    lengths = {int(shape[0]) for shape in shapes if shape[0] is not None}
    if len(lengths) > 1:
        described = ", ".join(str(shape[0]) for shape in shapes)
        raise ValueError(f"the arrays of x have different numbers of rows ({described}); give the same number in each.")
    (rows,) = lengths
    if rows == 0:
        raise ValueError("x is empty (0 rows), so there is nothing to predict; give at least one row.")
    return rows


def _standard(leaf: Any) -> Any:
    """Return a leaf as a NumPy array or a tensor, or as it is where only its slices should be converted."""
    if leaf is None or type(leaf) is np.ndarray or tf.is_tensor(leaf):
        return tf.convert_to_tensor(leaf) if isinstance(leaf, tf.Variable) else leaf
    package = _package(leaf)
    if package == "pandas" and hasattr(leaf, "iloc"):
        return leaf
    if package == "scipy" and hasattr(leaf, "tocsr"):
        return leaf.tocsr()
    if package == "torch":
        leaf = leaf.detach().cpu()
    return np.asarray(leaf)


def _is_other_float(dtype: Any, floatx: str | None) -> bool:
    name = str(getattr(dtype, "name", dtype))
    return floatx is not None and name != floatx and (name.startswith("float") or name == "bfloat16")


def _cut(leaf: Any, floatx: str | None) -> _Cut:
    if leaf is None:
        return lambda start, stop: None
    if isinstance(leaf, np.ndarray):
        if _is_other_float(leaf.dtype, floatx):
            return lambda start, stop: aligned_copy(leaf[start:stop], floatx)
        return lambda start, stop: leaf[start:stop]
    if hasattr(leaf, "iloc"):
        return _cut_frame(leaf, floatx)
    if not isinstance(leaf, tf.SparseTensor) and not tf.is_tensor(leaf):
        return _cut_scipy(leaf, floatx)
    wanted = floatx if _is_other_float(leaf.dtype, floatx) else leaf.dtype

    def cut(start: int, stop: int) -> Any:
        if isinstance(leaf, tf.SparseTensor):
            inner = leaf.shape[1:].as_list()
            return tf.cast(tf.sparse.slice(leaf, [start, *(0 for _ in inner)], [stop - start, *inner]), wanted)
        return tf.cast(leaf[start:stop], wanted)

    return cut


def _cut_frame(frame: Any, floatx: str | None) -> _Cut:
    """Cut a pandas DataFrame or Series; a Series becomes one column, as in Keras."""
    is_series = frame.ndim == 1
    dtypes = [frame.dtype] if is_series else list(frame.dtypes)
    cast = floatx if any(_is_other_float(dtype, floatx) for dtype in dtypes) else None

    def cut(start: int, stop: int) -> Any:
        part = frame.iloc[start:stop]
        array = (part if cast is None else part.astype(cast)).to_numpy()
        return array[:, np.newaxis] if is_series else array

    return cut


def _cut_scipy(matrix: Any, floatx: str | None) -> _Cut:
    wanted = floatx if _is_other_float(matrix.dtype, floatx) else matrix.dtype

    def cut(start: int, stop: int) -> Any:
        part = matrix[start:stop].tocoo()
        part.sum_duplicates()  # also sorts by rows, as TensorFlow expects
        indices = np.stack([part.row, part.col], axis=1).astype(np.int64)
        return tf.SparseTensor(indices, part.data.astype(wanted), part.shape)

    return cut
