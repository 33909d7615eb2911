"""A dataset in Keras, in graphs, under other steps of a pipeline, and distributed by a strategy."""

from __future__ import annotations

import gc
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from feeding import fill, first_numbers, produce, produce_pictures

from ringfeed.tf import TAGS, dataset
from support import run_program, states

pytestmark = [
    pytest.mark.usefixtures("way_of_long_tests", "quick_collection"),
    # Keras gives this warning at the end of each dataset of unknown length.
    pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning"),
    pytest.mark.filterwarnings("ignore:.shuffle=True. was passed:UserWarning"),
]

FIELDS = {"image": ((8, 8), "float32"), "label": ((), "int64")}
COUNT = 1000


def pictures() -> tuple[np.ndarray, np.ndarray]:
    """Return the records that `produce_pictures` puts."""
    random = np.random.default_rng(3)
    return random.random((COUNT, 8, 8), np.float32), random.integers(0, 3, COUNT)


@pytest.fixture
def model() -> Any:
    keras.utils.set_random_seed(5)
    return keras.Sequential([keras.Input((8, 8)), keras.layers.Flatten(), keras.layers.Dense(3)])


@pytest.mark.parametrize("options", [{}, {"prefetch": 2}, {"min_rows": 32}, {"drop_remainder": True}], ids=repr)
def test_predict_returns_the_outputs_for_the_arrays(make_ring, start, model, options):
    ring = make_ring(FIELDS, slots=128)
    producer = start(produce_pictures, ring.name, COUNT)
    outputs = model.predict(dataset(ring, 32, structure="image", **options), verbose=0)
    producer.result()
    rows = COUNT - COUNT % 32 if "drop_remainder" in options else COUNT
    np.testing.assert_allclose(outputs, model.predict(pictures()[0][:rows], verbose=0), rtol=1e-5, atol=1e-6)
    gc.collect()  # from Python 3.12 on, Keras's predict leaves its last batch in a cycle of references
    assert states(ring) == {"free": 128}


def test_predict_of_some_steps_ends_on_an_idle_ring(make_ring, model):
    ring = make_ring(FIELDS, slots=128)
    fill(ring, range(64))
    assert model.predict(dataset(ring, 32, structure="image", prefetch=2), steps=2, verbose=0).shape == (64, 3)
    gc.collect()
    assert states(ring) == {"free": 128}


def test_predict_takes_a_dict_of_named_inputs(make_ring, start):
    image, label = keras.Input((8, 8), name="image"), keras.Input((), name="label", dtype="int64")
    total = keras.ops.sum(image, axis=(1, 2)) + keras.ops.cast(label, "float32")
    model = keras.Model({"image": image, "label": label}, total)
    ring = make_ring(FIELDS, slots=128)
    producer = start(produce_pictures, ring.name, COUNT)
    outputs = model.predict(dataset(ring, 32), verbose=0)
    producer.result()
    images, labels = pictures()
    np.testing.assert_allclose(outputs, images.sum((1, 2)) + labels, rtol=1e-5)


@pytest.mark.parametrize("steps_per_execution", [1, 4])
def test_fit_and_evaluate_give_the_results_of_the_arrays(make_ring, start, model, steps_per_execution):
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    for each in (model, twin):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        each.compile("sgd", loss, metrics=["accuracy"], steps_per_execution=steps_per_execution)
    # Four elements: if the data ends amid the steps of one execution, TensorFlow may or may not run the earlier steps.
    images, labels = pictures()
    for action, options in (("fit", {"shuffle": False}), ("evaluate", {})):
        # Both take the same steps only if all elements are complete: with slots for all records, no element is short.
        ring = make_ring(FIELDS, slots=512)
        producer = start(produce_pictures, ring.name, COUNT)
        elements = dataset(ring, COUNT // 4, structure=("image", "label"), min_rows=COUNT // 4)
        of_ring = getattr(model, action)(elements, verbose=0)
        producer.result()
        of_arrays = getattr(twin, action)(images, labels, batch_size=COUNT // 4, verbose=0, **options)
        if action == "evaluate":
            np.testing.assert_allclose(of_ring, of_arrays, rtol=1e-4)
    for ours, theirs in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_loop_in_a_graph_reads_everything(ring, start):
    @tf.function
    def total(elements):
        rows, found = 0, tf.constant(0, tf.int64)
        for element, tags in elements:
            rows += tf.shape(element)[0]
            found += tf.reduce_sum(element[:, 0]) + tf.reduce_sum(tf.cast(tags, tf.int64))
        return rows, found

    producer = start(produce, ring.name, COUNT)
    rows, found = total(dataset(ring, 4, structure=("x", TAGS)))
    producer.result()
    assert (rows, found) == (COUNT, COUNT * (COUNT - 1))


def test_the_steps_of_a_pipeline_work_on_it(ring, start):
    producer = start(produce, ring.name, 100)
    elements = (
        dataset(ring, 3, structure="x")
        .map(lambda x: x[:, :1] * 2, num_parallel_calls=2)
        .unbatch()
        .filter(lambda x: x[0] % 3 == 0)
        .batch(7)
        .prefetch(tf.data.AUTOTUNE)
    )
    found = [number for element in elements for number in first_numbers(element)]
    producer.result()
    assert found == [2 * number for number in range(0, 100, 3)]


def test_skip_take_and_concatenate_count_elements(ring):
    fill(ring, range(8))
    ring.finish()
    elements = dataset(ring, 2, structure="x")
    assert [first_numbers(each) for each in elements.skip(1).take(1)] == [[2, 3]]
    assert [first_numbers(each) for each in elements.take(1).concatenate(elements)] == [[4, 5], [6, 7]]


def test_a_dataset_knows_that_it_does_not_know_its_length(ring):
    elements = dataset(ring, 2)
    assert elements.cardinality() == tf.data.UNKNOWN_CARDINALITY


def test_a_strategy_shares_each_element_out_over_its_devices():
    """Logical devices must be set up before TensorFlow starts, so this needs a process of its own."""
    status, printed, errors = run_program(
        """
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        with ringfeed.Ring.create(None, {"x": ((512,), "int64")}, slots=32) as ring:
            for number in range(32):
                ring.put({"x": np.full(512, number)})
            ring.finish()
            shared = strategy.experimental_distribute_dataset(ringfeed.tf.dataset(ring, 8, structure="x"))
            rows, found = [], []
            for element in shared:
                parts = strategy.experimental_local_results(strategy.run(lambda x: x[:, 0], args=[element]))
                rows.append([len(part) for part in parts])
                found += [int(number) for part in parts for number in part]
            del element, parts
            print(rows)
            print(found == list(range(32)), ring.stats()["taken"])
        """
    )
    assert status == 0, errors
    assert printed == "[[4, 4], [4, 4], [4, 4], [4, 4]]\nTrue 0\n"
