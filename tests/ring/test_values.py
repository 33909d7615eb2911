"""`put`, claims and tags store each number unchanged or refuse it, and never broadcast arrays."""

import array
import collections
import enum
import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

import ringfeed
from ringfeed.record_spec import as_dtype
from support import DTYPES, states

BFLOAT16 = as_dtype("bfloat16")


class Four(enum.IntEnum):
    FOUR = 4


@pytest.fixture(params=["put", "claim", "claim of rows"])
def give(request, make_ring):
    """Return a function that writes one sample into a ring, by `put` or by a claim, and returns the taken sample."""

    def through_a_ring(dtype, value, shape=None):
        ring = make_ring({"x": (np.shape(value) if shape is None else shape, dtype)})
        try:
            if request.param == "put":
                ring.put({"x": value})
            elif request.param == "claim":
                with ring.claim() as slot:
                    slot["x"] = value
            else:
                with ring.claim(rows=1) as slots:
                    slots["x"] = [value]
        except BaseException:
            assert states(ring) == {"free": ring.slots}
            raise
        with ring.take(max_rows=1) as batch:
            assert batch["x"].dtype == as_dtype(dtype)
            return batch["x"][0].astype(complex if dtype == "complex64" else as_dtype(dtype)).copy()

    return through_a_ring


def refused(give, dtype, value, message=""):
    with pytest.raises(ringfeed.RecordMismatch, match=f"ring '.*', field 'x': .*{message}") as error:
        give(dtype, value, ())
    assert dtype in str(error.value), "the message names the field's dtype"


# ---- Python's own numbers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        *[("uint8", 0), ("uint8", 255), ("int8", -128), ("uint64", 2**64 - 1), ("int64", -(2**63)), ("int16", True)],
        *[("float32", 2**24), ("float32", -(2**24)), ("float32", 2**70), ("float64", 2**53), ("float64", 10**22)],
        *[("float16", 65504), ("float16", -65504.0), ("float16", 2048), ("bfloat16", 256), ("bfloat16", 2**127)],
        *[("float32", 0.5), ("float32", 3.4028234663852886e38), ("bfloat16", -1.5), ("complex64", 2**24)],
        *[("complex64", 1.5 - 2j), ("complex64", 7), ("bool", True), ("bool", False), ("float64", Four.FOUR)],
        *[("float32", math.inf), ("float16", -math.inf), ("bfloat16", math.inf), ("complex64", complex(math.inf, 0))],
    ],
)
def test_a_number_of_pythons_comes_out_as_it_went_in(give, dtype, value):
    assert give(dtype, value, ()).item() == value


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_nan_stays_nan(give, dtype):
    assert np.isnan(give(dtype, math.nan, ()).astype(float))


@pytest.mark.parametrize(
    ("dtype", "value", "nearest"),
    [("float32", 0.1, np.float32(0.1)), ("float16", 1 / 3, np.float16(1 / 3)), ("float32", 1e-300, 0)],
)
def test_a_number_with_a_point_is_rounded_to_the_nearest(give, dtype, value, nearest):
    assert give(dtype, value, ()) == nearest


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        *[("float32", 1e39), ("float32", -1e39), ("float32", 3.4028236e38), ("float16", 65520.0), ("float16", 1e5)],
        *[("bfloat16", 3.4e38), ("complex64", 1e39), ("complex64", complex(0, -1e39)), ("float32", 10**39)],
        *[("float64", 10**400), ("bfloat16", 10**400), ("float16", 70000)],
    ],
)
def test_a_finite_number_does_not_become_infinite(give, dtype, value):
    refused(give, dtype, value, r"would become infinite; its largest number is .*wider dtype")


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        *[("float32", 2**24 + 1), ("float32", -(2**24) - 1), ("float64", 2**53 + 1), ("float16", 2049)],
        *[("bfloat16", 257), ("complex64", 2**24 + 1), ("float32", 123456789), ("float64", 10**23 + 1)],
    ],
)
def test_an_integer_that_a_field_of_floats_has_not_is_refused(give, dtype, value):
    refused(give, dtype, value, rf"rounds the integer {value}\. Give float\(value\)")
    if dtype != "complex64":
        assert float(give(dtype, float(value), ())) == float(np.asarray(float(value), as_dtype(dtype)))


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("uint8", 256),
        ("uint8", -1),
        ("int8", 128),
        ("uint64", 2**64),
        ("uint64", -1),
        ("int64", 2**63),
        ("int32", 10**30),
    ],
)
def test_an_integer_out_of_bounds_is_refused_with_the_bounds(give, dtype, value):
    refused(give, dtype, value, rf"{value} is out of its bounds, {np.iinfo(dtype).min} to {np.iinfo(dtype).max}\.")


