"""A model as a function, with what it says of its inputs: their structure, names, shapes and dtypes.

It may not know of Keras, of files or of rings.
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
    """What a model says of its inputs.

    Attributes
    ----------
    template : nest of int
        The structure of the inputs, with the number of each leaf in the order in which ``tf.nest`` flattens them.
    names : tuple of (str or None)
        For each leaf the name that the model has for it, made up or not; None where it has none.
    takes_dict : bool
        The only argument of a function that did not declare its inputs: it may as well take a dict of several.
    optional : tuple of str
        Names of further inputs, which may be left out.
    specs : tuple of ((shape without batch, dtype name) or None)
        Of each leaf; None where the rank is free. Empty where nothing is known.
    """

    template: Any
    names: tuple[str | None, ...]
    takes_dict: bool = False
    optional: tuple[str, ...] = ()
    specs: tuple[Any, ...] = ()

    @classmethod
    def of(cls, nest: Any, names: Sequence[str | None]) -> ModelInputs:
        """Read the structure of a nest; of a leaf, too."""
        specs = tuple(map(spec_of, tf.nest.flatten(nest)))
        template = tf.nest.pack_sequence_as(nest, list(range(len(names)))) if tf.nest.is_nested(nest) else 0
        return cls(template, tuple(names), specs=specs)


def leaf_names(nest: Any, argument: str | None = None) -> list[str | None]:
    """Return the name of each leaf of a nest of TypeSpecs or Keras tensors, in the order of ``tf.nest.flatten``.

    Parameters
    ----------
    nest : nest
        A dict's keys are names. Elsewhere a leaf has its own; deep in a nest without one, the keys that lead to it.
    argument : str, optional
        Of the Python function that takes the nest: the name of a leaf that has none of its own. TensorFlow makes up
        names for leaves in lists from it ("pair_0"), which say nothing.
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
        What messages call it.
    step : callable
        Takes a batch as Keras passes it to ``predict_step`` (x, (x,), (x, y) or (x, y, sample_weight)),
        returns the nest of outputs. Traceable, except where `keras_model` runs eagerly.
    input_specs : nest of (shape without batch, dtype name), or None
        The inputs' structure; None where the model does not say.
    keras_model : keras.Model or None
        The model itself, which callbacks are told of.
    eager_step : callable or None
        The same without a graph, for code that cannot be traced; None where `step` is all there is.
    owner : object
        What must stay alive while `step` is in use: a restored object owns the variables.
    inputs : ModelInputs or None
        Names and structure of the inputs, also where their shapes are not known.
    origin : str
        Where it comes from, for people.
    fit : callable or None
        Takes a batch in memory and returns it in dtypes that `step` takes. Raises `LossyCast` where numbers would
        become others. None where `step` takes all.
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

        One for each leaf of `input_specs`, in the order in which ``tf.nest`` flattens them; None in the place of a name
        that the model does not have, or that Keras or TensorFlow made up. None altogether where the model does not say
        its inputs. A function of several arguments has names though it says no shapes.
        """
        if self.inputs is None or self.inputs.takes_dict:
            return None
        return [None if is_generated(name) else name for name in self.inputs.names]


def specs_of(nest: Any) -> Any:
    """Return the nest of (shape without batch, dtype name); None where a rank is free."""
    known = all(spec_of(leaf) is not None for leaf in tf.nest.flatten(nest))
    return tf.nest.map_structure(spec_of, nest) if known else None
