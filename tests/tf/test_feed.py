"""`ringfeed.tf.dataset`: elements are the ring's own memory, in any structure, and slots come back when they go."""

from __future__ import annotations

import gc
import threading
from collections import namedtuple

import numpy as np
import pytest
import tensorflow as tf
from feeding import (
    address,
    address_in_graph,
    fill,
    first_numbers,
    produce,
    produce_as_told,
    random_samples,
    same_bits,
    slot_of,
)
from hypothesis import given
from hypothesis import strategies as st
from model_zoo import examples

import ringfeed
from ringfeed.tf import TAGS, cut_padding, dataset
from support import DTYPES, states

pytestmark = pytest.mark.usefixtures("way", "quick_collection")

PICTURES = {"image": ((8, 8, 2), "float32"), "label": ((), "int64")}
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
    for start in range(0, 10, 2):  # past the ring's end
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


def test_slots_come_back_when_the_last_tensor_over_them_is_dropped(ring):
    fill(ring, range(4))
    elements = iter(dataset(ring, 4, structure="x"))
    element = next(elements)
    part = element[1:3]  # a view
    flat = tf.reshape(element, [-1])  # another one
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


def test_a_dataset_does_not_keep_a_ring_that_no_one_else_keeps(ring):
    """TensorFlow never lets go of a function that it was given."""
    other = ringfeed.Ring.attach(ring.name)
    elements = dataset(other, 2)
    assert ring.stats()["participants"] == 2
    fill(ring, [1])
    del other
    assert len(next(iter(elements))["x"]) == 1  # the dataset itself does
    del elements
    gc.collect()
    assert ring.stats()["participants"] == 1


# ---- What an element is ------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(16, 4), (3,), ()], ids=["dense", "padded", "scalar"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_arrives_bit_by_bit(make_ring, dtype, shape):
    ring = make_ring({"x": (shape, dtype)}, slots=64)
    samples = random_samples(ring.spec["x"], 40, np.random.default_rng(1))
    for sample in samples:
        ring.put({"x": sample})
    element = next(iter(dataset(ring, 40, structure="x", min_rows=32)))
    assert element.dtype == dtype
    assert same_bits(element, samples[: len(element)])


def test_padded_fields_are_cut_to_their_shape_in_the_graph(make_ring):
    ring = make_ring(PADDED)
    fill(ring, range(3))
    ds = dataset(ring, 3)
    assert {name: tuple(spec.shape) for name, spec in ds.element_spec.items()} == {
        "x": (None, 5, 3),
        "y": (None,),
        "z": (None, 64),
    }
    element = next(iter(ds))
    assert [tuple(element[name].shape) for name in "xyz"] == [(3, 5, 3), (3,), (3, 64)]
    assert all(first_numbers(element[name]) == [0, 1, 2] for name in "xyz")


def test_uncut_padded_fields_are_the_rings_own_memory_for_a_cut_in_the_model(make_ring):
    ring = make_ring(PADDED)
    fill(ring, range(3))
    ds = dataset(ring, 3, cut=False)
    assert {name: tuple(spec.shape) for name, spec in ds.element_spec.items()} == {
        "x": (None, 16),
        "y": (None, 8),
        "z": (None, 64),
    }
    element = next(iter(ds))
    assert all(slot_of(ring, name, address(element[name])) == 0 for name in "xyz")
    cut = tf.function(cut_padding)(element["x"], (5, 3))
    assert cut.shape == (3, 5, 3)
    assert first_numbers(cut) == [0, 1, 2]


Pair = namedtuple("Pair", ["first", "second"])


@pytest.mark.parametrize(
    "structure",
    [
        "image",
        ("image", "label"),
        ("image", "image"),
        {"picture": "image"},
        ({"a": "image", "b": {"c": "label"}}, "label", TAGS),
        {"z": TAGS, "a": "image"},
        Pair("label", "image"),
        ("image",),
    ],
    ids=repr,
)
def test_an_element_has_the_structure_that_was_asked_for(make_ring, structure):
    ring = make_ring(PICTURES, slots=64)
    fill(ring, [7, 8])
    ds = dataset(ring, 2, structure=structure)
    element = next(iter(ds))
    tf.nest.assert_same_structure(element, structure)
    tf.nest.assert_same_structure(ds.element_spec, structure)
    expected = {"image": ((2, 8, 8, 2), tf.float32), "label": ((2,), tf.int64), TAGS: ((2,), tf.uint64)}
    for name, tensor in zip(tf.nest.flatten(structure), tf.nest.flatten(element), strict=True):
        assert (tuple(tensor.shape), tensor.dtype) == expected[name]
        assert first_numbers(tensor) == [7, 8]


