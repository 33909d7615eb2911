"""Consumers of a `tf.data.Dataset` consume a ring: Keras, loops in a graph, strategies."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from ringfeed.tf import dataset

pytestmark = pytest.mark.usefixtures("way_of_long_tests")

SHAPE = (16, 8)
COUNT = 500


@pytest.fixture
def samples() -> np.ndarray:
    return np.random.default_rng(7).normal(size=(COUNT, *SHAPE)).astype(np.float32)


@pytest.fixture
def fed(make_ring, samples):
    """A ring that a thread fills with the samples and their number, and then finishes."""
    ring = make_ring({"x": (SHAPE, "float32"), "y": ((), "float32")}, slots=64)

    def produce() -> None:
        for number, sample in enumerate(samples):
            ring.put({"x": sample, "y": np.float32(number)}, timeout=60)
        ring.finish()

    thread = threading.Thread(target=produce)
    thread.start()
    yield ring
    thread.join()


def make_model() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(1)])


@pytest.mark.parametrize("prefetch", [0, 2])
def test_model_predict_returns_the_outputs_for_the_arrays(fed, samples, prefetch) -> None:
    model = make_model()
    outputs = model.predict(dataset(fed, 32, structure="x", prefetch=prefetch), verbose=0)
    np.testing.assert_allclose(outputs, model.predict(samples, verbose=0), rtol=1e-5, atol=1e-6)
    gc.collect()  # from Python 3.12 on, Keras's predict leaves its last batch in a cycle of references
    assert fed.stats()["taken"] == 0


def test_model_fit_learns_from_every_record(fed, samples) -> None:
    model = make_model()
    model.compile(keras.optimizers.SGD(0.0), "mse")
    history = model.fit(dataset(fed, 32, structure=("x", "y")), epochs=1, verbose=0)
    expected = np.mean((model.predict(samples, verbose=0)[:, 0] - np.arange(COUNT)) ** 2)
    np.testing.assert_allclose(history.history["loss"][0], expected, rtol=1e-3)
    assert fed.stats()["released"] == COUNT


@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_a_loop_in_a_graph_sees_every_record_once(fed, samples, prefetch) -> None:
    @tf.function
    def total(elements):
        seen, rows = tf.constant(0.0, tf.float64), tf.constant(0)
        for element in elements:
            seen += tf.reduce_sum(tf.cast(element["x"], tf.float64))
            rows += tf.shape(element["x"])[0]
        return seen, rows

    seen, rows = total(dataset(fed, 32, prefetch=prefetch))
    assert int(rows) == COUNT
    np.testing.assert_allclose(float(seen), samples.sum(dtype=np.float64), rtol=1e-9)


DEVICE_PROGRAM = """
import gc
import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import ringfeed

with ringfeed.Ring.create(None, {"x": ((512,), "int64")}, slots=16) as ring:
    elements = ringfeed.tf.dataset(ring, 2, structure="x", device="CPU:1", prefetch=2)
    for number in range(10):
        ring.put({"x": np.full(512, number)})
    iterator = iter(elements)
    seen = [next(iterator) for _ in range(5)]
    print([int(number) for element in seen for number in element[:, 0]])
    print({element.device[-5:] for element in seen})
    del iterator, seen  # its prefetch waits for records
    gc.collect()
    print(ring.stats()["taken"])
    for wrong in ("GPU:7", "CPU:2", "card"):
        try:
            ringfeed.tf.dataset(ring, 2, device=wrong)
        except ValueError as error:
            print(str(error).partition("': ")[0] + "'", "/device:CPU:1" in str(error))
"""


def test_elements_are_prefetched_to_a_device(tmp_path: Path) -> None:
    program = tmp_path / "device.py"  # logical devices must be set up before TensorFlow starts
    program.write_text(DEVICE_PROGRAM)
    completed = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False)
    lines = completed.stdout.splitlines()
    assert lines[:3] == [str(list(range(10))), "{'CPU:1'}", "0"], completed.stderr
    assert lines[3:] == ["device 'GPU:7' True", "device 'CPU:2' True", "device 'card' True"]


STRATEGY_PROGRAM = """
import sys, threading
import numpy as np
import tensorflow as tf

cpus = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2)
import ringfeed
import ringfeed.tf

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert strategy.num_replicas_in_sync == 2

with ringfeed.Ring.create(None, {"x": ((512,), "int64")}, slots=16) as ring:
    def produce():
        for number in range(200):
            ring.put({"x": np.full(512, number)}, timeout=60)
        ring.finish()

    thread = threading.Thread(target=produce)
    thread.start()
    elements = strategy.experimental_distribute_dataset(ringfeed.tf.dataset(ring, 8, structure="x", prefetch=1))
    sums = [0, 0]

    @tf.function
    def step(x):
        return tf.reduce_sum(x[:, 0])

    for element in elements:
        for replica, value in enumerate(strategy.experimental_local_results(strategy.run(step, [element]))):
            sums[replica] += int(value)
        del element
    thread.join()
    print(sum(sums) == sum(range(200)), min(sums) > 0)
"""


def test_a_mirrored_strategy_shares_the_records_among_its_replicas(tmp_path: Path) -> None:
    # Logical devices must be set up before TensorFlow starts, so this needs a process of its own.
    program = tmp_path / "strategy.py"
    program.write_text(STRATEGY_PROGRAM)
    completed = subprocess.run(
        [sys.executable, str(program)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
    )
    assert completed.stdout == "True True\n", completed.stderr
