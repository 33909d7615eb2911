"""Distributed datasets give the outputs of `keras.Model.predict`, on one device and on two."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from ringfeed.tf.models.runner import ModelRunner
from ringfeed.tf.predict.in_memory import predict_in_memory
from two_devices import on_two_cpus, two_cpus  # noqa: F401 - a fixture

pytestmark = pytest.mark.filterwarnings("ignore:Your input ran out of data")

X = np.random.default_rng(1).random((70, 7), np.float32)


class Shown(keras.Model):
    """A model that applies a function to its input."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, x):
        return self.function(x)

    def compute_output_spec(self, x):
        return None


def slices(*arrays, batch=16):
    data = arrays if len(arrays) > 1 else arrays[0]
    return tf.data.Dataset.from_tensor_slices(data).batch(batch)


DATASETS = {
    "x": lambda strategy: strategy.experimental_distribute_dataset(slices(X)),
    "x and y": lambda strategy: strategy.experimental_distribute_dataset(slices(X, X[:, 0])),
    "of unknown length": lambda strategy: strategy.experimental_distribute_dataset(
        tf.data.Dataset.from_tensor_slices(X).filter(lambda _: True).batch(16)
    ),
    "from a function": lambda strategy: strategy.distribute_datasets_from_function(lambda _: slices(X, batch=8)),
}


def assert_predicts_as_keras(strategy, names):
    with strategy.scope():
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((7,)), keras.layers.Dense(3)])
        per_batch = Shown(lambda x: {"sum": tf.reduce_sum(x), "row": tf.reduce_sum(x, axis=0, keepdims=True)})
    runner = ModelRunner(model)
    for name in names:
        for steps in (None, 3) if name == "x" else (None,):
            expected = model.predict(DATASETS[name](strategy), verbose=0, steps=steps)
            actual = predict_in_memory(runner, DATASETS[name](strategy), steps=steps)
            np.testing.assert_allclose(actual, expected, rtol=1e-5)
    expected = per_batch.predict(DATASETS["x"](strategy), verbose=0)
    actual = predict_in_memory(ModelRunner(per_batch), DATASETS["x"](strategy))
    assert {name: array.shape for name, array in actual.items()} == {
        name: array.shape for name, array in expected.items()
    }
    for name, array in actual.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        tf.distribute.get_strategy,
        lambda: tf.distribute.OneDeviceStrategy("CPU:0"),
        lambda: tf.distribute.MirroredStrategy(["CPU:0"]),
    ],
    ids=["default", "one device", "mirrored"],
)
def test_distributed_datasets_of_one_replica_are_taken(make):
    assert_predicts_as_keras(make(), DATASETS)


@pytest.mark.slow
@on_two_cpus
def test_the_rows_of_two_replicas_are_in_keras_order():
    assert_predicts_as_keras(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), ["x"])


@pytest.mark.slow
@on_two_cpus
def test_callbacks_see_the_rows_of_all_replicas_and_stop_after_a_batch():
    seen = []

    class Stop(keras.callbacks.Callback):
        def on_predict_batch_end(self, batch, logs=None):
            seen.append(np.asarray(logs["outputs"]))
            self.model.stop_predicting = batch == 1

    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = Shown(lambda x: x * 2)
    outputs = predict_in_memory(ModelRunner(model), DATASETS["x"](strategy), callbacks=[Stop()])
    np.testing.assert_array_equal(outputs, X[:32] * 2)
    assert [len(batch) for batch in seen] == [16, 16]
    np.testing.assert_array_equal(np.concatenate(seen), outputs)
