"""Every kind of model becomes one function from a batch to outputs.

Knows Keras models, files and folders, TensorFlow functions and plain callables. It may not know of rings, of
tracing or of where the batches come from.
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
    """Return the form of a model of any kind; see `ringfeed.tf.model.ModelRunner`."""
    if isinstance(model, (str, os.PathLike)):
        return _from_path(os.fspath(model), signature, tags)
    if tags is not None:
        raise ValueError(f"tags {tags!r}: they choose a graph in a SavedModel's folder, and the model is none. {_GIVE}")
    if hasattr(model, "signatures") and not callable(getattr(model, "predict_step", None)):
        return _from_restored(model, type(model).__name__, signature)
    if signature is not None:
        raise ValueError(f"signature {signature!r}: SavedModels have some, and the model is none. {_GIVE}")
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


_GIVE = "Leave it out, or give the folder's path as the model."


def _name_of(model: Any) -> str:
    return str(getattr(model, "__name__", None) or getattr(model, "name", None) or type(model).__name__)


# ---- Files and folders ---------------------------------------------------------------------------


def _from_path(path: str, signature: str | None, tags: str | Sequence[str] | None) -> AdaptedModel:
    if not tf.io.gfile.exists(path):
        raise FileNotFoundError(f"model {path!r}: there is no such file or folder.")
    is_folder = tf.io.gfile.isdir(path)
    if is_folder and is_saved_model(path):
        return _from_restored(load_saved_model(path, tags), Path(path).name, signature)
    if is_folder and not tf.io.gfile.exists(f"{path}/config.json"):  # of a Keras model that was not zipped
        raise ValueError(
            f"model {path!r}: it holds no saved_model.pb; give a folder that model.export or tf.saved_model.save wrote."
        )
    if signature is not None or tags is not None:
        what = "signature" if signature is not None else "tags"
        raise ValueError(f"model {path!r}: {what}= is for SavedModels, and this is a file of Keras. Leave it out.")
    return replace(adapt_keras_model(load_keras_file(path)), origin=f"file of Keras {path!r}")


def signatures_of(restored: Any) -> dict[str, Any]:
    """Return the signatures of a restored object that a model can be called by."""
    return {name: function for name, function in restored.signatures.items() if not name.startswith("__saved_model_")}


def _from_restored(restored: Any, name: str, signature: str | None) -> AdaptedModel:
    """Take the entry that keeps most of the structure: Keras' ``serve``, a callable object, a signature."""
    entry = _entry_of(restored)
    if signature is None and entry is not None:
        what, function = entry
        return replace(adapt_function(function, name, restored), origin=f"SavedModel, called by its {what}")
    there = signatures_of(restored)
    listed = ", ".join(map(repr, sorted(there))) or "none"
    if signature is not None and not (isinstance(signature, str) and signature in there):
        raise ValueError(f"model {name!r}: it has no signature {signature!r}; there are {listed}. Give one of these.")
    if signature is None and SERVING_DEFAULT not in there and len(there) != 1:
        raise ValueError(
            f"model {name!r}: no 'serve', no 'serving_default' and not callable; its signatures are {listed}. "
            "Give the one that is meant as signature=, or load it yourself and give a function of it."
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
