"""Bad arguments are refused and change nothing. The error names the object, the fact and the remedy."""

import math
import os

import numpy as np
import pytest

import ringfeed
from support import record, states


class Hostile:
    """An object whose every method raises."""

    def __index__(self):
        raise RuntimeError("hostile")

    __float__ = __len__ = __array__ = __index__


def refused(ring, error, message, call, *arguments, **options):
    """Check that the call is refused and that the ring is unchanged."""
    before = states(ring)
    with pytest.raises(error, match=message) as raised:
        call(*arguments, **options)
    assert repr(ring.name) in str(raised.value)
    assert len(str(raised.value)) < 500
    assert states(ring) == before


NOT_WHOLE = [1.5, math.nan, "3", None, [1], b"1", np.float64(2), 1j]


# ---- Rows and tags -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [0, -1, 9, 2**31, 2**32, 2**32 + 1, 2**63, 2**64 + 1, -(2**70)])
def test_rows_to_claim_that_the_ring_has_not_are_refused(ring, rows):
    refused(ring, ValueError, rf"rows {rows}: give an integer from 1 to 8\.", ring.claim, rows)


@pytest.mark.parametrize("rows", [value for value in NOT_WHOLE if value is not None])
def test_rows_to_claim_that_are_no_whole_number_are_refused(ring, rows):
    refused(ring, TypeError, r"rows .*: give an integer from 1 to 8\.", ring.claim, rows)


@pytest.mark.parametrize("rows", [-1, 4, 2**40])
def test_more_rows_to_publish_than_were_claimed_are_refused_and_the_claim_stays(ring, rows):
    slots = ring.claim(rows=3)
    refused(ring, ValueError, rf"rows to publish {rows}: give an integer from 0 to 3\.", slots.publish, rows)
    refused(ring, TypeError, r"rows to publish '1': give", slots.publish, "1")
    slots.publish()
    assert states(ring) == {"free": 5, "ready": 3}


@pytest.mark.parametrize("rows", [0, -1, -(2**70)])
def test_a_batch_of_no_rows_is_refused(ring, rows):
    refused(ring, ValueError, rf"max_rows {rows}: give an integer, 1 or more\.", ring.take, rows)
    refused(ring, ValueError, rf"min_rows {rows}: give an integer from 1 to 8\.", ring.take, 8, min_rows=rows)


@pytest.mark.parametrize("rows", NOT_WHOLE)
def test_rows_to_take_that_are_no_whole_number_are_refused(ring, rows):
    refused(ring, TypeError, r"max_rows .*: give an integer, 1 or more\.", ring.take, rows)
    refused(ring, TypeError, r"min_rows .*: give an integer from 1 to 8\.", ring.take, 8, min_rows=rows)


def test_more_min_rows_than_max_rows_or_slots_are_refused(ring):
    refused(ring, ValueError, r"min_rows 5: give an integer from 1 to 4\.", ring.take, 4, min_rows=5)
    refused(ring, ValueError, r"min_rows 9: give an integer from 1 to 8\.", ring.take, 100, min_rows=9)


@pytest.mark.parametrize("tag", [-1, 2**64, -(2**63), 2**200])
def test_a_tag_of_more_than_64_bits_is_refused(ring, tag):
    message = rf"tag .*: give an integer from 0 to {2**64 - 1}\."
    refused(ring, ValueError, message, ring.put, record(0), tag=tag)
    with ring.claim() as slot:
        refused(ring, ValueError, message, setattr, slot, "tag", tag)
        assert slot.tag == 0


@pytest.mark.parametrize("tag", NOT_WHOLE)
def test_a_tag_that_is_no_whole_number_is_refused(ring, tag):
    message = r"tag .*: give an integer from 0 to"
    refused(ring, TypeError, message, ring.put, record(0), tag=tag)
    with ring.claim() as slot:
        refused(ring, TypeError, message, setattr, slot, "tag", tag)


# ---- Times -------------------------------------------------------------------------------------------


