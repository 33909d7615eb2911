"""Models from files and folders, for inference alone.

Knows Keras files and SavedModels, also those that TensorFlow Serving serves and ``tf.saved_model.load`` refuses. It may
not know how a model is called.
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
    """A SavedModel of which only the signatures could be loaded, from its graph and its variables.

    Attributes
    ----------
    signatures : mapping of str to function
    variables : list of tf.Variable
    reason : str
        Why its objects could not be restored.
    """

    def __init__(self, restored: Any, folder: tempfile.TemporaryDirectory[str], reason: str) -> None:
        self.signatures = restored.signatures
        self.variables = list(restored.variables)
        self.reason = reason
        self._keeps = restored, folder  # assets are read where they lie


# ---- Keras files -------------------------------------------------------------------------------------


def load_keras_file(path: str) -> Any:
    """Load a Keras model for inference: its optimizer, losses and metrics are left out.

    Parameters
    ----------
    path : str
        A ``.keras``, ``.h5`` or ``.hdf5`` file, or the folder of a model that was saved with ``zipped=False``.

    Raises
    ------
    ValueError
        Keras cannot make the model; the message says why, and what to do.
    """
    import keras  # only here: a callable needs no Keras

    require_tensorflow_backend(Path(path).name)
    try:
        model = keras.models.load_model(path, compile=False)
    except Exception as error:  # whatever a layer of anybody's raises
        raise ValueError(f"model {path!r} cannot be loaded: {_first_lines(error)} {_remedy(path, error)}") from error
    if _ran_eagerly(path):
        model.run_eagerly = True
    return model


def _first_lines(error: Exception) -> str:
    text = " ".join(str(error).split())
    if len(text) > _MOST_CHARACTERS:  # Keras puts the reason behind the layer's whole config
        text = f"{text[: _MOST_CHARACTERS // 2]} ... {text[-_MOST_CHARACTERS // 2 :]}"
    return f"{type(error).__name__}: {text.rstrip('.')}."


def _remedy(path: str, error: Exception) -> str:
    text = str(error)
    load = f"keras.models.load_model({path!r}, compile=False"
    if re.search(r"safe_mode|unsafe", text):
        return (
            f"It holds Python code. If you trust whoever made it, load it yourself by {load}, safe_mode=False), and "
            "give the loaded model."
        )
    if "No model config" in text:
        return "It may hold weights alone: make the model, call its load_weights, and give the model."
    if "format not supported" in text:
        return "Keras reads .keras, .h5 and .hdf5 files; a SavedModel is given by its folder."
    if isinstance(error, OSError) or "accessible `.keras`" in text:
        return "It is damaged, or not what its name says: copy it, or save the model, again."
    return (
        f"Load it yourself by {load}, custom_objects={{...}}) with the classes and functions that it needs, or with "
        "the Keras that saved it (package tf_keras for Keras 2), and give the loaded model."
    )


def _ran_eagerly(path: str) -> bool:
    """Tell whether a ``.keras`` file was saved as a model that runs without a graph: it may not be traceable."""
    try:
        with zipfile.ZipFile(path) as archive:
            compiled = json.loads(archive.read("config.json")).get("compile_config") or {}
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):  # of another format
        return False
    return bool(compiled.get("run_eagerly"))


# ---- SavedModels -------------------------------------------------------------------------------------


def is_saved_model(folder: str) -> bool:
    """Tell whether a folder holds a SavedModel."""
    return any(tf.io.gfile.exists(f"{folder}/saved_model.{ending}") for ending in ("pb", "pbtxt"))


def load_saved_model(path: str, tags: str | Sequence[str] | None = None) -> Any:
    """Load a SavedModel: its objects or, where TensorFlow cannot restore these, its signatures.

    Parameters
    ----------
    path : str
        Its folder.
    tags : str or sequence of str, optional
        Which of its graphs. By default the only one, else the one of the tag "serve", as TensorFlow Serving chooses.

    Returns
    -------
    object
        As ``tf.saved_model.load`` returns it, or a `GraphOnly`.

    Raises
    ------
    ValueError
        There is no graph of these tags; the message lists those there are. Or nothing of it can be loaded.
    TypeError
        What is given as tags is no text, nor several.
    """
    wanted = None if tags is None else _checked_tags(tags)
    try:
        return tf.saved_model.load(path, tags=None if wanted is None else sorted(wanted))
    except Exception as error:  # its objects are of code that is not there, or of another TensorFlow
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
            "Save it again by the TensorFlow that is installed here, or load it yourself and give a function of it."
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
    except Exception as error:  # the parser's own classes differ from version to version
        raise ValueError(f"model {path!r} cannot be read: {_first_lines(error)} Copy or save it again.") from failure
    return saved


def _checked_tags(tags: Any) -> set[str]:
    several = [tags] if isinstance(tags, str) else list(tags) if isinstance(tags, Iterable) else [None]
    if not all(isinstance(tag, str) for tag in several):
        raise TypeError(f"tags {tags!r:.80}: give a text, such as 'serve', or a list of texts.")
    return set(several)


def _choose_tags(path: str, saved: Any, wanted: set[str] | None) -> set[str]:
    there = [set(graph.meta_info_def.tags) for graph in saved.meta_graphs]
    if wanted is None:
        wanted = there[0] if len(there) == 1 else {SERVING_TAG}
    if wanted not in there:
        listed = "; ".join(", ".join(map(repr, sorted(tags))) or "none" for tags in there)
        asked = ", ".join(map(repr, sorted(wanted))) or "none"
        raise ValueError(
            f"model {path!r}: it has no graph of the tags {asked}; there are {listed}. Give them as tags=."
        )
    return wanted


def _load_graph(path: str, saved: Any, failure: Exception) -> GraphOnly:
    """Load a SavedModel as those of TensorFlow 1 are: without objects, by its signatures alone."""
    graph = saved.meta_graphs[0]
    graph.ClearField("object_graph_def")
    # What fills tables stands among the signatures, and would be taken for one; TensorFlow 1 had a place of its own.
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
            _bring(f"{path}/{part}", Path(folder.name, part))
    restored = tf.saved_model.load(folder.name)
    reason = _first_lines(failure)
    _log.info("model %r: its objects cannot be restored (%s), so its graph and variables are used.", path, reason)
    return GraphOnly(restored, folder, reason)


def _bring(source: str, target: Path) -> None:
    """Make a folder appear in another place: linked where it is on this machine, else copied."""
    if os.path.isdir(source):
        target.symlink_to(os.path.abspath(source), target_is_directory=True)
        return
    target.mkdir()
    for name in tf.io.gfile.listdir(source):
        tf.io.gfile.copy(f"{source}/{name}", str(target / name))
