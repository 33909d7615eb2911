"""Notice that the iterator over a generator was deleted, and find out whether a thread is inside TensorFlow.

This file may not know how batches are taken. TensorFlow does not tell a generator that its iterator was deleted.
``del iterator`` waits for the thread that waits for the generator, possibly for ever. But the iterator's Python object
dies before that wait begins.
"""

from __future__ import annotations

import sys
import weakref
from types import FrameType
from typing import Any

from .dataset_steps import reads_from


class IteratorWatch:
    """The iterator that one iteration of a generator serves, and whether that iterator is still alive.

    An iteration begins while a thread waits inside TensorFlow for the first element of an iterator. The iterator is
    known if there is exactly one such thread and one such iterator. An unknown iterator, such as that of a loop in a
    graph, counts as alive.

    Parameters
    ----------
    source : callable
        The function that `from_generator` was given. It creates the watch when an iteration begins.
    """

    def __init__(self, source: Any) -> None:
        threads = _frames_in_tensorflow()
        found = _iterators_in(threads[0]) if len(threads) == 1 else []
        self._iterator = None
        if len(found) == 1 and reads_from(getattr(found[0], "_dataset", None), source):
            self._iterator = weakref.ref(found[0])

    def is_gone(self) -> bool:
        """Tell whether the iterator is known and was deleted."""
        return self._iterator is not None and self._iterator() is None


def is_in_tensorflow(frame: FrameType | None) -> bool:
    """Tell whether a thread with this frame is inside TensorFlow or its Python code."""
    return frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "tensorflow"


def _frames_in_tensorflow() -> list[FrameType]:
    """Return the current frames of all threads inside TensorFlow; the calling thread is not inside it."""
    return [frame for frame in sys._current_frames().values() if is_in_tensorflow(frame)]


def _iterators_in(frame: FrameType | None) -> list[Any]:
    """Return the iterators that were passed to the innermost calls of TensorFlow's."""
    found = {}
    while is_in_tensorflow(frame):
        assert frame is not None
        for value in frame.f_locals.values():
            for each in value if isinstance(value, (tuple, list)) else (value,):
                if type(each).__name__ == "OwnedIterator":
                    found[id(each)] = each
        frame = frame.f_back
    return list(found.values())
