"""Choose the devices that a model runs on, and make one replica of the model for each device.

This file may not know rings, engines or batches.
"""

from __future__ import annotations

import inspect
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import tensorflow as tf

from .adapt_model import AdaptedModel, adapt_model

_NAME = re.compile(r"(?:/job:localhost/replica:0/task:0)?/?(?:device:)?([A-Za-z_]+)(?::(\d+))?")
_GROWTH_VARIABLE = "TF_FORCE_GPU_ALLOW_GROWTH"
_COPIED = "only Keras models and paths are copied"
_REMEDY = "Give a list of one model per device, each made under `with tf.device(...)`."


def resolve_devices(names: str | Sequence[str] | None = None) -> list[str]:
    """Return the short names of the devices to use.

    Parameters
    ----------
    names : str or sequence of str, optional
        Names such as "GPU:0", "/CPU:1", "gpu" (the first GPU), or TensorFlow's full names. A device that is named twice
        gets two replicas. The default is the first GPU, or the CPU if there is no GPU.

    Returns
    -------
    list of str
        Names that ``tf.device`` accepts, such as ["GPU:0", "GPU:1"].

    Raises
    ------
    ValueError
        A device does not exist, or no name is given; the message lists the existing devices.

    Notes
    -----
    This function initializes TensorFlow's devices. Call `grow_memory` and
    ``tf.config.set_logical_device_configuration`` before it.
    """
    there = [str(_short(device.name)) for device in tf.config.list_logical_devices()]
    if names is None:
        return [next((name for name in there if name.startswith("GPU:")), "CPU:0")]
    asked = [names] if isinstance(names, str) else list(names)
    if not asked:
        raise ValueError("devices []: name at least one, or give None for the first GPU, else the CPU.")
    return [_found(name, there) for name in asked]


def _found(name: Any, there: list[str]) -> str:
    short = _short(name) if isinstance(name, str) else None
    if short is not None and short in there:
        return short
    raise ValueError(
        f"device {name!r}: there is no such device. TensorFlow has {', '.join(there)}, as "
        "tf.config.list_logical_devices() shows. A missing GPU is hidden by CUDA_VISIBLE_DEVICES, or its driver does "
        "not load. Before TensorFlow is first used, tf.config.set_logical_device_configuration() can split a device."
    )


def _short(name: str) -> str | None:
    match = _NAME.fullmatch(name)
    return f"{match[1].upper()}:{match[2] or 0}" if match else None


def grow_memory() -> None:
    """Let TensorFlow allocate each GPU's memory as needed, so that several processes can share a GPU.

    By default the first process allocates nearly all memory. This function does nothing without a GPU, or if the
    environment sets ``TF_FORCE_GPU_ALLOW_GROWTH=true``.

    Warns
    -----
    RuntimeWarning
        TensorFlow was already used, or the GPU is split into logical devices, so the setting cannot be changed.
    """
    if os.environ.get(_GROWTH_VARIABLE, "").lower() == "true":
        return
    for gpu in tf.config.list_physical_devices("GPU"):
        try:
            if not tf.config.experimental.get_memory_growth(gpu):
                tf.config.experimental.set_memory_growth(gpu, True)
        except (RuntimeError, ValueError) as error:
            warnings.warn(
                f"{gpu.name.removeprefix('/physical_device:')}: memory growth is off and cannot be switched on "
                f"any more ({error}), so this process allocates nearly all of its memory and others get none. Call "
                "ringfeed.tf.grow_memory() before TensorFlow is first used, "
                f"or set {_GROWTH_VARIABLE}=true in the environment.",
                RuntimeWarning,
                stacklevel=2,
            )


def replicas(
    model: Any,
    devices: str | Sequence[str] | None = None,
    *,
    jit_compile: bool = False,
    signature: str | None = None,
    tags: str | Sequence[str] | None = None,
) -> list[AdaptedModel]:
    """Return one adapted model per device, with its variables and operations on that device.

    Parameters
    ----------
    model : keras.Model, path, SavedModel folder, tf.function, callable or AdaptedModel; or a list or tuple of them
        - A Keras model is used unchanged on the device of its weights, and copied to each other device.
        - The path of a file or a folder is loaded once per device.
        - A callable or tf.function without variables runs on any device.
        - A list must hold one model per device.
    devices : str or sequence of str, optional
        As for `resolve_devices`. Replicas on the same device share their weights.
    jit_compile : bool
        Compile each replica with XLA on its device. Do not let `ringfeed.tf.models.runner.ModelRunner` compile it
        again: XLA ignores device scopes inside compiled code.
    signature, tags
        Selection of a SavedModel's function, as for `ringfeed.tf.models.runner.ModelRunner`.

    Returns
    -------
    list of AdaptedModel
        The replicas, in the order of the devices.

    Raises
    ------
    ValueError
        A device does not exist, a list has another length, or the model cannot be on several devices. Whether a
        function uses variables may be known only when it is traced.

    Warns
    -----
    RuntimeWarning
        The model's variables are not on the only device, and the model cannot be copied.

    Notes
    -----
    If the variables are on another device than the operations, the results are right, but each call copies every weight
    between the devices. Compiled by XLA, this model fails ("Trying to access resource ... located in device").
    """
    places = resolve_devices(devices)

    def adapted_at(each: Any, place: str, alone: bool) -> AdaptedModel:
        return _adapted_at(each, place, alone, signature, tags)

    if isinstance(model, (list, tuple)):
        if len(model) != len(places):
            raise ValueError(
                f"{len(model)} models for {len(places)} devices ({', '.join(places)}): give one model per device."
            )
        adapted_models = [adapted_at(each, place, True) for each, place in zip(model, places, strict=True)]
    else:
        alone = len(set(places)) == 1
        of_place = {place: adapted_at(model, place, alone) for place in dict.fromkeys(places)}
        adapted_models = [of_place[place] for place in places]
    return [_bound(adapted, place, jit_compile) for adapted, place in zip(adapted_models, places, strict=True)]


