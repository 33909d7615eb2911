"""Cast the batches of one iterator to the dtypes of its first batch, as ``tf.data.Dataset.from_generator`` does.

This file may not know where the batches come from or where they go. Keras turns a generator into a dataset with the
dtypes of the first batch, and casts later batches to them without checking the values. Here a cast that would change a
value is an error.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf


class FirstDtypes:
    """Casts batches to the dtypes of the first batch.

    Floating-point numbers may be rounded to float32 or float64, as Keras rounds them. Every other cast must keep the
    values.
    """

    def __init__(self) -> None:
        self._dtypes: list[Any] | None = None
        self._number = 0

    def cast(self, batch: Any) -> Any:
        """Return a batch with the dtypes of the first batch.

        Parameters
        ----------
        batch : nest of numpy.ndarray, tf.Tensor, sparse or ragged tensor, or None
            The next batch. If it has another number of arrays than the first batch, it is returned unchanged.

        Raises
        ------
        ValueError
            The values do not fit into the dtype of the first batch; the message names the batch and both dtypes.
        """
        self._number += 1
        leaves = tf.nest.flatten(batch) if tf.nest.is_nested(batch) else [batch]
        dtypes = list(map(_dtype_of, leaves))
        if self._dtypes is None:
            self._dtypes = dtypes
        if dtypes == self._dtypes or len(dtypes) != len(self._dtypes):
            return batch
        cast = [self._fit(leaf, dtype) for leaf, dtype in zip(leaves, self._dtypes, strict=True)]
        return tf.nest.pack_sequence_as(batch, cast) if tf.nest.is_nested(batch) else cast[0]

    def _fit(self, leaf: Any, wanted: Any) -> Any:
        given = _dtype_of(leaf)
        if given == wanted or given is None or wanted is None:  # None is an optional input that was left out
            return leaf
        result = None
        if isinstance(given, tf.DType) and isinstance(wanted, tf.DType):
            result = cast_unchanged(leaf, given, wanted)
        if result is None:
            raise ValueError(
                f"batch {self._number} of x is of {given.name}, but the first batch was of {wanted.name}, which "
                "cannot hold all of its values. Yield arrays of one dtype in every batch."
            )
        return result


def _dtype_of(leaf: Any) -> Any:
    """Return a leaf's dtype as TensorFlow's; a dtype that TensorFlow lacks is returned unchanged."""
    if leaf is None:
        return None
    try:
        return tf.as_dtype(leaf.dtype)
    except TypeError:
        return leaf.dtype


def cast_unchanged(leaf: Any, given: Any, wanted: Any) -> Any:
    """Cast an array or tensor from `given` to `wanted`; return None if that changes values by more than rounding."""
    if tf.string in (given, wanted) or (given.is_complex and not wanted.is_complex):
        return None
    if isinstance(leaf, (tf.SparseTensor, tf.RaggedTensor)):
        values = (leaf.values if isinstance(leaf, tf.SparseTensor) else leaf.flat_values).numpy()
    else:
        values = leaf.numpy() if tf.is_tensor(leaf) else leaf
    with np.errstate(all="ignore"):
        cast = values.astype(wanted.as_numpy_dtype)
        if given.is_floating and wanted in (tf.float32, tf.float64):
            is_same = np.isfinite(cast) == np.isfinite(values)
        else:
            is_same = _is_equal(values, cast)
    if not np.all(is_same):
        return None
    return tf.cast(leaf, wanted) if isinstance(leaf, (tf.SparseTensor, tf.RaggedTensor)) else cast


def _is_equal(values: Any, cast: Any) -> Any:
    """Tell where a cast kept the value: casting back restores it with its sign, and NaN stays NaN."""
    back = cast.astype(values.dtype)
    if "c" in (values.dtype.kind, cast.dtype.kind):
        return (back == values) | (np.isnan(values) & np.isnan(cast))
    return ((back == values) & ((cast < 0) == (values < 0))) | ((values != values) & (cast != cast))