def calls_with_a_timeout(ring):
    return [
        lambda timeout: ring.claim(timeout=timeout),
        lambda timeout: ring.put(record(0), timeout=timeout),
        lambda timeout: ring.take(1, timeout=timeout),
        lambda timeout: next(ring.batches(1, timeout=timeout)),
        lambda timeout: ringfeed.Ring.attach(ring.name, timeout=timeout),
    ]


@pytest.mark.parametrize("timeout", [-1, -1e-9, math.nan, -math.inf])
def test_a_timeout_that_is_no_time_is_refused_whether_there_is_to_wait_or_not(ring, timeout):
    for call in calls_with_a_timeout(ring):
        refused(
            ring, ValueError, rf"timeout {timeout}: give seconds, 0 or more, or None to wait for ever\.", call, timeout
        )


@pytest.mark.parametrize("timeout", ["1", [1], b"1", 1j, {}, True, np.True_])
def test_a_timeout_that_is_no_number_is_refused(ring, timeout):
    for call in calls_with_a_timeout(ring):
        refused(ring, TypeError, r"timeout .*: give seconds, 0 or more, or None to wait for ever\.", call, timeout)


@pytest.mark.parametrize("timeout", [math.inf, 1e300, 10**18, 9e9, 1e-300, np.float32(0.5), np.int8(1)])
def test_a_timeout_may_be_any_time_also_for_ever(ring, timeout):
    ring.put(record(0), timeout=timeout)
    ring.claim(timeout=timeout).discard()
    ring.take(1, timeout=timeout, linger=0).release()
    ringfeed.Ring.attach(ring.name, timeout=timeout).close()


@pytest.mark.parametrize("linger", [-1, math.nan])
def test_a_linger_that_is_no_time_is_refused(ring, linger):
    refused(ring, ValueError, rf"linger {linger}: give seconds, 0 or more\.", ring.take, 1, linger=linger)


@pytest.mark.parametrize("linger", ["1", None, [1]])
def test_a_linger_that_is_no_number_is_refused(ring, linger):
    refused(ring, TypeError, r"linger .*: give seconds, 0 or more\.", ring.take, 1, linger=linger)


def test_a_linger_may_be_for_ever(ring):
    ring.put(record(0))
    ring.take(1, linger=math.inf).release()


# ---- Records -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given", [{}, {"y": np.zeros(512)}, {"x": np.zeros(512, int), "y": 1}, {b"x": 0}, {0: 0}, {None: 1}]
)
def test_a_record_of_other_fields_is_refused_with_both_lists(ring, given):
    message = rf"the record has the fields {', '.join(map(str, given)) or 'none'}; the ring holds x\. Give each"
    refused(ring, ringfeed.RecordMismatch, message, ring.put, given)


@pytest.mark.parametrize("given", [None, 5, [1], "x", np.zeros(512), ("x", 1), {"x"}, Hostile()])
def test_a_record_that_is_no_mapping_is_refused_with_what_to_give(ring, given):
    message = rf"a record is a dict of field to value, not {type(given).__name__}\. Give \{{'x': \.\.\.\}}"
    refused(ring, ringfeed.RecordMismatch, message, ring.put, given)


@pytest.mark.parametrize("shape", [(), (511,), (513,), (1, 512), (512, 1), (2, 256), (0,)])
def test_a_sample_of_another_shape_is_refused_with_both_shapes(ring, shape):
    message = (
        rf"field 'x': the ring holds samples of shape \(512,\), the value has shape \({', '.join(map(str, shape))},?\)"
    )
    refused(ring, ringfeed.RecordMismatch, message, ring.put, {"x": np.zeros(shape, np.int64)})


