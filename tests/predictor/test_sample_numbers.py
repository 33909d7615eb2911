"""Each number that `preprocess` returns reaches the model as it is, or its item fails by name."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from preprocessing import Unspeakable, as_user_dict, given, in_turns, with_more_now_and_then

import ringfeed

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")


@tf.function
def as_doubles(x: Any) -> Any:
    return tf.cast(x, tf.float64)


def integers(x: Any) -> Any:
    return tf.cast(x, tf.int64)


@pytest.fixture(scope="module")
def identity() -> Iterator[ringfeed.Predictor]:
    """A predictor of a model that takes any numbers and declares no inputs."""
    with ringfeed.Predictor(as_doubles, preprocess=given, workers=1, on_error="return") as predictor:
        yield predictor


@pytest.fixture(scope="module")
def floats() -> Iterator[ringfeed.Predictor]:
    """A predictor of a Keras model of float32."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Activation("linear")])
    with ringfeed.Predictor(model, preprocess=given, workers=1, on_error="return") as predictor:
        yield predictor


MIXED = {
    "uint8, then uint16": [np.uint8([200]), np.uint16([1000]), np.int32([40000])],
    "int8, then uint8": [np.int8([5]), np.uint8([200]), np.int8([-3])],
    "int32, then int64": [np.int32([1]), np.int64([2**40]), np.int64([-(2**40)])],
    "int64, then uint64": [np.int64([-1]), np.uint64([2**64 - 1]), np.uint64([2**63])],
    "uint64, then negative": [np.uint64([2]), np.int64([-1]), np.int8([-128])],
    "float16, then float64": [np.float16([1]), np.float64([1 / 3]), np.float64([70000.0]), np.float64([1e300])],
    "float32, then float64": [np.float32([1]), np.float64([1 / 3]), np.float64([2**24 + 1.0]), np.float64([1e39])],
    "bfloat16, then float32": [np.array([1], ml_dtypes.bfloat16), np.float32([1.001]), np.float32([257])],
    "float32, then int64": [np.float32([0.5]), np.int64([2**24 + 1]), np.int64([7])],
    "float64, then int64": [np.float64([0.5]), np.int64([2**53 + 1]), np.uint64([2**64 - 1])],
    "int32, then float": [np.int32([1]), np.float64([1.5]), np.float64([np.nan]), np.float64([3e9])],
    "int64, then a float at its bound": [np.int64([1]), np.float64([2.0**63]), np.float64([-(2.0**63)])],
    "int32, then infinite": [np.int32([1]), np.float16([-np.inf]), np.float32([np.inf]), np.float16([5])],
    "float16, then the least integers": [np.float16([1]), np.int32([-(2**31)]), np.int64([-(2**63)]), np.int8([-128])],
    "bool, then integers": [np.bool_([True]), np.int64([1]), np.int64([2])],
    "integers, then bool": [np.int64([3]), np.bool_([True])],
    "float64, then complex": [np.float64([1]), np.complex64([1 + 2j]), np.complex64([3])],
    "another byte order": [np.array([258], ">u2"), np.array([258], "<u2"), np.array([2**20], ">i4")],
}


@pytest.mark.parametrize("kind", MIXED)
def test_items_of_several_dtypes_keep_their_numbers_or_fail_with_both_dtypes_named(identity, kind: str) -> None:
    items = MIXED[kind]
    results = identity.predict(items)
    first = np.asarray(items[0]).dtype.name
    for index, (item, result) in enumerate(zip(items, results, strict=True)):
        if isinstance(result, ringfeed.RingFeedError):
            assert index > 0
            assert isinstance(result, ringfeed.SampleMismatch)
            assert result.index == index
            for named in (f"item {index} ", np.asarray(item).dtype.name, first):
                assert named in str(result)
        else:
            np.testing.assert_array_equal(result, np.asarray(item, np.float64))


def test_the_first_item_of_one_call_does_not_bind_the_next_call(identity) -> None:
    for first, second in ((np.uint8([1]), np.uint16([60000])), (np.float16([1]), np.float64([1e300]))):
        assert identity.predict([first])[0].tolist() == [1]
        assert identity.predict([second, second])[1].tolist() == second.tolist()
        assert identity.predict([first])[0].tolist() == [1]


def test_a_narrower_first_item_reaches_the_model_in_its_own_dtype() -> None:
    with ringfeed.Predictor(tf.function(lambda x: x * 2), preprocess=given, workers=1) as predictor:
        for dtype in (np.uint16, np.uint8, np.int64):
            assert predictor.predict([dtype([3])]).dtype == dtype


