"""`predict` without workers: data that is in memory, or that brings its own batches.

It may not know of rings or processes. The short way for an array: a view of its rows goes to the model, and what comes
back is copied into the result.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any

from ..progress import Progress, is_wanted
from .callbacks import PredictCallbacks
from .inputs import Batches, iterate_batches
from .model import ModelRunner, floatx_of
from .outputs import Gather, all_to_numpy


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
        See `ringfeed.tf.inputs.iterate_batches`.
    batch_size : int, optional
        Rows per batch; 32 by default. For arrays only.
    verbose : "auto", 0, 1 or 2
        0: silent. 1: a bar on standard error. 2: one line at the end. "auto": a bar for more than one
        batch, if standard error is a terminal.
    steps : int, optional
        Stop after so many batches.
    callbacks : list of keras.callbacks.Callback, or keras.callbacks.CallbackList
        Their ``on_predict_*`` methods are called as by Keras. ``logs["outputs"]`` of a batch holds tensors that
        are the callback's own. ``model.stop_predicting = True`` ends the work after the batch.
    progress : Progress, optional
        Is told of each batch and closed at the end; replaces what `verbose` asks for.

    Returns
    -------
    nest of numpy.ndarray
        In the structure of the model's outputs, over all rows in order; new memory. Outputs that Keras returns
        as ragged or sparse tensors are so here.

    Raises
    ------
    ValueError, TypeError
        The data can not be read; see `ringfeed.tf.inputs.iterate_batches`.
    """
    if verbose not in ("auto", 0, 1, 2):
        raise ValueError(f"verbose={verbose!r}: must be 'auto', 0 (silent), 1 (a bar) or 2 (one line).")
    batches = iterate_batches(x, batch_size, steps, floatx=floatx_of(runner))
    if progress is None and is_wanted(verbose) and (verbose != "auto" or batches.total != 1):
        progress = Progress(batches.total, verbose, unit="batch")
    watchers = PredictCallbacks(runner.keras_model, callbacks, batches.total)
    if not watchers and progress is None and batches.total == 1:
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
    gather = Gather(batches.rows)
    watchers.begin()
    with closing(iter(batches)) as iterator:
        for data in iterator:
            watchers.begin_batch()
            outputs = runner.run(data)
            gather.add(outputs)
            if progress is not None:
                progress.advance(1)
            if watchers.end_batch(outputs):
                break
            del outputs, data  # they may keep memory that the next batch needs
    watchers.end()
    return gather.result()
