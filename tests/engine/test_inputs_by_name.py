"""Which field of a record becomes which input of a model: in an engine, in `fuse` and in a pipeline."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import ringfeed
from ringfeed.tf import fuse, why_not_native
from ringfeed.tf.models.runner import ModelRunner

MEAN = np.float32([[100, 200, 300], [7, 8, 9]])
X = np.float32([[1, 2, 3], [40, 50, 60]])
FIELD = ((3,), "float32")
RINGS = {"the model's order": {"x": FIELD, "mean": FIELD}, "another order": {"mean": FIELD, "x": FIELD}}
with_op = pytest.mark.skipif(why_not_native() is not None, reason=f"no op: {why_not_native()}")


def named_input(name: str) -> Any:
    return keras.Input((3,), name=name)


def of_one_input() -> keras.Model:
    x = named_input("x")
    return keras.Model(x, x * 2)


def keras_difference(structure: type) -> keras.Model:
    x, mean = named_input("x"), named_input("mean")
    inputs: Any = {"x": x, "mean": mean} if structure in (dict, collections.OrderedDict) else structure([x, mean])
    return keras.Model(structure(inputs), x - mean)


def saved(model: Any, folder: Path) -> str:
    if isinstance(model, keras.Model):
        model.export(str(folder), verbose=False)
    else:
        tf.saved_model.save(model, str(folder))
    return str(folder)


def signature_of(folder: str) -> Any:
    return tf.saved_model.load(folder).signatures["serving_default"]


def difference(x: Any, mean: Any) -> Any:
    return x - mean


class Difference(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None, 3]), tf.TensorSpec([None, 3])])
    def __call__(self, x: Any, mean: Any) -> Any:
        return x - mean


TWO_INPUTS = {
    "Keras list": lambda folder: keras_difference(list),
    "Keras tuple": lambda folder: keras_difference(tuple),
    "Keras dict": lambda folder: keras_difference(dict),
    "exported list": lambda folder: saved(keras_difference(list), folder),
    "signature": lambda folder: tf.saved_model.load(saved(keras_difference(list), folder)).signatures[
        "serving_default"
    ],
    "tf.function": lambda folder: tf.function(difference),
    "declared": lambda folder: tf.function(difference, input_signature=[tf.TensorSpec([None, 3])] * 2),
    "callable": lambda folder: difference,
    "lambda with a default": lambda folder: lambda mean, x, scale=1.0: (x - mean) * scale,
    "restored": lambda folder: saved(Difference(), folder),
}


def ask(engine_options: dict[str, Any], fields: Any, model: Any) -> Any:
    """Return the answer of an engine for MEAN and X, and close everything."""
    with (
        ringfeed.Ring.create(None, fields, 16) as ring,
        ringfeed.Engine(ring, model, linger=0.0, **engine_options),
        ringfeed.Client(ring) as client,
    ):
        values = {"x": X, "mean": MEAN, "more": np.int64([1, 2])}
        answer = client.predict({name: values[name] for name in fields})
    return next(iter(answer.values())) if isinstance(answer, dict) else answer


def fused(fields: Any, model: Any, **options: Any) -> Any:
    with ringfeed.Ring.create(None, fields, 16) as ring:
        values = {"x": X, "mean": MEAN, "more": np.int64([1, 2])}
        for row in range(2):
            ring.put({name: values[name][row] for name in fields})
        (output,) = tf.nest.flatten(fuse(ring, model, 2, min_rows=2, **options)())
        return output.numpy()


@pytest.mark.parametrize("fields", RINGS.values(), ids=RINGS)
@pytest.mark.parametrize("kind", TWO_INPUTS)
def test_a_model_of_two_inputs_gets_the_fields_of_their_names_in_any_order_of_the_ring(
    kind: str, fields: Any, tmp_path: Path
) -> None:
    np.testing.assert_array_equal(ask({}, fields, TWO_INPUTS[kind](tmp_path)), X - MEAN)


@with_op
@pytest.mark.parametrize("kind", TWO_INPUTS)
def test_a_fused_model_gets_the_fields_of_its_inputs_names_too(kind: str, tmp_path: Path) -> None:
    model = TWO_INPUTS[kind](tmp_path)
    for fields in RINGS.values():
        np.testing.assert_array_equal(fused({**fields, "more": ((), "int64")}, model), X - MEAN)
    np.testing.assert_array_equal(fused(RINGS["another order"], model, pad="ring"), X - MEAN)


@with_op
def test_a_model_of_one_input_gets_the_field_of_its_name() -> None:
    models = of_one_input(), keras.Model({"x": (x := named_input("x"))}, x * 2), lambda x: x * 2
    for model in models:
        for fields in RINGS.values():
            np.testing.assert_array_equal(ask({}, fields, model), X * 2)
            np.testing.assert_array_equal(fused(fields, model), X * 2)
        np.testing.assert_array_equal(ask({}, {"mean": FIELD}, model), MEAN * 2)  # each input has its own field


def test_inputs_without_names_are_the_fields_in_their_order(tmp_path: Path) -> None:
    first, second = keras.Input((3,)), keras.Input((3,))
    model = keras.Model([first, second], first - second)
    tf.saved_model.save(model, str(tmp_path / "saved"))
    model.export(str(tmp_path / "exported"), verbose=False)
    for each in (model, tmp_path / "saved", tmp_path / "exported"):
        np.testing.assert_array_equal(ask({}, RINGS["the model's order"], each), X - MEAN)
        np.testing.assert_array_equal(ask({}, RINGS["another order"], each), MEAN - X)
    one_named = keras.Model([second, (x := named_input("x"))], x - second)
    for fields in RINGS.values():
        np.testing.assert_array_equal(ask({}, fields, one_named), X - MEAN)


def test_fields_with_the_names_of_the_layers_belong_to_them_in_any_order(make_ring: Any) -> None:
    first, second = keras.Input((3,)), keras.Input((3,))
    model = keras.Model([first, second], first - second)
    names = [layer.name for layer in model.layers[:2]]
    for fields in names, names[::-1]:
        with (
            ringfeed.Ring.create(None, dict.fromkeys(fields, FIELD), 16) as ring,
            ringfeed.Engine(ring, model, linger=0.0),
            ringfeed.Client(ring) as client,
        ):
            np.testing.assert_array_equal(client.predict(dict(zip(names, (X, MEAN), strict=True))), X - MEAN)


@pytest.mark.parametrize("fields", [("input_1", "a"), ("a", "input_2"), ("input_layer_9", "input_layer_8")])
def test_fields_that_have_other_numbers_than_the_inputs_are_an_error_that_lists_both(
    make_ring: Any, fields: tuple[str, str]
) -> None:
    first, second = named_input("input_1"), named_input("input_2")
    ring = make_ring(dict.fromkeys(fields, FIELD))
    listed = rf"'input_1', 'input_2', and the record .* '{fields[0]}', '{fields[1]}'"
    with pytest.raises(ValueError, match=listed):
        ringfeed.Engine(ring, keras.Model([first, second], first - second))


@pytest.mark.parametrize("structure", [("x", "mean"), ["x", "mean"], {"mean": "mean", "x": "x"}], ids=str)
def test_in_a_structure_a_tuple_means_inputs_and_never_labels(structure: Any) -> None:
    for model in (keras_difference(list), keras_difference(dict), difference):
        if isinstance(structure, (list, tuple)) and isinstance(getattr(model, "input", None), dict):
            continue  # Keras refuses a list for a dict
        answer = ask({"structure": structure}, RINGS["another order"], model)
        np.testing.assert_array_equal(answer, X - MEAN)


def test_a_function_of_one_argument_that_no_field_is_named_after_gets_them_all() -> None:
    answer = ask({}, RINGS["another order"], lambda features: features["x"] - features["mean"])
    np.testing.assert_array_equal(answer, X - MEAN)

    class Subclassed(keras.Model):
        def call(self, inputs: Any) -> Any:
            return inputs["x"] - inputs["mean"]

    np.testing.assert_array_equal(ask({}, RINGS["another order"], Subclassed()), X - MEAN)


@with_op
def test_a_function_of_any_number_of_arguments_gets_the_fields_in_the_rings_order() -> None:
    def subtracted(*inputs: Any) -> Any:
        return inputs[0] - inputs[1]

    for model in (subtracted, tf.function(subtracted)):
        np.testing.assert_array_equal(ask({}, RINGS["the model's order"], model), X - MEAN)
        np.testing.assert_array_equal(fused(RINGS["another order"], model), MEAN - X)


def test_an_argument_with_a_default_is_given_where_a_field_has_its_name() -> None:
    answer = ask({}, RINGS["another order"], lambda x, mean=0.0: x - mean)
    np.testing.assert_array_equal(answer, X - MEAN)


@pytest.mark.parametrize(
    ("model", "listed"),
    [
        (keras_difference(list), "'x', 'mean'"),
        (keras_difference(dict), "'mean', 'x'"),
        (difference, "'x', 'mean'"),
        (tf.function(difference, input_signature=[tf.TensorSpec([None, 3])] * 2), "'x', 'mean'"),
    ],
)
def test_names_that_do_not_match_are_an_error_that_lists_both(make_ring: Any, model: Any, listed: str) -> None:
    ring = make_ring({"x": FIELD, "average": FIELD})
    message = (
        rf"takes the inputs {listed}, and the record of ring '{ring.name}' has the fields 'x', 'average'.*structure="
    )
    with pytest.raises(ValueError, match=message):
        ringfeed.Engine(ring, model)
    if why_not_native() is None:
        with pytest.raises(ValueError, match=message):
            fuse(ring, model, 2)


SAME_NAME = [tf.TensorSpec([None, 3], name="x")] * 2


def test_specs_of_one_name_leave_the_fields_the_names_of_the_arguments() -> None:
    declared = tf.function(difference, input_signature=SAME_NAME)
    for fields in RINGS.values():
        np.testing.assert_array_equal(ask({}, fields, declared), X - MEAN)
    np.testing.assert_array_equal(ask_pipeline([declared], {"mean": MEAN, "x": X}), X - MEAN)


def test_several_inputs_of_one_name_are_an_error_and_a_structure_is_the_way_out(make_ring: Any) -> None:
    model = tf.function(lambda pair: pair[0] - pair[1], input_signature=[SAME_NAME])
    for fields in RINGS.values():
        with pytest.raises(ValueError, match=r"several inputs.*'x'.*structure="):
            ringfeed.Engine(make_ring(fields), model)
        np.testing.assert_array_equal(ask({"structure": ("x", "mean")}, fields, model), X - MEAN)
    with pytest.raises(ValueError, match=r"several inputs.*'x'.*ring="):
        ringfeed.Pipeline([model])


def test_an_input_without_a_name_and_several_fields_are_an_error_that_lists_both(make_ring: Any) -> None:
    ring = make_ring(RINGS["another order"])
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match=r"takes the input 'input_layer.*' has the fields 'mean', 'x'"):
        ringfeed.Engine(ring, model)


def test_a_subclassed_model_in_less_precision_gets_the_same_fields() -> None:
    class Subclassed(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(3, kernel_initializer="identity")

        def get_config(self) -> Any:
            return {}

        def call(self, x: Any) -> Any:
            return self.dense(x)

    keras.saving.register_keras_serializable("ringfeed_tests")(Subclassed)
    model = Subclassed()
    model(X)
    for options in ({}, {"precision": "bfloat16"}):
        np.testing.assert_array_equal(ask(options, RINGS["another order"], model), X)


# ---- Pipelines ---------------------------------------------------------------------------------------


def ask_pipeline(stages: list[Any], inputs: Any, **options: Any) -> Any:
    with ringfeed.Pipeline(stages, **options) as pipeline:
        answer = pipeline.predict(inputs)
    return next(iter(answer.values())) if isinstance(answer, dict) else answer


def test_a_pipelines_own_ring_has_fields_of_the_inputs_names() -> None:
    double = keras.Model((output := named_input("output")), output * 2)
    for structure in (list, dict):
        answer = ask_pipeline([keras_difference(structure), double], {"mean": MEAN, "x": X})
        np.testing.assert_array_equal(answer, 2 * (X - MEAN))


@pytest.mark.parametrize("names", [("input_1", "input_2"), ("input_2", "input_1"), ("inputs", "x"), (None, None)])
def test_the_ring_of_a_pipeline_has_the_names_of_the_inputs(names: Any) -> None:
    first, second = map(named_input, names)
    model = keras.Model([first, second], first - second)
    names = [layer.name for layer in model.layers[:2]]
    with ringfeed.Pipeline([model]) as pipeline:
        assert list(pipeline.ring.spec) == names
        for order in (1, -1):
            given = dict([*zip(names, (X, MEAN), strict=True)][::order])
            np.testing.assert_array_equal(pipeline.predict(given), X - MEAN)


def test_a_pipelines_own_ring_has_a_field_of_its_own_for_an_input_without_a_name() -> None:
    first, second = tf.TensorSpec([None, 3], name="input_1"), tf.TensorSpec([None, 3])
    function = tf.function(lambda pair: pair[0] - pair[1], input_signature=[[first, second]])
    with ringfeed.Pipeline([function]) as pipeline:
        fields = list(pipeline.ring.spec)
        assert fields == ["input_1", "input_1_without_name"]
        np.testing.assert_array_equal(pipeline.predict(dict(zip(fields, (X, MEAN), strict=True))), X - MEAN)


def test_a_stage_gets_what_the_one_before_names_after_its_inputs() -> None:
    x = named_input("x")
    first = keras.Model(x, {"mean": x * 0 + 1, "x": x * 10, "more": x})
    for second in (keras_difference(list), keras_difference(dict), difference):
        np.testing.assert_array_equal(ask_pipeline([first, second], X), 10 * X - 1)


def test_a_list_of_outputs_without_requested_names_is_read_by_position() -> None:
    x = named_input("x")
    first = keras.Model(x, [keras.layers.Rescaling(10.0)(x), keras.layers.Rescaling(0.0, 1.0)(x)])
    for second in (keras_difference(list), difference):
        np.testing.assert_array_equal(ask_pipeline([first, second], X), 10 * X - 1)


def test_a_dict_of_outputs_that_does_not_match_is_an_error_that_lists_both() -> None:
    x = named_input("x")
    first = keras.Model(x, {"low": x, "high": x})
    with pytest.raises(ValueError, match=r"stage 1 .*takes the inputs 'x', 'mean'.*fields 'high', 'low'"):
        ringfeed.Pipeline([first, keras_difference(list)])


def test_outputs_go_into_the_fields_of_their_names_in_the_ring_of_a_stage_elsewhere(make_ring: Any) -> None:
    first_ring, second_ring = make_ring({"x": FIELD}, slots=16), make_ring(RINGS["another order"], slots=16)
    x = named_input("x")
    first = keras.Model(x, {"x": x * 10, "mean": x * 0 + 1})
    with (
        ringfeed.StageEngine(second_ring, keras_difference(list), linger=0.0, first_ring=first_ring),
        ringfeed.StageEngine(first_ring, first, linger=0.0, next_ring=second_ring),
        ringfeed.Client(first_ring) as client,
    ):
        np.testing.assert_array_equal(client.predict(X), 10 * X - 1)


def test_a_runner_and_an_engine_agree(tmp_path: Path) -> None:
    for number, kind in enumerate(TWO_INPUTS):
        runner = ModelRunner(TWO_INPUTS[kind](tmp_path / str(number)))
        (output,) = tf.nest.flatten(runner({"mean": MEAN, "x": X}))
        np.testing.assert_array_equal(output, X - MEAN, err_msg=kind)
