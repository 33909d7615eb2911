"""The native op alone: refused arguments, and TensorFlow does not write to the ring's memory."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from feeding import fill

from ringfeed.tf.feed.op import _load, why_not_native
from ringfeed.tf.feed.op_feed import OpFeed
from ringfeed.tf.tensors.elements import Element

pytestmark = pytest.mark.skipif(why_not_native() is not None, reason="no native op")


@pytest.mark.parametrize(
    ("types", "fields"),
    [([tf.float32], [0]), ([tf.int64], [1]), ([tf.int64], [-2]), ([tf.int64], [-1]), ([tf.uint64], [0])],
)
def test_a_graph_that_was_made_for_other_fields_is_an_error_and_costs_no_record(ring, types, fields):
    fill(ring, range(3))
    feed = OpFeed(ring, most=2)
    with pytest.raises(tf.errors.InvalidArgumentError, match="made for a ring with other fields"):
        _load()[0].ringfeed_next(feed=tf.constant(feed.id, tf.int64), types=types, fields=fields, ring=ring.name)
    assert ring.stats()["ready"] == 3


@pytest.mark.parametrize(("types", "fields"), [([tf.int64, tf.int64], [0]), ([tf.int64], [0, 0])])
def test_each_value_needs_a_field(ring, types, fields):
    feed = OpFeed(ring, most=2)
    with pytest.raises(tf.errors.InvalidArgumentError, match="not one field for each"):
        _load()[0].ringfeed_next(feed=tf.constant(feed.id, tf.int64), types=types, fields=fields, ring=ring.name)


def test_tensorflow_does_not_compute_in_the_rings_memory(make_ring):
    """TensorFlow computes in place if it owns the buffer and no other tensor refers to it."""
    ring = make_ring({"x": ((1024,), "float32")})
    fill(ring, range(4))
    feed = OpFeed(ring, most=2, shown=4)
    element = Element.of(ring.spec, "x", ring.name)

    @tf.function
    def compute():
        (value,) = feed.next_tensors(element)
        return tf.reduce_sum(tf.square(value + 1))

    assert compute() > 0
    assert feed.drop_next_batch() is False
    with ring.take(2) as batch:
        assert np.asarray(batch["x"])[:, 0].tolist() == [2, 3]  # the op was also shown these neighbours