def test_a_float32_model_gets_pictures_in_bytes_and_wider_ones_of_the_next_call(floats) -> None:
    assert floats.predict([np.uint8([200]), np.uint8([7])])[0].tolist() == [200]
    assert floats.ring.spec["0"].dtype == np.uint8
    assert floats.predict([np.uint16([40000])])[0].tolist() == [40000]
    assert floats.predict([np.float64([0.1])])[0].tolist() == [np.float32(0.1)]
    assert floats.ring.spec["0"].dtype == np.float32


def test_floats_become_those_of_the_model_and_never_infinite(floats) -> None:
    items = [np.float16([0.5]), np.float64([1 / 3]), np.float64([1e39]), np.float64([np.inf]), np.float64([np.nan])]
    half, third, large, infinite, no_number = floats.predict(items)
    assert half.tolist() == [0.5]
    assert third.tolist() == [np.float32(1 / 3)]
    assert isinstance(large, ringfeed.SampleMismatch)
    assert "infinite" in str(large)
    assert infinite.tolist() == [np.inf]
    assert np.isnan(no_number).all()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_model_with_a_predict_step_of_its_own_gets_floats_as_keras_casts_them(workers: int) -> None:
    class Model(keras.Model):
        def predict_step(self, data: Any) -> Any:
            x = data[0] if isinstance(data, tuple) else data
            return x["a"] * 3, tf.cast(x["n"], tf.int64)

    items = [{"a": dtype([0.1, index]), "n": np.int64([2**40])} for index, dtype in enumerate((np.float64, np.float32))]
    batch = {"a": np.stack([item["a"] for item in items]), "n": np.stack([item["n"] for item in items])}
    for floatx in ("float32", "float64"):
        keras.config.set_floatx(floatx)
        try:
            model = Model()
            expected, counts = model.predict(batch, verbose=0)
            with ringfeed.Predictor(model, preprocess=given, workers=workers) as predictor:
                outputs, numbers = predictor.predict(items, verbose=0)
        finally:
            keras.config.set_floatx("float32")
        assert outputs.dtype == expected.dtype == floatx
        np.testing.assert_array_equal(outputs, expected)
        assert numbers.tolist() == counts.tolist()


def test_tensors_of_pytorch_of_any_dtype_are_samples_and_items(identity, floats) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    numbers = [[0.5], [3.140625], [-(2.0**100)]]
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        rows = torch.tensor(numbers, dtype=dtype, requires_grad=True)
        assert np.stack(identity.predict(rows)).tolist() == numbers
        assert np.stack(floats.predict(rows)).tolist() == numbers
    with ringfeed.Predictor(
        as_doubles, preprocess=lambda i: torch.tensor(numbers[i], dtype=torch.bfloat16), workers=0
    ) as predictor:
        assert predictor.predict(range(3)).tolist() == numbers


@pytest.mark.parametrize(
    ("spec", "items", "expected"),
    [
        (((2,), "uint16"), [np.uint8([1, 2]), np.int64([3, 65535]), np.int64([3, 65536])], [[1, 2], [3, 65535], None]),
        (((2,), "float32"), [np.uint8([1, 2]), np.float64([0.5, 0.25])], [[1, 2], [0.5, 0.25]]),
        (((2,), "float32"), [np.int64([1, 2**24 + 1]), np.int64([3, 4])], [None, [3, 4]]),
        (((2,), "int32"), [np.float64([1, 2]), np.float64([1.5, 2])], [[1, 2], None]),
        (((2,), "uint8"), [np.zeros(3, np.uint8), np.zeros((2, 1), np.uint8), np.uint8([5, 6])], [None, None, [5, 6]]),
        (((None,), "uint8"), [np.uint8([1, 2]), np.uint8([1, 2, 3])], [[1, 2], None]),
    ],
)
def test_sample_spec_binds_shape_and_dtype_also_of_the_first_item(spec, items, expected) -> None:
    with ringfeed.Predictor(as_doubles, preprocess=given, workers=1, on_error="return", sample_spec=spec) as predictor:
        results = predictor.predict(items)
        assert predictor.ring.spec["0"].dtype == spec[1]
    for result, numbers in zip(results, expected, strict=True):
        if numbers is None:
            assert isinstance(result, ringfeed.SampleMismatch)
        else:
            assert result.tolist() == numbers


