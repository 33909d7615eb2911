"""Copy Keras models: with the same weights, on the device of the caller's scope, optionally in another precision.

This file may not know rings, names of devices, or the purpose of the copies. A model of layers is rebuilt layer by
layer; any other model is copied through a temporary ``.keras`` file.

Experimental: it uses private attributes of Keras (``_flatten_layers``, ``_keras_history``, ``_output_shape``), which
may change with any release of Keras.
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
    """Copy a Keras model with its weights; the caller's model is not changed. Experimental.

    Experimental: it leans on private parts of Keras.

    Parameters
    ----------
    model : keras.Model
        A functional, Sequential or subclassed model that is built.
    policy : str, optional
        A dtype policy of Keras, such as "mixed_float16", for all layers that compute in floating point. By default each
        layer keeps its own.
    keep : collection of int
        ``id`` of each layer that keeps its own policy; used only for models of layers.

    Returns
    -------
    keras.Model
        A copy of the same class, not compiled. Its variables are created on the device of the caller's ``tf.device``
        scope. Layers without variables are shared with `model` if their policy is the same.

    Raises
    ------
    ValueError
        The model is not built, or Keras cannot rebuild it; the message gives the reason.

    Notes
    -----
    Experimental: this function uses private attributes of Keras, which may change with any release of Keras.
    """
    if not model.built or (not model.variables and getattr(model, "inputs", None) is None):
        raise ValueError(
            f"model {model.name!r} is not built, so there are no weights to copy. Call it on a batch first, or give "
            "it an Input."
        )
    with _without_compilation(model), _default_policy(policy), keras.saving.custom_object_scope(_own_objects(model)):
        failure: Exception | None = None
        try:
            copy = _from_layers(model, policy, keep)
        except Exception as error:  # a layer's config or call may raise any error
            copy, failure = None, error
        if copy is None or not _take_weights(copy, model):
            copy = _from_file(model, policy, failure)
    copy.run_eagerly = model.run_eagerly
    return copy


def layers_of(model: Any) -> list[Any]:
    """Return the model and all its layers, at any depth."""
    return list(model._flatten_layers())


@contextlib.contextmanager
def _without_compilation(model: Any) -> Iterator[None]:
    """Hide the compilation from Keras: an optimizer's state is twice the weights, and custom losses may be lost."""
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
    """Set the policy of layers that are made without one; Keras has one default per thread."""
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
    """Rebuild a functional or Sequential model; return None for any other model."""

    def make(layer: Any) -> Any:
        return _clone_layer(layer, None if id(layer) in keep else policy)

    if getattr(model, "inputs", None) is None:
        return None
    inputs = None
    if not isinstance(model, keras.Sequential):  # Keras' own copies of inputs lose the flags `optional` and `sparse`
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
    if not isinstance(layer, keras.layers.Layer):  # an operation of keras.ops has no state and no policy
        return layer
    changes = policy is not None and _is_float(layer.dtype_policy.compute_dtype) and layer.dtype_policy.name != policy
    if not changes and not layer.variables:  # shared: a config would not hold the tables of lookup layers
        return layer
    if isinstance(layer, keras.layers.Lambda):
        return _clone_lambda(layer, policy)
    config = layer.get_config()
    return type(layer).from_config(_with_policy(config, policy) if changes else config)


def _clone_lambda(layer: Any, policy: str | None) -> Any:
    """Make a Lambda of the same function, because Keras' own copy of the function loses its globals."""
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
    """Return a config in which each floating-point dtype policy is replaced; None leaves the config unchanged."""
    if isinstance(config, (list, tuple)):
        return type(config)(_with_policy(item, policy) for item in config)
    if not isinstance(config, dict) or policy is None:
        return config
    if config.get("class_name") == "DTypePolicy" and _is_float(_compute_dtype(config)):
        return {**config, "config": {**config["config"], "name": policy}}
    # The weights are overwritten later, and some initializers lack dtypes: Orthogonal, used by LSTM, lacks bfloat16.
    zeros = keras.initializers.serialize(keras.initializers.Zeros())
    return {
        key: zeros if key.endswith("_initializer") and isinstance(value, dict) else _with_policy(value, policy)
        for key, value in config.items()
    }


def _compute_dtype(config: dict[str, Any]) -> str | None:
    return str(config["config"]["name"]).removeprefix("mixed_")


def _take_weights(copy: Any, model: Any) -> bool:
    """Copy the values of all variables; return False if the variables do not correspond."""
    ours, theirs = copy.variables, model.variables
    if [(v.name, tuple(v.shape)) for v in ours] != [(v.name, tuple(v.shape)) for v in theirs]:
        return False
    for one, other in zip(ours, theirs, strict=True):
        one.assign(other)
    for layer in layers_of(copy):
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # the layer computes with constants that it derives from its variables
    return True


# ---- Through a file ----------------------------------------------------------------------------------


def _from_file(model: Any, policy: str | None, failure: Exception | None) -> Any:
    with tempfile.TemporaryDirectory(prefix="ringfeed-") as folder:
        path = Path(folder) / "model.keras"
        try:
            model.save(path)
            if policy is not None:
                _rewrite_policies(path, policy)
            # The file holds code that the caller runs anyway, so safe_mode is not needed.
            copy = keras.models.load_model(path, compile=False, safe_mode=False)
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
