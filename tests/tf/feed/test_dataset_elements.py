"""Elements of `ringfeed.tf.dataset`: all dtypes, all structures, padded fields and tags."""

from __future__ import annotations

from collections import namedtuple

import numpy as np
import pytest
import tensorflow as tf
from feeding import address, fill, first_numbers, random_samples, same_bits, slot_of
from hypothesis import given
from hypothesis import strategies as st
from model_zoo import examples

import ringfeed
from ringfeed.tf import TAGS, cut_padding, dataset
from support import DTYPES

pytestmark = pytest.mark.usefixtures("way", "quick_collection")

PICTURES = {"image": ((8, 8, 2), "float32"), "label": ((), "int64")}
PADDED = {"x": ((5, 3), "float32"), "y": ((), "int64"), "z": ((64,), "uint8")}


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
