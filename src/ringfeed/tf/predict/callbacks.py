"""Keras callbacks, and the flag that stops a prediction, as ``keras.Model.predict`` treats them.

It may not know where batches come from.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import tensorflow as tf

from ..tensors.outputs import join_outputs, own_tensor


def batches_per_call(model: Any) -> int:
    """Return how many batches Keras runs in one call of the model's function: its `steps_per_execution`."""
    return int(getattr(model, "steps_per_execution", 1) or 1)


class PredictCallbacks:
    """The callbacks of one call of `predict`; without any, only ``model.stop_predicting`` is looked at.

    Parameters
    ----------
    model : keras.Model or None
        Whose ``stop_predicting`` ends the work, set by a callback or by another thread, and which the callbacks see.
        With None they see an object that has ``stop_predicting`` alone.
    callbacks : list of keras.callbacks.Callback, keras.callbacks.CallbackList or None
    steps : int or None
        Number of batches, where it is known: ``params["steps"]`` of the callbacks.
    verbose : "auto", 0, 1 or 2
        ``params["verbose"]`` of the callbacks.

    Attributes
    ----------
    show_progress : bool
        The progress is left to the callbacks: among them is a ProgbarLogger, or they are a CallbackList, as in Keras.

    Notes
    -----
    A model that was compiled with ``steps_per_execution=n`` has its callbacks called once for `n` batches, with the
    numbers of the first and the last of them, and is asked whether to stop as often.
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
        import keras  # only here: who has callbacks has Keras

        if not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = keras.callbacks.CallbackList(
                callbacks, add_progbar=False, verbose=verbose, epochs=1, steps=steps, model=self._model
            )
            self.show_progress = any(isinstance(one, keras.callbacks.ProgbarLogger) for one in callbacks.callbacks)
        else:
            self.show_progress = True  # or not, as whoever made the list wanted
        self._callbacks = callbacks

    def __bool__(self) -> bool:
        return self._callbacks is not None

    def begin(self) -> None:
        """Say that predicting begins; a wish to stop that is older than this counts no more."""
        self._model.stop_predicting = False
        if self._callbacks is not None:
            self._callbacks.on_predict_begin()

    def begin_batch(self) -> None:
        """Say that a batch begins."""
        if self._callbacks is not None and self._batch % self._batches_per_call == 0:
            self._callbacks.on_predict_batch_begin(self._batch)

    def end_batch(self, outputs: Any) -> bool:
        """Tell of a batch's outputs.

        Parameters
        ----------
        outputs : nest of tf.Tensor or numpy.ndarray
            Callbacks get them as tensors of their own: a model may return memory of its input.

        Returns
        -------
        bool
            Are no more batches wanted?
        """
        self._batch += 1
        if self._callbacks is not None:
            self._outputs.append(tf.nest.map_structure(own_tensor, outputs))
        if self._batch % self._batches_per_call:
            return False
        self._tell_of_outputs()
        return bool(getattr(self._model, "stop_predicting", False))

    def end(self) -> None:
        """Say that predicting has ended."""
        self._tell_of_outputs()  # of the last batches, where `steps_per_execution` does not divide their number
        if self._callbacks is not None:
            self._callbacks.on_predict_end()

    def _tell_of_outputs(self) -> None:
        if not self._outputs:
            return
        last = -(-self._batch // self._batches_per_call) * self._batches_per_call - 1  # also of fewer, as Keras counts
        outputs, self._outputs = join_outputs(self._outputs), []
        self._callbacks.on_predict_batch_end(last, {"outputs": outputs})
