"""Adapt a model of any kind to one function from a batch to outputs.

This file knows Keras models, files and folders, TensorFlow functions and plain callables. It may not know rings,
tracing or where the batches come from.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tensorflow as tf

from .adapted_model import AdaptedModel
from .function_adapter import adapt_function, flat_argument_names
from .keras_adapter import adapt_keras_model
from .loading import GraphOnly, is_saved_model, load_keras_file, load_saved_model

__all__ = ["AdaptedModel", "adapt_model", "signatures_of"]

SERVING_DEFAULT = "serving_default"


def adapt_model(model: Any, signature: str | None = None, tags: str | Sequence[str] | None = None) -> AdaptedModel:
    """Adapt a model of any kind; the arguments are those of `ringfeed.tf.models.runner.ModelRunner`."""
    if isinstance(model, (str, os.PathLike)):
        return _from_path(os.fspath(model), signature, tags)
    if tags is not None:
        raise ValueError(f"tags {tags!r}: tags select a graph of a SavedModel folder, not of this model. {_REMEDY}")
    if hasattr(model, "signatures") and not callable(getattr(model, "predict_step", None)):
        return _from_restored(model, type(model).__name__, signature)
    if signature is not None:
        raise ValueError(f"signature {signature!r}: only SavedModels have signatures, not this model. {_REMEDY}")
    if isinstance(model, AdaptedModel):
        return model
    if callable(getattr(model, "predict_step", None)):  # keras.Model, and tf_keras.Model likewise
        return adapt_keras_model(model)
    if callable(model):
        return adapt_function(model, _name_of(model), model)
    raise TypeError(
        f"a model cannot be made of {type(model).__name__!r}: give a Keras model, the path of a .keras file or of a "
        "SavedModel folder, a tf.function or a callable on tensors."
    )


_REMEDY = "Leave it out, or give the folder's path as the model."


def _name_of(model: Any) -> str:
    return str(getattr(model, "__name__", None) or getattr(model, "name", None) or type(model).__name__)


# ---- Files and folders ---------------------------------------------------------------------------


def _from_path(path: str, signature: str | None, tags: str | Sequence[str] | None) -> AdaptedModel:
    if not tf.io.gfile.exists(path):
        raise FileNotFoundError(f"model {path!r}: there is no such file or folder. Give the path of a model.")
    is_folder = tf.io.gfile.isdir(path)
    if is_folder and is_saved_model(path):
        return _from_restored(load_saved_model(path, tags), Path(path).name, signature)
    if is_folder and not tf.io.gfile.exists(f"{path}/config.json"):  # a Keras model that was not zipped has this file
        raise ValueError(
            f"model {path!r}: the folder holds no saved_model.pb. Give a folder that model.export or "
            "tf.saved_model.save wrote."
        )
    if signature is not None or tags is not None:
        what = "signature" if signature is not None else "tags"
        raise ValueError(f"model {path!r}: {what}= is for SavedModels, and this is a Keras file. Leave it out.")
    return replace(adapt_keras_model(load_keras_file(path)), origin=f"Keras file {path!r}")


def signatures_of(restored: Any) -> dict[str, Any]:
    """Return the signatures of a restored object that can be called as a model."""
    return {name: function for name, function in restored.signatures.items() if not name.startswith("__saved_model_")}


def _from_restored(restored: Any, name: str, signature: str | None) -> AdaptedModel:
    """Adapt the entry that keeps most of the structure: Keras' ``serve``, else the object itself, else a signature."""
    entry = _entry_of(restored)
    if signature is None and entry is not None:
        what, function = entry
        return replace(adapt_function(function, name, restored), origin=f"SavedModel, called by its {what}")
    there = signatures_of(restored)
    listed = ", ".join(map(repr, sorted(there))) or "none"
    if signature is not None and not (isinstance(signature, str) and signature in there):
        raise ValueError(f"model {name!r} has no signature {signature!r}; it has {listed}. Give one of these.")
    if signature is None and SERVING_DEFAULT not in there and len(there) != 1:
        raise ValueError(
            f"model {name!r} has no 'serve' and no 'serving_default', and is not callable; its signatures are "
            f"{listed}. Give one of them as signature=, or load the model yourself and give a function of it."
        )
    chosen = signature or (SERVING_DEFAULT if SERVING_DEFAULT in there else next(iter(there)))
    order = None if entry is None else flat_argument_names(entry[1])
    origin = f"SavedModel, called by its signature {chosen!r}"
    if isinstance(restored, GraphOnly):
        origin += f" (its objects cannot be restored: {restored.reason})"
    return replace(adapt_function(there[chosen], name, restored, order), origin=origin)


def _entry_of(restored: Any) -> tuple[str, Any] | None:
    if callable(getattr(restored, "serve", None)):
        return "endpoint 'serve'", restored.serve
    return ("__call__", restored.__call__) if callable(restored) else None