def test_token_ids_of_64_bits_are_never_cut_to_the_models_32() -> None:
    model = keras.Sequential([keras.Input((1,), dtype="int32"), keras.layers.Lambda(lambda x: x)])
    with ringfeed.Predictor(model, preprocess=given, workers=1, on_error="return") as predictor:
        fits, large = predictor.predict([np.int64([2**31 - 1]), np.int64([2**32 + 5])])
    assert fits.tolist() == [2**31 - 1]
    assert isinstance(large, ringfeed.SampleMismatch)


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (None, "returned None"),
        (np.array(["a"]), "returned text"),
        (np.array([b"a"]), "returned text"),
        (np.array([None, 3], object), "Python objects"),
        ({1, 2}, "Python objects"),
        (np.array(["2020-01-01"], "datetime64[D]"), "datetime64"),
        (np.zeros(1, "complex128"), "complex128"),
        (np.zeros((0, 3)), "empty"),
        (np.ma.masked_array([1.0], [True]), "masked"),
        ({}, "an empty dict"),
        (list(range(5000)), "a list of 5000"),
        ({"a": np.zeros(1), "b": None}, "returned"),
    ],
)
@pytest.mark.parametrize("place", [0, 1])
def test_a_result_that_is_no_sample_fails_by_name_at_any_place(identity, result, said: str, place: int) -> None:
    items = [np.float64([3])] * 3
    items[place] = result
    results = identity.predict(items)
    assert isinstance(results[place], ringfeed.SampleMismatch)
    for named in (f"item {place} ", said):
        assert named in str(results[place])
    assert [row.tolist() for index, row in enumerate(results) if index != place] == [[3], [3]]


# ---- the first item ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures() -> Iterator[ringfeed.Predictor]:
    model = keras.Sequential([keras.Input((None, None, 3)), keras.layers.GlobalAveragePooling2D()])
    with ringfeed.Predictor(model, preprocess=given, workers=1, on_error="skip", batch_size=4) as predictor:
        yield predictor


PICTURE = np.full((4, 4, 3), 7, np.uint8)


@pytest.mark.parametrize(
    "first",
    [None, np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), Unspeakable(), "text", [1, 2]],
    ids=["None", "grey", "RGBA", "unspeakable", "text", "list"],
)
def test_a_first_item_that_does_not_fit_fails_alone(pictures, first: Any) -> None:
    for _ in range(2):  # also with the rings of an earlier call
        outputs = pictures.predict([first, PICTURE, PICTURE])
        assert [failure.index for failure in pictures.failures] == [0]
        assert outputs.tolist() == [[7] * 3] * 2
        assert pictures.predict([PICTURE]).tolist() == [[7] * 3]
        assert pictures.failures == []
        assert pictures.predict(iter([first, PICTURE])).tolist() == [[7] * 3]


def test_another_call_may_have_pictures_of_another_size(pictures) -> None:
    for side in (4, 6, 2, 6):
        picture = np.full((side, side, 3), side, np.uint8)
        assert pictures.predict([picture] * 5).tolist() == [[side] * 3] * 5
        streamed = [row.tolist() for _, row in pictures.stream(iter([picture] * 5))]
        assert streamed == [[side] * 3] * 5


def test_where_every_item_fails_the_result_is_empty_and_of_the_right_shape(pictures) -> None:
    assert pictures.predict([None, None]).shape == (0, 3)
    for model, shape, dtype in (
        (keras.Sequential([keras.Input((5,)), keras.layers.Dense(2)]), (0, 2), np.float32),
        (tf.function(lambda x: tf.cast(x[:, :3], tf.int64), input_signature=[tf.TensorSpec([None, 5])]), (0, 3), int),
        (lambda x: x, (0,), np.float32),
    ):
        with ringfeed.Predictor(model, preprocess=lambda item: 1 / 0, workers=1, on_error="skip") as predictor:
            outputs = predictor.predict([1, 2, 3])
            assert (outputs.shape, outputs.dtype) == (shape, dtype)
            assert len(predictor.failures) == 3
        with ringfeed.Predictor(model, preprocess=lambda item: 1 / 0, workers=0, on_error="skip") as predictor:
            assert predictor.predict(iter([1])).shape == shape


def test_a_first_item_that_does_not_fit_is_raised_by_name() -> None:
    model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.GlobalAveragePooling2D()])
    with ringfeed.Predictor(model, preprocess=given, workers=1) as predictor:
        with pytest.raises(ringfeed.SampleMismatch, match=r"item 0 .*\(4, 4, 3\).*\(9, 9, 3\)") as caught:
            predictor.predict([np.zeros((9, 9, 3)), PICTURE])
        assert caught.value.index == 0
        assert predictor.predict([PICTURE]).tolist() == [[7] * 3]


