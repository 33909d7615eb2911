"""Measured batch sizes, kept in a file for the next start.

It may not know of rings or engines, nor how a batch size is measured.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf

from ..tf.models.adapt_model import AdaptedModel, adapt_model
from ..tf.tensors.structure import spec_of
from .tuning import Measurement, Measurements

_FILE = "batch-sizes.json"
_VERSION = 1  # of the file; its key "ceiling" is `Measurements.out_of_memory_at`
_MOST_ENTRIES = 1000
"""The oldest entries are dropped, because the file is read at every start."""


def fingerprint(model: Any) -> str:
    """Return a short text of what a model's speed depends on: its name and a hash of its architecture.

    Parameters
    ----------
    model : keras.Model, path, SavedModel folder, tf.function, callable or AdaptedModel

    Returns
    -------
    str
        The same for two models of one name, one architecture and weights of the same shapes and dtypes; their values do
        not count. Of a callable only its code counts. Of a path the sizes of the files count, and when they changed.
    """
    if isinstance(model, (str, os.PathLike)):
        path = Path(model)
        parts: Any = [_stamp(file) for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
        return f"{path.name}-{_hash(parts)}"
    adapted = adapt_model(model)
    keras_model = adapted.keras_model
    if keras_model is None:
        return f"{adapted.name}-{_hash([adapted.input_specs, _code_of(model)])}"
    weights = [(tuple(weight.shape), tf.as_dtype(weight.dtype).name) for weight in keras_model.weights]
    return (
        f"{adapted.name}-{_hash([type(keras_model).__name__, architecture(keras_model), adapted.input_specs, weights])}"
    )


def architecture(model: Any) -> Any:
    """Return the architecture of a Keras model, as a nest of plain values."""
    with contextlib.suppress(Exception):  # a class of the user's may have no config; its layers still count
        return _without_code(model.get_config())
    return [(type(layer).__name__, layer.name) for layer in getattr(model, "layers", [])]


def _without_code(config: Any) -> Any:
    """Return a config without its lambdas: Keras writes the same one differently from run to run."""
    if isinstance(config, (list, tuple)):
        return [_without_code(each) for each in config]
    if not isinstance(config, dict):
        return config
    is_lambda = config.get("class_name") == "__lambda__"
    return {key: _without_code(value) for key, value in config.items() if not (is_lambda and key == "config")}


def _code_of(model: Any) -> Any:
    function = model.owner if isinstance(model, AdaptedModel) else model
    function = function[0] if isinstance(function, tuple) else function
    code = getattr(getattr(function, "python_function", function), "__code__", None)
    if code is None:
        return type(function).__name__
    constants = [
        repr(each) for each in code.co_consts if isinstance(each, (int, float, str))
    ]  # the repr of others has addresses
    return [code.co_code.hex(), code.co_names, constants]


def _stamp(file: Path) -> Any:
    status = file.stat()
    return file.name, status.st_size, status.st_mtime_ns


def _hash(parts: Any) -> str:
    text = json.dumps(parts, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: Any) -> str:
    """Return a text of an object without its address, which differs from run to run."""
    return getattr(value, "__qualname__", None) or type(value).__qualname__


def key_of(model: Any, inputs: Any, device: str, **options: Any) -> str:
    """Return the key under which the measurements of a model are kept.

    Parameters
    ----------
    model : as for `fingerprint`
    inputs : nest of arrays, tensors or TypeSpecs of shape (rows, ...)
        Their shapes without the rows, and their dtypes, count.
    device : str
        Such as "GPU:0". Its kind and its name ("NVIDIA H100") count, its number does not.
    **options : object
        Further options that change the speed, such as ``jit_compile=True``.

    Returns
    -------
    str
        It contains TensorFlow's version, because other versions have other kernels.
    """
    leaves = tf.nest.map_structure(lambda leaf: list(spec_of(leaf) or ()), inputs)
    parts = [leaves, {name: repr(value) for name, value in options.items()}]
    return "|".join([fingerprint(model), _hash(parts), _kind_of(device), f"tensorflow {tf.__version__}"])


def _kind_of(device: str) -> str:
    """Return the kind and name of a device; for a CPU, the number of cores that this process may use."""
    kind, _, number = device.partition(":")
    kind = kind.upper()
    if kind == "CPU":
        return f"CPU, {len(os.sched_getaffinity(0))} cores"
    physical = tf.config.list_physical_devices(kind)
    index = int(number or 0) if int(number or 0) < len(physical) else 0  # one physical device may be split into several
    details = tf.config.experimental.get_device_details(physical[index]) if physical else {}
    return f"{kind}, {details.get('device_name', 'unknown')}"


def cache_folder() -> Path:
    """Return the folder of RingFeed's measurements: ``$XDG_CACHE_HOME/ringfeed``, or ``~/.cache/ringfeed``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "ringfeed"