def _adapted_at(model: Any, place: str, alone: bool, signature: str | None, tags: Any) -> AdaptedModel:
    """Adapt a model whose variables are on `place`; `alone` says that no other place is asked for."""
    if isinstance(model, (str, os.PathLike)):
        with tf.device(place):
            return adapt_model(model, signature, tags)
    adapted = adapt_model(model, signature, tags)
    if not alone and not getattr(adapted.keras_model, "built", True):
        raise ValueError(
            f"model {adapted.name!r} is not built, so it has no weights that could be the same on each device; "
            "call it on a batch first."
        )
    variables = _variables_of(adapted, model)
    places = _places_of(variables)
    if not variables or places == {place}:
        return _checked(adapted, place, alone) if adapted.keras_model is None else adapted
    reason = _COPIED
    if _is_keras(adapted.keras_model):
        from .cloning import clone  # only here: a callable needs no Keras

        try:
            with tf.device(place):
                return adapt_model(clone(adapted.keras_model))
        except ValueError as error:
            reason = str(error)
    if not alone:
        raise _not_replicated(adapted.name, places, place, reason)
    _warn_of_distance(adapted.name, places, place, reason)
    return adapted


def _is_keras(model: Any) -> bool:
    if model is None:
        return False
    import keras

    return isinstance(model, keras.Model)


def _bound(adapted: AdaptedModel, place: str, jit_compile: bool) -> AdaptedModel:
    """Run the steps of an adapted model on a device."""
    inner = tf.function(adapted.step, jit_compile=True, autograph=False) if jit_compile else adapted.step

    def on_device(step: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def bound(data: Any) -> Any:
            with tf.device(place):
                return step(data)

        return bound

    eager = None if adapted.eager_step is None else on_device(adapted.eager_step)
    return replace(adapted, step=on_device(inner), eager_step=eager)


# ---- Where variables are -----------------------------------------------------------------------------


def _places_of(variables: Sequence[Any]) -> set[str]:
    """Return the devices of the floating-point variables, if there are any: GPUs lack kernels for some other dtypes."""
    floats = [variable for variable in variables if tf.as_dtype(variable.dtype).is_floating]
    return {str(_short(_device_of(variable))) for variable in floats or variables}


def _device_of(variable: Any) -> str:
    return str(getattr(variable, "value", variable).device if hasattr(variable, "path") else variable.device)


def _variables_of(adapted: AdaptedModel, model: Any) -> list[Any]:
    """Return the variables that a model visibly uses: a function's are found in its closure and its globals."""
    if adapted.keras_model is not None:
        return list(adapted.keras_model.weights)
    owners = [model, *(adapted.owner if isinstance(adapted.owner, tuple) else ())]
    return [variable for owner in owners for variable in _variables_in(owner)]


def _variables_in(owner: Any) -> Iterator[Any]:
    for each in (owner, *_closed_over(owner)):
        if isinstance(each, tf.Variable):
            yield each
            continue
        found = getattr(each, "variables", None)
        if isinstance(found, (list, tuple)) and not inspect.ismodule(each):
            yield from (variable for variable in found if hasattr(variable, "dtype"))


def _closed_over(function: Any) -> Iterator[Any]:
    function = getattr(function, "python_function", function)
    function = getattr(function, "func", function)  # functools.partial
    yield getattr(function, "__self__", None)
    if inspect.ismethod(function):
        function = function.__func__
    if inspect.isfunction(function):
        used = inspect.getclosurevars(function)
        yield from (*used.nonlocals.values(), *used.globals.values())


def _checked(adapted: AdaptedModel, place: str, alone: bool) -> AdaptedModel:
    """Check for variables on other devices while a function is traced, because they are known only then."""
    refused: list[ValueError] = []

    def step(data: Any) -> Any:
        outputs = adapted.step(data)
        elsewhere = _captured_places() - {place}
        if elsewhere and alone:
            _warn_of_distance(adapted.name, elsewhere, place, _COPIED)
        elif elsewhere:
            refused.append(_not_replicated(adapted.name, elsewhere, place, _COPIED))
            raise refused[0]
        return outputs

    def eager_step(data: Any) -> Any:
        if refused:  # a function that cannot be traced runs eagerly, but this one was traced and refused
            raise refused[0]
        assert adapted.eager_step is not None
        return adapted.eager_step(data)

    return replace(adapted, step=step, eager_step=None if adapted.eager_step is None else eager_step)


def _captured_places() -> set[str]:
    """Return the devices of the floating-point variables that the function being traced has captured so far."""
    graph = tf.compat.v1.get_default_graph() if tf.inside_function() else None
    places = set()
    for capture in getattr(graph, "external_captures", ()):
        known = getattr(getattr(capture, "_handle_data", None), "shape_and_type", ())  # empty for a lookup table
        if any(tf.as_dtype(each.dtype).is_floating for each in known):
            places.add(str(_short(capture.device)))
    return places


def _not_replicated(name: str, places: set[str], place: str, reason: str) -> ValueError:
    where = ", ".join(sorted(places))
    return ValueError(f"model {name!r} cannot be put on {place}: its variables are on {where} ({reason}). {_REMEDY}")


def _warn_of_distance(name: str, places: set[str], place: str, reason: str) -> None:
    where = ", ".join(sorted(places))
    warnings.warn(
        f"model {name!r} runs on {place}, but its variables are on {where}, and every call copies them from there "
        f"({reason}); XLA cannot compile it. Make the model under `with tf.device({place!r})`.",
        RuntimeWarning,
        stacklevel=5,
    )
