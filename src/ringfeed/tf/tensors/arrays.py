"""Convert arrays of any library to NumPy arrays and tensors, and slice them into batches of rows.

This file may not know models, or inputs that yield batches themselves. It recognises other frameworks by the names of
their types and imports none of them.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from ...torch_arrays import array_from_torch, is_torch_tensor
from .structure import pack_inputs
from .zero_copy import aligned_copy

_Slice = Callable[[int, int], Any]
"""A function of (start, stop) that returns these rows of one leaf as an array or tensor."""


def _package(value: Any) -> str:
    return type(value).__module__.partition(".")[0]


def _is_scipy_sparse(value: Any) -> bool:
    return _package(value) == "scipy" and hasattr(value, "tocoo")


def _is_jax_sparse(value: Any) -> bool:
    return type(value).__module__.startswith("jax.experimental.sparse") and hasattr(value, "todense")


def _is_array(value: Any) -> bool:
    return (
        value is None
        or isinstance(value, np.ndarray)
        or tf.is_tensor(value)
        or hasattr(value, "__array__")
        or _is_scipy_sparse(value)
        or _is_jax_sparse(value)
    )


def plain_nest(x: Any) -> Any:
    """Return a nest that TensorFlow accepts: mappings become dicts, and sparse matrices become leaves with rows.

    Parameters
    ----------
    x : anything
        Branches are mappings of any class (a ``collections.UserDict``, a tokenizer's ``BatchEncoding``, ``numpy.load``
        of an ``.npz`` file), lists, deques, tuples and named tuples. SciPy's ``dok_matrix`` is a dict but counts as a
        leaf.

    Returns
    -------
    anything
        A sparse matrix becomes a ``csr_array`` or ``csr_matrix``, or a tf.SparseTensor if SciPy cannot slice its rows.
        Other leaves are unchanged.
    """
    if _is_scipy_sparse(x):
        return _sliceable(x)
    if _is_jax_sparse(x):
        return _from_jax_sparse(x)
    if isinstance(x, Mapping):
        return {key: plain_nest(value) for key, value in x.items()}
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return type(x)(*map(plain_nest, x))
    if isinstance(x, tuple):
        return tuple(map(plain_nest, x))
    return list(map(plain_nest, x)) if isinstance(x, (list, deque)) else x


def holds_arrays(x: Any) -> bool:
    """Tell whether `x`, a result of `plain_nest`, is an array or tensor, or a nest that holds only these."""
    leaves = list(_leaves(x))
    return any(leaf is not None for leaf in leaves) and all(map(_is_array, leaves))


def _leaves(nest: Any) -> Iterator[Any]:
    """Yield the leaves; only dicts, lists and tuples are branches, while `tf.nest` would open any sequence of items."""
    if isinstance(nest, dict):
        nest = nest.values()
    elif not isinstance(nest, (list, tuple)):
        yield nest
        return
    for branch in nest:
        yield from _leaves(branch)


def whole_array(leaf: Any) -> Any:
    """Return a leaf that is a complete batch as a NumPy array or tensor, with its own dtype and shape."""
    leaf = _standard(leaf)
    if hasattr(leaf, "iloc"):
        return leaf.to_numpy()
    return _scipy_to_tensor(leaf) if _is_scipy_sparse(leaf) else leaf


class ArraySource:
    """A nest of arrays that yields batches of their rows.

    Parameters
    ----------
    x : nest of arrays or tensors, each of shape (rows, ...)
        A result of `plain_nest`. None is an optional input that is left out.
    floatx : str or None
        Cast arrays of other floating-point dtypes to this dtype, batch by batch.

    Attributes
    ----------
    rows : int
        Number of rows of each array.

    Raises
    ------
    ValueError
        The arrays have no rows, have no axis of rows, or have different numbers of rows.
    """

    def __init__(self, x: Any, floatx: str | None) -> None:
        self._structure = pack_inputs(x)
        leaves = [_standard(leaf) for leaf in tf.nest.flatten(self._structure)]
        shapes = [None if leaf is None else tuple(leaf.shape) for leaf in leaves]
        self.rows = _common_rows([shape for shape in shapes if shape is not None])
        self._slices = [_slice(leaf, floatx) for leaf in leaves]

    def batches(self, batch_size: int) -> Iterator[Any]:
        """Yield batches of `batch_size` rows; the last batch holds the remaining rows.

        The batches of an array that needs no cast are views of it.
        """
        for start in range(0, self.rows, batch_size):
            yield self._batch(start, min(start + batch_size, self.rows))

    def _batch(self, start: int, stop: int) -> Any:
        leaves = [rows(start, stop) for rows in self._slices]
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


# ---- Libraries ---------------------------------------------------------------------------------------


def _standard(leaf: Any) -> Any:
    """Return a leaf as a NumPy array or a tensor; a leaf whose slices are converted later is returned unchanged."""
    if leaf is None or type(leaf) is np.ndarray or tf.is_tensor(leaf):
        return tf.convert_to_tensor(leaf) if isinstance(leaf, tf.Variable) else leaf
    package = _package(leaf)
    if (package == "pandas" and hasattr(leaf, "iloc")) or _is_scipy_sparse(leaf):
        return leaf
    return array_from_torch(leaf) if is_torch_tensor(leaf) else np.asarray(leaf)


def _sliceable(matrix: Any) -> Any:
    return matrix.tocsr() if len(matrix.shape) == 2 else _scipy_to_tensor(matrix)


def _scipy_to_tensor(matrix: Any) -> tf.SparseTensor:
    coo = matrix.tocoo(copy=True)
    coo.sum_duplicates()  # this also sorts, as TensorFlow expects
    coordinates = getattr(coo, "coords", None) or (coo.row, coo.col)
    return tf.SparseTensor(np.stack(coordinates, axis=1).astype(np.int64), coo.data, coo.shape)


def _from_jax_sparse(array: Any) -> tf.SparseTensor:
    sparse = sys.modules["jax.experimental.sparse"]
    if hasattr(array, "to_bcoo"):
        array = array.to_bcoo()
    if not isinstance(array, sparse.BCOO):
        array = sparse.BCOO.fromdense(array.todense())
    if array.n_batch or array.n_dense:
        array = array.update_layout(n_batch=0, n_dense=0)
    indices = np.asarray(array.indices)
    is_inside = (indices < np.array(array.shape)).all(axis=1)  # a BCOO's padding entries have indices outside its shape
    # TensorFlow expects sorted indices, and one value for each index.
    places, numbers = np.unique(indices[is_inside].astype(np.int64), axis=0, return_inverse=True)
    values = np.asarray(array.data)[is_inside]
    summed = np.zeros(len(places), values.dtype)
    np.add.at(summed, numbers.reshape(-1), values)
    return tf.SparseTensor(places, summed, array.shape)


# ---- Slicing -----------------------------------------------------------------------------------------


def _is_other_float(dtype: Any, floatx: str | None) -> bool:
    name = str(getattr(dtype, "name", dtype))
    return floatx is not None and name != floatx and (name.startswith("float") or name == "bfloat16")


def _slice(leaf: Any, floatx: str | None) -> _Slice:
    if leaf is None:
        return lambda start, stop: None
    if isinstance(leaf, np.ndarray):
        if _is_other_float(leaf.dtype, floatx):
            return lambda start, stop: aligned_copy(leaf[start:stop], floatx)
        return lambda start, stop: leaf[start:stop]
    if hasattr(leaf, "iloc"):
        return _slice_frame(leaf, floatx)
    if not isinstance(leaf, tf.SparseTensor) and not tf.is_tensor(leaf):
        return _slice_scipy(leaf, floatx)
    wanted = floatx if _is_other_float(leaf.dtype, floatx) else leaf.dtype

    def rows(start: int, stop: int) -> Any:
        if isinstance(leaf, tf.SparseTensor):
            inner = leaf.shape[1:].as_list()
            return tf.cast(tf.sparse.slice(leaf, [start, *(0 for _ in inner)], [stop - start, *inner]), wanted)
        return tf.cast(leaf[start:stop], wanted)

    return rows


def _slice_frame(frame: Any, floatx: str | None) -> _Slice:
    """Slice a pandas DataFrame or Series; a Series becomes one column, as in Keras."""
    is_series = frame.ndim == 1
    dtypes = [frame.dtype] if is_series else list(frame.dtypes)
    cast = floatx if any(_is_other_float(dtype, floatx) for dtype in dtypes) else None

    def rows(start: int, stop: int) -> Any:
        part = frame.iloc[start:stop]
        array = (part if cast is None else part.astype(cast)).to_numpy()
        return array[:, np.newaxis] if is_series else array

    return rows


def _slice_scipy(matrix: Any, floatx: str | None) -> _Slice:
    wanted = floatx if _is_other_float(matrix.dtype, floatx) else matrix.dtype

    def rows(start: int, stop: int) -> Any:
        part = matrix[start:stop].tocoo()
        part.sum_duplicates()  # this also sorts by row, as TensorFlow expects
        indices = np.stack([part.row, part.col], axis=1).astype(np.int64)
        return tf.SparseTensor(indices, part.data.astype(wanted), part.shape)

    return rows
