"""A drop-in for ``keras.Model.predict`` whose preprocessing runs in worker processes.

It puts the parts together: `WorkerPool` and `Pipeline` bring samples into the ring, `ringfeed.tf`
calls the model. What it adds is the order of results, what to do about items that fail, and the end.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from types import TracebackType
from typing import Any

import numpy as np

from ._core import Batch
from .errors import ItemError, RingFeedError
from .nest import put_together
from .pipeline import Chunk, Pipeline, Source, require_choice
from .progress import Progress
from .record_spec import RecordSpec
from .results import Results, rows_by_index
from .ring import Ring
from .sample_spec import choose_spec
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
        results = Results(_count(items))
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
                early.update(rows_by_index(chunk))
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
        assert self._pipeline is not None
        assert self._pool is not None
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

    def _note(self, failures: Sequence[ItemError]) -> None:
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
        asked = self._runner.input_specs if self._sample_spec is None else self._sample_spec
        return choose_spec(asked, sample)

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
