"""Adapt models of Keras and tf_keras to an `AdaptedModel`.

This file may not know files or rings. It does not import Keras: a caller who has a Keras model has imported it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from ..tensors.structure import fit_structure, lists_to_tuples
from .adapted_model import AdaptedModel, ModelInputs, leaf_names, specs_of
from .call_arguments import CallArguments

_KERAS = ("keras.", "tf_keras.")


@dataclass(frozen=True)
class _Input:
    """A symbolic input with the name that Keras uses for it: the name of its InputLayer."""

    name: str | None
    shape: Any
    dtype: Any

    @classmethod
    def of(cls, tensor: Any) -> _Input:
        name = getattr(tensor, "name", None)
        if str(name).startswith("keras_tensor"):  # the user gave no name: use the layer's, such as "input_layer_2"
            operation = getattr(getattr(tensor, "_keras_history", None), "operation", None)
            name = getattr(operation, "name", name)
        return cls(name, tensor.shape, tensor.dtype)


def adapt_keras_model(model: Any) -> AdaptedModel:
    """Adapt a Keras model, built or not.

    Raises
    ------
    RuntimeError
        Keras does not run on the TensorFlow backend.
    """
    name = str(getattr(model, "name", type(model).__name__))
    if isinstance(model, getattr(sys.modules.get("keras"), "Model", ())):
        require_tensorflow_backend(name)
    nest = _input_nest(model)
    specs = None if nest is None else specs_of(nest)
    inputs = _inputs_of_call(model) if nest is None else ModelInputs.of(nest, leaf_names(nest))
    step = _by_name(model, nest, name)
    return AdaptedModel(name, step, specs, model, step, inputs=inputs)


def require_tensorflow_backend(name: str) -> None:
    """Raise RuntimeError if Keras does not run on the TensorFlow backend."""
    keras = sys.modules.get("keras")
    if keras is not None and keras.config.backend() != "tensorflow":
        raise RuntimeError(
            f"model {name!r}: Keras runs on the {keras.config.backend()!r} backend, but RingFeed needs TensorFlow. "
            "Set the environment variable KERAS_BACKEND=tensorflow before Keras is imported."
        )


def _input_nest(model: Any) -> Any:
    """Return the nest of a model's symbolic inputs; None if the model is subclassed or not built yet."""
    inputs = None
    for attribute in ("input", "inputs"):  # a Sequential model has only `inputs`, always a list of one
        try:
            inputs = getattr(model, attribute)
        except (AttributeError, ValueError):
            continue
        if inputs is not None:
            break
    inputs = inputs[0] if isinstance(inputs, (list, tuple)) and len(inputs) == 1 else inputs
    return None if inputs is None else tf.nest.map_structure(_Input.of, inputs)


def _inputs_of_call(model: Any) -> ModelInputs | None:
    """Return the inputs of a subclassed model's `call`: one argument, which may be a dict of several inputs."""
    model = getattr(model, "ringfeed_wraps", model)
    if not _is_keras_own(model):
        return None
    names = CallArguments.of(model.call).required if hasattr(model, "call") else ()
    return ModelInputs(0, names, takes_dict=True) if len(names) == 1 else None


def _is_keras_own(model: Any) -> bool:
    """Tell whether the model uses Keras' own `predict_step`, which passes a batch's inputs to `call`."""
    step = inspect.getattr_static(type(model), "predict_step", None)
    return str(getattr(step, "__module__", "")).startswith(_KERAS)


def _by_name(model: Any, nest: Any, name: str) -> Callable[[Any], Any]:
    """Return a model's `predict_step` that accepts any mapping, and matches a functional model's inputs by name.

    Keras takes a mapping's values in the order of sorted keys, so that one superfluous key shifts all inputs.
    """
    expected = nest if _is_keras_own(model) else None

    def arranged(inputs: Mapping[Any, Any]) -> Any:
        return lists_to_tuples(inputs) if expected is None else fit_structure(inputs, expected, f"model {name!r}")

    def step(data: Any) -> Any:
        if isinstance(data, Mapping):  # wrapped in a tuple, because Keras would take a list of two inputs for (x, y)
            data = (arranged(data),)
        elif isinstance(data, tuple) and data and isinstance(data[0], Mapping):
            data = (arranged(data[0]), *data[1:])
        return model.predict_step(data)

    return step
