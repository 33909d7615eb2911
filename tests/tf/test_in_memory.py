"""`predict_in_memory` gives what `keras.Model.predict` gives, for everything that Keras takes."""

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

from ringfeed.tf.in_memory import predict_in_memory
from ringfeed.tf.model import ModelRunner


@pytest.fixture(scope="module")
def model() -> Any:
    return small_model()


@pytest.fixture(scope="module")
def runner(model: Any) -> ModelRunner:
    return ModelRunner(model)


# ---- Against Keras, drawn at random ------------------------------------------------------------------


@given(st.data(), st.none() | st.integers(8, 300), st.none() | st.integers(1, 5))
@examples(25)
def test_any_model_and_input_give_what_keras_gives(
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
    """Return one model per kind of input, so that its functions are made only once."""
    if kind not in FIXED_RUNNERS:
        shape, dtype, make = KINDS[kind]
        x = keras.Input(shape, dtype=dtype)
        FIXED_RUNNERS[kind] = ModelRunner(keras.Model(x, make(x, 5)))
    return FIXED_RUNNERS[kind]


@given(st.data(), st.sampled_from(sorted(KINDS)), st.integers(1, 200), st.integers(10, 250), st.sampled_from(LAYOUTS))
@examples(40)
def test_any_array_gives_what_keras_gives(data: Any, kind: str, rows: int, batch_size: int, layout: Any) -> None:
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
    """Shows the dtype that predict_step gets, before a layer casts."""

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


# ---- Outputs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [5, 70])
@pytest.mark.parametrize(
    "function",
    [
        lambda x: tf.reduce_sum(x),  # no batch axis
        lambda x: tf.reduce_sum(x, axis=0, keepdims=True),  # fewer rows than the input
        lambda x: tf.repeat(x, 3, axis=0),  # more
        lambda x: tf.reshape(x, [-1]),
        lambda x: tf.tile(x[:, :1], [1, tf.shape(x)[0]]),  # another width in each batch
        lambda x: tf.tile(x[:, :1, None], [1, tf.shape(x)[0], 2]),
        lambda x: tf.RaggedTensor.from_tensor(x, lengths=tf.range(tf.shape(x)[0]) % 7),
        lambda x: tf.sparse.from_dense(x),
        lambda x: tf.strings.as_string(x),
        lambda x: tf.cast(x, tf.bfloat16),
        lambda x: tf.complex(x, -x),
    ],
    ids=["scalar", "fewer", "more", "flat", "widths", "deep", "ragged", "sparse", "strings", "bfloat16", "complex"],
)
def test_outputs_of_any_kind_are_joined_as_in_keras(function: Any, rows: int) -> None:
    class Wrapped(keras.Model):
        def call(self, x: Any) -> Any:
            return {"other": function(x), "same": x}

        def compute_output_spec(self, x: Any) -> Any:
            return None

    model = Wrapped()
    expected = model.predict(X[:rows], verbose=0)
    actual = predict_in_memory(ModelRunner(model), X[:rows])
    if expected["other"].dtype.kind == "O" if isinstance(expected["other"], np.ndarray) else False:
        np.testing.assert_array_equal(actual["other"], expected["other"])
    else:
        assert_same(actual, expected)


def test_results_are_memory_of_their_own() -> None:
    x = aligned(X)
    for batch_size in (16, 100):
        outputs = predict_in_memory(ModelRunner(lambda t: t), x, batch_size)
        assert not np.shares_memory(outputs, x)
        assert outputs.flags.writeable
        assert outputs.flags.owndata


# ---- Callbacks and progress --------------------------------------------------------------------------


class Recorder(keras.callbacks.Callback):
    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__()
        self.events: list[Any] = []
        self.outputs: list[Any] = []
        self.stop_after = stop_after

    def on_predict_begin(self, logs: Any = None) -> None:
        self.events.append(("begin", logs, self.params["steps"]))

    def on_predict_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.events.append(("batch begin", batch, logs))

    def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
        self.events.append(("batch end", batch, sorted(logs)))
        self.outputs.append(logs["outputs"])
        if batch == self.stop_after:
            self.model.stop_predicting = True

    def on_predict_end(self, logs: Any = None) -> None:
        self.events.append(("end", logs))


@pytest.mark.parametrize("stop_after", [None, 1])
@pytest.mark.parametrize("as_list", [False, True])
def test_callbacks_are_called_as_by_keras(model: Any, runner: ModelRunner, stop_after: Any, as_list: bool) -> None:
    def predicted(predict: Any) -> tuple[Any, Recorder]:
        recorder = Recorder(stop_after)
        callbacks: Any = [recorder]
        if as_list:
            callbacks = keras.callbacks.CallbackList([recorder], model=model, steps=5)
        return predict(X, 16, verbose=0, callbacks=callbacks), recorder

    outputs, ours = predicted(lambda *a, **k: predict_in_memory(runner, *a, **k))
    expected, theirs = predicted(model.predict)
    assert ours.events == theirs.events
    assert_same(outputs, expected)
    for output, theirs_output in zip(ours.outputs, theirs.outputs, strict=True):
        assert type(output) is type(theirs_output)
    np.testing.assert_array_equal(np.concatenate(ours.outputs), outputs)


def test_progress_is_quiet_when_no_one_looks(runner: ModelRunner, capfd: pytest.CaptureFixture[str]) -> None:
    predict_in_memory(runner, X, 16)
    predict_in_memory(runner, X, 16, verbose=0)
    assert capfd.readouterr() == ("", "")


def test_progress_is_a_bar_or_a_line_on_demand(runner: ModelRunner, capfd: pytest.CaptureFixture[str]) -> None:
    predict_in_memory(runner, X, 16, verbose=1)
    assert "5/5" in capfd.readouterr().err
    predict_in_memory(runner, X, 16, verbose=2)
    assert len("".join(capfd.readouterr()).strip().splitlines()) == 1
