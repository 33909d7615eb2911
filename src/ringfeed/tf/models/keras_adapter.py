"""Keras models, and tf_keras models likewise, as the form of a model.

It may not know of files or of rings. Keras itself is imported by whoever has a model of it.
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
    """A symbolic input under the name by which Keras itself asks for it: that of its InputLayer."""

    name: str | None
    shape: Any
    dtype: Any

    @classmethod
    def of(cls, tensor: Any) -> _Input:
        name = getattr(tensor, "name", None)
        if str(name).startswith("keras_tensor"):  # nobody gave one: the layer is called "input_layer_2"
            operation = getattr(getattr(tensor, "_keras_history", None), "operation", None)
            name = getattr(operation, "name", name)
        return cls(name, tensor.shape, tensor.dtype)


def adapt_keras_model(model: Any) -> AdaptedModel:
    """Return the form of a Keras model, built or not.

    Raises
    ------
    RuntimeError
        Keras runs on another backend than TensorFlow.
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
    """Raise where Keras feeds another framework."""
    keras = sys.modules.get("keras")
    if keras is not None and keras.config.backend() != "tensorflow":
        raise RuntimeError(
            f"model {name!r}: Keras runs on the {keras.config.backend()!r} backend, and RingFeed feeds TensorFlow. "
            "Set the environment variable KERAS_BACKEND=tensorflow before Keras is imported."
        )


def _input_nest(model: Any) -> Any:
    """Return the nest of a model's symbolic inputs; None of a model that is subclassed or not built yet."""
    inputs = None
    for attribute in ("input", "inputs"):  # a Sequential model has only the second, always a list of one
        try:
            inputs = getattr(model, attribute)
        except (AttributeError, ValueError):
            continue
        if inputs is not None:
            break
    inputs = inputs[0] if isinstance(inputs, (list, tuple)) and len(inputs) == 1 else inputs
    return None if inputs is None else tf.nest.map_structure(_Input.of, inputs)


def _inputs_of_call(model: Any) -> ModelInputs | None:
    """Return what a subclassed model is called with: one argument, be it a dict of several inputs."""
    model = getattr(model, "ringfeed_wraps", model)
    if not _is_keras_own(model):
        return None
    names = CallArguments.of(model.call).required if hasattr(model, "call") else ()
    return ModelInputs(0, names, takes_dict=True) if len(names) == 1 else None


def _is_keras_own(model: Any) -> bool:
    """Tell whether the model hands a batch's inputs to its `call` as Keras does."""
    step = inspect.getattr_static(type(model), "predict_step", None)
    return str(getattr(step, "__module__", "")).startswith(_KERAS)


def _by_name(model: Any, nest: Any, name: str) -> Callable[[Any], Any]:
    """Return a model's `predict_step` that takes any mapping of inputs, and those of a functional model by name.

    Keras takes them in the order of sorted keys, so a key too many shifts them all.
    """
    expected = nest if _is_keras_own(model) else None

    def arranged(inputs: Mapping[Any, Any]) -> Any:
        return lists_to_tuples(inputs) if expected is None else fit_structure(inputs, expected, f"model {name!r}")

    def step(data: Any) -> Any:
        if isinstance(data, Mapping):  # in a tuple, for a list of two inputs would be taken for (x, y)
            data = (arranged(data),)
        elif isinstance(data, tuple) and data and isinstance(data[0], Mapping):
            data = (arranged(data[0]), *data[1:])
        return model.predict_step(data)

    return step
