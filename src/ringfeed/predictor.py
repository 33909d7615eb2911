"""A drop-in for ``keras.Model.predict`` whose preprocessing runs in worker processes.

It puts the parts together: `WorkerPool` and `Pipeline` bring samples into the ring, `ringfeed.tf`
calls the model. What it adds is the order of results, what to do about items that fail, and the end.
"""

from __future__ import annotations

import contextlib
import functools
import secrets
import weakref
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from types import TracebackType
from typing import Any

import numpy as np
import tensorflow as tf

from ._core import Batch
from .arguments import check_bool, check_choice, check_int, check_seconds
from .errors import ItemError, RingFeedError
from .nest import map_leaves, unflatten
from .progress import Progress
from .ring import Ring
from .tf.models.row_mixing_guard import RowMixingGuard
from .tf.models.runner import ModelRunner, floatx_of
from .tf.predict.callbacks import PredictCallbacks
from .tf.predict.empty_outputs import empty_outputs
from .tf.predict.in_memory import predict_in_memory
from .tf.predict.ordered_outputs import OrderedOutputs, require_rows, rows_by_index
from .tf.tensors.outputs import all_to_numpy
from .tf.tensors.structure import is_generated, names_are_lost, pack_inputs
from .tf.tensors.zero_copy import PaddedRows
from .turns import Turns
from .workers.identity import WorkerInfo, working_as
from .workers.in_process import InProcess
from .workers.layout_trials import LayoutTrials
from .workers.model_calls import Chunk, CommonError
from .workers.orders import fills_slot, takes_info
from .workers.pool import WorkerPool, available_cores
from .workers.predict_loop import Pipeline
from .workers.sample_spec import Wanted, spec_leaves
from .workers.source import Source, as_items