@pytest.mark.parametrize("dtype", ["uint8", "int64", "bool"])
@pytest.mark.parametrize("value", [1.0, 0.5, math.nan, math.inf])
def test_a_float_is_no_integer_even_where_it_is_whole(give, dtype, value):
    refused(give, dtype, value, "is float64. Convert it with")


def test_an_integer_is_no_bool_and_a_complex_no_float(give):
    refused(give, "bool", 1, "is an integer")
    refused(give, "float32", 1j, r"1j is complex. Convert it with numpy.real")


@pytest.mark.parametrize("value", [None, "1", "", b"1", Decimal(1), Fraction(1, 2), {}, {1}, object(), {"a": 1}])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "bool", "complex64", "bfloat16"])
def test_a_value_that_is_no_number_is_refused(give, dtype, value):
    refused(give, dtype, value)


# ---- Lists -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        [[1, 2], [3, 4]],
        ((1, 2), (3, 4)),
        [range(1, 3), range(3, 5)],
        [np.array([1, 2], np.uint8), (3, 4)],
        [[np.uint8(1), 2], [np.int8(3), Four.FOUR]],
        [array.array("b", [1, 2]), memoryview(bytes([3, 4]))],
        collections.deque([[1, 2], [3, 4]]),
    ],
    ids=["lists", "tuples", "ranges", "arrays", "scalars", "buffers", "deque"],
)
@pytest.mark.parametrize("dtype", ["int16", "float32", "complex64", "bfloat16", "int64"])
def test_lists_of_numbers_and_of_arrays_that_fit(give, dtype, value):
    assert give(dtype, value, (2, 2)).astype(complex).tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("dtype", "value", "message"),
    [
        ("float32", [1.0, 1e39], "1e.39"),
        ("float32", [[1.0, -1e300]], "infinite"),
        ("uint8", [1, 2, 256], "256 is out of its bounds"),
        ("uint8", [1, [2, -1]], "-1 is out of its bounds"),
        ("uint64", [2**63, -1], "-1 is out of its bounds"),
        ("int64", [1, 2.0], r"2\.0 is float64"),
        ("uint8", [np.int64(1), 2], r"the value is int64\. Convert it with \.astype\('uint8'\)"),
        ("float32", [np.float64(1e39)], "the value is float64"),
        ("float32", [0.5, np.float64(0.5)], "the value is float64"),
        ("float16", [np.ones(3, np.float32)], "the value is float32"),
        ("uint8", [np.ones(3, np.uint8), np.ones(3, np.uint16)], "the value is uint16"),
        ("uint8", ([np.array(7)],), "the value is int64"),
        ("float32", array.array("d", [1e39]), "the value is float64"),
        ("int32", memoryview(np.ones(2)), "the value is float64"),
        ("float32", [array.array("q", [1])], "the value is int64"),
        ("float32", [1.0, None], "None is NoneType and no float32"),
        ("float32", [1.0, "2"], "'2' is a text and no float32"),
        ("float32", [1.0, b"2"], "is bytes and no float32"),
        ("float32", [[1.0], [2.0, 3.0]], "is no float32"),
        ("float32", [[1.0], 2.0], "is no float32"),
        ("bfloat16", [np.float16(1)], "the value is float16"),
        ("float16", [BFLOAT16.type(1)], "the value is bfloat16"),
        ("bool", [np.uint8(1)], "the value is uint8"),
    ],
)
def test_one_wrong_number_in_a_list_is_refused_by_itself(give, dtype, value, message):
    refused(give, dtype, value, message)


def test_a_list_in_itself_is_refused(give):
    endless = []
    endless.append(endless)
    refused(give, "float32", endless, "lists are nested")


