"""`AdaptedModel`: a model of any kind as one function, with the structure, names, shapes and dtypes of its inputs.

This file may not know Keras, files or rings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from ..tensors.structure import is_generated, spec_of


@dataclass(frozen=True)
class ModelInputs:
    """The inputs that a model declares.

    Attributes
    ----------
    template : nest of int
        The structure of the inputs; each leaf is its number in the order of ``tf.nest.flatten``.
    names : tuple of (str or None)
        The model's name for each leaf, including names that Keras or TensorFlow generated; None if it has none.
    takes_dict : bool
        The input is the only argument of a function without declared inputs, so a dict of several may be passed.
    optional : tuple of str
        Names of further inputs, which may be left out.
    specs : tuple of ((shape without the batch axis, dtype name) or None)
        The spec of each leaf; None if its rank is unknown. Empty if no spec is known.
    """

    template: Any
    names: tuple[str | None, ...]
    takes_dict: bool = False
    optional: tuple[str, ...] = ()
    specs: tuple[Any, ...] = ()

    @classmethod
    def of(cls, nest: Any, names: Sequence[str | None]) -> ModelInputs:
        """Describe the inputs of a nest, which may be a single leaf."""
        specs = tuple(map(spec_of, tf.nest.flatten(nest)))
        template = tf.nest.pack_sequence_as(nest, list(range(len(names)))) if tf.nest.is_nested(nest) else 0
        return cls(template, tuple(names), specs=specs)


def leaf_names(nest: Any, argument: str | None = None) -> list[str | None]:
    """Return the name of each leaf of a nest of TypeSpecs or Keras tensors, in the order of ``tf.nest.flatten``.

    Parameters
    ----------
    nest : nest
        In a dict, each leaf is named by its key. Elsewhere it has its own name; deep in a nest, a leaf without a name
        is named by the keys that lead to it.
    argument : str, optional
        Name of the argument of the Python function that takes the nest, used for a leaf without a name. TensorFlow
        derives names of leaves in lists from it ("pair_0"); these derived names are ignored.
    """
    if isinstance(nest, Mapping):
        return [
            name
            for key in sorted(nest)
            for name in ([str(key)] if not tf.nest.is_nested(nest[key]) else _deeper(nest[key], argument, str(key)))
        ]
    if tf.nest.is_nested(nest):
        return _deeper(nest, argument, "")
    name = getattr(nest, "name", None)
    return [argument if name is None else name]


def _deeper(nest: Any, argument: str | None, path: str) -> list[str | None]:
    parts: list[tuple[str, Any]]
    if isinstance(nest, Mapping):
        parts = [(str(key), nest[key]) for key in sorted(nest)]
    elif hasattr(nest, "_fields"):
        parts = [(key, getattr(nest, key)) for key in nest._fields]
    else:
        parts = [("", part) for part in nest]
    found: list[str | None] = []
    for number, (key, part) in enumerate(parts):
        below = "/".join(filter(None, (path, key)))
        if tf.nest.is_nested(part):
            found += _deeper(part, argument, below)
            continue
        own = getattr(part, "name", None)
        if own is not None and argument is not None and re.fullmatch(rf"{re.escape(argument)}(_\w+)?_{number}", own):
            own = None
        found.append(below if key and is_generated(own) else own)
    return found


@dataclass(frozen=True)
class AdaptedModel:
    """A model as a function.

    Attributes
    ----------
    name : str
        The model's name in messages.
    step : callable
        Function from a batch as Keras passes it to ``predict_step`` (x, (x,), (x, y) or (x, y, sample_weight)) to the
        nest of outputs. It can be traced, unless `keras_model` runs eagerly.
    input_specs : nest of (shape without the batch axis, dtype name), or None
        The specs in the structure of the inputs; None if the model does not declare them.
    keras_model : keras.Model or None
        The model itself if it is a Keras model, for callbacks.
    eager_step : callable or None
        The step without a graph, for code that cannot be traced; None if there is only `step`.
    owner : object
        Object to keep alive while `step` is in use: a restored object owns the variables.
    inputs : ModelInputs or None
        Names and structure of the inputs; known also for models whose shapes are unknown.
    origin : str
        Description of the model's origin, for people.
    fit : callable or None
        Function that casts a batch in memory to dtypes that `step` accepts. It raises `LossyCast` if the cast would
        change values. None if `step` accepts all dtypes.
    """

    name: str
    step: Callable[[Any], Any]
    input_specs: Any = None
    keras_model: Any = None
    eager_step: Callable[[Any], Any] | None = None
    owner: Any = None
    inputs: ModelInputs | None = None
    origin: str = ""
    fit: Callable[[Any], Any] | None = None

    @property
    def input_names(self) -> list[str | None] | None:
        """The model's names of its inputs.

        There is one name for each leaf of `input_specs`, in the order of ``tf.nest.flatten``. It is None for an input
        without a name, or with a name that Keras or TensorFlow generated. The property is None if the model does not
        declare its inputs. A function of several arguments has names, although its shapes are unknown.
        """
        if self.inputs is None or self.inputs.takes_dict:
            return None
        return [None if is_generated(name) else name for name in self.inputs.names]


def specs_of(nest: Any) -> Any:
    """Return the nest of (shape without the batch axis, dtype name); None if a rank is unknown."""
    known = all(spec_of(leaf) is not None for leaf in tf.nest.flatten(nest))
    return tf.nest.map_structure(spec_of, nest) if known else None
