"""`ringfeed.tf.tensors`: a batch as eager tensors over the ring's own memory."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import tensorflow as tf
from feeding import address, fill, first_numbers, random_samples, same_bits, slot_of

import ringfeed
from ringfeed.tf import TAGS, tensors
from support import DTYPES, states

pytestmark = pytest.mark.usefixtures("quick_collection")

FIELDS = {"x": ((5, 3), "float32"), "y": ((), "int64"), "z": ((64,), "uint8")}


def test_a_dense_field_is_the_rings_own_memory(make_ring):
    ring = make_ring(FIELDS)
    fill(ring, range(4))
    with ring.take(1) as batch:
        skipped = tensors(batch, "z")
        assert slot_of(ring, "z", address(skipped)) == 0
    with ring.take(3) as batch:
        found = tensors(batch, "z")
    assert slot_of(ring, "z", address(found)) == 1
    assert first_numbers(found) == [1, 2, 3]


def test_the_slots_come_back_when_the_last_tensor_is_dropped(ring):
    fill(ring, range(4))
    with ring.take(4) as batch:
        found = tensors(batch, "x")
    view = found[1:]
    assert ring.stats()["taken"] == 4
    del found
    assert ring.stats()["taken"] == 4
    del view
    assert states(ring) == {"free": 8}


def test_a_tensor_may_be_dropped_in_another_thread(ring):
    fill(ring, range(4))
    with ring.take(4) as batch:
        found = [tensors(batch, "x")]
    dropping = threading.Thread(target=found.clear)
    dropping.start()
    dropping.join()
    assert states(ring) == {"free": 8}


@pytest.mark.parametrize("shape", [(64,), (3, 5), ()], ids=["dense", "padded", "scalar"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_arrives_bit_by_bit(make_ring, dtype, shape):
    ring = make_ring({"x": (shape, dtype)}, slots=8)
    samples = random_samples(ring.spec["x"], 5, np.random.default_rng(2))
    for sample in samples:
        ring.put({"x": sample})
    with ring.take(5) as batch:
        found = tensors(batch)["x"]
    assert found.dtype == dtype
    assert same_bits(found, samples)


def test_a_nest_of_names_becomes_a_nest_of_tensors(make_ring):
    ring = make_ring(FIELDS)
    fill(ring, [6, 7])
    with ring.take(2) as batch:
        whole = tensors(batch)
        assert list(whole) == ["x", "y", "z"]
        nest = tensors(batch, ({"a": "x"}, ["y", TAGS], "x"))
    tf.nest.assert_same_structure(nest, ({"a": 0}, [0, 0], 0))
    assert [tuple(each.shape) for each in tf.nest.flatten(nest)] == [(2, 5, 3), (2,), (2,), (2, 5, 3)]
    assert all(first_numbers(each) == [6, 7] for each in tf.nest.flatten([nest, whole]))


def test_a_run_over_the_rings_end_is_one_tensor(ring):
    fill(ring, range(6))
    ring.take(6).release()
    fill(ring, range(6, 12))
    with ring.take(6) as batch:
        found = tensors(batch, "x")
    assert slot_of(ring, "x", address(found)) == 6
    assert first_numbers(found) == list(range(6, 12))


def test_a_function_runs_on_them_and_lets_go(ring):
    @tf.function
    def total(x):
        return tf.reduce_sum(x[:, 0])

    fill(ring, range(5))
    with ring.take(5) as batch:
        assert total(tensors(batch, "x")) == 10
    assert states(ring) == {"free": 8}


def test_a_released_batch_and_an_unknown_field_are_errors_that_say_so(ring):
    fill(ring, [1])
    batch = ring.take(1)
    with pytest.raises(ValueError, match=rf"'y' is no field of ring '{ring.name}'"):
        tensors(batch, "y")
    batch.release()
    with pytest.raises(ringfeed.RingFeedError, match="released"):
        tensors(batch, "x")
