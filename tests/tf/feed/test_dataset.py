"""`ringfeed.tf.dataset`: elements lie in the memory of the ring, slots return with them, and batch sizes hold."""

from __future__ import annotations

import gc
import threading

import pytest
import tensorflow as tf
from feeding import (
    address,
    address_in_graph,
    fill,
    first_numbers,
    produce,
    produce_as_told,
    same_bits,
    slot_of,
)

import ringfeed
from ringfeed.tf import TAGS, dataset
from support import states

pytestmark = pytest.mark.usefixtures("way", "quick_collection")

PADDED = {"x": ((5, 3), "float32"), "y": ((), "int64"), "z": ((64,), "uint8")}


# ---- Memory and lifetime -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "derive",
    [
        lambda ds: ds,
        lambda ds: ds.prefetch(1),
        lambda ds: ds.take(5),
        lambda ds: ds.skip(0),
        lambda ds: ds.repeat(2),
        lambda ds: ds.map(lambda x: x[0:]),
        lambda ds: ds.take(3).concatenate(ds),
        lambda ds: ds.enumerate().map(lambda number, x: x),
    ],
    ids=["as it is", "prefetch", "take", "skip", "repeat", "map", "concatenate", "enumerate"],
)
def test_elements_are_the_rings_own_memory(ring, derive):
    elements = iter(derive(dataset(ring, 2, structure="x")))
    for start in range(0, 10, 2):  # the last batch passes the ring's end
        fill(ring, [start, start + 1])
        element = next(elements)
        assert slot_of(ring, "x", address(element)) == start % 8
        assert first_numbers(element) == [start, start + 1]
        del element


@pytest.mark.parametrize("prefetch", [0, 1])
def test_inside_a_graph_an_element_is_the_rings_own_memory(ring, prefetch):
    @tf.function
    def addresses(elements):
        found = tf.zeros([0], tf.int64)
        for element in elements:
            found = tf.concat([found, [address_in_graph(element)]], 0)
        return found

    fill(ring, range(8))
    ring.finish()
    found = addresses(dataset(ring, 2, structure="x", prefetch=prefetch)).numpy()
    assert [slot_of(ring, "x", where) for where in found] == [0, 2, 4, 6]


def test_a_run_over_the_rings_end_is_one_element_without_a_copy(ring):
    elements = iter(dataset(ring, 3, structure="x"))
    for start in (0, 3, 6):
        fill(ring, range(start, start + 3))
        element = next(elements)
        assert first_numbers(element) == [start, start + 1, start + 2]
        assert slot_of(ring, "x", address(element)) == start
        del element


def test_slots_are_free_when_the_last_tensor_over_them_is_deleted(ring):
    fill(ring, range(4))
    elements = iter(dataset(ring, 4, structure="x"))
    element = next(elements)
    part = element[1:3]  # a view
    flat = tf.reshape(element, [-1])  # another view
    assert ring.stats()["taken"] == 4
    del element
    assert ring.stats()["taken"] == 4
    del part
    assert ring.stats()["taken"] == 4
    del flat
    assert states(ring) == {"free": 8}


def test_slots_are_free_when_a_function_has_read_them(ring):
    @tf.function
    def total(element):
        return tf.reduce_sum(element)

    fill(ring, range(4))
    assert total(next(iter(dataset(ring, 4, structure="x")))).numpy() == 512 * 6
    assert states(ring) == {"free": 8}


def test_each_field_of_an_element_holds_its_slots(make_ring):
    ring = make_ring({"x": ((512,), "int64"), "y": ((512,), "int64")})
    fill(ring, range(3))
    element = next(iter(dataset(ring, 3)))
    del element["x"]
    assert ring.stats()["taken"] == 3
    del element["y"]
    assert ring.stats()["taken"] == 0


def test_a_tape_keeps_no_element(ring):
    fill(ring, range(4))
    elements = iter(dataset(ring, 2, structure="x"))
    weight = tf.Variable(1.0)
    for _ in range(2):
        with tf.GradientTape() as tape:
            element = next(elements)
            loss = weight * tf.reduce_sum(tf.cast(element, tf.float32))
        assert tape.gradient(loss, weight) is not None
        del element, loss, tape
        gc.collect()
        assert ring.stats()["taken"] == 0


def test_without_a_prefetch_a_batch_is_taken_when_it_is_asked_for(ring):
    fill(ring, range(8))
    elements = dataset(ring, 2, structure="x")
    options = elements.options()
    assert (options.autotune.enabled, options.experimental_optimization.inject_prefetch) == (False, False)
    iterator = iter(elements)
    for ready in (6, 4, 2):
        element = next(iterator)
        assert (ring.stats()["ready"], ring.stats()["taken"]) == (ready, 2)
        del element


def test_tensorflow_does_not_write_into_the_rings_memory(ring):
    @tf.function
    def doubled(element):
        return element * 2 + 1

    fill(ring, range(4))
    element = next(iter(dataset(ring, 4, structure="x")))
    before = element.numpy().copy()
    doubled(element)
    assert same_bits(element, before)


def test_a_ring_is_released_with_the_last_dataset_over_it(ring):
    """TensorFlow never releases a function that it was given, so the functions must not keep the ring."""
    other = ringfeed.Ring.attach(ring.name)
    elements = dataset(other, 2)
    assert ring.stats()["participants"] == 2
    fill(ring, [1])
    del other
    assert len(next(iter(elements))["x"]) == 1  # the dataset itself keeps the ring
    del elements
    gc.collect()
    assert ring.stats()["participants"] == 1


