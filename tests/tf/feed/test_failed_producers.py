"""A producer that raised: takers in TensorFlow get an error with its text after the last record."""

from __future__ import annotations

import keras
import pytest
import tensorflow as tf
from feeding import fill, first_numbers

import ringfeed
from ringfeed.tf import dataset, fuse, take

pytestmark = pytest.mark.usefixtures("quick_collection")

SAYS = r"(?s)ProducerFailed: ring '.*': a producer raised.*In process \d+: ValueError: no picture ü\n.*in fail_behind"


def fail_behind(ring, numbers):
    """Put records, then raise an error."""
    with ring.producing():
        fill(ring, numbers)
        raise ValueError("no picture ü")


@pytest.fixture
def failed(make_ring):
    """Return a ring of three records whose producer raised an error after them."""
    ring = make_ring()
    with pytest.raises(ValueError, match="no picture"):
        fail_behind(ring, range(3))
    return ring


def read(elements, seen):
    for element in elements:
        seen += first_numbers(element)


@pytest.mark.parametrize("options", [{}, {"prefetch": 2}, {"drop_remainder": True}, {"linger": 0.01}], ids=str)
def test_a_dataset_raises_it_behind_the_last_record_each_time(failed, way, options):
    elements, seen = dataset(failed, 2, structure="x", **options), []
    with pytest.raises(tf.errors.UnknownError, match=SAYS):
        read(elements, seen)
    assert seen == ([0, 1] if "drop_remainder" in options else [0, 1, 2])
    for _ in range(2):
        with pytest.raises(tf.errors.UnknownError, match=SAYS):
            next(iter(elements))


def test_a_dataset_that_waits_raises_it(ring, way):
    with ring.producing():
        fill(ring, range(2))
        elements = iter(dataset(ring, 2, structure="x"))
        assert first_numbers(next(elements)) == [0, 1]
        with ringfeed.Ring.attach(ring.name) as other, pytest.raises(ValueError, match="no picture"):
            fail_behind(other, [])
    with pytest.raises(tf.errors.UnknownError, match=SAYS):
        next(elements)


def test_a_dataset_inside_a_function_raises_it(failed, way):
    elements = dataset(failed, 2, structure="x")

    @tf.function
    def total():
        result = tf.constant(0, tf.int64)
        for x in elements:
            result += tf.reduce_sum(x[:, 0])
        return result

    with pytest.raises(tf.errors.UnknownError, match=SAYS):
        total()


def test_predict_and_fit_raise_it(make_ring, way):
    for call in ("predict", "fit"):
        ring = make_ring({"x": ((4,), "float32"), "y": ((), "float32")}, slots=64)
        with pytest.raises(ValueError, match="no picture"):
            fail_behind(ring, range(5))
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        structure, options = ("x", {}) if call == "predict" else (("x", "y"), {"shuffle": False})
        with pytest.raises(tf.errors.UnknownError, match="no picture"):
            getattr(model, call)(dataset(ring, 2, structure=structure), verbose=0, **options)


def test_take_raises_it_with_and_without_a_graph(failed):
    assert first_numbers(take(failed, 8, "x")) == [0, 1, 2]
    with pytest.raises(ringfeed.ProducerFailed, match="no picture"):
        take(failed, 8, "x")
    with pytest.raises(tf.errors.UnknownError, match=SAYS):
        tf.function(lambda: take(failed, 8, "x"))()


def test_a_fused_model_raises_it_with_and_without_a_graph(failed):
    fused, seen = fuse(failed, lambda x: x[:, 0], 2), []
    with pytest.raises(ringfeed.ProducerFailed, match="no picture"):
        read_outputs(fused, seen)
    assert seen == [0, 1, 2]
    with pytest.raises(tf.errors.UnknownError, match=SAYS):
        tf.function(lambda: fused())()


def read_outputs(fused, seen):
    for outputs in fused:
        seen += outputs.numpy().tolist()


def test_a_text_of_the_largest_length_arrives_complete(make_ring, way):
    ring = make_ring()

    def fail():
        with ring.producing():
            raise ValueError("ü" * 900 + " and the end")

    with pytest.raises(ValueError, match="and the end"):
        fail()
    with pytest.raises(tf.errors.UnknownError, match=r"ü{900} and the end"):
        next(iter(dataset(ring, 2)))


def test_a_finished_ring_is_the_end_of_the_data(ring, way):
    with ring.producing():
        fill(ring, range(3))
    assert [first_numbers(element) for element in dataset(ring, 2, structure="x")] == [[0, 1], [2]]
