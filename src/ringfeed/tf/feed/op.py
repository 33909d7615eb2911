"""The native op: loading it, using it in a graph, and why it cannot be used where it cannot.

It may not know what elements are taken for. The op itself is `csrc/tf_op/op.c`, a shared object of its own that uses
TensorFlow's C API; what it hands out, and how it waits, is `csrc/feed/feed.c`.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from ... import _core

if TYPE_CHECKING:
    from ..tensors.elements import Element

SWITCH = "RINGFEED_NATIVE_OP"
"""An environment variable: 0 leaves the op alone."""

_TAGS = -1  # in the op's attribute `fields`


@functools.cache
def _load() -> tuple[Any, str | None]:
    """Return the op's module, or None and why not. Done once: TensorFlow cannot forget an op."""
    if os.environ.get(SWITCH) == "0":
        return None, f"it is switched off by {SWITCH}=0"
    path = _path()
    if path is None:
        return None, "it was not built (no _tf_op shared object beside _core): install ringfeed anew"
    # Before anyone else opens the file: TensorFlow finds ops by what a library registers while it is opened.
    try:
        module = tf.load_op_library(str(path))
    except (tf.errors.OpError, OSError, RuntimeError) as error:
        return None, f"TensorFlow {tf.__version__} did not load it: {error}"
    library = ctypes.CDLL(str(path))
    library.rf_op_why_not.restype = ctypes.c_char_p
    why_not = library.rf_op_why_not()
    if why_not is not None:
        return None, f"TensorFlow {tf.__version__}: {why_not.decode(errors='replace')}"
    if not hasattr(module, "ringfeed_next"):
        return None, f"{path.name} was opened before TensorFlow could: load ringfeed.tf first"
    library.rf_op_connect.argtypes = [ctypes.c_void_p]
    if not library.rf_op_connect(_core.feed_table_address()):
        return None, f"{path.name} is of another version of RingFeed than {Path(_core.__file__).name}"
    return module, None


def _path() -> Path | None:
    folder = Path(_core.__file__).parent
    candidates = (folder / f"_tf_op{suffix}" for suffix in importlib.machinery.EXTENSION_SUFFIXES)
    return next((path for path in candidates if path.exists()), None)


def why_not_native() -> str | None:
    """Return why the native op cannot be used here; None where it can.

    Returns
    -------
    str or None
        A reason in words. The environment variable ``RINGFEED_NATIVE_OP=0`` is one, too.
    """
    return _load()[1]


def next_element(feed_id: Any, element: Element, ring_name: str) -> tuple[Any, Any, list[Any]]:
    """Add the op that takes the next element of a feed.

    Parameters
    ----------
    feed_id : int or tf.Tensor
        A `NativeFeed.id`, int64.
    element : Element
        Which fields, in which order.
    ring_name : str
        For messages.

    Returns
    -------
    tuple of (tf.Tensor, tf.Tensor, list of tf.Tensor)
        The number of rows, int64; the ticket for `deliver`, int64, 0 where the feed is not `ahead`; and for each field
        what `Element.hand_over` returns: padded fields uncut.
    """
    specs = list(element.specs(None, cut=False).values())
    rows, ticket, values = _load()[0].ringfeed_next(
        feed=tf.convert_to_tensor(feed_id, tf.int64),
        types=[spec.dtype for spec in specs],
        fields=[_TAGS if index is None else index for index in element.indices],
        ring=ring_name,
    )
    # In a graph; an eager tensor has its shape and only compares it.
    values = [_with_shape(value, spec.shape) for value, spec in zip(values, specs, strict=True)]
    return _with_shape(rows, ()), _with_shape(ticket, ()), values


def deliver(ticket: Any) -> Any:
    """Add the op that says that an element is in somebody's hands; until then, dropping it gives it back."""
    return _with_shape(_load()[0].ringfeed_deliver(ticket=ticket), ())


def goes_on(feed_id: int, ring_name: str) -> Any:
    """Add the op that begins a turn of a feed: True, or the end of the data."""
    return _with_shape(_load()[0].ringfeed_turn(feed=tf.constant(feed_id, tf.int64), ring=ring_name), ())


def _with_shape(tensor: Any, shape: Any) -> Any:
    tensor.set_shape(shape)
    return tensor
