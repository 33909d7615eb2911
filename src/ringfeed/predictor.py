"""A drop-in for ``keras.Model.predict`` whose preprocessing runs in worker processes.

It puts the parts together: `WorkerPool` and `Pipeline` bring samples into the ring, `ringfeed.tf`
calls the model. What it adds is the order of results, what to do about items that fail, and the end.
"""

from __future__ import annotations

import itertools
import math
import threading
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from types import TracebackType
from typing import Any

import numpy as np

from ._core import Batch
from .errors import ItemError, RingFeedError
from .nest import map_leaves, put_together, take_apart
from .pipeline import Chunk, Pipeline, Source, require_choice
from .progress import Progress
from .record_spec import Field, RecordSpec, as_dtype
from .ring import Ring
from .tf.callbacks import PredictCallbacks
from .tf.handover import PaddedRows
from .tf.in_memory import predict_in_memory
from .tf.model import ModelRunner
from .worker_main import Sample
from .workers import WorkerPool, available_cores

_BATCH_SIZE = 32  # Keras's default


class Predictor:
    """Predict raw items with a model, preprocessing them in worker processes.

    Parameters
    ----------
    model : keras.Model, path, tf.function or callable
        A Keras model, a ``.keras`` file, a SavedModel folder, or any callable on a nest of tensors
        of shape (rows, ...).
    preprocess : callable, optional
        ``preprocess(item)`` returns the model's inputs for one item, without the batch axis, nested
        as the model nests them; ``preprocess(item, out)`` writes them into `out`, which is the slot
        itself. Lambdas and functions of a notebook work. Without it, `predict` takes what Keras takes
        and no process is started.
    workers : int, optional
        Processes; by default as many as cores are available. They see no GPU and do not import
        TensorFlow unless `preprocess` does.
    batch_size : int, optional
        Most rows of one model call; 32 by default, as in Keras.
    on_error : {"raise", "skip", "return"}
        What becomes of an item that can not be preprocessed: it is raised; it is left out, noted in
        `failures`; or its error stands in its place.
    partition : {"dynamic", "contiguous", "stratified"}
        Whoever is free takes the next item; or each worker has a share of its own, in blocks, or with
        each of the given labels alike.
    sample_spec : nest of (shape, dtype), optional
        The inputs of one item, for a `preprocess` with `out` when the model leaves shapes open.
    slots : int, optional
        Slots of the ring; four batches by default.

    Raises
    ------
    ValueError, TypeError
        An argument that makes no sense, or a function that can not travel.

    Examples
    --------
    >>> with Predictor(model, preprocess=decode, workers=8) as predictor:
    ...     probabilities = predictor.predict(paths)
    """

    def __init__(
        self,
        model: Any,
        preprocess: Callable[..., Any] | None = None,
        workers: int | None = None,
        batch_size: int | None = None,
        *,
        on_error: str = "raise",
        partition: str = "dynamic",
        sample_spec: Any = None,
        slots: int | None = None,
    ) -> None:
        require_choice("on_error", on_error, ("raise", "skip", "return"))
        require_choice("partition", partition, ("dynamic", "contiguous", "stratified"))
        workers = available_cores() if workers is None else _positive("workers", workers)
        self._batch_size = _BATCH_SIZE if batch_size is None else _positive("batch_size", batch_size)
        self._default_batch_size = batch_size
        slots = None if slots is None else _positive("slots", slots)
        self._on_error = on_error
        self._partition = partition
        self._sample_spec = sample_spec
        self.failures: list[ItemError] = []
        self._busy = threading.Lock()
        self._pool: WorkerPool | None = None
        self._pipeline: Pipeline | None = None
        if preprocess is not None:
            # The processes start first: they load while the model does.
            self._pool = WorkerPool(preprocess, workers)
        try:
            self._runner = ModelRunner(model)
        except BaseException:
            if self._pool is not None:
                self._pool.close()
            raise
        if self._pool is not None:
            self._pipeline = Pipeline(
                self._pool,
                self._call_model,
                self._choose_spec,
                self._batch_size,
                slots,
                partition != "dynamic",
            )
        self._finalizer = weakref.finalize(self, _end, self._pipeline, self._pool)

    # ---- predicting ----------------------------------------------------------------------------------

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        steps: int | None = None,
        callbacks: Any = None,
        *,
        labels: Sequence[Any] | None = None,
    ) -> Any:
        """Return the model's outputs for all items, in their order.

        Parameters
        ----------
        x : sequence or iterable
            With `preprocess`: raw items (paths, bytes, arrays, any object). Without: whatever
            ``keras.Model.predict`` takes.
        batch_size : int, optional
            Most rows of one model call.
        verbose : {"auto", 0, 1, 2}
            As in Keras: "auto" shows a bar on a terminal.
        steps : int, optional
            Stop after so many batches.
        callbacks : list of keras.callbacks.Callback, optional
            Their ``on_predict_*`` methods are called as Keras calls them.
        labels : sequence, optional
            The stratum of each item, for ``partition="stratified"``.

        Returns
        -------
        nest of numpy.ndarray
            As the model nests its outputs, each of shape (items, ...). With ``on_error="skip"``
            without the rows of failed items; with ``on_error="return"`` a list with, for each item,
            its outputs (without the batch axis) or its error.

        Raises
        ------
        PreprocessError, WorkerCrashed
            With ``on_error="raise"``: the first item that failed; it is named, and the worker's
            traceback is in the message.
        """
        if self._pipeline is None:
            self._check_open()
            return predict_in_memory(
                self._runner, x, batch_size or self._default_batch_size, verbose, steps=steps, callbacks=callbacks
            )
        size = self._batch_size if batch_size is None else _positive("batch_size", batch_size)
        items = _as_items(x)
        if steps is not None:
            items = _first(items, _positive("steps", steps) * size)
        self.failures = []
        results = _Results(_count(items))
        watchers = PredictCallbacks(self._runner.keras_model, callbacks, steps)
        watchers.begin()
        with closing(self._chunks(items, size, None, None, verbose, labels)) as chunks:
            for chunk in chunks:
                self._note(chunk.failures)
                results.add(chunk)
                if chunk.outputs is not None:
                    watchers.begin_batch()
                    if watchers.end_batch(chunk.outputs):
                        break
        watchers.end()
        if self._on_error == "return":
            return results.by_item(self.failures)
        return results.stacked({failure.index for failure in self.failures})

    def stream(
        self,
        items: Iterable[Any],
        *,
        ordered: bool = True,
        linger: float = 0.005,
        window: int | None = None,
        verbose: str | int = 0,
        labels: Sequence[Any] | None = None,
    ) -> Generator[tuple[int, Any], None, None]:
        """Yield the outputs of items as they come, also of an endless iterable, in bounded memory.

        Parameters
        ----------
        items : iterable
            Raw items; read ahead of the results by at most `window`.
        ordered : bool
            Yield in the items' order, or as they are finished.
        linger : float
            Seconds that a sample waits for others to fill the batch.
        window : int, optional
            Most items read and not yet yielded; by default eight batches or 256, whichever is more.
        verbose : {"auto", 0, 1, 2}
            A progress bar, as in `predict`.
        labels : sequence, optional
            As in `predict`.

        Yields
        ------
        index : int
        outputs : nest of numpy.ndarray
            Without the batch axis. With ``on_error="return"`` an item's error in their place.
        """
        if self._pipeline is None:
            raise RingFeedError("stream() needs preprocess=: without it there are no single items; use predict().")
        if not linger >= 0:
            raise ValueError(f"linger {linger!r}: give seconds of at least 0.")
        if window is None:
            window = max(8 * self._batch_size, 256)
        # With shares of their own, workers are not in step: a window could hold back the very item
        # that is waited for.
        limit = _positive("window", window) if self._partition == "dynamic" else None
        self.failures = []
        return self._stream(_as_items(items), ordered, linger, limit, verbose, labels)

    def _stream(
        self,
        items: Any,
        ordered: bool,
        linger: float,
        window: int | None,
        verbose: str | int,
        labels: Sequence[Any] | None,
    ) -> Generator[tuple[int, Any], None, None]:
        chunks = self._chunks(items, self._batch_size, linger, window, verbose, labels)
        early: dict[int, Any] = {}
        next_index = 0
        left_out = object()
        try:
            chunk = next(chunks, None)
            while chunk is not None:
                self._note(chunk.failures)
                slid = 0
                early.update(_by_index(chunk))
                for failure in chunk.failures:
                    early[failure.index] = failure if self._on_error == "return" else left_out
                while early:
                    index = next_index if ordered else next(iter(early))
                    if index not in early:
                        break
                    outputs = early.pop(index)
                    next_index += 1
                    slid += 1
                    if outputs is not left_out:
                        yield index, outputs
                try:
                    chunk = chunks.send(slid)
                except StopIteration:
                    chunk = None
        finally:
            chunks.close()

    def _chunks(
        self,
        items: Any,
        batch_size: int,
        linger: float | None,
        window: int | None,
        verbose: str | int,
        labels: Sequence[Any] | None,
    ) -> Generator[Chunk, int | None, None]:
        self._check_open()
        assert self._pipeline is not None and self._pool is not None
        if not self._busy.acquire(blocking=False):
            raise RingFeedError("this Predictor is predicting already: finish or close its stream first.")
        progress = None
        try:
            source = Source(items, self._partition, labels, len(self._pool))
            progress = Progress(source.count, verbose)
            yield from self._pipeline.run(
                source, batch_size=batch_size, linger=linger, window=window, progress=progress
            )
        finally:
            if progress is not None:
                progress.close()
            self._busy.release()

    def _note(self, failures: list[ItemError]) -> None:
        self.failures.extend(failures)
        if failures and self._on_error == "raise":
            raise failures[0]

    # ---- the model -----------------------------------------------------------------------------------

    def _call_model(self, batch: Batch, template: Any) -> Any:
        """Run the model on the ring's own memory; padded samples are cut to shape inside its function."""
        leaves = [
            PaddedRows(batch.padded(name), field.shape) if field.is_padded else batch[name]
            for name, field in batch.ring.spec.items()
        ]
        return self._runner(put_together(template, leaves))

    def _choose_spec(self, sample: Sample | None) -> tuple[Any, RecordSpec]:
        """Choose the rows' fields: what the first item came out as, or what the model asks for."""
        asked = self._runner.input_specs if self._sample_spec is None else self._sample_spec
        asked_template, asked_leaves = (None, []) if asked is None else _spec_leaves(asked)
        if sample is None:
            return asked_template, _spec_without_sample(asked_leaves)
        leaves = [
            (shape, _storage_dtype(dtype, asked_leaves[position][1] if position < len(asked_leaves) else None))
            for position, (shape, dtype) in enumerate(sample.leaves)
        ]
        if len(asked_leaves) == len(leaves):
            for position, ((shape, _), (wanted, _)) in enumerate(zip(leaves, asked_leaves, strict=True)):
                _check_shape(position, shape, wanted)
        elif asked_leaves:
            raise ValueError(
                f"the model has {len(asked_leaves)} inputs; preprocess returned {len(leaves)} arrays for the first item."
            )
        return sample.template, RecordSpec.of(
            Field(str(position), tuple(shape), dtype) for position, (shape, dtype) in enumerate(leaves)
        )

    # ---- the end -------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if not self._finalizer.alive:
            raise RingFeedError("this Predictor was closed; make a new one.")

    @property
    def ring(self) -> Ring | None:
        """The ring of samples, once the first item has told their shape; None before, or without workers."""
        return None if self._pipeline is None else self._pipeline.rows

    @property
    def worker_process_ids(self) -> list[int]:
        """Process ids of the workers at this moment."""
        return [] if self._pool is None else self._pool.process_ids

    def close(self) -> None:
        """End the workers and remove the rings; twice does no harm."""
        self._finalizer()

    def __enter__(self) -> Predictor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _end(pipeline: Pipeline | None, pool: WorkerPool | None) -> None:
    try:
        if pipeline is not None:
            pipeline.close()
    finally:
        if pool is not None:
            pool.close()


