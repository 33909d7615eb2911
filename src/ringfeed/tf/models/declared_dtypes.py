"""Cast inputs to the dtypes that a function declares, if the cast keeps the values; refuse other casts.

This file may not know models, rings or where batches come from.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from ..tensors.first_dtypes import cast_unchanged
from ..tensors.zero_copy import PaddedRows


class LossyCast(ValueError):
    """A cast would change a value of this batch; it may keep those of other batches."""


@functools.cache
def may_cast(given: Any, wanted: Any) -> bool:
    """Tell whether a graph may cast from one dtype to another.

    As in Keras, integers may become wider integers or floats, and floats may become other floats. A cast that could
    change values is refused: it would truncate integers modulo the size of the dtype, and floats to whole numbers.
    """
    if given == wanted or tf.string in (given, wanted):  # for strings, TensorFlow itself reports the mismatch
        return True
    if wanted.is_complex:
        return True
    if wanted.is_floating:
        return not given.is_complex
    try:
        return bool(np.can_cast(given.as_numpy_dtype, wanted.as_numpy_dtype, "safe"))
    except TypeError:  # the dtype is not numeric
        return True


class DeclaredDtypes:
    """The dtypes of a function's inputs.

    Parameters
    ----------
    specs : sequence of tf.TypeSpec
        Spec of each input; only specs of dense tensors are used.
    names : sequence of (str or None)
        Name of each input.
    owner : str
        The function that takes the inputs, for messages.
    """

    def __init__(self, specs: Sequence[Any], names: Sequence[str | None], owner: str) -> None:
        self._owner = owner
        self._names = names
        self._dtypes = [spec.dtype if isinstance(spec, tf.TensorSpec) else None for spec in specs]
        self._plain = {dtype for dtype in self._dtypes if dtype is not None}

    def take_all(self, leaves: Sequence[Any]) -> bool:
        """Tell whether a graph may cast each of these leaves to the dtype of every input; then no value is checked."""
        return all(
            may_cast(given, wanted)
            for given in set(map(_dtype_of, leaves))
            if given is not None
            for wanted in self._plain
        )

    def fit(self, leaves: Sequence[Any]) -> list[Any]:
        """Cast the leaves of a batch in memory whose dtypes a graph may not cast; return all leaves.

        Raises
        ------
        LossyCast
            The cast would change a value.
        """
        return [self._fitted(number, leaf, self._dtypes[number]) for number, leaf in enumerate(leaves)]

    def _fitted(self, number: int, leaf: Any, wanted: Any) -> Any:
        given = _dtype_of(leaf)
        if given is None or wanted is None or may_cast(given, wanted):
            return leaf
        is_padded = isinstance(leaf, PaddedRows)
        cast = cast_unchanged(leaf.array if is_padded else leaf, given, wanted)
        if cast is None:
            raise LossyCast(
                f"{self._described(number, given, wanted)} with values that {wanted.name} cannot hold. Give "
                f"{wanted.name}, or declare the input as {given.name}."
            )
        return PaddedRows(cast, leaf.sample_shape) if is_padded else cast

    def cast(self, number: int, tensor: Any) -> Any:
        """Cast a tensor of a graph to the dtype of its input.

        Raises
        ------
        ValueError
            The cast could change values.
        """
        wanted: Any = self._dtypes[number]
        if tensor is None or wanted is None or tensor.dtype == wanted or tf.string in (tensor.dtype, wanted):
            return tensor
        if not may_cast(tensor.dtype, wanted):
            raise ValueError(
                f"{self._described(number, tensor.dtype, wanted)}, whose values may not fit. Give {wanted.name}, in a "
                f"ring as the field's dtype, or declare the input as {tensor.dtype.name}."
            )
        return tf.cast(tensor, wanted)

    def _described(self, number: int, given: Any, wanted: Any) -> str:
        name = self._names[number]
        which = f"input {number}" if name is None else f"input {name!r}"
        return f"{self._owner}: {which} is declared as {wanted.name}, but was given {given.name}"


def _dtype_of(leaf: Any) -> Any:
    if isinstance(leaf, PaddedRows):
        leaf = leaf.array
    try:
        return tf.as_dtype(leaf.dtype)
    except (AttributeError, TypeError):  # the leaf is None, or TensorFlow lacks its dtype
        return None