_BATCH_SIZE = 32  # Keras's default
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
        as the model nests them; of a mapping, the arrays under the names of the model's inputs are taken, in whatever
        order, and others left out. ``preprocess(item, out)`` writes them into `out`, which is the slot
        itself, full of zeros. Lambdas and functions of a notebook work. Without it, `predict` takes what Keras takes
        and no process is started.
    workers : int, optional
        Processes; by default as many as cores are available. They see no GPU and do not import
        TensorFlow unless `preprocess` does. 0 runs `preprocess` in this process, for a debugger.
    batch_size : int, optional
        Most rows of one model call; 32 by default, as in Keras.
    on_error : {"raise", "skip", "return"}
        What becomes of an item that cannot be preprocessed, or over whose row the model raises: its error is raised;
        it is left out, noted in `failures`; or its error stands in its place. The model never sees rows of failed
        items.
    partition : {"dynamic", "contiguous", "stratified"}
        Whoever is free takes the next item; or each worker has a share of its own, in blocks, or with
        each of the given labels alike.
    sample_spec : nest of (shape, dtype), optional
        The inputs of one item. It binds: each sample has these shapes (None is an axis that the first item decides) and
        becomes of these dtypes, where its numbers stay what they are but for the rounding of floats. By default the
        model's own inputs bind where it says them, else the first item of each call.
    initializer : callable, optional
        Called once in each worker before its first item: without an argument or, if it needs one, with the
        `ringfeed.WorkerInfo`. What it sets in globals of the main module, `preprocess` finds there.
    item_timeout : float, optional
        Most seconds that a worker may take for one item. Then the item fails, and the worker is replaced.
    signature, tags : str, optional
        Of a SavedModel: which of its signatures is called, and which of its graphs is loaded.
    slots : int, optional
        Slots of the ring; by default four batches and two for each worker. Where memory is short there are fewer. There
        are never less than two batches and two for each worker, whatever is given here.

    Attributes
    ----------
    failures : list of ItemError
        Of the last call, in the order in which they came.

    Raises
    ------
    ValueError, TypeError
        An argument that makes no sense, or a function that cannot travel.

    Notes
    -----
    Threads that call `predict` take turns. Items whose iterator asks the Predictor that it feeds are refused. Where it
    does so from threads of its own (a thread pool's, tf.data's), that cannot be seen, and both wait for ever. A process
    that is forked from the one that made the Predictor cannot use it.

    Each call learns anew what a row is, from its first item: from the second call on, that item is preprocessed before
    the others begin. A `sample_spec` of one input without free axes settles it beforehand. Where the model does not say
    all shapes, it is asked with the first item's row, by one call more, before the others are made like it: an item
    that it does not take is that item's error, and the next is tried. A model that has taken nothing so far may be
    broken, so its own error is raised, whatever `on_error` says: at the first item with "raise", else when 100 shapes
    or 1000 items were refused or the items end.

    A model that runs eagerly (``run_eagerly=True``, or a callable that cannot be traced) is asked by running it on that
    row, for nothing else tells what it takes: one that keeps a state has had a call more than in Keras then, unless the
    first call has that row alone. A callable's Python code also runs, with symbolic tensors, while it is traced. With
    a `sample_spec` without free axes nothing is asked.

    Results are in the items' order, and so are the rows of each model call in `predict`: batches are those of Keras,
    but for items that failed, which have no row. Where the model raises over a row, the others of its batch are run in
    parts: an item has a `ModelError` only where the model raised over its row alone. A row that comes before its turn
    is copied, and waits.

    In `stream` a call has the rows that are ready: a model whose output for one row depends on other rows (a maximum
    over the batch, a normalisation by its mean) gives numbers there that change from run to run. So it would in
    `predict` where several workers have shares of their own (`partition`): the first batch of two rows or more is tried
    in parts, and a model that is seen to mix rows is refused. One that changes a state or draws random numbers is not
    tried, as far as its graph tells; one that runs eagerly is, for some calls more: where it keeps a state, use
    ``partition="dynamic"``.

    Each number that `preprocess` returns reaches the model as it is, or the item fails with `SampleMismatch`: integers
    are never cut to a smaller dtype. Floats of another width become what the model takes, as in Keras.

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
        bound = None if sample_spec is None else Wanted.bound_to(sample_spec)
        if preprocess is None and initializer is not None:
            raise ValueError("initializer= is for workers, and there are none without preprocess=.")
        self._on_error = on_error
        self._partition = partition
        self._sample_spec = sample_spec
        self._parts = max(workers, 1)
        self.failures: list[ItemError] = []
        self._turns = Turns("this Predictor", _IN_A_CHILD)
        self._pool: WorkerPool | None = None
        self._flow: Pipeline | InProcess | None = None
        self._empty: Any = None  # what the model returns for no rows, as far as calls have shown it
        if preprocess is not None and workers:
            # The processes start first: they load while the model does.
            self._pool = WorkerPool(preprocess, workers, initializer=initializer, item_timeout=item_timeout)
        elif item_timeout is not None:
            raise ValueError(f"item_timeout={item_timeout!r} needs worker processes, which are ended by it.")
        try:
            self._runner = ModelRunner(model, signature=signature, tags=tags)
        except BaseException:
            if self._pool is not None:
                self._pool.close()
            raise
        # Neither refers to the Predictor: one that is dropped ends its workers.
        call_model = functools.partial(_call_model, self._runner)
        wanted = _wanted(self._runner) if bound is None else bound
        self._trials = trials = LayoutTrials(
            functools.partial(_try_model, self._runner), wanted, raises=on_error == "raise"
        )
        if self._pool is not None:
            one_part_each = partition != "dynamic"
            apart = RowMixingGuard(call_model, functools.partial(call_model, is_trial=True), partition)
            self._flow = Pipeline(self._pool, call_model, wanted, self._batch_size, slots, one_part_each, trials, apart)
        elif preprocess is not None:
            info = WorkerInfo(0, 1, secrets.randbits(64))
            if initializer is not None:
                with working_as(info):
                    initializer(*[info] * takes_info(initializer))
            self._flow = InProcess(preprocess, fills_slot(preprocess), call_model, wanted, trials, info)
        self._finalizer = weakref.finalize(self, _end, self._turns, self._flow, self._pool)

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
            refused, since it is not clear what an item of theirs is. Without: whatever ``keras.Model.predict`` takes.
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
            As the model nests its outputs, each of shape (items, ...). Outputs that Keras returns as ragged or sparse
            tensors are so here. With ``on_error="skip"``
            without the rows of failed items; with ``on_error="return"`` a list with, for each item,
            its outputs (without the batch axis) or its error. Where ``model.stop_predicting`` ended the work: of the
            items that were done.

        Raises
        ------
        PreprocessError, WorkerCrashed, ModelError
            With ``on_error="raise"``: the first item that failed; it is named, and the worker's
            traceback is in the message.
        ModelError
            The model does not return one row for each row of its inputs.
        RingClosed
            The Predictor was closed before the last item was done, by a callback, a signal handler or another thread.
        """
        with self._turns.turn("predict", may_nest=self._flow is None):
            self._check_open()
            if self._flow is None:
                size = batch_size or self._default_batch_size
                return predict_in_memory(self._runner, x, size, verbose, steps=steps, callbacks=callbacks)
            size = self._batch_size if batch_size is None else check_int(batch_size, "batch_size", 1)
            limit = None if steps is None else check_int(steps, "steps", 1) * size
            source = Source(as_items(x), self._partition, labels, self._parts, limit)
            batches = steps if source.count is None else -(-source.count // size)
            watchers = PredictCallbacks(self._runner.keras_model, callbacks, batches, verbose)
            return self._predict(source, size, 0 if watchers.show_progress else verbose, watchers)

    def _predict(self, source: Source, batch_size: int, verbose: str | int, watchers: PredictCallbacks) -> Any:
        self.failures = []
        outputs = OrderedOutputs(source.count)
        watchers.begin()
        with closing(self._chunks(source, batch_size, None, None, verbose)) as chunks:
            for chunk in chunks:
                self._note(chunk.failures)
                if len(chunk.indices):
                    outputs.add(chunk.indices, chunk.outputs)
                    watchers.begin_batch()
                    if watchers.end_batch(chunk.outputs):
                        break
                    self._turns.require_own_process()
        watchers.end()
        if self._on_error == "return":
            return outputs.by_item(self.failures)
        if outputs.is_empty:
            if not self.failures:
                raise ValueError("predict got no items: x is empty.")
            return self._empty_result()
        result = outputs.stacked()
        self._empty = map_leaves(_without_rows, result)
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
        """Yield the outputs of items as they come, also of an endless iterable, in bounded memory.

        Parameters
        ----------
        items : iterable
            Raw items; read ahead of the results by at most `window`.
        ordered : bool
            Yield in the items' order, or as they are finished.
        linger : float
            Seconds that a sample waits for others to fill the batch. The default is longer than an engine's, since
            samples arrive at the pace of preprocessing.
        window : int, optional
            Most items read and not yet yielded; by default eight batches or 256, whichever is more. Items that fail
            before the first that the model takes are read one by one, and their errors may wait beside the window.
        verbose : {"auto", 0, 1, 2}
            A progress bar, as in `predict`.
        labels : sequence, optional
            As in `predict`.

        Yields
        ------
        index : int
        outputs : nest of numpy.ndarray
            Without the batch axis. With ``on_error="return"`` an item's error in their place.

        Raises
        ------
        PreprocessError, WorkerCrashed, ModelError, RingClosed
            As in `predict`.
        """
        self._turns.require_own_process()
        if self._flow is None:
            raise RingFeedError("stream() needs preprocess=: without it there are no single items; use predict().")
        linger, ordered = check_seconds(linger, "linger"), check_bool(ordered, "ordered")
        if window is None:
            window = max(8 * self._batch_size, 256)
        # With shares of their own, workers are not in step: a window could hold back the very item
        # that is waited for.
        limit = check_int(window, "window", 1) if self._partition == "dynamic" else None
        source = Source(as_items(items), self._partition, labels, self._parts)
        return self._stream(source, ordered, linger, limit, verbose)

    def _stream(
        self, source: Source, ordered: bool, linger: float, window: int | None, verbose: str | int
    ) -> Generator[tuple[int, Any], None, None]:
        early: dict[int, Any] = {}
        next_index = 0
        left_out = object()
        with self._turns.turn("stream"):
            self._check_open()
            self.failures = []
            chunks = self._chunks(source, self._batch_size, linger, window, verbose)
            with closing(chunks):
                chunk = next(chunks, None)
                while chunk is not None:
                    self._note(chunk.failures)
                    slid = 0
                    early.update(rows_by_index(chunk.indices, chunk.outputs))
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
                            self._turns.require_own_process()
                    try:
                        chunk = chunks.send(slid)
                    except StopIteration:
                        chunk = None

    def _chunks(
        self, source: Source, batch_size: int, linger: float | None, window: int | None, verbose: str | int
    ) -> Generator[Chunk, int | None, None]:
        assert self._flow is not None
        progress = Progress(source.count, verbose)
        with contextlib.closing(progress):
            yield from self._flow.run(source, batch_size=batch_size, linger=linger, window=window, progress=progress)

    def _note(self, failures: Sequence[ItemError]) -> None:
        self.failures.extend(failures)
        if failures and self._on_error == "raise":
            raise failures[0]

    def _empty_result(self) -> Any:
        """Return what the model returns for no rows."""
        if self._empty is not None:
            return self._empty
        asked = self._runner.input_specs if self._sample_spec is None else self._sample_spec
        if asked is not None:
            template, leaves = spec_leaves(asked)
        elif (tried := self._trials.tried) is not None:
            template, leaves = tried.template, [(field.shape, field.dtype.name) for field in tried.fields]
        else:
            return empty_outputs(self._runner, None)
        specs = [tf.TensorSpec((None, *shape), dtype) for shape, dtype in leaves]
        return empty_outputs(self._runner, unflatten(template, specs))

    # ---- the end -------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if not self._finalizer.alive:
            raise RingFeedError("this Predictor was closed; make a new one.")

    @property
    def ring(self) -> Ring | None:
        """The ring of samples, once the first item has told their shape; None before, or without workers."""
        return None if self._flow is None else self._flow.rows

    @property
    def worker_process_ids(self) -> list[int]:
        """Process ids of the workers at this moment."""
        return [] if self._pool is None else self._pool.process_ids

    def close(self) -> None:
        """End the workers and remove the rings; twice does no harm. A forked child leaves them to their process.

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


