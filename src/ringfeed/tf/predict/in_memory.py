"""`predict` without workers: data in memory, or data that comes as batches.

It may not know rings or processes. An array takes a short way: a view of its rows goes to the model, and the outputs
are copied into the result.
"""

from __future__ import annotations

from contextlib import closing
from itertools import count
from typing import Any

from ...progress import Progress, is_wanted
from ..models.runner import ModelRunner, floatx_of
from ..tensors.outputs import OutputCollector, all_to_numpy, join_outputs
from .callbacks import PredictCallbacks, batches_per_call
from .inputs import Batches, Replicas, iterate_batches


def predict_in_memory(
    runner: ModelRunner,
    x: Any,
    batch_size: int | None = None,
    verbose: str | int = "auto",
    steps: int | None = None,
    callbacks: Any = None,
    *,
    progress: Progress | None = None,
) -> Any:
    """Predict as ``keras.Model.predict`` does, batch by batch in this process.

    Parameters
    ----------
    runner : ModelRunner
    x : nest of arrays, tf.data.Dataset, PyDataset, DataLoader, generator or iterator
        See `iterate_batches`.
    batch_size : int, optional
        Rows per batch; 32 by default. For arrays only.
    verbose : "auto", 0, 1 or 2
        0: silent. 1: a bar on standard error. 2: one line at the end. "auto": a bar in a notebook, or if standard
        error is a terminal. Callbacks that show the progress replace it.
    steps : int, optional
        Stop after this many batches. If the model was compiled with `steps_per_execution`, all batches of the last
        execution are predicted, as in Keras.
    callbacks : list of keras.callbacks.Callback, or keras.callbacks.CallbackList
        Their ``on_predict_*`` methods are called as by Keras. ``logs["outputs"]`` of a batch holds tensors that
        the callback owns. ``model.stop_predicting = True``, set by a callback or by another thread, ends the
        call after the batch; the result holds the rows so far.
    progress : Progress, optional
        Counts the batches, and is closed at the end; it replaces the progress that `verbose` asks for.

    Returns
    -------
    nest of numpy.ndarray
        In the structure of the model's outputs, over all rows in order; new memory. Outputs that Keras returns
        as ragged or sparse tensors stay ragged or sparse.

    Raises
    ------
    ValueError, TypeError
        The data cannot be read; see `iterate_batches`.
    """
    if verbose not in ("auto", 0, 1, 2):
        raise ValueError(f"verbose={verbose!r}: must be 'auto', 0 (silent), 1 (a bar) or 2 (one line).")
    batches = iterate_batches(
        x, batch_size, steps, floatx=floatx_of(runner), batches_per_call=batches_per_call(runner.keras_model)
    )
    watchers = PredictCallbacks(runner.keras_model, callbacks, batches.steps, verbose)
    if progress is None and is_wanted(verbose) and not watchers.show_progress:
        progress = Progress(batches.total, verbose, unit="batch")
    if not watchers and progress is None and batches.total == 1 and batches.rows is not None:
        watchers.begin()
        (data,) = batches
        return all_to_numpy(runner.run(data))
    try:
        return _predict_batches(runner, batches, watchers, progress)
    finally:
        if progress is not None:
            progress.close()


def _predict_batches(
    runner: ModelRunner, batches: Batches, watchers: PredictCallbacks, progress: Progress | None
) -> Any:
    collector = OutputCollector(batches.rows)
    watchers.begin()
    with closing(iter(batches)) as iterator:
        for number in count():
            if number != batches.total:  # as in Keras, even before the end of the data is known
                watchers.begin_batch()
            try:
                data = next(iterator)
            except StopIteration:
                break
            outputs = _run(runner, data, collector)
            if progress is not None:
                progress.advance(1)
            if watchers.end_batch(outputs):
                break
            del outputs, data  # they may keep memory that the next batch needs
    watchers.end()
    return collector.result()


def _run(runner: ModelRunner, data: Any, collector: OutputCollector) -> Any:
    """Run the model on a batch, collect its outputs, and return them."""
    if not isinstance(data, Replicas):
        outputs = runner.run(data)
        collector.add(outputs)
        return outputs
    parts = []
    for part in data.parts:
        parts.append(runner.run(part))
        collector.add(parts[-1])
    return join_outputs(parts)
