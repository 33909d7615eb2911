"""The `x` of ``keras.Model.predict``, of any kind that Keras takes, as an iterator of batches.

It may not know models, rings or workers. A batch is what Keras hands to ``predict_step``: x, (x,), (x, y) or
(x, y, sample_weight).
"""

from __future__ import annotations

import sys
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from contextvars import copy_context
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

import numpy as np
import tensorflow as tf

from ..tensors.arrays import ArraySource, holds_arrays, plain_nest, whole_array
from ..tensors.first_dtypes import FirstDtypes
from ..tensors.structure import lists_to_tuples

DEFAULT_BATCH_SIZE = 32  # the default of Keras


@dataclass(frozen=True)
class Batches:
    """Batches to iterate over once.

    Attributes
    ----------
    total : int or None
        Number of batches; None if it is unknown before the end, or there is no end.
    rows : int or None
        Rows of all batches together; None if it is unknown.
    """

    _make: Callable[[], Iterator[Any]]
    total: int | None
    rows: int | None = None
    _wanted: int | None = None
    _most: int | None = None

    @property
    def steps(self) -> int | None:
        """The number of batches as Keras gives it to callbacks: the requested number, else the known one."""
        return self._wanted or self.total

    def __iter__(self) -> Generator[Any, None, None]:
        number = 0
        source = self._make()
        try:
            for number, batch in enumerate(islice(source, self._most), 1):  # noqa: B007
                yield batch
        finally:  # at once, even if the loop was left early: threads end, a PyDataset is notified
            getattr(source, "close", lambda: None)()
        if number == 0:
            raise ValueError("x holds no batch, so there is nothing to predict; give at least one row.")
        if self._wanted is not None and number < self._wanted:
            warnings.warn(
                f"x ran out of data after {number} of {self._wanted} steps; the result holds those. Give fewer steps.",
                stacklevel=3,
            )


@dataclass(frozen=True)
class Replicas:
    """One batch of a distributed dataset: a part of its rows for each replica, in their order."""

    parts: list[Any]


