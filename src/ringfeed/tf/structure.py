"""Nests of inputs: what data looks like, and how what was given becomes what a model takes.

It may not know of models that run, rings or batches. A nest is what ``tf.nest`` takes: an array, or lists, tuples and
dicts of nests. `None` is a leaf: an optional input that is left out.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import tensorflow as tf


def structure_key(data: Any) -> Hashable:
    """Return something that is equal for two nests of one structure, whatever their leaves hold."""
    if isinstance(data, dict):
        return type(data), tuple((key, structure_key(value)) for key, value in data.items())
    if isinstance(data, (list, tuple)):
        return type(data), tuple(map(structure_key, data))
    if tf.nest.is_nested(data):
        return type(data), repr(tf.nest.map_structure(lambda leaf: leaf is not None, data))
    return data is not None


def lists_to_tuples(data: Any) -> Any:
    """Turn every list of a nest into a tuple, as Keras does before it slices arrays."""
    if isinstance(data, dict):
        return type(data)((key, lists_to_tuples(value)) for key, value in data.items())
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*map(lists_to_tuples, data))
    if isinstance(data, (list, tuple)):
        return tuple(map(lists_to_tuples, data))
    return data


def pack_inputs(inputs: Any) -> Any:
    """Wrap a model's inputs as a batch ``x`` or ``(x,)``, which no one can take for ``(x, y)``."""
    inputs = lists_to_tuples(inputs)
    return (inputs,) if isinstance(inputs, tuple) else inputs


def unpack_inputs(data: Any) -> Any:
    """Return ``x`` of a batch ``x``, ``(x,)``, ``(x, y)`` or ``(x, y, sample_weight)``.

    Raises
    ------
    ValueError
        The batch is a tuple of another length.
    """
    if not isinstance(data, (list, tuple)):
        return data
    if not 1 <= len(data) <= 3:
        raise ValueError(
            f"a batch of {len(data)} parts: give x, (x,), (x, y) or (x, y, sample_weight), where x may be nested."
        )
    return data[0]


def fit_structure(inputs: Any, expected: Any, owner: str) -> Any:
    """Arrange inputs in the structure that a function was saved or declared with.

    Parameters
    ----------
    inputs : nest of tensors
    expected : nest of tf.TypeSpec
        Their names, where they have any, match the keys of `inputs`.
    owner : str
        Whose inputs these are, for the message.

    Returns
    -------
    nest of tensors
        In the structure of `expected`.

    Raises
    ------
    ValueError
        The inputs can not be matched.
    """
    if isinstance(expected, Mapping) and isinstance(inputs, Mapping):
        if set(expected) <= set(inputs):
            return {key: fit_structure(inputs[key], spec, owner) for key, spec in expected.items()}
    elif isinstance(inputs, Mapping):
        specs = tf.nest.flatten(expected)
        names = [getattr(spec, "name", None) for spec in specs]
        if set(names) <= set(inputs):
            return tf.nest.pack_sequence_as(expected, [inputs[name] for name in names])
        leaves = tf.nest.flatten(inputs)
        if len(leaves) == len(specs) and (len(leaves) == 1 or set(names) == {None}):
            return tf.nest.pack_sequence_as(expected, leaves)
    else:
        leaves = tf.nest.flatten(inputs)
        in_order = not isinstance(expected, Mapping) or list(expected) == sorted(expected) or len(leaves) == 1
        if in_order and len(leaves) == len(tf.nest.flatten(expected)):
            return tf.nest.pack_sequence_as(expected, leaves)
    described = tf.nest.map_structure(lambda leaf: getattr(leaf, "name", None) or "tensor", expected)
    given = tf.nest.map_structure(lambda leaf: getattr(leaf, "shape", leaf), inputs)
    raise ValueError(f"{owner} takes inputs in the structure {described!r}; given were {given!r}. Give the same names.")


def spec_of(type_spec: Any) -> tuple[tuple[int | None, ...], str] | None:
    """Return (shape without batch, dtype name) of a TypeSpec or Keras tensor; None where the rank is free."""
    shape = getattr(type_spec, "shape", None)
    if shape is None or getattr(shape, "rank", 0) is None:
        return None
    dtype = type_spec.dtype
    return tuple(shape)[1:], getattr(dtype, "name", dtype)
