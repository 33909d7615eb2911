"""Find the steps of `tf.data` pipelines that read from a ring, and those that hold its elements.

This file may not know how batches are taken. A dataset refers to its inputs, but not to the datasets that read from it.
So this file searches the objects that Python's garbage collector tracks, and follows each dataset to its sources. It
uses some private names of TensorFlow. If another version lacks one, it finds no step, and nothing else changes.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import tensorflow as tf

if TYPE_CHECKING:
    from ...ring import Ring

# The steps of tf.data that hold elements of their input: class, method, attribute with the size.
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
# These steps yield copies, so that later steps hold none of the ring's elements.
_COPIERS = {
    "_BatchDataset",
    "_ParallelBatchDataset",
    "_PaddedBatchDataset",
    "_DenseToSparseBatchDataset",
    "_UnbatchDataset",
}


def steps_that_hold_elements(ring: Ring) -> list[str]:
    """Return the steps that hold elements of a ring, in the notation of a program, such as ``.shuffle(64)``."""
    found: dict[str, None] = {}
    for each in gc.get_objects():
        if issubclass(type(each), tf.data.Dataset):
            for steps in _paths_from(each, lambda source: _ring_of(source) is ring):
                found.update(dict.fromkeys(_holding(steps)))
    return list(found)


def source_rings(dataset: Any) -> Iterator[Ring]:
    """Yield the rings that a dataset takes its elements from."""
    ring = _ring_of(dataset)
    if ring is not None:
        yield ring
        return
    for before in _inputs(dataset):
        yield from source_rings(before)


def reads_from(dataset: Any, source: Any) -> bool:
    """Tell whether a dataset takes elements from a `from_generator` of this function."""
    paths = _paths_from(dataset, lambda each: _generator_of(each) is source)
    return dataset is not None and next(paths, None) is not None


def _paths_from(dataset: Any, is_source: Callable[[Any], bool]) -> Iterator[list[Any]]:
    """Yield, for each source of a dataset, the datasets from behind the source to the dataset itself."""
    if is_source(dataset):
        yield []
        return
    for before in _inputs(dataset):
        for path in _paths_from(before, is_source):
            yield [*path, dataset]


def _holding(path: list[Any]) -> Iterator[str]:
    for dataset in path:
        kind = type(dataset).__name__
        if kind in _HOLDERS:
            yield _as_written(dataset, *_HOLDERS[kind])
        if kind in _COPIERS:
            return


def _inputs(dataset: Any) -> list[Any]:
    try:
        return list(dataset._inputs())
    except (AttributeError, NotImplementedError, TypeError):
        return []


def _as_written(dataset: Any, method: str, size: str | None) -> str:
    """Return a step in the notation of a program."""
    value = None if size is None else tf.get_static_value(getattr(dataset, size, None))
    return f".{method}({'' if value is None else int(value)})"


def _ring_of(dataset: Any) -> Ring | None:
    """Return the ring of a dataset, or of a `from_generator`, of this package; None for other datasets."""
    ring = getattr(dataset, "_ringfeed_ring", None)
    return getattr(_generator_of(dataset), "ring", None) if ring is None else ring


def _generator_of(dataset: Any) -> Any:
    """Return the function that a dataset's `from_generator` was given; None for other datasets."""
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
