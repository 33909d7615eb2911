"""`predict` of an array in memory: RingFeed beside Keras, the same model, array and batch size.

Small: 8 rows of handwritten-digit size, as a service or a notebook asks for them, 200 calls each. What is
measured is what a call costs around the model. Large: many batches, where the model's own time counts,
once from an array that starts on 64 bytes, once from one that does not, as NumPy makes most of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest

import ringfeed

SMALL_ROWS = 8
CALLS = 200


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


def random_array(shape: tuple[int, ...], dtype: str, *, aligned: bool) -> np.ndarray:
    """Return values from 0 to 200 that start on 64 bytes, or 16 bytes after."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.empty(size + 128, np.uint8)
    start = -memory.ctypes.data % 64 + (0 if aligned else 16)
    array = memory[start : start + size].view(dtype).reshape(shape)
    array[...] = np.random.default_rng(1).integers(0, 200, shape)
    return array


@pytest.fixture(params=["ringfeed", "keras"])
def predict(request: pytest.FixtureRequest) -> Iterator[Callable[[Any], Callable[..., Any]]]:
    """Return a function that makes `predict` of a model."""
    opened = []

    def make(model: Any) -> Callable[..., Any]:
        if request.param == "keras":
            return model.predict
        opened.append(ringfeed.Predictor(model))
        return opened[-1].predict

    yield make
    for predictor in opened:
        predictor.close()


@pytest.mark.benchmark(group=f"predict of {SMALL_ROWS} rows x 784 float32 in memory")
def bench_small(benchmark: Any, predict: Callable[[Any], Callable[..., Any]]) -> None:
    call = predict(dense())
    x = random_array((SMALL_ROWS, 784), "float32", aligned=False)
    benchmark.pedantic(call, (x,), {"verbose": 0}, rounds=CALLS, warmup_rounds=5)


@pytest.mark.benchmark(group=f"predict of {SMALL_ROWS} pictures 96x96x3 uint8 in memory")
def bench_small_pictures(benchmark: Any, predict: Callable[[Any], Callable[..., Any]]) -> None:
    call = predict(convolutional())
    x = random_array((SMALL_ROWS, 96, 96, 3), "uint8", aligned=False)
    benchmark.pedantic(call, (x,), {"verbose": 0}, rounds=CALLS, warmup_rounds=5)


@pytest.mark.benchmark(group="predict of 32768 rows x 784 float32 in memory, batches of 256")
@pytest.mark.parametrize("aligned", [True, False], ids=["aligned", "misaligned"])
def bench_large(benchmark: Any, predict: Callable[[Any], Callable[..., Any]], aligned: bool) -> None:
    call = predict(dense())
    x = random_array((32768, 784), "float32", aligned=aligned)
    benchmark.pedantic(call, (x,), {"verbose": 0, "batch_size": 256}, rounds=5, warmup_rounds=1)


@pytest.mark.benchmark(group="predict of 2048 pictures 96x96x3 uint8 in memory, batches of 32")
@pytest.mark.parametrize("aligned", [True, False], ids=["aligned", "misaligned"])
def bench_large_pictures(benchmark: Any, predict: Callable[[Any], Callable[..., Any]], aligned: bool) -> None:
    call = predict(convolutional())
    x = random_array((2048, 96, 96, 3), "uint8", aligned=aligned)
    benchmark.pedantic(call, (x,), {"verbose": 0, "batch_size": 32}, rounds=5, warmup_rounds=1)