# ---- Arrays ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_claim_takes_what_numpy_casts_safely_and_refuses_the_rest_with_both_dtypes(make_ring, dtype, given):
    ring = make_ring({"x": ((3,), dtype)})
    value = np.array([1, 0, 1]).astype(as_dtype(given))
    slot = ring.claim()
    slot["x"] = np.zeros(3, as_dtype(dtype))
    if np.can_cast(as_dtype(given), as_dtype(dtype), "safe"):
        slot["x"] = value
        assert slot["x"].astype(complex).tolist() == [1, 0, 1]
        return
    with pytest.raises(
        ringfeed.RecordMismatch,
        match=rf"'{ring.name}', field 'x': the ring holds {dtype}, the value is {given}\. .*astype\('{dtype}'\)",
    ):
        slot["x"] = value
    assert slot["x"].astype(complex).tolist() == [0, 0, 0], "the value was refused but written"


def test_integers_of_64_bits_that_float64_has_not_are_refused_though_numpy_calls_the_cast_safe(make_ring):
    ring = make_ring({"x": ((2,), "float64")})
    with ring.claim() as slot:
        for dtype, value in (("int64", 2**53), ("int64", -(2**53)), ("uint64", 2**53)):
            slot["x"] = np.array([1, value], dtype)
            assert slot["x"].tolist() == [1, value]
        for dtype, value in (("int64", 2**53 + 1), ("int64", -(2**53) - 1), ("uint64", 2**64 - 1)):
            with pytest.raises(ringfeed.RecordMismatch, match=f"float64, the value is {dtype} and has integers"):
                slot["x"] = np.array([1, value], dtype)


@pytest.mark.parametrize("dtype", ["int64", "uint16", "float32", "complex64"])
def test_a_claim_takes_the_other_byte_order_and_keeps_the_values(make_ring, dtype):
    ring = make_ring({"x": ((4,), dtype)})
    swapped = np.arange(4).astype(np.dtype(dtype).newbyteorder(">"))
    with ring.claim(rows=2) as slots:
        slots["x"] = np.stack([swapped, swapped[::-1]])
    with ring.take(2, min_rows=2) as batch:
        assert batch["x"].tolist() == [[0, 1, 2, 3], [3, 2, 1, 0]]


@pytest.mark.parametrize("given", ["object", "U3", "S1", "datetime64[s]", "timedelta64[s]", "longdouble", "complex128"])
def test_a_claim_refuses_dtypes_that_no_ring_has(ring, given):
    with (
        ring.claim() as slot,
        pytest.raises(ringfeed.RecordMismatch, match="field 'x': the ring holds int64, the value"),
    ):
        slot["x"] = np.zeros(512, given)


@pytest.mark.parametrize("shape", [(1,), (511,), (513,), (1, 512), (512, 1), (2, 256), (0,), (2, 512), (1, 1)])
def test_nothing_is_broadcast_into_a_slot(ring, shape):
    with ring.claim() as slot:
        for value in (np.zeros(shape, np.int64), np.zeros(shape), np.zeros(shape, np.int64).tolist()):
            with pytest.raises(
                ringfeed.RecordMismatch, match=r"of shape \(512,\), .*only a single number is broadcast"
            ):
                slot["x"] = value


@pytest.mark.parametrize("shape", [(3,), (512,), (3, 1), (1, 512), (2, 512), (4, 512), (3, 512, 1)])
def test_nothing_is_broadcast_into_rows(ring, shape):
    with ring.claim(rows=3) as slots, pytest.raises(ringfeed.RecordMismatch, match=r"int64 of shape \(3, 512\)"):
        slots["x"] = np.zeros(shape, np.int64)


@pytest.mark.parametrize("number", [7, np.int64(7), np.array(7), np.int8(7), True, np.bool_(True)])
def test_one_number_fills_a_slot_and_rows(ring, number):
    with ring.claim() as slot:
        slot["x"] = number
    with ring.claim(rows=2) as slots:
        slots["x"] = number
    with ring.take(3, min_rows=3) as batch:
        assert (batch["x"] == int(number)).all()


@pytest.mark.parametrize("number", [7.0, np.float32(7), np.uint64(7), "7", None, 2**63])
def test_one_number_of_another_kind_fills_nothing(ring, number):
    with ring.claim() as slot, pytest.raises(ringfeed.RecordMismatch, match="int64"):
        slot["x"] = number


