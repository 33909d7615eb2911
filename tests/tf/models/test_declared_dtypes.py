"""Declared dtypes: a tf.function or SavedModel gets inputs of its declared dtypes, and no cast changes a value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

import ringfeed
from ringfeed.tf import fuse, why_not_native
from ringfeed.tf.models.runner import ModelRunner


def as_doubles(x: Any) -> Any:
    return tf.cast(x, tf.float64)


def declared(dtype: str, shape: Any = (None, 1)) -> Any:
    return tf.function(as_doubles, input_signature=[tf.TensorSpec(shape, dtype)])


def saved(dtype: str, folder: Path) -> str:
    module = tf.Module()
    module.__call__ = declared(dtype)
    tf.saved_model.save(module, str(folder), {"serving_default": declared(dtype)})
    return str(folder)


def exported(dtype: str, folder: Path) -> str:
    x = keras.Input((1,), dtype=dtype)
    keras.Model(x, keras.layers.Lambda(as_doubles)(x)).export(str(folder), verbose=False)
    return str(folder)


KINDS = {
    "tf.function": lambda dtype, folder: declared(dtype),
    "concrete function": lambda dtype, folder: declared(dtype).get_concrete_function(),
    "SavedModel": saved,
    "exported Keras model": exported,
}

KEPT = [
    (np.uint8([0, 255]), "uint8"),
    (np.int64([0, 255]), "uint8"),
    (np.float32([0, 255]), "uint8"),
    (np.int64([2**31 - 1, -(2**31)]), "int32"),
    (np.bool_([False, True]), "int32"),
    (np.uint8([0, 1]), "bool"),
    (np.uint8([7, 200]), "float32"),
    (np.int64([7, -9]), "float32"),
    (np.float64([0.5, np.inf]), "float32"),
    (np.float16([0.5, np.nan]), "float64"),
]
CHANGED = [
    (np.int32([200, 300]), "uint8"),
    (np.int32([200, 70000]), "uint8"),
    (np.int8([1, -1]), "uint8"),
    (np.int64([1, 2**32 + 1]), "int32"),
    (np.uint32([1, 2**31]), "int32"),
    (np.float64([1, 1.5]), "int32"),
    (np.float32([1, np.nan]), "int64"),
    (np.float32([1, 3e9]), "int32"),
    (np.int64([1, 2]), "bool"),
    (np.complex64([1, 1j]), "float32"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_in_memory_keep_their_values_or_an_error_names_both_dtypes(kind: str, tmp_path: Path) -> None:
    runners: dict[str, ModelRunner] = {}

    def runner_for(dtype: str) -> ModelRunner:
        if dtype not in runners:
            runners[dtype] = ModelRunner(KINDS[kind](dtype, tmp_path / dtype))
        return runners[dtype]

    for numbers, dtype in KEPT:
        for array in (numbers[:, None], tf.constant(numbers[:, None])):
            (output,) = tf.nest.flatten(runner_for(dtype)(array))
            np.testing.assert_array_equal(
                output, numbers[:, None].astype(np.float64), err_msg=f"{array.dtype}, {dtype}"
            )
    for numbers, dtype in CHANGED:
        for array in (numbers[:, None], tf.constant(numbers[:, None])):
            with pytest.raises(ValueError, match=rf"{dtype}.*{numbers.dtype.name}"):
                runner_for(dtype)(array)
        if numbers.dtype.kind != "c":  # the next batch is checked again
            (output,) = tf.nest.flatten(runner_for(dtype)(numbers[:1, None]))
            assert output.tolist() == [[numbers[0]]]


def test_predict_takes_no_other_numbers_from_any_source() -> None:
    good, bad = np.int32([[200], [100]]), np.int32([[200], [300]])
    with ringfeed.Predictor(declared("uint8")) as predictor:
        for of in (
            lambda array: array,
            lambda array: tf.data.Dataset.from_tensor_slices(array).batch(1),
            lambda array: ((array[row : row + 1],) for row in range(2)),
            lambda array: {"x": array, "more": array},
        ):
            assert predictor.predict(of(good), verbose=0).tolist() == [[200], [100]]
            with pytest.raises(ValueError, match=r"input 'x' .*uint8.*int32"):
                predictor.predict(of(bad), verbose=0)


def test_each_input_is_checked_against_its_own_dtype() -> None:
    @tf.function(input_signature=[tf.TensorSpec([None], "uint8"), tf.TensorSpec([None], "int64")])
    def both(small: Any, large: Any) -> Any:
        return tf.cast(small, tf.int64) + large

    runner = ModelRunner(both)
    large = np.int64([2**40])
    assert runner({"large": large, "small": np.int64([255])}).tolist() == [2**40 + 255]
    assert runner((np.int64([255]), large)).tolist() == [2**40 + 255]
    with pytest.raises(ValueError, match=r"input 'small' .*uint8.*int64"):
        runner({"large": large, "small": large})


@pytest.mark.parametrize("workers", [0, 1])
def test_a_function_without_declared_shapes_fails_only_the_item_whose_numbers_would_change(workers: int) -> None:
    numbers = [200, 300, 7, 70000]
    model = declared("uint8", None)
    with ringfeed.Predictor(
        model, preprocess=lambda i: np.int32([numbers[i]]), workers=workers, on_error="return"
    ) as predictor:
        first, second, third, last = predictor.predict(range(4), verbose=0)
    assert (first.tolist(), third.tolist()) == ([200], [7])
    for index, error in ((1, second), (3, last)):
        assert isinstance(error, ringfeed.ModelError)
        assert error.index == index
        assert "uint8" in str(error)
        assert "int32" in str(error)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("field", "dtype"), [("int32", "uint8"), ("float32", "int32"), ("int64", "int32")])
def test_a_ring_of_a_dtype_that_would_be_cut_is_refused_with_both(
    make_ring: Any, kind: str, field: str, dtype: str, tmp_path: Path
) -> None:
    ring = make_ring({"x": ((1,), field)})
    model = KINDS[kind](dtype, tmp_path / "model")
    with pytest.raises(ValueError, match=rf"is declared as {dtype}, but was given {field}"):
        ringfeed.Engine(ring, model)
    if why_not_native() is None:
        with pytest.raises(ValueError, match=rf"is declared as {dtype}, but was given {field}"):
            fuse(ring, model, 2)


@pytest.mark.parametrize(("field", "dtype"), [("uint8", "int32"), ("int64", "float32"), ("float64", "float32")])
def test_a_ring_of_a_dtype_that_is_held_is_served(make_ring: Any, field: str, dtype: str) -> None:
    ring = make_ring({"x": ((1,), field)})
    with ringfeed.Engine(ring, declared(dtype), linger=0.0), ringfeed.Client(ring) as client:
        assert client.predict(np.array([200], field)).tolist() == [200]


def test_a_sparse_matrix_is_checked_against_a_declared_dtype_too() -> None:
    function = tf.function(
        lambda x: tf.cast(tf.sparse.to_dense(x), tf.float64), input_signature=[tf.SparseTensorSpec([None, 2], tf.uint8)]
    )
    runner = ModelRunner(function)
    for numbers in ([[200, 0]], [[300, 0]]):
        matrix = scipy.sparse.csr_matrix(np.int32(numbers))
        coo = matrix.tocoo()
        tensor = tf.SparseTensor(np.stack([coo.row, coo.col], 1).astype(np.int64), coo.data, coo.shape)
        with pytest.raises((ValueError, TypeError)):  # an error, and never changed values
            runner(tensor)
