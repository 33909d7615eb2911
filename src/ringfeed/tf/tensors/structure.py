"""Structures of inputs: compare nests, and arrange given inputs in the structure that a model expects.

This file may not know models that run, rings or batches. A nest is an array, or a list, tuple or mapping of nests, as
in ``tf.nest``. None is a leaf: an optional input that is left out.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import tensorflow as tf

# Names that Keras and TensorFlow generate for inputs without a name.
_GENERATED = re.compile(r"(keras_tensor|input_layer)(_\d+)?(CLONE)?|inputs?(_\d+)*|args(_\d+)+")
# Names by which TensorFlow numbers the parts of a nest when it saves a model.
_NUMBERED = re.compile(r"inputs?(_\d+)*|args(_\d+)+")


def names_are_lost(names: Sequence[str | None]) -> bool:
    """Tell whether TensorFlow replaced the names of a saved nest by numbers; its parts may have had names.

    If the parts had names, they are in the order of these names.
    """
    return all(name is not None and _NUMBERED.fullmatch(name) is not None for name in names)


def is_generated(name: str | None) -> bool:
    """Tell whether an input has no name of the user's: it has none, or Keras or TensorFlow generated it."""
    return name is None or _GENERATED.fullmatch(name) is not None


def natural_key(name: str) -> list[Any]:
    """Return a sort key that puts inputs, inputs_1, ..., inputs_10 in the order of their numbers."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def repeated_names(names: Sequence[str | None]) -> list[str]:
    """Return the names that more than one input has, and that therefore identify no input."""
    found = [name for name in names if name is not None]
    return [name for name in dict.fromkeys(found) if found.count(name) > 1]


def structure_key(data: Any) -> Hashable:
    """Return a key that is equal for two nests of the same structure, regardless of their leaves' values."""
    if isinstance(data, dict):
        return type(data), tuple((key, structure_key(value)) for key, value in data.items())
    if isinstance(data, (list, tuple)):
        return type(data), tuple(map(structure_key, data))
    if tf.nest.is_nested(data):
        return type(data), repr(tf.nest.map_structure(lambda leaf: leaf is not None, data))
    return data is not None


def lists_to_tuples(data: Any) -> Any:
    """Turn each list of a nest into a tuple, as Keras does before it slices arrays, and each mapping into a dict.

    A mapping may be of any class: a tokenizer's ``BatchEncoding`` is a ``collections.UserDict``.
    """
    if isinstance(data, Mapping):
        return {key: lists_to_tuples(value) for key, value in data.items()}
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*map(lists_to_tuples, data))
    if isinstance(data, (list, tuple)):
        return tuple(map(lists_to_tuples, data))
    return data


def pack_inputs(inputs: Any) -> Any:
    """Wrap a model's inputs as a batch ``x`` or ``(x,)``, which cannot be mistaken for ``(x, y)``.

    Mappings become dicts, and lists become tuples.
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
            f"a batch has {len(data)} parts: give x, (x,), (x, y) or (x, y, sample_weight), where x may be nested."
        )
    return data[0]


def fit_structure(inputs: Any, expected: Any, owner: str, names: Sequence[str | None] | None = None) -> Any:
    """Arrange inputs in the structure that a model or function was made, saved or declared with.

    A mapping is matched by name, in any order of its keys; keys without an input are ignored. A tuple is matched by
    position. So is a mapping for a model without names; names that Keras and TensorFlow generated count as names here.
    If TensorFlow lost the names when the model was saved, the mapping must be in the sorted order of its keys. A named
    tuple that has all names counts as a mapping.

    Parameters
    ----------
    inputs : nest of tensors
        The given inputs.
    expected : nest of tf.TypeSpec or Keras tensors
        The inputs that the model declares.
    owner : str
        The model or function that takes the inputs, for the message.
    names : sequence of (str or None), optional
        Names of the leaves of `expected`, in the order of ``tf.nest.flatten``. The default is the name of each leaf.

    Returns
    -------
    nest of tensors
        The inputs in the structure of `expected`.

    Raises
    ------
    ValueError
        The inputs cannot be matched; the message lists the missing names.
    """
    if hasattr(inputs, "_fields") and not hasattr(expected, "_fields"):
        own = list(expected) if isinstance(expected, Mapping) else _names_of(expected, names)
        has_all_names = None not in own and not repeated_names(own) and set(own) <= set(inputs._fields)
        if has_all_names:
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
        if same := repeated_names(_names_of(expected, names)):
            raise ValueError(
                f"{owner} has several inputs of the name {', '.join(map(repr, same))}, so a mapping does not identify "
                "them. Give a tuple of the inputs in their order."
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
    """Return `found`, as an OrderedDict if one is expected: Keras depends on its order."""
    return OrderedDict(found) if isinstance(expected, OrderedDict) else found


def _by_name(inputs: Any, expected: Any, names: Sequence[str | None] | None) -> tuple[list[Any], list[Any]]:
    """Return a mapping's leaves in the order of the leaves of `expected`, and the names that are missing."""
    specs = tf.nest.flatten(expected)
    wanted = _names_of(expected, names)
    if None not in wanted and set(wanted) <= set(inputs):
        return [inputs[name] for name in wanted], []
    given = _in_order(inputs)
    is_in_order = not any(wanted) or (names_are_lost(wanted) and list(inputs) == sorted(inputs, key=str))
    if len(given) == len(specs) and (len(specs) == 1 or is_in_order):
        return given, []
    return [], [name for name in wanted if name not in inputs]


def _names_of(expected: Any, names: Sequence[str | None] | None) -> list[str | None]:
    return [getattr(spec, "name", None) for spec in tf.nest.flatten(expected)] if names is None else list(names)


def _in_order(nest: Any) -> list[Any]:
    """Return the leaves of a nest, a mapping's leaves in the order of its keys."""
    if isinstance(nest, Mapping):
        return [leaf for value in nest.values() for leaf in _in_order(value)]
    return [leaf for part in nest for leaf in _in_order(part)] if isinstance(nest, (list, tuple)) else [nest]


def _packed(expected: Any, leaves: list[Any]) -> Any:
    return tf.nest.pack_sequence_as(expected, leaves) if tf.nest.is_nested(expected) else leaves[0]


def _mismatch(inputs: Any, expected: Any, owner: str, missing: list[Any]) -> str:
    described = tf.nest.map_structure(lambda leaf: getattr(leaf, "name", None) or "tensor", expected)
    given = tf.nest.map_structure(lambda leaf: getattr(leaf, "shape", leaf), lists_to_tuples(inputs))
    what = f" Missing: {', '.join(map(repr, missing))}." if missing else ""
    return f"{owner} takes inputs in the structure {described!r}, but was given {given!r}.{what} Give the same names."


def spec_of(type_spec: Any) -> tuple[tuple[int | None, ...], str] | None:
    """Return (shape without the batch axis, dtype name) of a TypeSpec or Keras tensor; None if the rank is unknown."""
    shape = getattr(type_spec, "shape", None)
    if shape is None or getattr(shape, "rank", 0) is None:
        return None
    dtype = type_spec.dtype
    return tuple(shape)[1:], getattr(dtype, "name", dtype)
