"""`predict` of an array in memory: RingFeed, Keras, and the model alone, with the same model, array and batch size.

Small: 8 rows of handwritten-digit size, like requests of a service or a notebook; this measures a call's cost around
the model. Large: many batches, where the model's own time counts. One large array starts at a multiple of 64 bytes; the
other does not, like most of NumPy's arrays. The limit is the operation of one concrete function of the same model,
called with existing tensors; its result is an array.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import ringfeed
from measuring.rounds import Way, Work, timed
from ringfeed.tf.models.direct_call import direct_call

RINGFEED, KERAS, LIMIT = "RingFeed", "keras.Model.predict", "limit: the model called with ready tensors"


def dense() -> Any:
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(64, activation="relu"), keras.layers.Dense(10, activation="softmax")]
    return keras.Sequential([keras.Input((784,)), *layers])


def convolutional() -> Any:
    keras.utils.set_random_seed(1)
    layers = [
        keras.layers.Rescaling(1 / 255),
        keras.layers.Conv2D(8, 3, strides=2, activation="relu"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(10, activation="softmax"),
    ]
    return keras.Sequential([keras.Input((96, 96, 3)), *layers])


@dataclass(frozen=True)
class Case:
    """An array, a model for it, and the number of calls in a round."""

    build_model: Callable[[], Any]
    rows: int
    row: str
    dtype: str
    batch_size: int
    calls: int
    aligned: bool = False

    @property
    def title(self) -> str:
        size = f"{self.rows} {self.row} {self.dtype}"
        if self.rows <= self.batch_size:
            return f"predict of {size} in memory"
        start = "" if self.aligned else "not "
        return f"predict of {size} in memory, {start}on 64 bytes, batches of {self.batch_size}"

    def array(self) -> np.ndarray:
        """Return values from 0 to 200 at a multiple of 64 bytes, or 16 bytes after one."""
        shape = (self.rows, *self.build_model().input_shape[1:])
        size = int(np.prod(shape)) * np.dtype(self.dtype).itemsize
        memory = np.empty(size + 128, np.uint8)
        start = -memory.ctypes.data % 64 + (0 if self.aligned else 16)
        array = memory[start : start + size].view(self.dtype).reshape(shape)
        array[...] = np.random.default_rng(1).integers(0, 200, shape)
        return array


CASES = {
    "small": Case(dense, 8, "rows x 784", "float32", 32, calls=10),
    "small pictures": Case(convolutional, 8, "pictures 96x96x3", "uint8", 32, calls=10),
    "large aligned": Case(dense, 32768, "rows x 784", "float32", 256, calls=1, aligned=True),
    "large misaligned": Case(dense, 32768, "rows x 784", "float32", 256, calls=1),
    "large pictures aligned": Case(convolutional, 2048, "pictures 96x96x3", "uint8", 32, calls=1, aligned=True),
    "large pictures misaligned": Case(convolutional, 2048, "pictures 96x96x3", "uint8", 32, calls=1),
}


def limit(model: Any, case: Case, array: np.ndarray) -> Callable[[], np.ndarray]:
    """Return a function that runs the model over the array, whose batches are already tensors."""
    signature = [tf.TensorSpec((None, *array.shape[1:]), array.dtype)]
    function = tf.function(lambda batch: model(batch, training=False), signature, autograph=False)
    call = direct_call(function.get_concrete_function())
    batches = [tf.constant(array[first : first + case.batch_size]) for first in range(0, case.rows, case.batch_size)]
    return lambda: np.concatenate([call(batch)[0].numpy() for batch in batches])


def measured(case: Case, rounds: int) -> Work:
    array = case.array()
    axes: dict[str, float | str] = {"rows": case.rows, "row": case.row, "aligned": "yes" if case.aligned else "no"}
    work = Work(case.title, "predict_arrays", axes)
    with closing(ringfeed.Predictor(case.build_model())) as predictor:
        keras_model = case.build_model()
        options = {"verbose": 0, "batch_size": case.batch_size}
        calls: dict[str, tuple[Any, Callable[[], np.ndarray]]] = {
            RINGFEED: ("ringfeed", lambda: predictor.predict(array, **options)),
            KERAS: ("peer", lambda: keras_model.predict(array, **options)),
            LIMIT: ("limit", limit(case.build_model(), case, array)),
        }
        for _, call in calls.values():
            np.testing.assert_allclose(call(), calls[LIMIT][1](), atol=1e-4)

        def way(name: str) -> Way:
            role, call = calls[name]
            return Way(name, role, lambda: timed(lambda: [call() for _ in range(case.calls)], case.calls))

        return work.measure(map(way, calls), rounds)


@pytest.fixture(scope="module")
def results() -> dict[str, Work]:
    return {}


@pytest.mark.parametrize("way", [RINGFEED, KERAS, LIMIT])
@pytest.mark.parametrize("name", CASES)
def bench_arrays(tell: Callable[[Work, str], None], scale: Any, results: dict[str, Work], name: str, way: str) -> None:
    if name not in results:
        results[name] = measured(CASES[name], scale.of(1, 3, 9))
    tell(results[name], way)
