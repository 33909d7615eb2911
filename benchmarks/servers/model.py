"""The models that every server runs, and the one way in which all peers call them. Knows no server.

`corners` is the model of the targets: the four corner pixels as floats, 12 numbers. Its cost is TensorFlow's overhead
of any call. A larger model would add the same time to every server and thus hide the differences. The last pixel shows
that the whole picture has arrived.

`sums` adds up each colour, so that the model's process reads every byte. Otherwise a server that does not copy the
picture would never fetch it. The sums are whole numbers below 2**24, which are exact in float32 in any order of
addition. Therefore both models return the same bits in a batch and alone, and replies are compared for equality.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from servers.interface import MOST_ROWS

SHAPE = (224, 224, 3)
LAST = SHAPE[0] - 1  # a step from one corner to the next


def corners(images: Any) -> Any:
    import tensorflow as tf  # not at the top: client processes import this module

    return tf.cast(tf.reshape(images[:, ::LAST, ::LAST], (-1, 12)), tf.float32)


def sums(images: Any) -> Any:
    import tensorflow as tf

    return tf.reduce_sum(tf.cast(images, tf.float32), axis=(1, 2))


def expected_corners(image: np.ndarray) -> np.ndarray:
    return image[::LAST, ::LAST].reshape(12).astype(np.float32)


def expected_sums(image: np.ndarray) -> np.ndarray:
    return image.sum(axis=(0, 1)).astype(np.float32)


# By name: the function of a batch of shape (rows, 224, 224, 3), and what NumPy says for one picture.
MODELS: dict[str, tuple[Callable[[Any], Any], Callable[[np.ndarray], np.ndarray]]] = {
    "corners": (corners, expected_corners),
    "sums": (sums, expected_sums),
}


class CallableModel:
    """A model as a concrete function, warm for every number of rows: pictures in, one row of outputs for each."""

    def __init__(self, name: str) -> None:
        import tensorflow as tf

        signature = [tf.TensorSpec((None, *SHAPE), tf.uint8)]
        self._concrete = tf.function(MODELS[name][0], signature, autograph=False).get_concrete_function()
        self._to_tensor = tf.convert_to_tensor
        for rows in range(1, MOST_ROWS + 1):
            self([np.zeros(SHAPE, np.uint8)] * rows)

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        batch = images[0][None] if len(images) == 1 else np.stack(images)
        outputs: np.ndarray = self._concrete(self._to_tensor(batch)).numpy()
        return outputs


class DirectModel(CallableModel):
    """The same with the call of RingFeed's engine. It shows which part of RingFeed's lead is not due to the ring."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        from ringfeed.tf.models.direct_call import direct_call

        self._direct = direct_call(self._concrete)

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        if not hasattr(self, "_direct"):  # while it is warmed up
            return super().__call__(images)
        batch = images[0][None] if len(images) == 1 else np.stack(images)
        outputs: np.ndarray = self._direct(self._to_tensor(batch))[0].numpy()
        return outputs
