"""`predict_in_memory` returns the outputs of `keras.Model.predict` for all inputs that Keras accepts."""

from __future__ import annotations

import warnings
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from model_zoo import (
    DTYPES,
    KINDS,
    LAYOUTS,
    Echo,
    X,
    aligned,
    assert_same,
    examples,
    inputs_for,
    misaligned,
    plans,
    random_array,
    small_model,
)

from ringfeed.tf.models.runner import ModelRunner
from ringfeed.tf.predict.in_memory import predict_in_memory


@pytest.fixture(scope="module")
def model() -> Any:
    return small_model()


@pytest.fixture(scope="module")
def runner(model: Any) -> ModelRunner:
    return ModelRunner(model)


# ---- Against Keras, drawn at random ------------------------------------------------------------------


@given(st.data(), st.none() | st.integers(8, 300), st.none() | st.integers(1, 5))
@examples(25)
def test_any_model_and_input_give_the_outputs_of_keras(
    data: st.DataObject, batch_size: int | None, steps: int | None
) -> None:
    plan = data.draw(plans())
    inputs = data.draw(inputs_for(plan))
    model = plan.build()
    with warnings.catch_warnings():  # fewer batches than steps; dict names
        warnings.simplefilter("ignore", UserWarning)
        expected = model.predict(inputs, batch_size, verbose=0, steps=steps)
        assert_same(predict_in_memory(ModelRunner(model), inputs, batch_size, verbose=0, steps=steps), expected)


FIXED_RUNNERS: dict[str, ModelRunner] = {}


def fixed_runner(kind: str) -> ModelRunner:
    """Return one model per kind of input, so that its functions are traced only once."""
    if kind not in FIXED_RUNNERS:
        shape, dtype, make = KINDS[kind]
        x = keras.Input(shape, dtype=dtype)
        FIXED_RUNNERS[kind] = ModelRunner(keras.Model(x, make(x, 5)))
    return FIXED_RUNNERS[kind]


@given(st.data(), st.sampled_from(sorted(KINDS)), st.integers(1, 200), st.integers(10, 250), st.sampled_from(LAYOUTS))
@examples(40)
def test_any_array_gives_the_outputs_of_keras(data: Any, kind: str, rows: int, batch_size: int, layout: Any) -> None:
    array = layout(random_array(kind, rows, data.draw(st.sampled_from(DTYPES[kind])), rows))
    runner = fixed_runner(kind)
    expected = runner.keras_model.predict(array, batch_size, verbose=0)
    assert_same(predict_in_memory(runner, array, batch_size, verbose=0), expected)
    assert runner.traces <= len(DTYPES[kind])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16", "int8", "uint8", "int64", "bool"])
@pytest.mark.parametrize("form", ["array", "tensor"])
def test_arrays_and_tensors_get_the_dtype_that_keras_gives_them(dtype: str, form: str) -> None:
    x = (X[:5] * 2).astype(tf.as_dtype(dtype).as_numpy_dtype)
    x = tf.constant(x) if form == "tensor" else x
    model = Echo()
    assert_same(predict_in_memory(ModelRunner(model), x), model.predict(x, verbose=0))


class WithoutCall(keras.Model):
    """A model that returns the dtype that predict_step gets, before a layer casts."""

    def predict_step(self, data: Any) -> Any:
        return tf.identity(data)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int32"])
@pytest.mark.parametrize("form", [np.array, tf.constant, misaligned])
def test_predict_step_gets_the_dtype_that_keras_gives_it(dtype: str, form: Any) -> None:
    x = form((X * 9).astype(dtype))
    model = WithoutCall()
    assert_same(predict_in_memory(ModelRunner(model), x), model.predict(x, verbose=0))


def test_float64_is_rounded_to_floatx_as_keras_rounds_it_also_for_models_of_float64() -> None:
    x = X.astype(np.float64) / 3
    doubles = keras.Sequential([keras.Input((7,), dtype="float64"), keras.layers.Activation("linear", dtype="float64")])
    outputs = predict_in_memory(ModelRunner(doubles), x)
    assert outputs.dtype == np.float64
    np.testing.assert_array_equal(outputs, doubles.predict(x, verbose=0))


# ---- Outputs (test_outputs.py has their kinds)  -----------------------------------------------------


def test_results_are_memory_of_their_own() -> None:
    x = aligned(X)
    for batch_size in (16, 100):
        outputs = predict_in_memory(ModelRunner(lambda t: t), x, batch_size)
        assert not np.shares_memory(outputs, x)
        assert outputs.flags.writeable
        assert outputs.flags.owndata
