"""`ModelRunner`: models of every kind return the values of `keras.Model.predict`, for any number of rows."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from model_zoo import assert_same, examples, inputs_for, plans

from ringfeed.tf.models.runner import ModelRunner
from ringfeed.tf.tensors.structure import lists_to_tuples

ROWS = np.random.default_rng(1).random((5, 7), np.float32)
OTHER_ROWS = np.random.default_rng(2).random((5, 3), np.float32)


def dense_model() -> Any:
    return keras.Sequential([keras.Input((7,)), keras.layers.Dense(4, activation="tanh")], name="dense_model")


def two_input_model(structure: str) -> Any:
    a, b = keras.Input((7,), name="a"), keras.Input((3,), name="b", dtype="int32")
    z = keras.layers.Dense(2, name="z")(keras.layers.Concatenate()([a, keras.ops.cast(b, "float32")]))
    if structure == "dict":
        return keras.Model({"b": b, "a": a}, {"z": z, "b_again": b})
    return keras.Model([a, b], [z, b])


@given(st.data())
@examples(20)
def test_any_model_returns_the_outputs_of_keras(data: st.DataObject) -> None:
    plan = data.draw(plans())
    inputs = data.draw(inputs_for(plan))
    model = plan.build()
    runner = ModelRunner(model)
    rows = len(tf.nest.flatten(inputs)[0])
    assert_same(runner(inputs), model.predict(inputs, batch_size=rows, verbose=0))


# ---- Kinds of models ---------------------------------------------------------------------------------


def saved_as(form: str, model: Any, folder: Path) -> Any:
    """Return a model as the object or path that a user would give for this kind."""
    path = folder / ("model.keras" if form == "keras file" else "model")
    if form == "keras file":
        model.save(path)
        return path
    if form == "exported folder":
        model.export(str(path), verbose=False)
        return str(path)
    if form == "saved folder":
        tf.saved_model.save(model, str(path))
        return path
    if form == "loaded object":
        model.export(str(path), verbose=False)
        return tf.saved_model.load(str(path))
    if form == "signature":
        model.export(str(path), verbose=False)
        loaded = tf.saved_model.load(str(path))
        model.loaded = loaded  # in TensorFlow, a signature does not keep its variables alive
        return loaded.signatures["serving_default"]
    return {
        "model": model,
        "tf.function": tf.function(lambda x: model(x, training=False)),
        "callable": lambda x: model(x, training=False),
    }[form]


FORMS = [
    "model",
    "keras file",
    "exported folder",
    "saved folder",
    "loaded object",
    "signature",
    "tf.function",
    "callable",
]


@pytest.mark.parametrize("form", FORMS)
def test_every_kind_of_model_returns_the_same_outputs(form: str, tmp_path: Path) -> None:
    model = dense_model()
    runner = ModelRunner(saved_as(form, model, tmp_path))
    gc.collect()  # the runner itself must keep the variables alive
    assert_same(runner(ROWS), model.predict(ROWS, verbose=0))
    assert runner.input_specs == (None if form in ("tf.function", "callable") else ((7,), "float32"))


@pytest.mark.parametrize("form", ["keras file", "exported folder", "saved folder", "signature"])
def test_saved_models_take_dicts_as_the_model_did(form: str, tmp_path: Path) -> None:
    model = two_input_model("dict")
    inputs = {"a": ROWS, "b": OTHER_ROWS.astype(np.int32)}
    outputs = ModelRunner(saved_as(form, model, tmp_path))(inputs)
    expected = model.predict(inputs, verbose=0)
    assert_same({key: outputs[key] for key in expected}, expected)  # a SavedModel does not keep the order of keys


@pytest.mark.parametrize("form", ["keras file", "exported folder", "saved folder"])
def test_saved_models_take_lists_as_the_model_did(form: str, tmp_path: Path) -> None:
    model = two_input_model("list")
    inputs = [ROWS, OTHER_ROWS.astype(np.int32)]
    runner = ModelRunner(saved_as(form, model, tmp_path))
    assert_same(runner(inputs), model.predict(inputs, verbose=0))
    assert_same(runner(tuple(inputs)), model.predict(inputs, verbose=0))


def test_a_saved_model_casts_its_inputs_as_keras_does(tmp_path: Path) -> None:
    model = dense_model()
    runner = ModelRunner(saved_as("exported folder", model, tmp_path))
    pictures = (ROWS * 255).astype(np.uint8)
    assert_same(runner(pictures), model.predict(pictures, verbose=0))
    assert_same(runner(ROWS.astype(np.float64)), model.predict(ROWS, verbose=0))


class Doubler(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None, 7]), tf.TensorSpec([None, 3])])
    def __call__(self, a: Any, b: Any) -> Any:
        return {"sum": tf.reduce_sum(a, 1) + tf.reduce_sum(b, 1), "double": 2 * a}


class WithTraining(tf.Module):
    @tf.function
    def __call__(self, x: Any, training: bool = True) -> Any:
        return -x if training else x + 1


def test_a_module_with_several_arguments_is_given_the_inputs_one_by_one(tmp_path: Path) -> None:
    tf.saved_model.save(Doubler(), str(tmp_path))
    runner = ModelRunner(tmp_path)
    assert runner.input_specs == (((7,), "float32"), ((3,), "float32"))
    outputs = runner([ROWS, OTHER_ROWS])
    np.testing.assert_array_equal(outputs["double"], 2 * ROWS)
    np.testing.assert_allclose(outputs["sum"], ROWS.sum(1) + OTHER_ROWS.sum(1), rtol=1e-6)


def test_a_restored_module_is_called_with_training_false(tmp_path: Path) -> None:
    module = WithTraining()
    for training in (True, False):
        module(tf.ones([2, 7]), training=training)
        module(tf.ones([3, 7]), training=training)
    tf.saved_model.save(module, str(tmp_path))
    np.testing.assert_array_equal(ModelRunner(tmp_path)(ROWS[:2]), ROWS[:2] + 1)


def test_a_callable_with_several_arguments_is_given_the_inputs_one_by_one() -> None:
    runner = ModelRunner(lambda a, b, scale=3.0: a[:, :3] * scale + b)
    expected = ROWS[:, :3] * np.float32(3) + OTHER_ROWS
    np.testing.assert_allclose(runner([ROWS, OTHER_ROWS]), expected, rtol=1e-6)
    np.testing.assert_allclose(runner({"b": OTHER_ROWS, "a": ROWS}), expected, rtol=1e-6)


def test_a_callable_with_python_control_flow_is_traced() -> None:
    def model(x: Any) -> Any:
        if tf.reduce_sum(x) > 0:
            return x
        return -x

    np.testing.assert_array_equal(ModelRunner(model)(-ROWS), ROWS)


def test_a_callable_that_cannot_be_traced_runs_eagerly_and_says_so() -> None:
    runner = ModelRunner(lambda x: np.sort(x.numpy(), axis=1))
    with pytest.warns(UserWarning, match="run eagerly"):
        outputs = runner(ROWS)
    np.testing.assert_array_equal(outputs, np.sort(ROWS, axis=1))
    np.testing.assert_array_equal(runner(ROWS[:2]), np.sort(ROWS[:2], axis=1))


def test_an_error_of_the_eager_run_is_raised_and_the_next_batch_runs_as_usual(recwarn: Any) -> None:
    runner = ModelRunner(lambda x: tf.matmul(x, tf.ones([7, 2])))
    with pytest.raises(tf.errors.InvalidArgumentError):
        runner(OTHER_ROWS)
    assert runner(ROWS).shape == (5, 2)
    assert not [warning for warning in recwarn if "eagerly" in str(warning.message)]


def test_a_keras_layer_is_a_model() -> None:
    layer = keras.layers.Dense(2)
    outputs = ModelRunner(layer)(ROWS)
    np.testing.assert_allclose(outputs, layer(ROWS).numpy(), rtol=1e-6)


# ---- Refused models ----------------------------------------------------------------------------------


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.keras"):
        ModelRunner(tmp_path / "nowhere.keras")


def test_a_folder_without_a_saved_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no saved_model\.pb"):
        ModelRunner(str(tmp_path))


def test_an_object_that_is_no_model_is_refused() -> None:
    with pytest.raises(TypeError, match="'int': give a Keras model"):
        ModelRunner(3)


def test_another_keras_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = dense_model()
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(RuntimeError, match="'dense_model': Keras runs on the 'jax' backend"):
        ModelRunner(model)


def test_a_model_in_the_wrong_structure_of_inputs_says_which_it_takes(tmp_path: Path) -> None:
    runner = ModelRunner(saved_as("exported folder", two_input_model("dict"), tmp_path))
    with pytest.raises(ValueError, match=r"takes inputs in the structure .*'a'.*Give the same names"):
        runner({"a": ROWS, "c": OTHER_ROWS})


# ---- Behaviour of Keras ------------------------------------------------------------------------------


class OwnStep(keras.Model):
    """A model that overrides predict_step, which gets the whole batch."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(3)

    def call(self, x: Any, training: bool = False) -> Any:
        return self.dense(x) * (0.0 if training else 1.0)

    def predict_step(self, data: Any) -> Any:
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        return {"twice": 2.0 * self(x, training=False), "rows": tf.shape(x)[0][tf.newaxis]}