def _end(turns: Turns, flow: Pipeline | InProcess | None, pool: WorkerPool | None) -> None:
    if not turns.is_own_process:
        return
    try:
        if flow is not None:
            flow.close()
    finally:
        if pool is not None:
            pool.close()


def _without_rows(output: Any) -> Any:
    """Return no rows of an output; of a ragged or sparse one an empty array."""
    if isinstance(output, np.ndarray):
        return np.empty((0, *output.shape[1:]), output.dtype)
    if output is None:
        return None
    return np.empty((0, *(length or 0 for length in output.shape[1:])), output.dtype.as_numpy_dtype)


def _parts(template: Any) -> Iterable[Any]:
    if isinstance(template, dict):
        return template.values()
    return template if isinstance(template, (list, tuple)) else [template]


def _wanted(runner: ModelRunner) -> Wanted:
    """Return what a model says of its inputs."""
    inputs = runner.adapted.inputs
    if runner.input_specs is None and runner.keras_model is None and inputs is not None:
        is_flat = all(isinstance(part, int) for part in _parts(inputs.template))
        if not inputs.specs or (is_flat and not any(map(is_generated, inputs.names))):
            return Wanted(None, arguments=tuple(map(str, inputs.names)), options=inputs.optional)
    names = () if inputs is None else inputs.names
    return Wanted(runner.input_specs, names, are_lost=names_are_lost(names), floatx=floatx_of(runner))


