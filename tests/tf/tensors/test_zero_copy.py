"""Arrays reach the model without a copy if possible, and no result shares their memory."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from model_zoo import aligned, misaligned, read_only

from ringfeed.tf.models.runner import ModelRunner
from ringfeed.tf.tensors.zero_copy import PaddedRows, as_tensor

ROWS = np.random.default_rng(1).random((5, 7), np.float32)


def address(tensor: Any) -> int:
    return np.asarray(memoryview(tensor)).ctypes.data


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "uint16", "int32", "int64", "uint64", "float16", "float64", "complex64"]
)
def test_aligned_arrays_are_handed_over_in_place(dtype: str) -> None:
    array = aligned(np.arange(64).reshape(8, 8).astype(dtype))
    tensor = as_tensor(array)
    assert address(tensor) == array.ctypes.data
    np.testing.assert_array_equal(tensor.numpy(), array)


def test_read_only_arrays_are_handed_over_in_place() -> None:
    array = read_only(ROWS)
    assert address(as_tensor(array)) == array.ctypes.data


def test_bfloat16_is_handed_over_in_place() -> None:
    array = aligned(ROWS.astype(tf.bfloat16.as_numpy_dtype))
    tensor = as_tensor(array)
    assert tensor.dtype == tf.bfloat16
    array[0, 0] = 7  # visible in the tensor, which is not a copy
    assert tensor.numpy()[0, 0] == 7


@pytest.mark.parametrize(
    "array",
    [
        misaligned(ROWS),
        ROWS.T,
        ROWS[:, ::2],
        ROWS[::-1],
        ROWS.astype(">f4"),
        ROWS[:0],
        np.float32(3),
        np.array(["a", "b"]),
    ],
    ids=["misaligned", "transposed", "strided", "reversed", "big-endian", "empty", "scalar", "strings"],
)
def test_other_arrays_are_copied(array: np.ndarray) -> None:
    values = as_tensor(array).numpy()
    np.testing.assert_array_equal(values.astype(array.dtype) if array.dtype.kind == "U" else values, array)


def test_the_array_is_let_go_of_when_the_call_returns() -> None:
    runner = ModelRunner(lambda x: x)
    array = aligned(ROWS)
    alive = weakref.ref(array)
    runner(array)
    del array
    assert alive() is None


@pytest.mark.parametrize("function", [lambda x: x, lambda x: tf.reshape(x, [-1]), lambda x: [x, {"part": x[1:3]}]])
def test_outputs_never_share_the_memory_of_inputs(function: Any) -> None:
    array = aligned(ROWS)
    outputs = tf.nest.flatten(ModelRunner(function)(array))
    before = [output.copy() for output in outputs]
    array[...] = -1
    for output, expected in zip(outputs, before, strict=True):
        np.testing.assert_array_equal(output, expected)
        assert output.flags.writeable


def test_inputs_are_not_written_to() -> None:
    array = aligned(ROWS)
    ModelRunner(lambda x: tf.nn.relu(-x) + 1)(array)
    np.testing.assert_array_equal(array, ROWS)


def test_padding_behind_the_rows_is_cut_off_inside_the_function() -> None:
    padded = aligned(np.arange(3 * 16, dtype=np.float32).reshape(3, 16))
    runner = ModelRunner(lambda x: {"same": x["p"], "sum": x["p"] + x["q"]})
    for rows in (3, 2):
        outputs = runner({"p": PaddedRows(padded[:rows], (2, 3)), "q": np.ones((rows, 2, 3), np.float32)})
        np.testing.assert_array_equal(outputs["same"], padded[:rows, :6].reshape(rows, 2, 3))
        np.testing.assert_array_equal(outputs["sum"], outputs["same"] + 1)
    assert runner.traces == 1
