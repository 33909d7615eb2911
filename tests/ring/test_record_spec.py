"""`RecordSpec`: the field names, shapes and dtypes that a record may have."""

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringfeed import Field, RecordSpec
from ringfeed.record_spec import MAX_FIELDS, MAX_RANK, as_dtype, dtype_from_code, segment_name
from support import DTYPES


def test_fields_keep_their_names_order_shapes_and_dtypes():
    spec = RecordSpec({"image": ((224, 224, 3), "uint8"), "label": ((), np.int64), "weight": (5, "float32")})
    assert list(spec) == ["image", "label", "weight"]
    assert spec["image"] == Field("image", (224, 224, 3), np.dtype("uint8"))
    assert spec["label"].shape == ()
    assert spec["weight"].shape == (5,)


def test_a_spec_of_a_spec_is_the_same_spec():
    spec = RecordSpec({"x": ((3,), "float32"), "y": ((), "bool")})
    assert RecordSpec(spec) == spec
    assert RecordSpec.of(spec.values()) == spec
    assert hash(RecordSpec(spec)) == hash(spec)


def test_the_order_of_fields_is_part_of_a_spec():
    one, two = ((1,), "int8"), ((2,), "int8")
    assert RecordSpec({"a": one, "b": two}) != RecordSpec({"b": two, "a": one})


def test_a_spec_is_not_equal_to_the_mapping_that_it_was_made_of():
    fields = {"x": ((3,), "float32")}
    assert RecordSpec(fields) != fields


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_goes_to_its_code_and_back(name):
    field = RecordSpec({"x": ((2,), name)})["x"]
    assert field.dtype.name == name
    assert dtype_from_code(field.dtype_code) == field.dtype


@pytest.mark.parametrize(
    ("given_dtype", "name"),
    [(float, "float64"), (bool, "bool"), (np.float16, "float16"), (ml_dtypes.bfloat16, "bfloat16"), ("<i4", "int32")],
)
def test_a_dtype_can_be_given_as_a_type_or_a_code(given_dtype, name):
    assert as_dtype(given_dtype).name == name


def test_a_dtype_of_foreign_byte_order_becomes_native():
    assert as_dtype(">f4") == np.dtype("float32")
    assert as_dtype(">f4").isnative


def test_a_dtype_can_be_given_as_tensorflow_gives_it():
    class LikeTensorFlow:
        as_numpy_dtype = np.float32

    assert as_dtype(LikeTensorFlow()) == np.dtype("float32")


@pytest.mark.parametrize(
    "dtype", ["float128", "complex128", "object", "U5", "S3", "datetime64[s]", "i4,f4", "nonsense", None, 7, object()]
)
def test_any_other_dtype_is_refused_with_the_field_and_the_choice(dtype):
    with pytest.raises(TypeError, match=r"field 'x': dtype .* use one of bool, int8") as error:
        RecordSpec({"x": ((2,), dtype)})
    assert "bfloat16" in str(error.value)


@pytest.mark.parametrize(
    "shape", [(0,), (-1,), (None, 3), (2.0,), (math.nan,), "34", None, {"a": 1}, (2, (3,)), object()]
)
def test_a_shape_that_is_not_fixed_is_refused_with_the_field(shape):
    with pytest.raises(ValueError, match=r"field 'x': shape .* is not fixed.*1 or more"):
        RecordSpec({"x": (shape, "uint8")})


def test_lengths_may_be_numpy_integers():
    assert RecordSpec({"x": (np.array([2, 3]), "uint8")})["x"].shape == (2, 3)
    assert RecordSpec({"x": (np.int64(4), "uint8")})["x"].shape == (4,)


def test_a_sample_has_at_most_as_many_dimensions_as_numpy_has_for_a_batch():
    assert len(RecordSpec({"x": ((1,) * MAX_RANK, "uint8")})["x"].shape) == MAX_RANK
    with pytest.raises(ValueError, match=f"field 'x': {MAX_RANK + 1} dimensions; at most {MAX_RANK}"):
        RecordSpec({"x": ((1,) * (MAX_RANK + 1), "uint8")})


@pytest.mark.parametrize("shape", [(2**63,), (2**70,), (2**31, 2**31, 2**31), (2**40,) * 31])
def test_a_sample_that_no_machine_holds_is_refused(shape):
    with pytest.raises(ValueError, match=r"field 'x': shape .* at most"):
        RecordSpec({"x": (shape, "uint8")})


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 64, "\u00e4" * 32, "\ud800", 7, None, b"x", ("x",)])
def test_a_name_that_fits_no_header_is_refused(name):
    with pytest.raises(ValueError, match=r"field name .* 1 to 63 bytes"):
        RecordSpec({name: ((1,), "uint8")})


@pytest.mark.parametrize("description", [None, "uint8", 5, ((1,),), ((1,), "uint8", 3), {"shape": (1,)}, "ab"])
def test_a_description_that_is_no_pair_is_refused_with_an_example(description):
    with pytest.raises(ValueError, match=r"field 'x': .* is not a pair \(shape, dtype\), as in"):
        RecordSpec({"x": description})


@pytest.mark.parametrize("fields", [None, 5, [("x", ((1,), "uint8"))], "x", {"x"}])
def test_fields_that_are_no_mapping_are_refused(fields):
    with pytest.raises(TypeError, match="fields must be a mapping"):
        RecordSpec(fields)


@pytest.mark.parametrize("count", [0, MAX_FIELDS + 1])
def test_a_record_without_fields_or_with_too_many_is_refused(count):
    with pytest.raises(ValueError, match=f"a record has 1 to {MAX_FIELDS} fields; {count} were given"):
        RecordSpec({f"field {i}": ((1,), "uint8") for i in range(count)})


def test_as_many_fields_as_are_allowed_are_allowed():
    assert len(RecordSpec({f"field {i}": ((1,), "uint8") for i in range(MAX_FIELDS)})) == MAX_FIELDS


def test_messages_show_only_the_beginning_of_what_is_huge():
    with pytest.raises(ValueError, match="is not fixed") as error:
        RecordSpec({"x": ([0] * 10_000, "uint8")})
    assert len(str(error.value)) < 300


@settings(deadline=None)
@given(shape=st.lists(st.integers(1, 50), max_size=4), dtype=st.sampled_from(DTYPES))
def test_the_stride_is_the_samples_bytes_rounded_up_to_64(shape, dtype):
    field = RecordSpec({"x": (tuple(shape), dtype)})["x"]
    assert field.sample_bytes == np.empty(shape, field.dtype).nbytes
    assert field.stride_bytes % 64 == 0
    assert 0 <= field.stride_bytes - field.sample_bytes < 64
    assert field.is_padded == (field.sample_bytes % 64 != 0)


@pytest.mark.parametrize("name", ["cams", "a", "0", "A.b-c_d", "x" * 200])
def test_a_ring_name_becomes_a_segment_name(name):
    assert segment_name(name) == f"/ringfeed.{name}"


@pytest.mark.parametrize(
    "name", ["", ".hidden", "-x", "_x", "a/b", "../x", "a b", "a\n", "a\0", "\u00e4", "x" * 201, None, 7, b"cams"]
)
def test_a_ring_name_that_does_not_fit_everywhere_is_refused(name):
    with pytest.raises(ValueError, match=r"ring name .* use 1 to 200 letters"):
        segment_name(name)
