"""The native op: load it, add it to graphs, and explain why it is unavailable.

This file may not know the purpose of the elements. The op is `csrc/tf_op/op.c`, a separate shared object that uses
TensorFlow's C API. `csrc/feed/next.c` takes the elements and waits for them.
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
"""Name of an environment variable; the value 0 switches the op off."""

_TAGS = -1  # stands for the tags in the op's attribute `fields`


@functools.cache
def _load() -> tuple[Any, str | None]:
    """Return (the op's module, None) or (None, the reason). Called once, because TensorFlow cannot unload an op."""
    if os.environ.get(SWITCH) == "0":
        return None, f"it is switched off by {SWITCH}=0"
    path = _path()
    if path is None:
        return None, "it was not built (no _tf_op shared object beside _core): install ringfeed again"
    # TensorFlow must be the first to open the file: it finds the ops that a library registers while it is opened.
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
        return None, f"{path.name} was opened before TensorFlow could open it: load ringfeed.tf first"
    library.rf_op_connect.argtypes = [ctypes.c_void_p]
    if not library.rf_op_connect(_core.feed_table_address()):
        return None, f"{path.name} and {Path(_core.__file__).name} belong to different versions of RingFeed"
    return module, None


def _path() -> Path | None:
    folder = Path(_core.__file__).parent
    candidates = (folder / f"_tf_op{suffix}" for suffix in importlib.machinery.EXTENSION_SUFFIXES)
    return next((path for path in candidates if path.exists()), None)


def why_not_native() -> str | None:
    """Return the reason why the native op cannot be used; None if it can be used.

    Returns
    -------
    str or None
        The reason in words; one reason is the environment variable ``RINGFEED_NATIVE_OP=0``.
    """
    return _load()[1]


def next_element(feed_id: Any, element: Element, ring_name: str) -> tuple[Any, Any, list[Any]]:
    """Add the op that takes the next element of a feed.

    Parameters
    ----------
    feed_id : int or tf.Tensor
        An `OpFeed.id`, int64.
    element : Element
        The fields and their order.
    ring_name : str
        The ring's name, for messages.

    Returns
    -------
    tuple of (tf.Tensor, tf.Tensor, list of tf.Tensor)
        The number of rows, int64; the ticket for `deliver`, int64, 0 if the feed has no tickets; and one tensor for
        each field in the format of `Element.tensors`: padded fields keep their padding.
    """
    specs = list(element.specs(None, cut=False).values())
    rows, ticket, values = _load()[0].ringfeed_next(
        feed=tf.convert_to_tensor(feed_id, tf.int64),
        types=[spec.dtype for spec in specs],
        fields=[_TAGS if index is None else index for index in element.indices],
        ring=ring_name,
    )
    # In a graph this sets the static shape. An eager tensor knows its shape and only compares it.
    values = [_with_shape(value, spec.shape) for value, spec in zip(values, specs, strict=True)]
    return _with_shape(rows, ()), _with_shape(ticket, ()), values


def deliver(ticket: Any) -> Any:
    """Add the op that marks an element as delivered; an element that is dropped earlier returns to the ring."""
    return _with_shape(_load()[0].ringfeed_deliver(ticket=ticket), ())


def begin_round(feed_id: int, ring_name: str) -> Any:
    """Add the op that begins a round of a feed: it returns True, or ends the data."""
    return _with_shape(_load()[0].ringfeed_round(feed=tf.constant(feed_id, tf.int64), ring=ring_name), ())


def _with_shape(tensor: Any, shape: Any) -> Any:
    tensor.set_shape(shape)
    return tensor