# ---- Results -----------------------------------------------------------------------------------------


class _Results:
    """The outputs of a call, put in order as they come."""

    def __init__(self, count: int | None) -> None:
        self._count = count
        self._template: Any = None
        self._arrays: list[np.ndarray[Any, Any]] | None = None
        self._chunks: list[tuple[np.ndarray[Any, Any], list[np.ndarray[Any, Any]]]] = []
        self._highest = -1

    def add(self, chunk: Chunk) -> None:
        """Take the outputs of a chunk."""
        for failure in chunk.failures:
            self._highest = max(self._highest, failure.index)
        if chunk.outputs is None:
            return
        self._highest = max(self._highest, int(chunk.indices.max()))
        self._template, leaves = take_apart(chunk.outputs)
        if self._count is None:
            self._chunks.append((chunk.indices, leaves))
            return
        if self._arrays is None:
            self._arrays = [np.empty((self._count, *leaf.shape[1:]), leaf.dtype) for leaf in leaves]
        for array, leaf in zip(self._arrays, leaves, strict=True):
            array[chunk.indices] = leaf

    def _collected(self) -> list[np.ndarray[Any, Any]]:
        if self._arrays is None and self._chunks:
            total = self._highest + 1
            first = self._chunks[0][1]
            self._arrays = [np.empty((total, *leaf.shape[1:]), leaf.dtype) for leaf in first]
            for indices, leaves in self._chunks:
                for array, leaf in zip(self._arrays, leaves, strict=True):
                    array[indices] = leaf
            self._chunks = []
        return self._arrays or []

    def stacked(self, without: set[int]) -> Any:
        """Return the nest of arrays (items, ...), without the rows of failed items."""
        arrays = self._collected()
        if not arrays:
            if without:
                return None
            raise ValueError("predict got no items: x is empty.")
        if without:
            kept = np.ones(len(arrays[0]), bool)
            kept[list(without)] = False
            arrays = [array[kept] for array in arrays]
        return put_together(self._template, arrays)

    def by_item(self, failures: list[ItemError]) -> list[Any]:
        """Return for each item its outputs, or its error."""
        arrays = self._collected()
        failed = {failure.index: failure for failure in failures}
        return [
            failed[index] if index in failed else put_together(self._template, [array[index] for array in arrays])
            for index in range(self._highest + 1)
        ]


