"""Load models from files and folders, for inference only.

This file knows Keras files and SavedModels, including those that TensorFlow Serving can serve but
``tf.saved_model.load`` refuses. It may not know how a model is called.
"""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.protobuf import saved_model_pb2

from .keras_adapter import require_tensorflow_backend

SERVING_TAG = "serve"
_INIT_OP = "__saved_model_init_op"
_MOST_CHARACTERS = 400
_log = logging.getLogger("ringfeed.models")


class GraphOnly:
    """A SavedModel whose objects cannot be restored: its signatures, loaded from its graph and variables.

    Attributes
    ----------
    signatures : mapping of str to function
        The functions that can be called.
    variables : list of tf.Variable
        The model's variables.
    reason : str
        The reason why its objects could not be restored.
    """

    def __init__(self, restored: Any, folder: tempfile.TemporaryDirectory[str], reason: str) -> None:
        self.signatures = restored.signatures
        self.variables = list(restored.variables)
        self.reason = reason
        self._keeps = restored, folder  # assets are read from this folder


# ---- Keras files -------------------------------------------------------------------------------------


def load_keras_file(path: str) -> Any:
    """Load a Keras model for inference, without its optimizer, losses and metrics.

    Parameters
    ----------
    path : str
        A ``.keras``, ``.h5`` or ``.hdf5`` file, or the folder of a model that was saved with ``zipped=False``.

    Raises
    ------
    ValueError
        Keras cannot restore the model; the message gives the reason and the remedy.
    """
    import keras  # imported here because a callable needs no Keras

    require_tensorflow_backend(Path(path).name)
    try:
        model = keras.models.load_model(path, compile=False)
    except Exception as error:  # a user's layer may raise any error
        raise ValueError(f"model {path!r} cannot be loaded: {_first_lines(error)} {_remedy(path, error)}") from error
    if _ran_eagerly(path):
        model.run_eagerly = True
    return model


def _first_lines(error: Exception) -> str:
    text = " ".join(str(error).split())
    if len(text) > _MOST_CHARACTERS:  # Keras appends the reason to the layer's complete config
        text = f"{text[: _MOST_CHARACTERS // 2]} ... {text[-_MOST_CHARACTERS // 2 :]}"
    return f"{type(error).__name__}: {text.rstrip('.')}."


def _remedy(path: str, error: Exception) -> str:
    text = str(error)
    load = f"keras.models.load_model({path!r}, compile=False"
    if re.search(r"safe_mode|unsafe", text):
        return (
            f"It holds Python code. If you trust the author, load it yourself by {load}, safe_mode=False), and give "
            "the loaded model."
        )
    if "No model config" in text:
        return "It may hold weights alone: make the model, call its load_weights, and give the model."
    if "format not supported" in text:
        return "Keras reads .keras, .h5 and .hdf5 files; a SavedModel is given by its folder."
    if isinstance(error, OSError) or "accessible `.keras`" in text:
        return "It is damaged, or its content is not that of its name: copy it, or save the model, again."
    return (
        f"Load it yourself by {load}, custom_objects={{...}}) with the classes and functions that it needs, or with "
        "the Keras version that saved it (package tf_keras for Keras 2), and give the loaded model."
    )


def _ran_eagerly(path: str) -> bool:
    """Tell whether a ``.keras`` file holds a model that runs eagerly, and so may not be traceable."""
    try:
        with zipfile.ZipFile(path) as archive:
            compiled = json.loads(archive.read("config.json")).get("compile_config") or {}
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):  # the file has another format
        return False
    return bool(compiled.get("run_eagerly"))


# ---- SavedModels -------------------------------------------------------------------------------------


def is_saved_model(folder: str) -> bool:
    """Tell whether a folder holds a SavedModel."""
    return any(tf.io.gfile.exists(f"{folder}/saved_model.{ending}") for ending in ("pb", "pbtxt"))