# ---- Sizes -------------------------------------------------------------------------------------------


def test_the_batch_axis_is_free_and_the_others_are_static(ring):
    assert dataset(ring, 2).element_spec == {"x": tf.TensorSpec((None, 512), tf.int64)}


def test_the_last_element_holds_the_remaining_records(ring):
    fill(ring, range(5))
    ring.finish()
    assert [len(element) for element in dataset(ring, 2, structure="x")] == [2, 2, 1]


def test_drop_remainder_makes_the_batch_axis_static_and_every_element_whole(ring):
    fill(ring, range(8))
    ring.finish()
    ds = dataset(ring, 3, structure="x", drop_remainder=True)
    assert ds.element_spec == tf.TensorSpec((3, 512), tf.int64)
    assert [first_numbers(element) for element in ds] == [[0, 1, 2], [3, 4, 5]]
    assert states(ring) == {"free": 8}


@pytest.mark.parametrize("fields", [PADDED, {"x": ((512,), "int64")}], ids=["padded", "dense"])
def test_drop_remainder_copies_records_that_are_not_contiguous(make_ring, fields):
    ring = make_ring({**fields, "page": ((512,), "int64")}, slots=4)
    elements = iter(dataset(ring, 2, structure=("x", TAGS), drop_remainder=True))
    fill(ring, range(4))
    held = [ring.take(1), ring.take(1), ring.take(1), ring.take(1)]
    held[1].release()
    held[3].release()
    fill(ring, [4, 5])  # into slots 1 and 3: no other slot is free, so the records cannot be contiguous
    x, tags = next(elements)
    assert sorted(first_numbers(x)) == tags.numpy().tolist() == [4, 5]
    assert ring.stats()["taken"] == 2  # the slots of copied records are free
    del held
    fill(ring, [6, 7])
    assert first_numbers(next(elements)[0]) == [6, 7]


def test_drop_remainder_yields_contiguous_records_without_a_copy(ring):
    fill(ring, range(4))
    element = next(iter(dataset(ring, 4, structure="x", drop_remainder=True)))
    assert slot_of(ring, "x", address(element)) == 0


def test_an_element_is_at_most_half_of_the_ring(ring):
    fill(ring, range(8))
    ring.finish()
    assert [len(element) for element in dataset(ring, 8, structure="x")] == [4, 4]


def test_drop_remainder_takes_whole_batches_through_a_ring_of_one_batch(ring, start):
    producer = start(produce, ring.name, 50)
    found = [first_numbers(element) for element in dataset(ring, 8, structure="x", drop_remainder=True)]
    assert found == [list(range(first, first + 8)) for first in range(0, 48, 8)]
    producer.result()


def test_min_rows_are_waited_for(ring, start):
    producer = start(produce_as_told, ring.name)
    elements = iter(dataset(ring, 4, structure="x", min_rows=3, linger=0.0))
    found = []
    waiting = threading.Thread(target=lambda: found.append(first_numbers(next(elements))))
    waiting.start()
    for _ in range(3):
        assert not found
        producer.tell(1)
        assert producer.told() == "put"
    waiting.join()
    assert found == [[0, 1, 2]]
    producer.tell(None)
    producer.result()


def test_linger_waits_for_a_whole_batch_longer_than_a_round_lasts(ring, start, monkeypatch):
    monkeypatch.setattr("ringfeed.tf.feed.dataset.waiting.ROUND_SECONDS", 1e-9)  # a round ends as soon as possible
    producer = start(produce_as_told, ring.name)
    elements = iter(dataset(ring, 3, structure="x", linger=1e6))
    found = []
    waiting = threading.Thread(target=lambda: found.append(first_numbers(next(elements))))
    waiting.start()
    for _ in range(3):
        before = ring.stats()["take_wait_ns"]
        while ring.stats()["take_wait_ns"] == before:
            pass  # wait until at least one slice of the wait is over
        assert not found
        producer.tell(1)
        assert producer.told() == "put"
    waiting.join()
    assert found == [[0, 1, 2]]
    producer.tell(None)
    producer.result()


# ---- Mistakes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch_size": 0}, "batch_size 0: give an integer, 1 or more"),
        ({"batch_size": 2.5}, "batch_size 2.5: give an integer"),
        ({"batch_size": 9}, r"has only 8 slots.* slots=18, .* up to 4"),
        ({"min_rows": 5, "batch_size": 8}, "min_rows 5: .* at most 4 rows"),
        ({"min_rows": 0}, "min_rows 0"),
        ({"linger": -1}, "linger -1: give seconds"),
        ({"linger": float("nan")}, "linger nan"),
        ({"timeout": "soon"}, "timeout 'soon'"),
        ({"prefetch": -1}, "prefetch -1"),
        ({"prefetch": True}, "prefetch True"),
        ({"structure": "y"}, "'y' is no field of ring .* 'x'"),
        ({"structure": ("x", 3)}, "3 is no field"),
        ({"structure": ()}, "names no field"),
    ],
    ids=repr,
)
def test_options_that_do_not_fit_the_ring_are_refused_at_once(ring, options, says):
    with pytest.raises((ValueError, TypeError), match=says):
        dataset(ring, **{"batch_size": 2, **options})


def test_the_name_of_a_ring_is_refused(ring):
    with pytest.raises(TypeError, match=rf"ring '{ring.name}': give a ringfeed.Ring. Ring.attach"):
        dataset(ring.name, 2)