def test_a_slot_can_be_added_to_in_place(make_ring):
    ring = make_ring({"x": ((3,), "float32"), "n": ((), "int64")})
    with ring.claim(zero=True) as slot:
        slot["x"] += 2
        slot["n"] += 5
        slot["x"] *= slot["x"]
        slot["x"] = slot["x"][::-1]
    with ring.take(1) as batch:
        assert (batch["x"].tolist(), batch["n"].tolist()) == ([[4, 4, 4]], [5])


def test_what_is_written_into_a_slot_is_a_copy(ring):
    value = np.arange(512)
    with ring.claim() as slot:
        slot["x"] = value
        value[...] = 0
        assert slot["x"].tolist() == list(range(512))


def test_a_tensor_of_another_library_counts_by_its_dtype(make_ring):
    torch = pytest.importorskip("torch")
    ring = make_ring({"x": ((2,), "float32")})
    with ring.claim() as slot:
        slot["x"] = torch.tensor([1.5, 2.5])
        assert slot["x"].tolist() == [1.5, 2.5]
        slot["x"] = [torch.tensor(1.0), torch.tensor(2, dtype=torch.int8)]
        assert slot["x"].tolist() == [1, 2]
        for value in (torch.ones(2, dtype=torch.float64), [torch.tensor(1.0, dtype=torch.float64), 1]):
            with pytest.raises(ringfeed.RecordMismatch, match="float32, the value is float64"):
                slot["x"] = value


# ---- Tags --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tags",
    [
        [1, 2, 2**64 - 1],
        np.array([1, 2, 2**64 - 1], np.uint64),
        (np.uint8(1), np.int64(2), 2**64 - 1),
        np.array([1, 2, 2**64 - 1], ">u8"),
    ],
    ids=["list", "uint64", "mixed", "swapped"],
)
def test_tags_of_rows(ring, tags):
    with ring.claim(rows=3) as slots:
        slots.tags = tags
    assert ring.take(3, min_rows=3).tags.tolist() == [1, 2, 2**64 - 1]


@pytest.mark.parametrize("dtype", ["int8", "int64", ">i4", "uint16", "bool"])
def test_tags_of_any_integers(ring, dtype):
    with ring.claim(rows=2) as slots:
        slots.tags = np.array([1, 0]).astype(dtype)
    assert ring.take(2, min_rows=2).tags.tolist() == [1, 0]


@pytest.mark.parametrize(
    "tags",
    [
        [1, -1, 2],
        [1, 2**64, 2],
        [1, 2, 3.0],
        np.array([1, -1, 2]),
        [np.int8(-1), 1, 2],
        np.array([1.0, 2.0, 3.0]),
        "abc",
        ["1", "2", "3"],
        [1, 2],
        [[1, 2, 3]],
        [[1], [2], [3]],
        [],
        None,
        -1,
        1.5,
    ],
)
def test_tags_that_are_none_are_refused(ring, tags):
    with ring.claim(rows=3) as slots:
        slots.tags = [4, 5, 6]
        with pytest.raises(ringfeed.RecordMismatch, match=f"ring '{ring.name}', tags: "):
            slots.tags = tags
        assert slots.tags.tolist() == [4, 5, 6]


def test_one_tag_is_for_all_rows(ring):
    with ring.claim(rows=3) as slots:
        slots.tags = 9
    assert ring.take(3, min_rows=3).tags.tolist() == [9, 9, 9]


@pytest.mark.parametrize(
    "write",
    [
        lambda ring, value: ring.put({"x": value}),
        lambda ring, value: _assign(ring, value),
        lambda ring, value: ring.put({"x": list(value)}),
    ],
    ids=["put", "a claim", "a list"],
)
def test_masked_numbers_are_refused_and_an_array_without_any_is_taken(make_ring, write):
    ring = make_ring({"x": ((3,), "float32")})
    with pytest.raises(ringfeed.RecordMismatch, match="masked"):
        write(ring, np.ma.masked_greater(np.float32([1, 2, 3]), 2))
    write(ring, np.ma.masked_greater(np.float32([1, 2, 3]), 5))
    assert ring.take(1)["x"].tolist() == [[1, 2, 3]]


def _assign(ring, value):
    with ring.claim() as slot:
        slot["x"] = value