def _by_index(chunk: Chunk) -> Iterator[tuple[int, Any]]:
    for row, index in enumerate(chunk.indices.tolist()):
        yield index, map_leaves(lambda leaf, row=row: leaf[row], chunk.outputs)


# ---- Arguments ---------------------------------------------------------------------------------------


def _positive(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name} {value!r}: give a whole number of at least 1.")
    return int(value)


def _as_items(x: Any) -> Any:
    """Return a sequence or an iterable of single items."""
    if isinstance(x, (str, bytes)):
        raise TypeError(f"items {x!r:.60}: this is one item; pass a list of items.")
    if isinstance(x, dict):
        raise TypeError("items are a dict: with preprocess= pass a sequence of single items.")
    if hasattr(x, "as_numpy_iterator"):
        return x.as_numpy_iterator()
    if hasattr(x, "numpy") and hasattr(x, "shape"):
        return x.numpy()
    if hasattr(x, "iloc"):
        return x.to_numpy()
    iter(x)  # a TypeError that names the type, where it is no iterable
    return x


def _count(items: Any) -> int | None:
    return len(items) if hasattr(items, "__len__") and hasattr(items, "__getitem__") else None


def _first(items: Any, count: int) -> Any:
    if _count(items) is not None:
        return items[:count]
    return itertools.islice(items, count)