def iterate_batches(
    x: Any,
    batch_size: int | None = None,
    steps: int | None = None,
    *,
    floatx: str | None = None,
    batches_per_call: int = 1,
) -> Batches:
    """Split the `x` of ``keras.Model.predict`` into batches.

    Parameters
    ----------
    x : nest of arrays, tf.data.Dataset, PyDataset, DataLoader, generator or iterator
        - Arrays: NumPy, TensorFlow (ragged and sparse too), pandas, SciPy sparse, PyTorch, JAX or anything
          with ``__array__``, alone or in lists, tuples and mappings; all with the same number of rows.
        - A dataset of batches x, (x, y) or (x, y, sample_weight); batches of a distributed dataset are `Replicas`.
        - A ``keras.utils.PyDataset``; if it asks for several workers, that many threads read it.
        - A generator or iterator of batches (x,), (x, y) or (x, y, sample_weight), all of the first one's dtypes.
    batch_size : int, optional
        Rows per batch of arrays; 32 by default, or the size that makes `steps` batches. The other kinds bring
        their own batches and ignore it with a warning.
    steps : int, optional
        Stop after this many batches.
    floatx : str, optional
        Cast arrays of other floats to this dtype, as Keras does. The other kinds keep theirs.
    batches_per_call : int
        The model's `steps_per_execution`. As in Keras, a call that has begun takes all its batches, which may be more
        than `steps`.

    Returns
    -------
    Batches
        An iterable of batches, with the numbers of batches and rows, if they are known.

    Raises
    ------
    ValueError
        The arrays are empty or differ in length, `batch_size` or `steps` is not positive, or a batch
        is not of one of the forms above.
    TypeError
        `x` is of a kind that cannot be read.
    """
    batch_size, steps = _positive("batch_size", batch_size), _steps(steps)
    most = None if steps is None else -(-steps // batches_per_call) * batches_per_call
    nest = plain_nest(x)
    if holds_arrays(nest):
        return _array_batches(nest, batch_size, steps, most, floatx)
    kind = _kind_of(x)
    if kind is None:
        raise TypeError(
            f"x of type {type(x).__name__!r} cannot be split into batches: give arrays or tensors (in lists, tuples "
            "or mappings), a tf.data.Dataset, a keras.utils.PyDataset or a generator of batches."
        )
    if batch_size is not None:
        warnings.warn(
            f"batch_size={batch_size} is ignored: x is a {type(x).__name__}, which yields batches of its own.",
            stacklevel=3,
        )
    total = _known_total(x, kind)
    if total == 0:
        raise ValueError(f"x is a {type(x).__name__} of 0 batches, so there is nothing to predict; give at least one.")
    if most is not None:
        total = most if total is None else min(most, total)
    return Batches(lambda: _ITERATORS[kind](x, most), total, None, steps, most)


def _positive(name: str, value: Any) -> int | None:
    """Check a count; 0 stands for "not given", as in Keras."""
    if value is None or (isinstance(value, (int, np.integer)) and value == 0):
        return None
    if not isinstance(value, (int, np.integer)) or value < 0:
        raise ValueError(f"{name}={value!r}: must be a whole number of at least 1, or None.")
    return int(value)


def _steps(steps: Any) -> int | None:
    """Check `steps`, and apply the debugging limit of Keras."""
    steps = _positive("steps", steps)
    config = getattr(sys.modules.get("keras"), "config", None)
    limit: int | None = getattr(config, "max_steps_per_epoch", lambda: None)()  # newer than the oldest Keras supported
    return steps if not limit else min(limit, steps or limit)


def _array_batches(x: Any, batch_size: int | None, steps: int | None, most: int | None, floatx: str | None) -> Batches:
    source = ArraySource(x, floatx)
    if batch_size is None:
        batch_size = -(-source.rows // steps) if steps else DEFAULT_BATCH_SIZE
    total = -(-source.rows // batch_size)
    if most is not None:
        total = min(most, total)
    return Batches(lambda: source.batches(batch_size), total, min(source.rows, total * batch_size), steps, most)


# ---- Kinds with batches of their own --------------------------------------------------------------


def _kind_of(x: Any) -> str | None:
    if isinstance(x, tf.data.Dataset):
        return "dataset"
    if isinstance(x, tf.distribute.DistributedDataset) or type(x).__name__ == "DistributedDatasetsFromFunction":
        return "distributed"
    utils = getattr(sys.modules.get("keras"), "utils", None)
    if isinstance(x, getattr(utils, "PyDataset", ())):
        return "pydataset"
    classes = [(parent.__module__.partition(".")[0], parent.__name__) for parent in type(x).__mro__]
    if ("torch", "DataLoader") in classes:
        return "loader"
    if any(package == "grain" and name in ("MapDataset", "IterDataset", "DataLoader") for package, name in classes):
        return "loader"
    return "iterator" if isinstance(x, Iterator) else None


def _known_total(x: Any, kind: str) -> int | None:
    if kind in ("dataset", "distributed"):
        cardinality = getattr(x, "cardinality", tf.data.UNKNOWN_CARDINALITY)  # a number if the dataset is distributed
        cardinality = int(cardinality() if callable(cardinality) else cardinality)
        return cardinality if cardinality >= 0 else None  # infinite or unknown
    if kind == "pydataset":
        return None if x.num_batches is None else int(x.num_batches)
    try:
        return len(x)
    except TypeError:
        return None


def _parts(batch: Any, kind: str) -> Any:
    """Check the form of a batch from Python code, and make its leaves arrays."""
    if isinstance(batch, list) and kind != "iterator":
        batch = tuple(batch)
    if isinstance(batch, list) or (isinstance(batch, tuple) and not 1 <= len(batch) <= 3):
        raise ValueError(
            f"x yielded a {type(batch).__name__} of {len(batch)} parts as a batch: yield (x,), (x, y) or "
            "(x, y, sample_weight), where x may be a list or dict of arrays."
        )
    return tf.nest.map_structure(_as_array, lists_to_tuples(plain_nest(batch)))


def _as_array(leaf: Any) -> Any:
    if leaf is None:
        return None
    array = whole_array(leaf) if holds_arrays(leaf) else np.asarray(leaf)
    if array.shape.rank == 0 if isinstance(array.shape, tf.TensorShape) else not array.shape:
        raise ValueError(f"x yielded a batch that holds {leaf!r}, which has no axis for the rows; yield arrays.")
    return array


def _from_dataset(dataset: Any, steps: int | None) -> Iterator[Any]:
    return iter(dataset if steps is None else dataset.take(steps))


def _from_distributed(dataset: Any, steps: int | None) -> Iterator[Any]:
    for batch in dataset:
        leaves = [
            leaf.values if isinstance(leaf, tf.distribute.DistributedValues) else (leaf,)
            for leaf in tf.nest.flatten(batch)
        ]
        parts = zip(*leaves, strict=True)
        yield Replicas([tf.nest.pack_sequence_as(batch, list(part)) for part in parts])


def _from_iterator(iterator: Any, steps: int | None) -> Iterator[Any]:
    dtypes = FirstDtypes()
    return (dtypes.cast(_parts(batch, "iterator")) for batch in iterator)


def _from_loader(loader: Any, steps: int | None) -> Iterator[Any]:
    dtypes = FirstDtypes()
    return (dtypes.cast(_parts(batch, "loader")) for batch in loader)


def _from_pydataset(dataset: Any, steps: int | None) -> Iterator[Any]:
    """Read in order, with as many threads as the dataset asks for, and notify it of begin and end."""
    total = dataset.num_batches if steps is None else min(steps, dataset.num_batches or steps)
    indices = count() if total is None else range(total)
    dtypes = FirstDtypes()
    with ExitStack() as cleanup:
        getattr(dataset, "on_epoch_begin", lambda: None)()  # newer than the oldest Keras supported
        cleanup.callback(dataset.on_epoch_end)
        if dataset.workers <= 1:
            yield from (dtypes.cast(_parts(dataset[index], "pydataset")) for index in indices)
            return
        if dataset.use_multiprocessing:
            warnings.warn(
                f"{type(dataset).__name__} asks for processes and is read by {dataset.workers} threads: a process that "
                "is forked from one with TensorFlow hangs. Give Predictor a `preprocess` for work in processes.",
                stacklevel=2,
            )
        pool = ThreadPoolExecutor(dataset.workers, "ringfeed-pydataset")
        cleanup.callback(pool.shutdown, wait=True, cancel_futures=True)
        pending: deque[Future[Any]] = deque()
        # In the caller's context: turns.py refuses a dataset that calls its own Predictor, instead of waiting.
        rest = (pool.submit(copy_context().run, dataset.__getitem__, index) for index in indices)
        pending.extend(islice(rest, max(dataset.max_queue_size, 1)))
        while pending:
            batch = pending.popleft().result()
            pending.extend(islice(rest, 1))
            yield dtypes.cast(_parts(batch, "pydataset"))


_ITERATORS: dict[str, Callable[[Any, int | None], Iterator[Any]]] = {
    "dataset": _from_dataset,
    "distributed": _from_distributed,
    "pydataset": _from_pydataset,
    "loader": _from_loader,
    "iterator": _from_iterator,
}
