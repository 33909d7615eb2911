"""Nests of inputs: what data looks like, and how what was given becomes what a model takes.

It may not know of models that run, rings or batches. A nest is what ``tf.nest`` takes: an array, or lists, tuples and
mappings of nests. `None` is a leaf: an optional input that is left out.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import tensorflow as tf

_INVENTED = re.compile(r"(keras_tensor|input_layer)(_\d+)?(CLONE)?|inputs?(_\d+)*|args(_\d+)+")


_FLATTENED = re.compile(r"inputs?(_\d+)*|args(_\d+)+")


def are_lost(names: Sequence[str | None]) -> bool:
    """Tell whether TensorFlow numbered the parts of a nest that was saved: whether they had names is not known.

    Had they some, they stand in the order of these.
    """
    return all(name is not None and _FLATTENED.fullmatch(name) is not None for name in names)


def is_invented(name: str | None) -> bool:
    """Tell whether a name of an input says nothing: there is none, or Keras or TensorFlow made it up."""
    return name is None or _INVENTED.fullmatch(name) is not None


def natural(name: str) -> list[Any]:
    """Return a key that sorts inputs, inputs_1, ..., inputs_10 as they were numbered."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def repeated(names: Sequence[str | None]) -> list[str]:
    """Return the names that several inputs have: they do not say which is which."""
    found = [name for name in names if name is not None]
    return [name for name in dict.fromkeys(found) if found.count(name) > 1]


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
    """Turn every list of a nest into a tuple, as Keras does before it slices arrays, and every mapping into a dict.

    A mapping need not be a dict: a tokenizer's ``BatchEncoding`` is a ``collections.UserDict``.
    """
    if isinstance(data, Mapping):
        return {key: lists_to_tuples(value) for key, value in data.items()}
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*map(lists_to_tuples, data))
    if isinstance(data, (list, tuple)):
        return tuple(map(lists_to_tuples, data))
    return data


def pack_inputs(inputs: Any) -> Any:
    """Wrap a model's inputs as a batch ``x`` or ``(x,)``, which no one can take for ``(x, y)``.

    Mappings become dicts and lists tuples.
    """
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


def fit_structure(inputs: Any, expected: Any, owner: str, names: Sequence[str | None] | None = None) -> Any:
    """Arrange inputs in the structure that a model or function was made, saved or declared with.

    A mapping is read by name, in any order of its keys; those that the model has no input for are left out. By position
    are read a tuple, and a mapping for a model that has no names at all: those that Keras and TensorFlow made up are
    names, too. Where TensorFlow lost the names as the model was saved, a mapping must stand in the order of its keys. A
    named tuple that has all the names counts as a mapping.

    Parameters
    ----------
    inputs : nest of tensors
    expected : nest of tf.TypeSpec or Keras tensors
    owner : str
        Whose inputs these are, for the message.
    names : sequence of (str or None), optional
        Of the leaves of `expected`, in the order of ``tf.nest.flatten``; by default what they say themselves.

    Returns
    -------
    nest of tensors
        In the structure of `expected`.

    Raises
    ------
    ValueError
        The inputs cannot be matched; the message names those that are missing.
    """
    if hasattr(inputs, "_fields") and not hasattr(expected, "_fields"):
        own = list(expected) if isinstance(expected, Mapping) else _names_of(expected, names)
        if None not in own and not repeated(own) and set(own) <= set(inputs._fields):  # a named tuple has names as well
            inputs = inputs._asdict()
    if isinstance(expected, Mapping) and isinstance(inputs, Mapping):
        missing = [key for key in expected if key not in inputs]
        if not missing:
            return _like(expected, {key: fit_structure(inputs[key], spec, owner) for key, spec in expected.items()})
        if len(expected) == len(inputs) == 1:
            return _like(
                expected, {missing[0]: fit_structure(next(iter(inputs.values())), expected[missing[0]], owner)}
            )
    elif isinstance(inputs, Mapping):
        if same := repeated(_names_of(expected, names)):
            raise ValueError(
                f"{owner} has several inputs of the name {', '.join(map(repr, same))}, so a mapping does not say which "
                "is which. Give a tuple of the inputs in their order."
            )
        leaves, missing = _by_name(inputs, expected, names)
        if not missing:
            return _packed(expected, leaves)
    else:
        missing = []
        leaves = tf.nest.flatten(inputs)
        in_order = not isinstance(expected, Mapping) or list(expected) == sorted(expected) or len(leaves) == 1
        if in_order and len(leaves) == len(tf.nest.flatten(expected)):
            return _packed(expected, leaves)
    raise ValueError(_mismatch(inputs, expected, owner, missing))


def _like(expected: Any, found: dict[Any, Any]) -> Any:
    """Return a dict; an OrderedDict where one is expected, whose order means something to Keras."""
    return OrderedDict(found) if isinstance(expected, OrderedDict) else found


def _by_name(inputs: Any, expected: Any, names: Sequence[str | None] | None) -> tuple[list[Any], list[Any]]:
    """Return a mapping's leaves as the leaves of `expected` want them, and the names of those that are missing."""
    specs = tf.nest.flatten(expected)
    wanted = _names_of(expected, names)
    if None not in wanted and set(wanted) <= set(inputs):
        return [inputs[name] for name in wanted], []
    given = _in_order(inputs)
    is_in_order = not any(wanted) or (are_lost(wanted) and list(inputs) == sorted(inputs, key=str))
    if len(given) == len(specs) and (len(specs) == 1 or is_in_order):
        return given, []
    return [], [name for name in wanted if name not in inputs]


def _names_of(expected: Any, names: Sequence[str | None] | None) -> list[str | None]:
    return [getattr(spec, "name", None) for spec in tf.nest.flatten(expected)] if names is None else list(names)


def _in_order(nest: Any) -> list[Any]:
    """Return the leaves of a nest; those of a mapping in its own order."""
    if isinstance(nest, Mapping):
        return [leaf for value in nest.values() for leaf in _in_order(value)]
    return [leaf for part in nest for leaf in _in_order(part)] if isinstance(nest, (list, tuple)) else [nest]


def _packed(expected: Any, leaves: list[Any]) -> Any:
    return tf.nest.pack_sequence_as(expected, leaves) if tf.nest.is_nested(expected) else leaves[0]


def _mismatch(inputs: Any, expected: Any, owner: str, missing: list[Any]) -> str:
    described = tf.nest.map_structure(lambda leaf: getattr(leaf, "name", None) or "tensor", expected)
    given = tf.nest.map_structure(lambda leaf: getattr(leaf, "shape", leaf), lists_to_tuples(inputs))
    what = f" Missing: {', '.join(map(repr, missing))}." if missing else ""
    return f"{owner} takes inputs in the structure {described!r}; given were {given!r}.{what} Give the same names."


def spec_of(type_spec: Any) -> tuple[tuple[int | None, ...], str] | None:
    """Return (shape without batch, dtype name) of a TypeSpec or Keras tensor; None where the rank is free."""
    shape = getattr(type_spec, "shape", None)
    if shape is None or getattr(shape, "rank", 0) is None:
        return None
    dtype = type_spec.dtype
    return tuple(shape)[1:], getattr(dtype, "name", dtype)
