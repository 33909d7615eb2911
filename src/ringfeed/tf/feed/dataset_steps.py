"""What stands behind a dataset of ours: the iterators that wait for its elements, and the steps that hold them.

It may not know how batches are taken. A dataset knows the one before it, and not the ones behind. So this looks
through the objects that Python's garbage collector knows, and follows each dataset to its source. Of TensorFlow's
private names it uses few. Where another version lacks one, it finds nothing, and nothing else changes.
"""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

import tensorflow as tf

if TYPE_CHECKING:
    from ...ring import Ring

# The steps of tf.data that hold elements of the step before them: the class, the method, where its size stands.
_HOLDERS = {
    "_ShuffleDataset": ("shuffle", "_buffer_size"),
    "CacheDataset": ("cache", None),
    "_PrefetchDataset": ("prefetch", "_buffer_size"),
    "_BatchDataset": ("batch", "_batch_size"),
    "_ParallelBatchDataset": ("batch", "_batch_size"),
    "_PaddedBatchDataset": ("padded_batch", "_batch_size"),
    "_DenseToSparseBatchDataset": ("sparse_batch", None),
    "_WindowDataset": ("window", "_size"),
    "_GroupByWindowDataset": ("group_by_window", None),
    "_ParallelMapDataset": ("map", None),
    "_RebatchDataset": ("rebatch", None),
}
# What they hand on are copies: what stands behind them holds none of our elements.
_COPIERS = {
    "_BatchDataset",
    "_ParallelBatchDataset",
    "_PaddedBatchDataset",
    "_DenseToSparseBatchDataset",
    "_UnbatchDataset",
}


def holders(ring: Ring) -> list[str]:
    """Return the steps behind the datasets of a ring that hold elements, as a program writes them: ``.shuffle(64)``."""
    found: dict[str, None] = {}
    for each in gc.get_objects():
        if issubclass(type(each), tf.data.Dataset):
            for way in _ways_from(each, lambda source: _ring_of(source) is ring):
                found.update(dict.fromkeys(_holding(way)))
    return list(found)


def rings_before(dataset: Any) -> Iterator[Ring]:
    """Yield the rings that a dataset takes its elements from."""
    ring = _ring_of(dataset)
    if ring is not None:
        yield ring
        return
    for before in _inputs(dataset):
        yield from rings_before(before)


def _ways_from(dataset: Any, is_source: Callable[[Any], bool]) -> Iterator[list[Any]]:
    """Yield the datasets between each source that a dataset has, which is left out, and the dataset itself."""
    if is_source(dataset):
        yield []
        return
    for before in _inputs(dataset):
        for way in _ways_from(before, is_source):
            yield [*way, dataset]


def _holding(way: list[Any]) -> Iterator[str]:
    for dataset in way:
        kind = type(dataset).__name__
        if kind in _HOLDERS:
            yield _written(dataset, *_HOLDERS[kind])
        if kind in _COPIERS:
            return


def _inputs(dataset: Any) -> list[Any]:
    try:
        return list(dataset._inputs())
    except (AttributeError, NotImplementedError, TypeError):
        return []


def _written(dataset: Any, method: str, size: str | None) -> str:
    """Return a step as a program writes it."""
    value = None if size is None else tf.get_static_value(getattr(dataset, size, None))
    return f".{method}({'' if value is None else int(value)})"


def _ring_of(dataset: Any) -> Ring | None:
    """Return the ring of a dataset of ours, or of a `from_generator` of ours."""
    ring = getattr(dataset, "_ringfeed_ring", None)
    return getattr(_generator_of(dataset), "ring", None) if ring is None else ring


def _generator_of(dataset: Any) -> Any:
    """Return what a dataset's `from_generator` was given; None for any other dataset."""
    function = getattr(getattr(dataset, "_map_func", None), "_func", None)
    return _in_closure(function, 3)


def _in_closure(function: Any, depth: int) -> Any:
    for cell in getattr(function, "__closure__", None) or ():
        try:
            content = cell.cell_contents
        except ValueError:  # an empty cell
            continue
        if (found := getattr(content, "_generator", None)) is not None:
            return found
        if depth and (found := _in_closure(content, depth - 1)) is not None:
            return found
    return None


# ---- Iterators that are dropped ----------------------------------------------------------------------


class Consumer:
    """Whoever an iteration of a generator's is for, and whether that is gone.

    TensorFlow does not tell a generator that its iterator is dropped: ``del iterator`` waits, for ever if need be, for
    the thread that waits for the generator. But the iterator's Python object dies before that wait begins.

    An iteration begins while a thread waits inside TensorFlow for the first element of an iterator. Only where there is
    one such thread, and one such iterator, is it known. One that is not known, such as a loop in a graph has, counts as
    alive.

    Parameters
    ----------
    source : callable
        What `from_generator` was given. It makes this when an iteration begins.
    """

    def __init__(self, source: Any) -> None:
        threads = _frames_in_tensorflow()
        found = _iterators_in(threads[0]) if len(threads) == 1 else []
        self._iterator = weakref.ref(found[0]) if len(found) == 1 and _leads_to(found[0], source) else None

    def is_gone(self) -> bool:
        """Tell whether it is known, and dead."""
        return self._iterator is not None and self._iterator() is None


def is_in_tensorflow(frame: FrameType | None) -> bool:
    """Tell whether a thread is inside TensorFlow, or in its Python."""
    return frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "tensorflow"


def _frames_in_tensorflow() -> list[FrameType]:
    """Return where each thread stands that is inside TensorFlow; this one is not."""
    return [frame for frame in sys._current_frames().values() if is_in_tensorflow(frame)]


def _iterators_in(frame: FrameType | None) -> list[Any]:
    """Return the iterators that the innermost calls of TensorFlow's were given."""
    found = {}
    while is_in_tensorflow(frame):
        assert frame is not None
        for value in frame.f_locals.values():
            for each in value if isinstance(value, (tuple, list)) else (value,):
                if type(each).__name__ == "OwnedIterator":
                    found[id(each)] = each
        frame = frame.f_back
    return list(found.values())


def _leads_to(iterator: Any, source: Any) -> bool:
    dataset = getattr(iterator, "_dataset", None)
    ways = _ways_from(dataset, lambda each: _generator_of(each) is source)
    return dataset is not None and next(ways, None) is not None