# ---- The model ---------------------------------------------------------------------------------------


def _try_model(runner: ModelRunner, row: Any, template: Any, rows: int) -> Any:
    """Run the model on one row; where it fails, on as many as it is to be given, for it may need several.

    Returns
    -------
    nest of arrays, or None
        The outputs for the one row, where it was run.
    """
    try:
        return _call_model(runner, row, template, is_trial=True)
    except Exception:
        if rows == 1:
            raise
    _call_model(runner, {name: np.repeat(array, rows, 0) for name, array in row.items()}, template, is_trial=True)
    return None


def _call_model(runner: ModelRunner, rows: Any, template: Any, *, is_trial: bool = False) -> Any:
    """Run the model on rows: a batch is read in the ring's own memory, and cut to shape inside the function.

    As a trial a model that changes a state or draws random numbers is not run, only traced.
    """
    if isinstance(rows, Batch):
        leaves: list[Any] = [
            PaddedRows(rows.padded(name), field.shape) if field.is_padded else rows[name]
            for name, field in rows.ring.spec.items()
        ]
        count = len(rows)
    else:
        leaves = list(rows.values())
        count = len(leaves[0])
    try:
        call = runner.prepare(pack_inputs(unflatten(template, leaves)))
    except Exception as error:
        raise CommonError(error) from None
    if is_trial:
        if (refusal := runner.refusal_of(call)) is not None:
            raise CommonError(refusal)
        if not runner.may_be_tried(call):
            return None
    outputs = all_to_numpy(call())
    try:
        require_rows(outputs, count, runner.name)
    except RingFeedError as error:
        raise CommonError(error) from None
    return outputs


# ---- Arguments ---------------------------------------------------------------------------------------
