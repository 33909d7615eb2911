"""Every kind of model becomes one function from a batch to outputs.

Knows Keras models, files and folders, TensorFlow functions and plain callables. It may not know of rings, of
tracing or of where the batches come from.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from .structure import fit_structure, spec_of, unpack_inputs


@dataclass(frozen=True)
class ModelForm:
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
        The same without a graph, for code that can not be traced; None where `step` is all there is.
    owner : object
        What must stay alive while `step` is in use: a restored object owns the variables.
    """

    name: str
    step: Callable[[Any], Any]
    input_specs: Any = None
    keras_model: Any = None
    eager_step: Callable[[Any], Any] | None = None
    owner: Any = None


def model_form(model: Any) -> ModelForm:
    """Return the form of a model of any kind; see `ringfeed.tf.model.ModelRunner`."""
    if isinstance(model, ModelForm):
        return model
    if isinstance(model, (str, os.PathLike)):
        return _from_path(os.fspath(model))
    if callable(getattr(model, "predict_step", None)):  # keras.Model, and tf_keras.Model likewise
        return _from_keras(model)
    if hasattr(model, "signatures"):
        return _from_restored(model, type(model).__name__)
    if callable(model):
        return _from_callable(model, _name_of(model), model)
    raise TypeError(
        f"a model can not be made of {type(model).__name__!r}: give a Keras model, the path of a .keras file or of a "
        "SavedModel folder, a tf.function or a callable on tensors."
    )


def _name_of(model: Any) -> str:
    return str(getattr(model, "__name__", None) or getattr(model, "name", None) or type(model).__name__)


def _require_tensorflow_backend(name: str) -> None:
    keras = sys.modules.get("keras")
    if keras is not None and keras.config.backend() != "tensorflow":
        raise RuntimeError(
            f"model {name!r}: Keras runs on the {keras.config.backend()!r} backend, and RingFeed feeds TensorFlow. "
            "Set the environment variable KERAS_BACKEND=tensorflow before Keras is imported."
        )


# ---- Keras ---------------------------------------------------------------------------------------


def _from_keras(model: Any) -> ModelForm:
    name = str(getattr(model, "name", type(model).__name__))
    if isinstance(model, getattr(sys.modules.get("keras"), "Model", ())):
        _require_tensorflow_backend(name)
    return ModelForm(name, model.predict_step, _keras_input_specs(model), model, model.predict_step)


def _keras_input_specs(model: Any) -> Any:
    inputs = None
    for attribute in ("input", "inputs"):  # a Sequential model has only the second, always a list of one
        try:
            inputs = getattr(model, attribute)
        except (AttributeError, ValueError):  # subclassed, or not built yet
            continue
        if inputs is not None:
            break
    if inputs is None:
        return None
    if isinstance(inputs, (list, tuple)) and len(inputs) == 1:
        inputs = inputs[0]
    specs = tf.nest.map_structure(spec_of, inputs)
    return specs if _all_known(inputs) else None


def _all_known(type_specs: Any) -> bool:
    return all(spec_of(leaf) is not None for leaf in tf.nest.flatten(type_specs))


# ---- Files and folders ---------------------------------------------------------------------------


def _from_path(path: str) -> ModelForm:
    name = Path(path).name
    if not tf.io.gfile.exists(path):
        raise FileNotFoundError(f"model {path!r}: there is no such file or folder.")
    if not tf.io.gfile.isdir(path):
        import keras  # only here: a callable needs no Keras

        _require_tensorflow_backend(name)
        return _from_keras(keras.models.load_model(path))
    if not any(tf.io.gfile.exists(f"{path}/saved_model.{ending}") for ending in ("pb", "pbtxt")):
        raise ValueError(
            f"model {path!r}: it holds no saved_model.pb; give a folder that model.export or tf.saved_model.save wrote."
        )
    return _from_restored(tf.saved_model.load(path), name)


def _from_restored(restored: Any, name: str) -> ModelForm:
    """Take the entry that keeps most of the structure: Keras' ``serve``, a callable object, a signature."""
    if callable(getattr(restored, "serve", None)):
        return _from_callable(restored.serve, name, restored)
    if callable(restored):
        return _from_callable(restored.__call__, name, restored)
    signatures = dict(restored.signatures)
    if "serving_default" not in signatures and len(signatures) != 1:
        raise ValueError(
            f"model {name!r}: no 'serve', no 'serving_default' and not callable; it has the signatures "
            f"{sorted(signatures)}. Load it yourself and give the one that is meant."
        )
    function = signatures.get("serving_default") or next(iter(signatures.values()))
    return _from_callable(function, name, restored)


# ---- Functions -----------------------------------------------------------------------------------