@pytest.mark.parametrize("dtype", ["int32", "uint64", "float64", "bool", "object", "U3", "datetime64[s]", ">i8"])
def test_a_sample_of_another_dtype_is_refused_with_both_dtypes(ring, dtype):
    message = r"field 'x': the ring holds int64, the value is .*\. Convert it with \.astype\('int64'\)\."
    refused(ring, ringfeed.RecordMismatch, message, ring.put, {"x": np.zeros(512, dtype)})


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("int64", 1.5),
        ("int64", "5"),
        ("int64", 2**63),
        ("int64", 2**70),
        ("uint8", 256),
        ("uint8", -1),
        ("int8", 128),
        ("bool", 1),
        ("bool", "yes"),
        ("float32", 1j),
        ("float32", "1.5"),
        ("float32", None),
        ("float32", b"1"),
        ("float32", object()),
        ("bfloat16", "1"),
        ("float32", [[1], [2, 3]]),
    ],
)
def test_a_number_that_would_not_stay_what_it_is_is_refused(make_ring, dtype, value):
    ring = make_ring({"x": ((), dtype)})
    refused(ring, ringfeed.RecordMismatch, f"field 'x': .*{dtype}", ring.put, {"x": value})


def test_an_error_of_the_value_itself_comes_through(ring):
    with pytest.raises(RuntimeError, match="hostile"):
        ring.put({"x": Hostile()})
    with pytest.raises(RuntimeError, match="hostile"):
        ring.put(record(0), tag=Hostile())
    with pytest.raises(RuntimeError, match="hostile"):
        ring.take(Hostile())
    with pytest.raises(RuntimeError, match="hostile"):
        ring.claim(timeout=Hostile())
    assert states(ring) == {"free": 8}


def test_a_refused_record_leaves_nothing_in_the_ring_however_late_it_is_refused(make_ring):
    ring = make_ring({"x": ((), "int64"), "y": ((), "int64")})
    refused(ring, ringfeed.RecordMismatch, "field 'y'", ring.put, {"x": 1, "y": 1.5})


@pytest.mark.parametrize("name", ["y", "", 0, None, b"x", ("x",), slice(None), ...])
def test_a_field_that_the_ring_has_not_is_refused_with_those_that_it_has(ring, name):
    ring.put(record(0))
    batch, slot = ring.take(max_rows=1), ring.claim()
    for call in (batch.__getitem__, slot.__getitem__, batch.padded, slot.padded, batch.dlpack, slot.dlpack):
        if isinstance(name, slice):
            with pytest.raises((KeyError, TypeError)):
                call(name)
        else:
            with pytest.raises(KeyError, match=r"has no field .*; its fields are x"):
                call(name)


def test_values_that_do_not_fit_into_a_claim_are_refused(ring):
    with ring.claim() as slot:
        with pytest.raises(ValueError, match="broadcast"):
            slot["x"] = np.zeros(3)
        with pytest.raises(ValueError, match="broadcast"):
            slot.tags = [1, 2]


# ---- Rings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slots", [0, -1, 2**24 + 1, 2**32 + 8, 2**63, -(2**70)])
def test_slots_that_no_ring_has_are_refused(ring_name, slots):
    with pytest.raises(ValueError, match=rf"ring '{ring_name}': slots {slots}: give an integer from 1 to 16777216\."):
        ringfeed.Ring.create(ring_name, {"x": ((), "int8")}, slots=slots)


@pytest.mark.parametrize("slots", NOT_WHOLE)
def test_slots_that_are_no_whole_number_are_refused(ring_name, slots):
    with pytest.raises(TypeError, match=rf"ring '{ring_name}': slots .*: give an integer from 1 to 16777216\."):
        ringfeed.Ring.create(ring_name, {"x": ((), "int8")}, slots=slots)


@pytest.mark.parametrize(("option", "most"), [("participants", 4095), ("numa_node", 1023)])
def test_options_that_make_no_sense_are_refused(ring_name, option, most):
    for value, error in (
        (-1, ValueError),
        (most + 1, ValueError),
        (2**70, ValueError),
        (1.5, TypeError),
        ("1", TypeError),
    ):
        with pytest.raises(error, match=rf"ring '{ring_name}': {option} .*: give an integer from [01] to {most}\."):
            ringfeed.Ring.create(ring_name, {"x": ((), "int8")}, **{option: value})


