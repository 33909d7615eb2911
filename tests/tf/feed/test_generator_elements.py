"""Elements of a `from_generator` over a ring: all dtypes and structures, as `element_spec` describes them."""

from __future__ import annotations

from collections import namedtuple

import numpy as np
import pytest
import tensorflow as tf
from feeding import address, as_asked, fill, first_numbers, from_generator, random_samples, same_bits, slot_of

import ringfeed
from ringfeed.tf import TAGS, element_spec, generator
from support import DTYPES

pytestmark = pytest.mark.usefixtures("quick_collection")

PICTURES = {"image": ((8, 8, 2), "float32"), "label": ((), "int64")}
PADDED = {"x": ((5, 3), "float32"), "y": ((), "int64"), "z": ((64,), "uint8")}

# ---- Elements --------   ------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [True, False], ids=["cut", "uncut"])
@pytest.mark.parametrize("shape", [(16, 4), (3,), ()], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_arrives_bit_by_bit_in_the_shape_of_the_element_spec(make_ring, dtype, shape, cut):
    ring = make_ring({"x": (shape, dtype)}, slots=64)
    samples = random_samples(ring.spec["x"], 32, np.random.default_rng(1))
    for sample in samples:
        ring.put({"x": sample})
    ring.finish()
    elements = from_generator(ring, 32, structure="x", cut=cut)
    (element,) = elements
    assert elements.element_spec == element_spec(ring, structure="x", cut=cut)
    assert elements.element_spec.is_compatible_with(element)
    assert (slot_of(ring, "x", address(element)) == 0) == (not cut or not ring.spec["x"].is_padded)
    if not cut and ring.spec["x"].is_padded:
        element = ringfeed.tf.cut_padding(element, shape)
    assert same_bits(element, samples)


Pair = namedtuple("Pair", ["first", "second"])
STRUCTURES = [
    None,
    "image",
    ("image", "label"),
    ["image", "label"],
    ("image", "image"),
    ({"a": "image", "b": {"c": "label"}}, "label", TAGS),
    {"z": TAGS, "a": "image"},
    Pair("label", "image"),
    ("image",),
    TAGS,
]


@pytest.mark.parametrize("options", [{}, {"drop_remainder": True}, {"cut": False}, {"copy": True}], ids=str)
@pytest.mark.parametrize("structure", STRUCTURES, ids=repr)
def test_an_element_has_the_structure_that_was_asked_for(make_ring, structure, options):
    ring = make_ring(PICTURES, slots=64)
    fill(ring, [7, 8])
    ring.finish()
    elements = from_generator(ring, 2, structure=structure, **options)
    (element,) = elements
    tf.nest.assert_same_structure(element, elements.element_spec)
    named = tf.nest.flatten(
        {"image": "image", "label": "label"}
        if structure is None
        else tuple(structure)
        if isinstance(structure, list)
        else structure
    )
    rows = 2 if "drop_remainder" in options else None
    label = (rows, 8) if options.get("cut") is False else (rows,)
    expected = {"image": ((rows, 8, 8, 2), tf.float32), "label": (label, tf.int64), TAGS: ((rows,), tf.uint64)}
    for name, spec, tensor in zip(named, tf.nest.flatten(elements.element_spec), tf.nest.flatten(element), strict=True):
        assert (tuple(spec.shape), spec.dtype) == expected[name]
        assert tensor.dtype == spec.dtype
        assert tensor.numpy().reshape(2, -1)[:, 0].tolist() == [7, 8]


def test_padded_fields_are_cut_or_the_rings_own_memory(make_ring):
    ring = make_ring(PADDED)
    fill(ring, range(3))
    fill(ring, range(3, 6))
    element = next(iter(as_asked(from_generator(ring, 3))))
    assert [tuple(element[name].shape) for name in "xyz"] == [(3, 5, 3), (3,), (3, 64)]
    assert all(first_numbers(element[name]) == [0, 1, 2] for name in "xyz")
    del element
    element = next(iter(as_asked(from_generator(ring, 3, cut=False))))
    assert [tuple(element[name].shape) for name in "xyz"] == [(3, 16), (3, 8), (3, 64)]
    assert all(slot_of(ring, name, address(element[name])) == 3 for name in "xyz")
    assert first_numbers(tf.function(ringfeed.tf.cut_padding)(element["x"], (5, 3))) == [3, 4, 5]


def test_without_a_batch_size_the_batch_axis_of_the_spec_is_free(ring):
    assert element_spec(ring) == {"x": tf.TensorSpec((None, 512), tf.int64)}
    assert element_spec(ring, drop_remainder=True) == {"x": tf.TensorSpec((None, 512), tf.int64)}
    assert element_spec(ring, 3, structure="x") == tf.TensorSpec((None, 512), tf.int64)
    assert element_spec(ring, 3, structure="x", drop_remainder=True) == tf.TensorSpec((3, 512), tf.int64)


# ---- Mistakes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch_size": 0}, "batch_size 0: give an integer, 1 or more"),
        ({"batch_size": 2.5}, "batch_size 2.5: give an integer"),
        ({"batch_size": True}, "batch_size True"),
        ({"batch_size": 9}, "has only 8 slots"),
        ({"min_rows": 3}, "min_rows 3: .* at most 2 rows"),
        ({"linger": -1}, "linger -1: give seconds"),
        ({"timeout": "soon"}, "timeout 'soon'"),
        ({"structure": "y"}, "'y' is no field of ring .* 'x'"),
        ({"structure": ()}, "names no field"),
    ],
    ids=repr,
)
def test_options_that_do_not_fit_the_ring_are_refused_at_once(ring, options, says):
    with pytest.raises((ValueError, TypeError), match=says):
        generator(ring, **{"batch_size": 2, **options})


def test_the_name_of_a_ring_is_refused(ring):
    for call in (lambda: generator(ring.name, 2), lambda: element_spec(ring.name)):
        with pytest.raises(TypeError, match=rf"ring '{ring.name}': give a ringfeed.Ring. Ring.attach"):
            call()


def test_the_spec_refuses_unknown_fields_and_invalid_batch_sizes(ring):
    with pytest.raises(ValueError, match="'y' is no field of ring"):
        element_spec(ring, structure="y")
    with pytest.raises(TypeError, match=r"batch_size 2\.5"):
        element_spec(ring, 2.5)
