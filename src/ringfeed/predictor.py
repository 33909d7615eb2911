"""A drop-in for ``keras.Model.predict`` whose preprocessing runs in worker processes.

It connects the parts: `PredictLoop` brings items through workers and rings, `ModelCall` calls the model. Its own part
is the order of results, the treatment of failed items, and the lifecycle.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from types import TracebackType
from typing import Any

from .arguments import check_bool, check_choice, check_int, check_seconds
from .errors import ItemError, RingFeedError
from .progress import Progress
from .ring import Ring
from .tf.models.runner import ModelRunner
from .tf.predict.callbacks import PredictCallbacks
from .tf.predict.empty_outputs import empty_outputs, without_rows
from .tf.predict.in_memory import predict_in_memory
from .tf.predict.loops import Loop, make_loop
from .tf.predict.ordered_outputs import OrderedOutputs
from .tf.predict.stream_outputs import StreamOutputs
from .turns import Turns
from .workers.item_source import ItemSource, as_items
from .workers.model_calls import Chunk
from .workers.pool import WorkerPool, available_cores
from .workers.sample_spec import InputSpec

_BATCH_SIZE = 32  # the default of Keras
_IN_A_CHILD = "make one in each process, or one Engine, and a Client in each."


class Predictor:
    """Predict raw items with a model, preprocessing them in worker processes.

    Parameters
    ----------
    model : keras.Model, path, tf.function or callable
        A Keras model, a ``.keras`` file, a SavedModel folder, or any callable on a nest of tensors
        of shape (rows, ...).
    preprocess : callable, optional
        ``preprocess(item)`` returns the model's inputs for one item, without the batch axis, nested
        as the model nests them. A mapping may have any order and further entries: the arrays under the names of the
        model's inputs are taken. ``preprocess(item, out)`` writes the inputs into `out`, which is the slot
        itself, filled with zeros. Lambdas and functions of a notebook work. Without it, `predict` takes the same data
        as Keras, and no process is started.
    workers : int, optional
        Processes; by default as many as cores are available. They see no GPU and do not import
        TensorFlow unless `preprocess` does. 0 runs `preprocess` in this process, for a debugger.
    batch_size : int, optional
        Most rows of one model call; 32 by default, as in Keras.
    on_error : {"raise", "skip", "return"}
        The treatment of an item whose preprocessing fails, or over whose row the model raises. Its error is raised; or
        the item is left out and its error is in `failures`; or the error takes the place of its outputs. The model
        never sees rows of failed items.
    partition : {"dynamic", "contiguous", "stratified"}
        Any free worker takes the next item; or each worker has its own share: a block, or equally many items of each of
        the given labels.
    sample_spec : nest of (shape, dtype), optional
        The inputs of one item. It is binding: each sample has these shapes (the first item decides an axis that is
        None), and becomes of these dtypes without a change of its numbers, except that floats are rounded. By default
        the model's own inputs are binding if the model gives them, and otherwise the first item of each call.
    initializer : callable, optional
        Called once in each worker before its first item: without an argument or, if it needs one, with the
        `ringfeed.WorkerInfo`. `preprocess` finds the globals of the main module that it sets.
    item_timeout : float, optional
        Most seconds that a worker may take for one item. A slower item fails, and its worker is replaced.
    signature, tags : str, optional
        For a SavedModel: the signature that is called, and the tags of the graph that is loaded.
    slots : int, optional
        Slots of the ring; by default four batches and two for each worker, or fewer if memory is short. There
        are never fewer than two batches and two for each worker, even if a smaller number is given.

    Attributes
    ----------
    failures : list of ItemError
        The failed items of the last call, in the order in which they failed.

    Raises
    ------
    ValueError, TypeError
        An argument is invalid, or a function cannot be pickled.

    Notes
    -----
    Threads that call `predict` take turns. If an iterator of items calls the Predictor that it feeds, the call is
    refused. From threads of its own (a thread pool, tf.data) such a call cannot be recognised, and both calls wait for
    ever. A forked child of the process that made the Predictor cannot use it.

    Each call learns the layout of a row from its first item. From the second call on, that item is preprocessed before
    the others begin. A `sample_spec` of one input without free axes settles the layout beforehand. If the model does
    not give all shapes, it is first tried on the first item's row, which takes one more call. If the model does not
    take the row, the item fails, and the next item is tried. A model that has taken no item so far may be broken, so
    its own error is raised, regardless of `on_error`. With "raise" that happens at the first item; otherwise it happens
    when 100 shapes or 1000 items were refused, or when the items end.

    A model that runs eagerly (``run_eagerly=True``, or a callable that cannot be traced) is tried by running it on that
    row, because there is no other way to know what it takes. If it keeps a state, it has had one call more than in
    Keras, unless the first call has that row alone. While a callable is traced, its Python code also runs, with
    symbolic tensors. With a `sample_spec` without free axes nothing is tried.

    Results are in the order of the items, and so are the rows of each model call in `predict`: batches are those of
    Keras, except that failed items have no row. If the model raises over a batch, its rows are run again in parts: an
    item has a `ModelError` only if the model raised over its row alone. A row that comes before its turn is copied, and
    waits.

    In `stream` a call has the rows that are ready. The output of a model for one row may depend on other rows (a
    maximum over the batch, a normalisation by its mean); its numbers then change from run to run. The same would be
    true in `predict` if workers have their own shares (`partition`). Therefore the first batch of two rows or more is
    tried in parts, and a model that mixes rows is refused. A model that changes a state or draws random numbers is not
    tried, as far as its graph shows that. A model that runs eagerly is tried, at the cost of some more calls: if it
    keeps a state, use ``partition="dynamic"``.

    Each number that `preprocess` returns reaches the model unchanged, or the item fails with `SampleMismatch`: integers
    are never cut to a smaller dtype. Floats of another width are cast to the dtype that the model takes, as in Keras.

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
        initializer: Callable[..., Any] | None = None,
        item_timeout: float | None = None,
        signature: str | None = None,
        tags: str | Sequence[str] | None = None,
    ) -> None:
        check_choice(on_error, "on_error", ("raise", "skip", "return"))
        check_choice(partition, "partition", ("dynamic", "contiguous", "stratified"))
        workers = available_cores() if workers is None else check_int(workers, "workers", 0)
        self._batch_size = _BATCH_SIZE if batch_size is None else check_int(batch_size, "batch_size", 1)
        self._default_batch_size = batch_size
        slots = None if slots is None else check_int(slots, "slots", 1)
        spec = None if sample_spec is None else InputSpec.bound_to(sample_spec)
        if preprocess is None and initializer is not None:
            raise ValueError("initializer= is for workers, and there are none without preprocess=.")
        self._on_error = on_error
        self._partition = partition
        self._sample_spec = sample_spec
        self._share_count = max(workers, 1)
        self.failures: list[ItemError] = []
        self._turns = Turns("this Predictor", _IN_A_CHILD)
        self._pool: WorkerPool | None = None
        self._empty: Any = None  # the outputs for no rows, as far as calls have shown them
        if preprocess is not None and workers:
            # The processes start first: they load while the model does.
            self._pool = WorkerPool(preprocess, workers, initializer=initializer, item_timeout=item_timeout)
        elif item_timeout is not None:
            raise ValueError(f"item_timeout={item_timeout!r} needs worker processes: it ends them.")
        try:
            self._runner = ModelRunner(model, signature=signature, tags=tags)
        except BaseException:
            if self._pool is not None:
                self._pool.close()
            raise
        # The loop does not refer to the Predictor: the workers end when the Predictor is dropped.
        self._loop, self._trials = make_loop(
            self._runner, self._pool, preprocess, initializer, spec, self._batch_size, slots, partition, on_error
        )
        self._finalizer = weakref.finalize(self, _end, self._turns, self._loop, self._pool)

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
            With `preprocess`: raw items (paths, bytes, arrays, any object): the elements of a sequence or an iterable,
            the rows of an array, a tensor or a DataFrame of one dtype. Mappings, sparse matrices and other tables are
            refused, because their items are unclear. Without `preprocess`: any `x` of ``keras.Model.predict``.
        batch_size : int, optional
            Most rows of one model call.
        verbose : {"auto", 0, 1, 2}
            As in Keras: "auto" shows a bar on a terminal.
        steps : int, optional
            Stop after this many batches.
        callbacks : list of keras.callbacks.Callback, optional
            Their ``on_predict_*`` methods are called as Keras calls them.
        labels : sequence, optional
            The stratum of each item, for ``partition="stratified"``.

        Returns
        -------
        nest of numpy.ndarray
            As the model nests its outputs, each of shape (items, ...). Outputs that Keras returns as ragged or sparse
            tensors stay ragged or sparse. With ``on_error="skip"``
            without the rows of failed items; with ``on_error="return"`` a list with, for each item,
            its outputs (without the batch axis) or its error. If ``model.stop_predicting`` ended the call, only the
            items that were done are included.

        Raises
        ------
        PreprocessError, WorkerCrashed, ModelError
            With ``on_error="raise"``: the error of the first item that failed; it names the item, and its message has
            the worker's traceback.
        ModelError
            The model does not return one row for each row of its inputs.
        RingClosed
            The Predictor was closed before the last item was done, by a callback, a signal handler or another thread.
        """
        with self._turns.turn("predict", may_nest=self._loop is None):
            self._check_open()
            if self._loop is None:
                size = batch_size or self._default_batch_size
                return predict_in_memory(self._runner, x, size, verbose, steps=steps, callbacks=callbacks)
            size = self._batch_size if batch_size is None else check_int(batch_size, "batch_size", 1)
            limit = None if steps is None else check_int(steps, "steps", 1) * size
            source = ItemSource(as_items(x), self._partition, labels, self._share_count, limit)
            batches = steps if source.count is None else -(-source.count // size)
            watchers = PredictCallbacks(self._runner.keras_model, callbacks, batches, verbose)
            return self._predict(self._loop, source, size, 0 if watchers.show_progress else verbose, watchers)

    def _predict(
        self, loop: Loop, source: ItemSource, batch_size: int, verbose: str | int, watchers: PredictCallbacks
    ) -> Any:
        self.failures = []
        outputs = OrderedOutputs(source.count)
        watchers.begin()
        chunks = loop.run(source, batch_size=batch_size, linger=None, window=None)
        with closing(Progress(source.count, verbose)) as progress, closing(chunks):
            for chunk in chunks:
                self._record(chunk, progress)
                if len(chunk.indices):
                    outputs.add(chunk.indices, chunk.outputs)
                    if watchers.record_batch(chunk.outputs):
                        break
                    self._turns.require_own_process()
        watchers.end()
        if self._on_error == "return":
            return outputs.by_item(self.failures)
        if outputs.is_empty:
            if not self.failures:
                raise ValueError("predict got no items: x is empty.")
            return self._outputs_for_no_rows()
        result = outputs.stacked()
        self._empty = without_rows(result)
        return result

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
        """Yield the outputs of items as they come, even of an endless iterable, in bounded memory.

        Parameters
        ----------
        items : iterable
            Raw items; read ahead of the results by at most `window`.
        ordered : bool
            Yield in the order of the items, or as they are done.
        linger : float
            Seconds that a sample waits for others to fill the batch. The default is longer than that of an engine,
            because samples arrive at the pace of preprocessing.
        window : int, optional
            Most items read and not yet yielded; by default eight batches or 256, whichever is more. Until the model
            takes an item, items are read one by one, and the errors of these items may wait beside the window.
        verbose : {"auto", 0, 1, 2}
            A progress bar, as in `predict`.
        labels : sequence, optional
            As in `predict`.

        Yields
        ------
        index : int
        outputs : nest of numpy.ndarray
            Without the batch axis. With ``on_error="return"``, the error of a failed item takes their place.

        Raises
        ------
        PreprocessError, WorkerCrashed, ModelError, RingClosed
            As in `predict`.
        """
        self._turns.require_own_process()
        if self._loop is None:
            raise RingFeedError("stream() needs preprocess=: without it there are no single items; use predict().")
        linger, ordered = check_seconds(linger, "linger"), check_bool(ordered, "ordered")
        if window is None:
            window = max(8 * self._batch_size, 256)
        # Workers with shares of their own are not in step: a window could hold back the item that the others wait for.
        limit = check_int(window, "window", 1) if self._partition == "dynamic" else None
        source = ItemSource(as_items(items), self._partition, labels, self._share_count)
        return self._stream(self._loop, source, ordered, linger, limit, verbose)

    def _stream(
        self, loop: Loop, source: ItemSource, ordered: bool, linger: float, window: int | None, verbose: str | int
    ) -> Generator[tuple[int, Any], None, None]:
        results = StreamOutputs(ordered, returns_errors=self._on_error == "return")
        with self._turns.turn("stream"):
            self._check_open()
            self.failures = []
            chunks = loop.run(source, batch_size=self._batch_size, linger=linger, window=window)
            with closing(Progress(source.count, verbose)) as progress, closing(chunks):
                chunk = next(chunks, None)
                while chunk is not None:
                    self._record(chunk, progress)
                    results.add(chunk)
                    for index, outputs in results.release():
                        yield index, outputs
                        self._turns.require_own_process()
                    try:
                        chunk = chunks.send(results.take_passed())
                    except StopIteration:
                        chunk = None

    def _record(self, chunk: Chunk, progress: Progress) -> None:
        """Count the items of a chunk, and note or raise their errors."""
        progress.advance(len(chunk.indices) + len(chunk.failures))
        if (ring := self.ring) is not None:
            progress.show_ring(ring.stats, self._share_count)
        self.failures.extend(chunk.failures)
        if chunk.failures and self._on_error == "raise":
            raise chunk.failures[0]

    def _outputs_for_no_rows(self) -> Any:
        if self._empty is not None:
            return self._empty
        specs = self._runner.input_specs if self._sample_spec is None else self._sample_spec
        return empty_outputs(self._runner, specs, self._trials.tried)

    # ---- the end -------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if not self._finalizer.alive:
            raise RingFeedError("this Predictor was closed; make a new one.")

    @property
    def ring(self) -> Ring | None:
        """The ring of samples, once the shape of the first sample is known; None before, or without workers."""
        return None if self._loop is None else self._loop.rows

    @property
    def worker_process_ids(self) -> list[int]:
        """Process ids of the workers at this moment."""
        return [] if self._pool is None else self._pool.process_ids

    def close(self) -> None:
        """End the workers and remove the rings; a second call has no effect. A forked child leaves them alone.

        A call under way raises `RingClosed`, unless all its items are done.
        """
        self._finalizer()

    def __enter__(self) -> Predictor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(f"a Predictor stays in its process: {_IN_A_CHILD}")


def _end(turns: Turns, loop: Loop | None, pool: WorkerPool | None) -> None:
    if not turns.is_own_process:
        return
    try:
        if loop is not None:
            loop.close()
    finally:
        if pool is not None:
            pool.close()
