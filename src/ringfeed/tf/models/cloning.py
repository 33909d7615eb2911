"""Copies of Keras models: with the same weights, on the device of the caller's scope, in another precision if asked.

It may not know of rings, of devices by name or of what the copies are for. A model of layers is made again layer by
layer; any other goes through a temporary ``.keras`` file.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np


def clone(model: Any, policy: str | None = None, keep: Collection[int] = ()) -> Any:
    """Copy a Keras model with its weights; the caller's own stays as it is.

    Parameters
    ----------
    model : keras.Model
        Functional, Sequential or subclassed; built.
    policy : str, optional
        A dtype policy of Keras', as "mixed_float16", for all layers that compute in floats. By default each one's own.
    keep : collection of int
        ``id`` of layers that keep their own policy; used for models of layers only.

    Returns
    -------
    keras.Model
        Of the same class, not compiled. Its variables are made where the caller's ``tf.device`` says. Layers without
        variables are shared with `model`, as far as their policy is the same.

    Raises
    ------
    ValueError
        The model is not built, or Keras cannot make it again; the message says why.
    """
    if not model.built or (not model.variables and getattr(model, "inputs", None) is None):
        raise ValueError(
            f"model {model.name!r} is not built, so there are no weights to copy; call it on a batch first, "
            "or give it an Input."
        )
    with _compiled_set_aside(model), _default_policy(policy), keras.saving.custom_object_scope(_own_objects(model)):
        failure: Exception | None = None
        try:
            copy = _from_layers(model, policy, keep)
        except Exception as error:  # whatever a layer's config or call raises
            copy, failure = None, error
        if copy is None or not _take_weights(copy, model):
            copy = _from_file(model, policy, failure)
    copy.run_eagerly = model.run_eagerly
    return copy


def layers_of(model: Any) -> list[Any]:
    """Return the model and all layers in it, at any depth."""
    return list(model._flatten_layers())


@contextlib.contextmanager
def _compiled_set_aside(model: Any) -> Iterator[None]:
    """Let Keras copy no optimizer: its slots are twice the weights, and custom losses may not be restored at all."""
    compiled = [layer for layer in layers_of(model) if getattr(layer, "compiled", False)]
    for each in compiled:
        each.compiled = False
    try:
        yield
    finally:
        for each in compiled:
            each.compiled = True


@contextlib.contextmanager
def _default_policy(policy: str | None) -> Iterator[None]:
    """Set the policy of layers that are made without one; Keras holds it per thread."""
    before = keras.config.dtype_policy()
    try:
        if policy is not None:
            keras.config.set_dtype_policy(policy)
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _own_objects(model: Any) -> dict[str, Any]:
    """Return the classes and functions that Keras does not know by name."""
    found = {}
    for layer in layers_of(model):
        for each in (type(layer), getattr(layer, "activation", None)):
            name = getattr(each, "__name__", None)
            if name and not str(getattr(each, "__module__", "keras")).startswith("keras."):
                found[name] = each
    return found


# ---- Layer by layer ----------------------------------------------------------------------------------


def _from_layers(model: Any, policy: str | None, keep: Collection[int]) -> Any:
    """Return a functional or Sequential model made anew; None for any other."""

    def make(layer: Any) -> Any:
        return _clone_layer(layer, None if id(layer) in keep else policy)

    if getattr(model, "inputs", None) is None:
        return None
    inputs = None
    if not isinstance(model, keras.Sequential):  # Keras' own copies of inputs would be neither optional nor sparse
        inputs = keras.tree.map_structure(_input_like, model.input)
    elif model.inputs[0].sparse:
        return None
    copy = keras.models.clone_model(model, input_tensors=inputs, clone_function=make, recursive=True)
    return copy if type(copy) is type(model) else None


def _input_like(tensor: Any) -> Any:
    optional = bool(getattr(tensor._keras_history.operation, "optional", False))
    return keras.Input(
        batch_shape=tensor.shape, dtype=tensor.dtype, sparse=tensor.sparse, name=tensor.name, optional=optional
    )


def _clone_layer(layer: Any, policy: str | None) -> Any:
    if not isinstance(layer, keras.layers.Layer):  # one of keras.ops: no state, no policy
        return layer
    changes = policy is not None and _is_float(layer.dtype_policy.compute_dtype) and layer.dtype_policy.name != policy
    if not changes and not layer.variables:  # also what lookups have learned, which no config holds
        return layer
    if isinstance(layer, keras.layers.Lambda):
        return _clone_lambda(layer, policy)
    config = layer.get_config()
    return type(layer).from_config(_with_policy(config, policy) if changes else config)


def _clone_lambda(layer: Any, policy: str | None) -> Any:
    """Make a Lambda of the same function: Keras' own copy of a function has lost its globals."""
    return keras.layers.Lambda(
        layer.function,
        output_shape=layer._output_shape,
        mask=layer.mask,
        arguments=layer.arguments,
        name=layer.name,
        dtype=policy or layer.dtype_policy,
    )