class ManyInputs(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(3)
        self.drop = keras.layers.Dropout(0.5)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.drop(self.dense(inputs["a"]), training=training), [inputs["b"], (inputs["b"] * 2,)]


def test_an_overridden_predict_step_is_used() -> None:
    model = OwnStep()
    assert_same(ModelRunner(model)(ROWS), model.predict(ROWS, verbose=0))


def test_a_model_that_was_never_built_is_built_at_the_first_call() -> None:
    for model in (ManyInputs(), keras.Sequential([keras.layers.Dense(3), keras.layers.BatchNormalization()])):
        runner = ModelRunner(model)
        assert runner.input_specs is None
        inputs = {"a": ROWS, "b": OTHER_ROWS} if isinstance(model, ManyInputs) else ROWS
        outputs = runner(inputs)
        assert model.built
        assert_same(outputs, model.predict(inputs, verbose=0))


def test_weights_that_change_are_seen() -> None:
    model = dense_model()
    runner = ModelRunner(model)
    runner(ROWS)
    model.set_weights([weight + 0.5 for weight in model.get_weights()])
    assert_same(runner(ROWS), model.predict(ROWS, verbose=0))


def test_a_model_that_runs_eagerly_in_keras_does_so_here() -> None:
    class Eager(keras.Model):
        def call(self, x: Any) -> Any:
            return tf.constant(np.sort(x.numpy(), axis=1))

    model = Eager()
    model.compile(run_eagerly=True)
    assert_same(ModelRunner(model)(ROWS), model.predict(ROWS, verbose=0))


def test_an_optional_input_may_be_left_out() -> None:
    a, b = keras.Input((7,), name="a"), keras.Input((7,), name="b", optional=True)

    class AddIfThere(keras.layers.Layer):
        def call(self, x: Any, other: Any = None) -> Any:
            return x if other is None else x + other

        def compute_output_shape(self, x_shape: Any, other_shape: Any = None) -> Any:
            return x_shape

    model = keras.Model({"a": a, "b": b}, AddIfThere()(a, b))
    runner = ModelRunner(model)
    np.testing.assert_array_equal(runner({"a": ROWS, "b": None}), ROWS)
    np.testing.assert_array_equal(runner({"a": ROWS, "b": ROWS}), ROWS + ROWS)


def test_the_specs_of_a_model_have_the_structure_of_its_inputs() -> None:
    free = keras.Sequential([keras.Input((None, 3), dtype="uint8"), keras.layers.GlobalMaxPooling1D()])
    assert ModelRunner(free).input_specs == ((None, 3), "uint8")
    assert ModelRunner(two_input_model("dict")).input_specs == {"a": ((7,), "float32"), "b": ((3,), "int32")}
    assert ModelRunner(two_input_model("list")).input_specs == [((7,), "float32"), ((3,), "int32")]


def test_xla_gives_the_same() -> None:
    model = dense_model()
    assert_same(ModelRunner(model, jit_compile=True)(ROWS), model.predict(ROWS, verbose=0))


@pytest.mark.parametrize("kind", ["ragged", "sparse"])
def test_ragged_and_sparse_tensors_pass_through(kind: str) -> None:
    if kind == "ragged":
        batches = [tf.ragged.constant([[1.0, 2.0], [3.0], []][:rows]) for rows in (3, 2)]
        model: Any = lambda x: (tf.reduce_sum(x, axis=1), 2.0 * x)  # noqa: E731
    else:
        batches = [tf.sparse.from_dense(ROWS[:rows] * (ROWS[:rows] > 0.5)) for rows in (3, 2)]
        model = lambda x: (tf.sparse.sparse_dense_matmul(x, tf.ones([7, 2])), x)  # noqa: E731
    runner = ModelRunner(model)
    for batch in batches:
        assert_same(runner(batch)[0], model(batch)[0].numpy())
        assert_same(runner(batch)[1], model(batch)[1])
    assert runner.traces == 1


# ---- Tracing -----------------------------------------------------------------------------------------


def test_the_number_of_rows_makes_no_new_function() -> None:
    runner = ModelRunner(dense_model())
    for rows in (5, 1, 3, 2):
        assert runner(ROWS[:rows]).shape == (rows, 4)
    assert runner.traces == 1


def test_lengths_that_vary_are_left_free_from_the_second_one_on() -> None:
    runner = ModelRunner(keras.Sequential([keras.Input((None, 2)), keras.layers.GlobalAveragePooling1D()]))
    for length in (3, 4, 5, 6, 3):
        np.testing.assert_allclose(runner(np.full((2, length, 2), 3, np.float32)), 3.0)
    assert runner.traces == 2


def test_a_function_declared_for_one_number_of_rows_is_run_with_it() -> None:
    runner = ModelRunner(tf.function(lambda x: x + 1, input_signature=[tf.TensorSpec([5, 7])]))
    np.testing.assert_array_equal(runner(ROWS), ROWS + 1)


def test_lists_become_tuples_at_every_depth() -> None:
    assert lists_to_tuples({"a": [1, [2]], "b": (3, None)}) == {"a": (1, (2,)), "b": (3, None)}