def _spec_leaves(specs: Any) -> tuple[Any, list[tuple[tuple[int | None, ...], str]]]:
    """Take a nest of (shape, dtype) apart; a (shape, dtype) is a leaf."""
    leaves: list[tuple[tuple[int | None, ...], str]] = []

    def walk(nest: Any) -> Any:
        if _is_spec(nest):
            leaves.append((tuple(nest[0]), nest[1]))
            return len(leaves) - 1
        if isinstance(nest, dict):
            return {key: walk(value) for key, value in nest.items()}
        if isinstance(nest, (list, tuple)):
            return type(nest)(walk(value) for value in nest)
        raise TypeError(f"sample_spec: {nest!r} is no (shape, dtype), as in ((224, 224, 3), 'uint8').")

    return walk(specs), leaves


def _is_spec(nest: Any) -> bool:
    if not isinstance(nest, (list, tuple)) or len(nest) != 2 or not isinstance(nest[0], (list, tuple)):
        return False
    return all(length is None or isinstance(length, (int, np.integer)) for length in nest[0]) and not isinstance(
        nest[1], (list, dict, tuple)
    )


def _spec_without_sample(leaves: list[tuple[tuple[int | None, ...], str]]) -> RecordSpec:
    if not leaves or any(length is None for shape, _ in leaves for length in shape):
        said = "does not say its inputs" if not leaves else f"leaves them open: {', '.join(str(s) for s, _ in leaves)}"
        raise ValueError(
            "preprocess(item, out) needs the slot's shape beforehand, and the model " + said + ". "
            "Pass sample_spec=, as in ((224, 224, 3), 'uint8')."
        )
    return RecordSpec.of(
        Field(str(position), tuple(int(length or 0) for length in shape), as_dtype(dtype))
        for position, (shape, dtype) in enumerate(leaves)
    )


def _storage_dtype(dtype: str, asked: str | None) -> np.dtype[Any]:
    """Keep the sample's dtype; but float64, which NumPy makes unasked, becomes what the model takes."""
    if dtype == "float64" and asked is not None and as_dtype(asked).kind in "fV":
        return as_dtype(asked)
    return as_dtype(dtype)


def _check_shape(position: int, shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> None:
    differs = len(shape) == len(wanted) and any(
        length is not None and length != given for given, length in zip(shape, wanted, strict=True)
    )
    if differs or not math.prod(shape):
        raise ValueError(
            f"input {position} of the model takes samples of shape {wanted}; preprocess returned {shape} for the first "
            "item. Resize in preprocess, or change the model's input."
        )