def load_saved_model(path: str, tags: str | Sequence[str] | None = None) -> Any:
    """Load a SavedModel: its objects, or its signatures if TensorFlow cannot restore the objects.

    Parameters
    ----------
    path : str
        The SavedModel's folder.
    tags : str or sequence of str, optional
        Tags of the graph to load. The default is the only graph, else the graph tagged "serve", as in TensorFlow
        Serving.

    Returns
    -------
    object
        The result of ``tf.saved_model.load``, or a `GraphOnly`.

    Raises
    ------
    ValueError
        There is no graph with these tags, and the message lists the existing ones; or the model cannot be loaded.
    TypeError
        `tags` is neither a string nor a sequence of strings.
    """
    wanted = None if tags is None else _checked_tags(tags)
    try:
        return tf.saved_model.load(path, tags=None if wanted is None else sorted(wanted))
    except Exception as error:  # the objects need code that is missing, or another version of TensorFlow
        failure = error
    saved = _read(path, failure)
    wanted = _choose_tags(path, saved, wanted)
    try:
        if len(saved.meta_graphs) > 1:
            return tf.saved_model.load(path, tags=sorted(wanted))
        return _load_graph(path, saved, failure)
    except Exception as error:
        raise ValueError(
            f"model {path!r} cannot be loaded: {_first_lines(failure)} Nor can its graph alone: {_first_lines(error)} "
            "Save it again with the installed version of TensorFlow, or load it yourself and give a function of it."
        ) from failure


def tags_of(path: str) -> list[list[str]]:
    """Return the tags of each graph of a SavedModel."""
    return [sorted(graph.meta_info_def.tags) for graph in _read(path, None).meta_graphs]


def _read(path: str, failure: Exception | None) -> Any:
    saved = saved_model_pb2.SavedModel()
    try:
        if tf.io.gfile.exists(f"{path}/saved_model.pb"):
            with tf.io.gfile.GFile(f"{path}/saved_model.pb", "rb") as file:
                saved.ParseFromString(file.read())
        else:
            with tf.io.gfile.GFile(f"{path}/saved_model.pbtxt") as file:
                text_format.Parse(file.read(), saved)
    except Exception as error:  # the parser's error classes differ between versions
        raise ValueError(f"model {path!r} cannot be read: {_first_lines(error)} Copy or save it again.") from failure
    return saved


def _checked_tags(tags: Any) -> set[str]:
    several = [tags] if isinstance(tags, str) else list(tags) if isinstance(tags, Iterable) else [None]
    if not all(isinstance(tag, str) for tag in several):
        raise TypeError(f"tags {tags!r:.80}: give a string, such as 'serve', or a list of strings.")
    return set(several)


def _choose_tags(path: str, saved: Any, wanted: set[str] | None) -> set[str]:
    there = [set(graph.meta_info_def.tags) for graph in saved.meta_graphs]
    if wanted is None:
        wanted = there[0] if len(there) == 1 else {SERVING_TAG}
    if wanted not in there:
        listed = "; ".join(", ".join(map(repr, sorted(tags))) or "none" for tags in there)
        asked = ", ".join(map(repr, sorted(wanted))) or "none"
        raise ValueError(
            f"model {path!r} has no graph of the tags {asked}; its graphs have {listed}. Give these as tags=."
        )
    return wanted


def _load_graph(path: str, saved: Any, failure: Exception) -> GraphOnly:
    """Load a SavedModel in the way of TensorFlow 1: only its signatures, without objects."""
    graph = saved.meta_graphs[0]
    graph.ClearField("object_graph_def")
    # The initializer of lookup tables is stored as a signature. Move it to the place that TensorFlow 1 used.
    if _INIT_OP in graph.signature_def:
        graph.collection_def["saved_model_main_op"].node_list.value[:] = [
            graph.signature_def[_INIT_OP].outputs[_INIT_OP].name
        ]
    for name in [name for name in graph.signature_def if name.startswith("__saved_model_")]:
        del graph.signature_def[name]
    folder = tempfile.TemporaryDirectory(prefix="ringfeed-")
    Path(folder.name, "saved_model.pb").write_bytes(saved.SerializeToString())
    for part in ("variables", "assets"):
        if tf.io.gfile.isdir(f"{path}/{part}"):
            _link_or_copy(f"{path}/{part}", Path(folder.name, part))
    restored = tf.saved_model.load(folder.name)
    reason = _first_lines(failure)
    _log.info("model %r: its objects cannot be restored (%s); its graph and variables are used instead.", path, reason)
    return GraphOnly(restored, folder, reason)


def _link_or_copy(source: str, target: Path) -> None:
    """Make a folder available at another path: by a link if it is on this machine, else by a copy."""
    if os.path.isdir(source):
        target.symlink_to(os.path.abspath(source), target_is_directory=True)
        return
    target.mkdir()
    for name in tf.io.gfile.listdir(source):
        tf.io.gfile.copy(f"{source}/{name}", str(target / name))
