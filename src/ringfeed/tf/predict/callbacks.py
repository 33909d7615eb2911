"""Keras callbacks, and the flag that stops a prediction, with the behaviour of ``keras.Model.predict``.

It may not know where batches come from.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import tensorflow as tf

from ..tensors.outputs import join_outputs, own_tensor


def batches_per_call(model: Any) -> int:
    """Return the number of batches that Keras runs in one call of the model's function: its `steps_per_execution`."""
    return int(getattr(model, "steps_per_execution", 1) or 1)


class PredictCallbacks:
    """The callbacks of one call of `predict`; without callbacks, only ``model.stop_predicting`` has an effect.

    Parameters
    ----------
    model : keras.Model or None
        Its ``stop_predicting`` ends the call; a callback or another thread may set it. Callbacks see this model; if it
        is None, they see an object that has only ``stop_predicting``.
    callbacks : list of keras.callbacks.Callback, keras.callbacks.CallbackList or None
    steps : int or None
        Number of batches, if it is known: ``params["steps"]`` of the callbacks.
    verbose : "auto", 0, 1 or 2
        ``params["verbose"]`` of the callbacks.

    Attributes
    ----------
    show_progress : bool
        The callbacks show the progress: one of them is a ProgbarLogger, or they are a CallbackList, as in Keras.

    Notes
    -----
    If a model was compiled with ``steps_per_execution=n``, callbacks are called once for `n` batches, with the numbers
    of the first and the last of them. The flag that stops the call is read as often.
    """

    def __init__(self, model: Any, callbacks: Any, steps: int | None, verbose: str | int = "auto") -> None:
        self._model = SimpleNamespace(stop_predicting=False) if model is None else model
        self.show_progress = False
        self._callbacks: Any = None
        self._batch = 0
        self._batches_per_call = batches_per_call(model)
        self._outputs: list[Any] = []
        if not callbacks:
            return
        import keras  # only here: a caller with callbacks has imported Keras

        if not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = keras.callbacks.CallbackList(
                callbacks, add_progbar=False, verbose=verbose, epochs=1, steps=steps, model=self._model
            )
            self.show_progress = any(isinstance(one, keras.callbacks.ProgbarLogger) for one in callbacks.callbacks)
        else:
            self.show_progress = True  # or not, as the creator of the list chose
        self._callbacks = callbacks

    def __bool__(self) -> bool:
        return self._callbacks is not None

    def begin(self) -> None:
        """Note that predicting begins; an older request to stop is forgotten."""
        self._model.stop_predicting = False
        if self._callbacks is not None:
            self._callbacks.on_predict_begin()

    def begin_batch(self) -> None:
        """Note that a batch begins."""
        if self._callbacks is not None and self._batch % self._batches_per_call == 0:
            self._callbacks.on_predict_batch_begin(self._batch)

    def end_batch(self, outputs: Any) -> bool:
        """Report a batch's outputs to the callbacks.

        Parameters
        ----------
        outputs : nest of tf.Tensor or numpy.ndarray
            Callbacks get them as tensors of their own: a model may return memory of its input.

        Returns
        -------
        bool
            Whether a callback or another thread asked to stop.
        """
        self._batch += 1
        if self._callbacks is not None:
            self._outputs.append(tf.nest.map_structure(own_tensor, outputs))
        if self._batch % self._batches_per_call:
            return False
        self._report_outputs()
        return bool(getattr(self._model, "stop_predicting", False))

    def record_batch(self, outputs: Any) -> bool:
        """Report a batch that began and ended; see `end_batch`."""
        self.begin_batch()
        return self.end_batch(outputs)

    def end(self) -> None:
        """Note that predicting has ended."""
        self._report_outputs()  # of the last batches, if `steps_per_execution` does not divide their number
        if self._callbacks is not None:
            self._callbacks.on_predict_end()

    def _report_outputs(self) -> None:
        if not self._outputs:
            return
        last = (
            -(-self._batch // self._batches_per_call) * self._batches_per_call - 1
        )  # the same for fewer batches, as Keras counts
        outputs, self._outputs = join_outputs(self._outputs), []
        self._callbacks.on_predict_batch_end(last, {"outputs": outputs})
