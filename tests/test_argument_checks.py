"""The checks of arguments: one function for each kind, and the same answer at every public entry without TensorFlow."""

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

import ringfeed
from ringfeed.arguments import check_bool, check_choice, check_int, check_ints, check_seconds, check_timeout

NO_INTEGERS = [
    True,
    np.True_,
    np.array(True),
    1.0,
    -0.0,
    math.nan,
    math.inf,
    np.float64(2),
    Decimal(1),
    Fraction(1),
    Fraction(1, 2),
    "3",
    b"3",
    None,
    [1],
    np.array([1, 2]),
    1j,
]
NO_SECONDS = [True, np.True_, np.array(True), "3", b"3", None, [1.0], np.array([1.0, 2.0]), 1j, np.complex64(1), {}]
NO_TIMES = [-1, -1e-9, math.nan, -math.inf, np.float32("nan"), Decimal("-1"), Decimal("nan"), 10**400, -(10**400)]


@pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3), np.array(3)], ids=repr)
def test_integers_of_python_and_of_numpy_are_integers(value):
    number = check_int(value, "rows", 1, 8)
    assert (type(number), number) == (int, 3)


@pytest.mark.parametrize("value", NO_INTEGERS, ids=repr)
def test_a_value_that_is_no_integer_is_a_type_error_with_name_value_and_remedy(value):
    with pytest.raises(TypeError, match=r"^rows .*: give an integer from 1 to 8\.$"):
        check_int(value, "rows", 1, 8)


@pytest.mark.parametrize("value", [0, 9, -1, 2**63, 10**400, np.int64(-5), pytest.param(-(10**5000), id="5000 digits")])
def test_an_integer_out_of_bounds_is_a_value_error_with_name_value_and_remedy(value):
    with pytest.raises(ValueError, match=r"^rows .*: give an integer from 1 to 8\.$") as raised:
        check_int(value, "rows", 1, 8)
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize("value", [[], "12", 3, [1, 2.5], [0], [True]], ids=repr)
def test_a_value_that_is_no_sequence_of_integers_is_refused(value):
    with pytest.raises((TypeError, ValueError), match=r"^sizes .*: give .*integer"):
        check_ints(value, "sizes", 1)


@pytest.mark.parametrize(
    "value", [0.5, np.float32(0.5), Fraction(1, 2), Decimal("0.5"), np.array(0.5), np.float16(0.5)], ids=repr
)
def test_any_real_number_says_seconds(value):
    assert check_seconds(value, "linger") == check_timeout(value, "timeout") == 0.5


@pytest.mark.parametrize("value", [0, -0.0, np.float64(-0.0), np.int8(0)], ids=repr)
def test_zero_has_no_sign(value):
    assert math.copysign(1, check_seconds(value, "linger")) == 1.0
    with pytest.raises(ValueError, match="seconds above 0"):
        check_seconds(value, "item_timeout", above_zero=True)


@pytest.mark.parametrize("value", NO_SECONDS, ids=repr)
def test_a_value_that_is_no_number_of_seconds_is_a_type_error(value):
    with pytest.raises(TypeError, match=r"^linger .*: give seconds, 0 or more\.$"):
        check_seconds(value, "linger")
    if value is not None:
        with pytest.raises(TypeError, match=r"^timeout .*: give seconds, 0 or more, or None to wait for ever\.$"):
            check_timeout(value, "timeout")


@pytest.mark.parametrize("value", NO_TIMES)
def test_a_number_that_is_no_time_is_a_value_error(value):
    with pytest.raises(ValueError, match=r"^timeout .*: give seconds, 0 or more, or None to wait for ever\.$"):
        check_timeout(value, "timeout")


def test_none_and_infinity_wait_for_ever():
    assert check_timeout(None, "timeout") == check_timeout(math.inf, "timeout") == math.inf
    with pytest.raises(ValueError, match="item_timeout inf"):
        check_seconds(math.inf, "item_timeout", finite=True)


@pytest.mark.parametrize("value", [0, 1, "yes", None, [], 1.0, np.int8(1), np.array([True])], ids=repr)
def test_a_value_that_is_no_boolean_is_refused(value):
    with pytest.raises(TypeError, match=r"^zero .*: give True or False\.$"):
        check_bool(value, "zero")
    assert check_bool(np.True_, "zero") is True


@pytest.mark.parametrize("value", ["drop", "", None, 3, ["block"]], ids=repr)
def test_a_value_that_is_none_of_the_choices_is_refused(value):
    with pytest.raises(ValueError, match=r'^when_full .*: give "block" or "reject"\.$'):
        check_choice(value, "when_full", ("block", "reject"))


# ---- Public entries ----------------------------------------------------------------------------------


def entries_with_an_integer(ring):
    fields = {"x": ((), "int8")}
    yield "slots", lambda value: ringfeed.Ring.create(None, fields, slots=value)
    yield "slots", lambda value: ringfeed.Ring.create_nameless(fields, slots=value)
    for option in ("participants", "priorities"):
        yield option, lambda value, option=option: ringfeed.Ring.create(None, fields, **{option: value})
    yield "max_rows", lambda value: ring.take(value)
    yield "min_rows", lambda value: ring.take(8, min_rows=value)
    yield "max_rows", lambda value: ring.take_urgent(value)
    yield "max_rows", lambda value: next(ring.batches(value))
    yield "descriptor", lambda value: ringfeed.Ring.attach_descriptor(value, "cams")
    yield "max_in_flight", lambda value: ringfeed.Client(ring, max_in_flight=value)


@pytest.mark.parametrize("value", NO_INTEGERS, ids=repr)
def test_every_entry_refuses_a_value_that_is_no_integer(ring, value):
    for name, call in entries_with_an_integer(ring):
        with pytest.raises(TypeError, match=rf"{name} .*: give an integer"):
            call(value)


def test_every_entry_refuses_a_boolean_option_that_is_no_boolean(ring):
    fields = {"x": ((), "int8")}
    for name, call in [
        ("redeliver", lambda value: ringfeed.Ring.create(None, fields, redeliver=value)),
        ("huge_pages", lambda value: ringfeed.Ring.create(None, fields, huge_pages=value)),
        ("zero", lambda value: ring.claim(zero=value)),
        ("copy", lambda value: ringfeed.Client(ring, copy=value)),
    ]:
        for value in (1, 0, "no", None):
            with pytest.raises(TypeError, match=f"{name} .*: give True or False"):
                call(value)


def test_a_full_ring_says_that_its_slots_are_full(ring):
    held = [ring.claim() for _ in range(ring.slots)]
    with pytest.raises(ringfeed.RingFull) as raised:
        ring.claim(timeout=0)
    assert raised.value.resource == "slots"
    del held