def recall(key: str, folder: str | os.PathLike[str] | None = None) -> Measurements | None:
    """Return the measurements under a key, or None.

    Parameters
    ----------
    key : str
        From `key_of`.
    folder : path, optional
        By default `cache_folder`.

    Warns
    -----
    RuntimeWarning
        The file is damaged. It is ignored; `remember` writes it anew.
    """
    entry = _read(_path(folder)).get(key)
    return None if entry is None else _measurements(entry)


def remember(key: str, measurements: Measurements, folder: str | os.PathLike[str] | None = None) -> None:
    """Keep measurements for the next start; they replace those under the same key.

    Parameters
    ----------
    key : str
        From `key_of`.
    measurements : Measurements
    folder : path, optional
        By default `cache_folder`; made if it does not exist.

    Warns
    -----
    RuntimeWarning
        The file is damaged and written anew; or it cannot be written, and nothing is remembered.

    Notes
    -----
    The file is replaced atomically (``os.replace``), so a reader sees the old or the new one. Writers take turns by a
    lock on a file beside it, so no entry is lost.
    """
    path = _path(folder)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _turn(path):
            entries = _read(path)
            entries.pop(key, None)
            entries[key] = {
                "measured": [[each.batch_size, each.seconds_per_batch] for each in measurements],
                "ceiling": measurements.out_of_memory_at,
                "untried": measurements.untried,
                "unix_seconds": round(time.time()),
            }
            _write(path, dict(list(entries.items())[-_MOST_ENTRIES:]))
    except OSError as error:
        warnings.warn(
            f"{path}: the measured batch sizes cannot be kept ({error}), so they are measured again at the next start. "
            "Set XDG_CACHE_HOME to a writable folder.",
            RuntimeWarning,
            stacklevel=2,
        )


def _path(folder: str | os.PathLike[str] | None) -> Path:
    return (cache_folder() if folder is None else Path(folder)) / _FILE


@contextlib.contextmanager
def _turn(path: Path) -> Iterator[None]:
    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel releases it, however this process ends
        yield


def _measurements(entry: Any) -> Measurements:
    measured = [Measurement(int(size), float(seconds), size / seconds) for size, seconds in entry["measured"]]
    if not all(each.batch_size > 0 and each.seconds_per_batch > 0 for each in measured):
        raise ValueError("a size or a time is not above 0")
    return Measurements(measured, entry["ceiling"], entry["untried"])


def _read(path: Path) -> dict[str, Any]:
    """Return the entries; none if the file is missing, of another version, or damaged."""
    try:
        content = json.loads(path.read_text())
        if content["version"] != _VERSION:
            return {}
        entries: dict[str, Any] = content["entries"]
        for entry in entries.values():
            _measurements(entry)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError) as error:
        warnings.warn(
            f"{path}: damaged ({type(error).__name__}: {error}). It is ignored, and the next measurement writes it "
            "anew. You need do nothing.",
            RuntimeWarning,
            stacklevel=3,
        )
        return {}
    return entries


def _write(path: Path, entries: dict[str, Any]) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "w") as file:
            json.dump({"version": _VERSION, "entries": entries}, file, indent=1)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