def _is_float(dtype: str | None) -> bool:
    return dtype in ("float16", "bfloat16", "float32", "float64")


def _with_policy(config: Any, policy: str | None) -> Any:
    """Return a config in which every dtype policy of floats is another; None leaves all as they are."""
    if isinstance(config, (list, tuple)):
        return type(config)(_with_policy(item, policy) for item in config)
    if not isinstance(config, dict) or policy is None:
        return config
    if config.get("class_name") == "DTypePolicy" and _is_float(_compute_dtype(config)):
        return {**config, "config": {**config["config"], "name": policy}}
    # Weights are overwritten, and not every initializer knows every dtype: Orthogonal, of LSTM, knows no bfloat16.
    zeros = keras.initializers.serialize(keras.initializers.Zeros())
    return {
        key: zeros if key.endswith("_initializer") and isinstance(value, dict) else _with_policy(value, policy)
        for key, value in config.items()
    }


def _compute_dtype(config: dict[str, Any]) -> str | None:
    return str(config["config"]["name"]).removeprefix("mixed_")


def _take_weights(copy: Any, model: Any) -> bool:
    """Copy all variables; False if they do not pair up."""
    ours, theirs = copy.variables, model.variables
    if [(v.name, tuple(v.shape)) for v in ours] != [(v.name, tuple(v.shape)) for v in theirs]:
        return False
    for one, other in zip(ours, theirs, strict=True):
        one.assign(other)
    for layer in layers_of(copy):
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # it computes with constants made of its variables
    return True


# ---- Through a file ----------------------------------------------------------------------------------


def _from_file(model: Any, policy: str | None, failure: Exception | None) -> Any:
    with tempfile.TemporaryDirectory(prefix="ringfeed-") as folder:
        path = Path(folder) / "model.keras"
        try:
            model.save(path)
            if policy is not None:
                _rewrite_policies(path, policy)
            copy = keras.models.load_model(path, compile=False, safe_mode=False)  # what the caller runs anyway
        except Exception as error:
            raise _not_copied(model, failure or error) from error
    if not _has_weights_of(copy, model):
        raise _not_copied(model, "its weights were not all restored")
    return copy


def _rewrite_policies(path: Path, policy: str) -> None:
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts["config.json"] = json.dumps(_with_policy(json.loads(parts["config.json"]), policy)).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def _has_weights_of(copy: Any, model: Any) -> bool:
    ours, theirs = copy.weights, model.weights
    if len(ours) != len(theirs):
        return False
    arrays = (
        (keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(other))
        for one, other in zip(ours, theirs, strict=True)
    )
    return all(one.shape == other.shape and _is_equal(one, other.astype(one.dtype)) for one, other in arrays)


def _is_equal(one: Any, other: Any) -> bool:
    return bool(np.array_equal(one.view(np.uint8) if one.ndim else one, other.view(np.uint8) if other.ndim else other))


def _not_copied(model: Any, reason: Any) -> ValueError:
    what = (
        f"{type(reason).__name__}: {' '.join(str(reason).split())[:200]}" if isinstance(reason, Exception) else reason
    )
    return ValueError(
        f"model {model.name!r} ({type(model).__name__}) cannot be copied ({what}). "
        "Give its class get_config and from_config, and register its own layers and functions with "
        "@keras.saving.register_keras_serializable()."
    )
