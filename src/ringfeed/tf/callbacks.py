"""Keras callbacks, called as ``keras.Model.predict`` calls them.

It may not know where batches come from.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf


class PredictCallbacks:
    """The callbacks of one call of `predict`; none at all cost nothing.

    Parameters
    ----------
    model : keras.Model or None
        Whose ``stop_predicting`` ends the work, and which the callbacks see.
    callbacks : list of keras.callbacks.Callback, keras.callbacks.CallbackList or None
    steps : int or None
        Number of batches, where it is known.
    """

    def __init__(self, model: Any, callbacks: Any, steps: int | None) -> None:
        self._model = model
        self._callbacks: Any = None
        self._batch = 0
        if not callbacks:
            return
        import keras  # only here: who has callbacks has Keras

        if not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = keras.callbacks.CallbackList(
                callbacks, add_progbar=False, verbose=0, epochs=1, steps=steps, model=model
            )
        self._callbacks = callbacks

    def __bool__(self) -> bool:
        return self._callbacks is not None

    def begin(self) -> None:
        """Say that predicting begins."""
        if self._callbacks is None:
            return
        if self._model is not None:
            self._model.stop_predicting = False
        self._callbacks.on_predict_begin()

    def begin_batch(self) -> None:
        """Say that a batch begins."""
        if self._callbacks is not None:
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
            Does a callback want no more batches?
        """
        if self._callbacks is None:
            return False
        own = tf.nest.map_structure(_own_tensor, outputs)
        self._callbacks.on_predict_batch_end(self._batch, {"outputs": own})
        self._batch += 1
        return bool(getattr(self._model, "stop_predicting", False))

    def end(self) -> None:
        """Say that predicting has ended."""
        if self._callbacks is not None:
            self._callbacks.on_predict_end()


def _own_tensor(output: Any) -> Any:
    if isinstance(output, (tf.RaggedTensor, tf.SparseTensor)):
        return output
    return tf.constant(output.numpy() if isinstance(output, tf.Tensor) else output)