def test_by_default_an_element_is_a_dict_of_all_fields(make_ring):
    ring = make_ring(PICTURES, slots=64)
    fill(ring, [7])
    assert list(next(iter(dataset(ring, 2)))) == ["image", "label"]


def test_a_list_in_a_structure_counts_as_a_tuple(make_ring):
    ring = make_ring(PICTURES, slots=64)
    fill(ring, [7])
    assert isinstance(next(iter(dataset(ring, 2, structure=["image", "label"]))), tuple)


def test_tags_of_64_bits_arrive_whole(ring):
    ring.put({"x": np.zeros(512, np.int64)}, tag=2**64 - 1)
    assert next(iter(dataset(ring, 1, structure=TAGS))).numpy().tolist() == [2**64 - 1]


@given(st.data())
@examples(25)
def test_any_records_in_any_batches_arrive_as_they_were_put(data):
    shapes = st.lists(st.integers(1, 5), max_size=3).map(tuple)
    fields = data.draw(
        st.dictionaries(st.text("abc", min_size=1), st.tuples(shapes, st.sampled_from(DTYPES)), min_size=1)
    )
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    with ringfeed.Ring.create(None, fields, slots=1) as ring:
        count = data.draw(st.integers(0, ring.slots))
        samples = {name: random_samples(field, count, random) for name, field in ring.spec.items()}
        for row in range(count):
            ring.put({name: samples[name][row] for name in fields}, tag=row)
        ring.finish()
        structure = data.draw(st.none() | st.sampled_from(sorted(fields)))
        batch_size, prefetch = data.draw(st.tuples(st.integers(1, ring.slots), st.integers(0, 2)))
        ds = dataset(ring, batch_size, structure=structure, prefetch=prefetch)
        found = [{structure: element} if structure else element for element in ds]
        for name in [structure] if structure else fields:
            rows = [element[name].numpy() for element in found]
            assert same_bits(np.concatenate([samples[name][:0], *rows]), samples[name])
        del found
        assert ring.stats()["taken"] == 0


# ---- Sizes -------------------------------------------------------------------------------------------


def test_the_batch_axis_is_free_and_the_others_are_static(ring):
    assert dataset(ring, 2).element_spec == {"x": tf.TensorSpec((None, 512), tf.int64)}


def test_the_last_element_has_what_is_left(ring):
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
def test_drop_remainder_gathers_records_that_lie_apart(make_ring, fields):
    ring = make_ring({**fields, "page": ((512,), "int64")}, slots=4)
    elements = iter(dataset(ring, 2, structure=("x", TAGS), drop_remainder=True))
    fill(ring, range(4))
    held = [ring.take(1), ring.take(1), ring.take(1), ring.take(1)]
    held[1].release()
    held[3].release()
    fill(ring, [4, 5])  # into slots 1 and 3: with no other one free, no run of two can come
    x, tags = next(elements)
    assert sorted(first_numbers(x)) == tags.numpy().tolist() == [4, 5]
    assert ring.stats()["taken"] == 2  # what was copied is free
    del held
    fill(ring, [6, 7])
    assert first_numbers(next(elements)[0]) == [6, 7]


def test_drop_remainder_hands_out_what_lies_together_without_a_copy(ring):
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


def test_linger_waits_for_a_whole_batch_longer_than_a_turn_takes(ring, start, monkeypatch):
    monkeypatch.setattr("ringfeed.tf.feed.dataset.waiting.TURN_SECONDS", 1e-9)  # a turn ends as soon as it may
    producer = start(produce_as_told, ring.name)
    elements = iter(dataset(ring, 3, structure="x", linger=1e6))
    found = []
    waiting = threading.Thread(target=lambda: found.append(first_numbers(next(elements))))
    waiting.start()
    for _ in range(3):
        before = ring.stats()["take_wait_ns"]
        while ring.stats()["take_wait_ns"] == before:
            pass  # at least one slice of waiting is over
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
        ({"batch_size": 0}, "batch_size 0: give a whole number of at least 1"),
        ({"batch_size": 2.5}, "batch_size 2.5: give a whole number"),
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
def test_what_does_not_fit_the_ring_is_said_at_once(ring, options, says):
    with pytest.raises((ValueError, TypeError), match=says):
        dataset(ring, **{"batch_size": 2, **options})


def test_the_name_of_a_ring_is_no_ring(ring):
    with pytest.raises(TypeError, match=rf"ring '{ring.name}': give a ringfeed.Ring. Ring.attach"):
        dataset(ring.name, 2)