def _from_callable(function: Any, name: str, owner: Any) -> ModelForm:
    owner = (function, owner)  # a signature holds its variables only while its module lives
    declared = _declared_signature(function)
    if declared is None:
        return _from_undeclared(function, name, owner)
    positional, keywords = declared
    options = {"training": False} if _takes_training(function) else {}
    expected, call = _with_keywords(function, keywords) if keywords else _with_positions(function, positional, options)

    def step(data: Any) -> Any:
        inputs = fit_structure(unpack_inputs(data), expected, f"model {name!r}")
        return call(tf.nest.map_structure(_cast, inputs, expected, check_types=False))

    specs = tf.nest.map_structure(spec_of, expected) if _all_known(expected) else None
    return ModelForm(name, step, specs, owner=owner)


def _cast(value: Any, spec: Any) -> Any:
    """Cast as Keras casts to an input's dtype; inside the function, so that the fewest bytes travel."""
    if value is None or not isinstance(spec, tf.TensorSpec) or value.dtype == spec.dtype:
        return value
    return value if tf.string in (value.dtype, spec.dtype) else tf.cast(value, spec.dtype)


def _with_positions(
    function: Any, expected: tuple[Any, ...], options: dict[str, Any]
) -> tuple[Any, Callable[[Any], Any]]:
    if len(expected) == 1:
        return expected[0], lambda inputs: function(inputs, **options)
    return expected, lambda inputs: function(*inputs, **options)


def _with_keywords(function: Any, expected: dict[str, Any]) -> tuple[Any, Callable[[Any], Any]]:
    names = sorted(expected, key=_natural)
    if len(names) == 1:
        return expected[names[0]], lambda inputs: _unnamed_outputs(function(**{names[0]: inputs}))
    if all(re.fullmatch(r"inputs(_\d+)?", name) for name in names):  # invented: only the order means something
        unnamed = tuple(tf.TensorSpec(expected[name].shape, expected[name].dtype) for name in names)
        return unnamed, lambda inputs: _unnamed_outputs(function(**dict(zip(names, inputs, strict=True))))
    return expected, lambda inputs: _unnamed_outputs(function(**inputs))


def _declared_signature(function: Any) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Return the nests of TypeSpec given by position, and those by keyword; None where the function takes anything."""
    signature = getattr(function, "input_signature", None)  # a tf.function's, also when restored
    if signature:
        return tuple(signature), {}
    concrete = function
    if not hasattr(concrete, "structured_input_signature"):
        candidates = getattr(function, "concrete_functions", None) or []  # of a restored tf.function
        if not candidates:
            return None
        concrete = candidates[0]
    arguments, keywords = concrete.structured_input_signature
    arguments = tuple(argument for argument in arguments if _is_tensor_nest(argument))
    return (arguments, {}) if arguments else ((), dict(keywords))


def _is_tensor_nest(argument: Any) -> bool:
    leaves = tf.nest.flatten(argument)
    return bool(leaves) and all(isinstance(leaf, tf.TypeSpec) for leaf in leaves)


def _natural(key: str) -> list[Any]:
    """Sort inputs, inputs_1, ..., inputs_10 as they were flattened."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", key)]


def _takes_training(function: Any) -> bool:
    """Tell whether a restored function has the argument `training`, as models saved by Keras 2 do."""
    if hasattr(function, "structured_input_signature"):  # a concrete one: that is settled
        return False
    return "training" in getattr(getattr(function, "function_type", None), "parameters", {})


def _unnamed_outputs(outputs: Any) -> Any:
    """Undo the names that TensorFlow invents for a signature's outputs: output_0 alone, or a list of them."""
    if not isinstance(outputs, dict) or not outputs:
        return outputs
    names = [f"output_{number}" for number in range(len(outputs))]
    if set(names) != set(outputs):
        return outputs
    return outputs["output_0"] if len(names) == 1 else [outputs[name] for name in names]


def _from_undeclared(function: Any, name: str, owner: Any) -> ModelForm:
    names = _positional_names(getattr(function, "python_function", function))

    def step_of(target: Any) -> Callable[[Any], Any]:
        def step(data: Any) -> Any:
            inputs = unpack_inputs(data)
            if len(names) > 1 and isinstance(inputs, dict) and set(names) <= set(inputs):
                return target(*(inputs[name] for name in names))
            if len(names) > 1 and isinstance(inputs, tuple) and len(inputs) == len(names):
                return target(*inputs)
            return target(inputs)

        return step

    if isinstance(function, tf.types.experimental.PolymorphicFunction):
        return ModelForm(name, step_of(function), owner=owner)
    return ModelForm(name, step_of(tf.function(function)), eager_step=step_of(function), owner=owner)


def _positional_names(function: Any) -> list[str]:
    """Return the names of the arguments that must be given by position."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # built into C
        return []
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [item.name for item in parameters if item.kind in positional and item.default is item.empty]