# ---- samples that are mappings -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def weighted() -> Any:
    """A model of two named inputs, in this order, which computes 10 * a + b."""
    a, b = keras.Input((1,), name="a"), keras.Input((1,), name="b")
    return keras.Model([a, b], a * 10 + b)


@pytest.mark.parametrize("function", [as_user_dict, in_turns, with_more_now_and_then])
@pytest.mark.parametrize("workers", [0, 1])
def test_samples_that_are_mappings_are_taken_by_name(weighted, function, workers: int) -> None:
    with ringfeed.Predictor(weighted, preprocess=function, workers=workers, batch_size=4) as predictor:
        for _ in range(2):
            assert predictor.predict(range(9))[:, 0].tolist() == [10 + index for index in range(9)]


def test_samples_without_the_models_names_are_refused_with_both(weighted) -> None:
    with (
        ringfeed.Predictor(weighted, preprocess=lambda i: {"x": [1.0], "y": [2.0]}, workers=1) as predictor,
        pytest.raises(ringfeed.SampleMismatch, match=r"\(a, b\).*\(x, y\)"),
    ):
        predictor.predict([0])


def test_a_model_of_one_input_gets_the_array_of_its_name_from_a_mapping() -> None:
    model = keras.Sequential([keras.Input((2,), name="image"), keras.layers.Activation("linear")])
    sample = {"label": np.float32([9, 9]), "image": np.float32([1, 2])}
    with ringfeed.Predictor(model, preprocess=lambda i: sample, workers=1) as predictor:
        assert predictor.predict([0]).tolist() == [[1, 2]]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "more", [{"text": "a sentence"}, {"score": None}, {"words": ["a"] * 100}, {"0": np.array([{}]), "z": np.empty(0)}]
)
def test_values_of_a_mapping_that_the_model_does_not_take_may_be_anything(
    weighted, more: dict[str, Any], workers: int
) -> None:
    with ringfeed.Predictor(weighted, preprocess=given, workers=workers) as predictor:
        items = [{**more, "b": np.float32([index]), "a": np.float32([1])} for index in range(3)]
        assert predictor.predict(items)[:, 0].tolist() == [10, 11, 12]


def test_values_of_a_mapping_that_the_model_takes_must_be_numbers(weighted) -> None:
    with ringfeed.Predictor(weighted, preprocess=given, workers=1, on_error="return") as predictor:
        text, good = predictor.predict([{"a": "text", "b": [1.0], "c": None}, {"a": np.ones(1), "b": np.ones(1)}])
    assert isinstance(text, ringfeed.SampleMismatch)
    assert good.tolist() == [11]


Pair = collections.namedtuple("Pair", "a b")  # a worker gets the class by value only
Pair.__module__ = "__main__"


def test_a_named_tuple_of_the_main_module_may_come_after_another_structure(weighted) -> None:
    a, b = np.float32([1]), np.float32([2])
    with ringfeed.Predictor(weighted, preprocess=given, workers=1, on_error="return") as predictor:
        assert [row.tolist() for row in predictor.predict([[a, b]] * 2)] == [[12], [12]]
        assert [row.tolist() for row in predictor.predict([Pair(a, b)] * 2)] == [[12], [12]]


# ---- slots -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_a_part_of_a_slot_that_is_not_filled_is_zero_in_every_lap(workers: int) -> None:
    def fill(item: int, out: np.ndarray) -> None:
        out[: item % 5] = item

    with ringfeed.Predictor(
        lambda x: x, preprocess=fill, workers=workers, batch_size=2, slots=4, sample_spec=((1024,), "float32")
    ) as predictor:
        outputs = predictor.predict(range(1, 60))
    for item, row in zip(range(1, 60), outputs, strict=True):
        assert row[: item % 5].tolist() == [item] * (item % 5)
        assert not row[item % 5 :].any()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_function_that_is_to_fill_a_slot_and_returns_another_array_fails_by_name(workers: int) -> None:
    def fill(item: int, out: np.ndarray) -> Any:
        if item == 0:
            return np.ones(4)
        if item == 1:
            return np.add(out, 1, out=out)
        out[:] = item
        return out[:2] if item == 2 else item

    with ringfeed.Predictor(
        lambda x: x, preprocess=fill, workers=workers, on_error="return", sample_spec=((4,), "float32")
    ) as predictor:
        for _ in range(2):
            astray, *good = predictor.predict(range(4))
            assert isinstance(astray, ringfeed.SampleMismatch)
            assert "write it into out" in str(astray)
            assert [row.tolist() for row in good] == [[1] * 4, [2] * 4, [3] * 4]
