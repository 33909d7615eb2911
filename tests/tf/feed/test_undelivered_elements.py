"""Elements that a dataset took ahead but did not deliver are not lost (with the native op only)."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import tensorflow as tf
from feeding import fill, first_numbers

import ringfeed
from ringfeed.tf import TAGS, dataset, why_not_native
from support import states, wait_until

pytestmark = [
    pytest.mark.usefixtures("quick_collection"),
    pytest.mark.skipif(why_not_native() is not None, reason=f"no op: {why_not_native()}"),
]


def read(elements, count):
    """Return the numbers of `count` elements of a new iterator, and delete the iterator."""
    iterator = iter(elements)
    seen = [number for _ in range(count) for number in first_numbers(next(iterator))]
    del iterator
    gc.collect()
    return seen


@pytest.mark.parametrize("options", [{}, {"drop_remainder": True}], ids=["any rows", "whole batches"])
@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_an_iterator_that_is_deleted_half_way_loses_nothing(make_ring, prefetch, options):
    ring = make_ring(slots=32)
    fill(ring, range(30))
    ring.finish()
    elements = dataset(ring, 2, structure="x", prefetch=prefetch, **options)
    seen = [number for count in (1, 2, 3, 4, 5) for number in read(elements, count)]
    assert seen == list(range(30))
    assert states(ring) == {"free": 32}


def test_prefetched_elements_are_ready_again_for_other_processes(ring):
    fill(ring, range(6))
    iterator = iter(dataset(ring, 2, structure="x", prefetch=2))
    assert first_numbers(next(iterator)) == [0, 1]
    wait_until(lambda: ring.stats()["taken"] == 4)
    del iterator
    gc.collect()
    assert states(ring) == {"ready": 4, "free": 4}
    with ringfeed.Ring.attach(ring.name) as other, other.take(8) as batch:
        assert batch["x"][:, 0].tolist() == [2, 3, 4, 5]


def test_padded_fields_that_are_cut_are_not_lost_either(make_ring):
    """The padding is cut before the prefetch; the slots stay taken until an element is delivered."""
    ring = make_ring({"x": ((5, 3), "uint8"), "y": ((), "int64")}, slots=8)
    for number in range(8):
        ring.put({"x": np.full((5, 3), number, np.uint8), "y": number}, tag=number)
    elements = dataset(ring, 2, structure=("x", "y", TAGS), prefetch=2)
    seen = []
    for _ in range(4):
        iterator = iter(elements)
        x, y, tags = next(iterator)
        assert x.numpy()[:, 0, 0].tolist() == y.numpy().tolist() == tags.numpy().tolist()
        seen += y.numpy().tolist()
        del iterator, x, y, tags
        gc.collect()
    assert seen == list(range(8))
    assert ring.stats()["taken"] == 0


def test_an_element_is_held_until_it_is_delivered_and_free_when_it_is_deleted(ring):
    fill(ring, range(6))
    iterator = iter(dataset(ring, 2, structure="x", prefetch=1))
    element = next(iterator)
    wait_until(lambda: ring.stats()["taken"] == 4)
    del element
    wait_until(lambda: ring.stats()["taken"] <= 4)
    assert first_numbers(next(iterator)) == [2, 3]
    assert first_numbers(next(iterator)) == [4, 5]
    gc.collect()
    wait_until(lambda: states(ring) == {"free": 8})
    assert ring.stats()["redelivered"] == 0


def test_a_graph_that_stops_half_way_loses_nothing(make_ring):
    ring = make_ring(slots=32)
    fill(ring, range(20))
    ring.finish()
    elements = dataset(ring, 2, structure="x", prefetch=2)

    @tf.function
    def some(elements):
        found = tf.zeros([0], tf.int64)
        for element in elements.take(3):
            found = tf.concat([found, element[:, 0]], 0)
        return found

    seen = some(elements).numpy().tolist() + some(elements).numpy().tolist()
    seen += [number for element in elements for number in first_numbers(element)]
    assert seen == list(range(20))
