"""Refuse checkpoints of iterators over a ring, because a stream cannot be rewound.

This file may not know how batches are taken. TensorFlow asks an iterator for its state by a private method. Then it
waits in C++ for the next element; on an idle ring it waits for ever. So the method is replaced by one that refuses in
Python. If another version of TensorFlow lacks the method, nothing changes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ...errors import RingFeedError
from ...ring import Ring
from .dataset_steps import source_rings

_METHODS = ("_serialize_to_tensors", "_restore_from_tensors")


@functools.cache
def refuse_checkpoints() -> None:
    """Make iterators over a ring refuse to be saved and restored; needed once per process."""
    try:
        from tensorflow.python.data.ops.iterator_ops import OwnedIterator
    except ImportError:
        return
    for name in _METHODS:
        method = getattr(OwnedIterator, name, None)
        if method is not None:
            setattr(OwnedIterator, name, _refusing(method))


def _refusing(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def refuse_or_call(iterator: Any, *arguments: Any, **options: Any) -> Any:
        ring = next(
            (ring for ring in source_rings(getattr(iterator, "_dataset", None)) if isinstance(ring, Ring)), None
        )
        if ring is not None:
            raise RingFeedError(
                f"ring {ring.name!r}: an iterator over it can be neither saved nor restored: a ring is a stream, and "
                "records that were taken do not come again. Leave the iterator out of the checkpoint, and let the "
                "producers save their position."
            )
        return method(iterator, *arguments, **options)

    return refuse_or_call
