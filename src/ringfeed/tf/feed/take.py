"""`take`: a batch of a ring as tensors, in a graph or without one.

This file may not know the datasets of `tf.data` or models.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from ...arguments import check_int, check_seconds, check_timeout
from ...ring import Ring
from ..tensors.elements import Element, tensors
from ..tensors.structure import lists_to_tuples
from .op import why_not_native
from .op_feed import OpFeed


def take(
    ring: Ring,
    max_rows: int,
    structure: Any = None,
    *,
    min_rows: int = 1,
    timeout: float | None = None,
    linger: float = 0.0,
) -> Any:
    """Take the oldest published records as tensors over the ring's own memory.

    Inside a tf.function this function adds the native op to the graph. The op takes a batch at each run, also in loops
    and under `tf.distribute`, where each replica takes its own batch. While it waits, it occupies one of TensorFlow's
    inter-op threads.

    Parameters
    ----------
    ring : Ring
        An owned or attached ring. Keep it as long as the function is in use.
    max_rows : int
        Maximum number of rows; at most the ring's slots.
    structure : nest of str, optional
        Structure of the result, as for `ringfeed.tf.tensors`.
    min_rows, timeout, linger
        As for `Ring.take`.

    Returns
    -------
    nest of tf.Tensor
        Each tensor has shape [rows, *field shape] and the field's dtype. The slots are recycled when the last tensor is
        deleted.

    Raises
    ------
    RingEmpty, RingFinished, ProducerFailed, RingClosed
        As `Ring.take`. In a graph, the end of the data is a `tf.errors.OutOfRangeError`, and each other error is a
        `tf.errors.UnknownError` whose message names it.
    RuntimeError
        The call is inside a tf.function, and the native op cannot be used; the message gives the reason.

    Notes
    -----
    Ctrl-C also ends a wait in a graph, but TensorFlow may turn it into a RuntimeError whose message names
    KeyboardInterrupt. An error elsewhere in the graph does not end a wait; give a `timeout` if it should end.
    """
    element = Element.of(ring.spec, lists_to_tuples(structure), ring.name)
    if not tf.inside_function():
        with ring.take(max_rows, min_rows=min_rows, timeout=timeout, linger=linger) as batch:
            return tensors(batch, structure)
    if reason := why_not_native():
        raise RuntimeError(
            f"ring {ring.name!r}: take inside a tf.function needs the native op, which cannot be used here: {reason}. "
            "Iterate over ringfeed.tf.dataset instead, or call take outside the tf.function."
        )
    most = min(check_int(max_rows, "max_rows", 1), ring.slots)
    least = check_int(min_rows, "min_rows", 1)
    if least > most:
        raise ValueError(f"min_rows {least}: a batch of ring {ring.name!r} has at most {most} rows here.")
    timeout = None if timeout is None else check_timeout(timeout, "timeout")
    feed = OpFeed.shared(ring, most=most, least=least, timeout=timeout, linger=check_seconds(linger, "linger"))
    return element.pack(feed.next_tensors(element), cut=True)
