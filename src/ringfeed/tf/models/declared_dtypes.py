"""What is given to inputs of declared dtypes: cast where that keeps the numbers, else refused.

It may not know of models, rings or where batches come from.
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
    """A number of a batch would become another one; other batches may have better ones."""


@functools.cache
def may_cast(given: Any, wanted: Any) -> bool:
    """Tell whether a graph may cast from one dtype to another.

    Integers become wider ones or floats, and floats other floats, as Keras casts them; but nothing becomes a dtype that
    has other numbers for some of its numbers: integers are cut modulo its size, floats to whole numbers.
    """
    if given == wanted or tf.string in (given, wanted):  # of text TensorFlow says itself that it does not fit
        return True
    if wanted.is_complex:
        return True
    if wanted.is_floating:
        return not given.is_complex
    try:
        return bool(np.can_cast(given.as_numpy_dtype, wanted.as_numpy_dtype, "safe"))
    except TypeError:  # of no numbers
        return True


class DeclaredDtypes:
    """The dtypes of a function's inputs.

    Parameters
    ----------
    specs : sequence of tf.TypeSpec
        Of each input; only those of plain tensors are looked at.
    names : sequence of (str or None)
    owner : str
        Whose inputs these are, for messages.
    """

    def __init__(self, specs: Sequence[Any], names: Sequence[str | None], owner: str) -> None:
        self._owner = owner
        self._names = names
        self._dtypes = [spec.dtype if isinstance(spec, tf.TensorSpec) else None for spec in specs]
        self._plain = {dtype for dtype in self._dtypes if dtype is not None}

    def take_all(self, leaves: Sequence[Any]) -> bool:
        """Tell whether any input may be given any of these leaves, so that none need be looked at."""
        return all(
            may_cast(given, wanted)
            for given in set(map(_dtype_of, leaves))
            if given is not None
            for wanted in self._plain
        )

    def fit(self, leaves: Sequence[Any]) -> list[Any]:
        """Return the leaves of a batch in memory, those that no graph may cast in the dtypes of their inputs.

        Raises
        ------
        LossyCast
            A number would become another one.
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
                f"{self._described(number, given, wanted)} that it does not hold. Give {wanted.name}, or declare "
                f"the input as {given.name}."
            )
        return PaddedRows(cast, leaf.sample_shape) if is_padded else cast

    def cast(self, number: int, tensor: Any) -> Any:
        """Return a tensor of a graph in the dtype of its input.

        Raises
        ------
        ValueError
            Some of its numbers would become others.
        """
        wanted: Any = self._dtypes[number]
        if tensor is None or wanted is None or tensor.dtype == wanted or tf.string in (tensor.dtype, wanted):
            return tensor
        if not may_cast(tensor.dtype, wanted):
            raise ValueError(
                f"{self._described(number, tensor.dtype, wanted)} that may not fit. Give {wanted.name}, in a ring "
                f"as the field's dtype, or declare the input as {tensor.dtype.name}."
            )
        return tf.cast(tensor, wanted)

    def _described(self, number: int, given: Any, wanted: Any) -> str:
        name = self._names[number]
        which = f"input {number}" if name is None else f"input {name!r}"
        return f"{self._owner}: {which} is declared as {wanted.name}, and given is {given.name}, with numbers"


def _dtype_of(leaf: Any) -> Any:
    if isinstance(leaf, PaddedRows):
        leaf = leaf.array
    try:
        return tf.as_dtype(leaf.dtype)
    except (AttributeError, TypeError):  # None, or what TensorFlow has no dtype for
        return None