@pytest.mark.parametrize("name", ["", "a/b", "../x", "a\0", 7, b"x", "x" * 201])
def test_a_name_that_no_ring_can_have_is_refused(name):
    for call in (lambda: ringfeed.Ring.create(name, {"x": ((), "int8")}), lambda: ringfeed.Ring.attach(name)):
        with pytest.raises(ValueError, match=r"ring name .*: use 1 to 200 letters, digits"):
            call()


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        (None, TypeError, "fields must be a mapping"),
        ({}, ValueError, "a record has 1 to 64 fields; 0 were given"),
        ({"x": 5}, ValueError, "field 'x': 5 is not a pair"),
        ({"x": ((None, 3), "uint8")}, ValueError, "field 'x': shape .* is not fixed"),
        ({"x": ((3,), "complex128")}, TypeError, "field 'x': dtype 'complex128' cannot be held"),
        ({"": ((3,), "uint8")}, ValueError, "field name ''"),
    ],
)
def test_a_bad_record_is_refused_with_the_rings_name(ring_name, fields, error, message):
    with pytest.raises(error, match=rf"ring '{ring_name}': {message}"):
        ringfeed.Ring.create(ring_name, fields)


@pytest.mark.parametrize(
    ("shape", "slots", "error"),
    [
        ((2**40,), 1, ringfeed.NoSpace),
        ((2**45,), 8, ringfeed.NoSpace),
        ((2**46,), 8, ringfeed.NoSpace),
        ((2**55,), 1, ringfeed.NoSpace),
        ((2**61,), 1, ringfeed.NoSpace),
        ((2**61,), 2, ringfeed.NoSpace),
        ((2**62,), 1, (ringfeed.NoSpace, ValueError)),
        ((2**62,), 2, ValueError),
        ((2**62,), 2**24, ValueError),
        ((2**40,), 2**24, ValueError),
    ],
)
def test_a_ring_that_no_machine_holds_is_refused(ring_name, shape, slots, error):
    with pytest.raises(error, match=f"ring '{ring_name}': {slots} slots of"):
        ringfeed.Ring.create(ring_name, {"x": (shape, "uint8")}, slots=slots)


@pytest.mark.parametrize(
    ("descriptor", "error"),
    [(-1, ValueError), (2**31, ValueError), (10**6, ValueError), (1.5, TypeError), ("1", TypeError)],
)
def test_a_descriptor_that_is_none_is_refused(ring_name, descriptor, error):
    with pytest.raises(error, match=rf"ring '{ring_name}': descriptor .*: (give an integer|Bad file descriptor)"):
        ringfeed.Ring.attach_descriptor(descriptor, ring_name)


@pytest.mark.parametrize("path", ["/dev/null", "/etc/passwd", "/proc/self/status"])
def test_a_descriptor_of_something_else_is_refused(ring_name, path):
    with pytest.raises((ringfeed.LayoutMismatch, OSError), match=f"ring '{ring_name}'"):
        ringfeed.Ring.attach_descriptor(os.open(path, os.O_RDONLY), ring_name)


def test_a_ring_claim_batch_or_view_is_not_made_by_its_class():
    for make, remedy in [
        (lambda: ringfeed.Ring("cams", {"x": ((), "int8")}), "use Ring.create to make a ring, or Ring.attach"),
        (lambda: ringfeed.Ring(), "use Ring.create"),
        (lambda: ringfeed.Claim(), "Claim objects are made by Ring.claim"),
        (lambda: ringfeed.Batch(), "Batch objects are made by"),
        (lambda: ringfeed.DLPackView(), "made by Batch.dlpack"),
    ]:
        with pytest.raises(TypeError, match=remedy):
            make()


@pytest.mark.parametrize("kind", [ringfeed.Ring, ringfeed.Claim, ringfeed.Batch, ringfeed.DLPackView])
def test_an_object_that_was_never_opened_does_no_harm(kind):
    empty = kind.__new__(kind)
    for name in dir(kind):
        if name in ("__class__", "__init_subclass__", "__subclasshook__", "__init__", "__dir__"):
            continue
        try:
            value = getattr(empty, name)
            for arguments in ((), (1,), ("x",), (None, None, None)):
                try:
                    value(*arguments)
                except Exception:
                    continue
        except Exception:
            continue
