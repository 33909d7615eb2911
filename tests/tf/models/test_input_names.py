"""A model's names of its inputs, and how samples that are mappings are matched to them."""

from __future__ import annotations

import collections
from pathlib import Path
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from ringfeed.tf.models.runner import ModelRunner

HUNDREDS = np.full((2, 3), 100, np.float32)
ONES = np.ones((2, 3), np.float32)
DIFFERENCE = HUNDREDS - ONES  # "mean" minus "image"


def keras_model(structure: str) -> keras.Model:
    """Return a model of two inputs that returns "mean" minus "image"."""
    mean, image = keras.Input((3,), name="mean"), keras.Input((3,), name="image")
    inputs = {
        "list": [mean, image],
        "tuple": (mean, image),
        "dict": {"mean": mean, "image": image},
        "ordered": collections.OrderedDict(mean=mean, image=image),
        "nested": {"pair": {"mean": mean}, "image": image},
        "list in a dict": {"pair": [mean, image]},
    }[structure]
    return keras.Model(inputs, mean - image)


def unnamed_keras_model() -> keras.Model:
    mean, image = keras.Input((3,)), keras.Input((3,))
    return keras.Model([mean, image], mean - image)


def difference(mean: Any, image: Any) -> Any:
    return mean - image


class Difference(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None, 3]), tf.TensorSpec([None, 3])])
    def __call__(self, mean: Any, image: Any) -> Any:
        return mean - image


class DifferenceOfOneList(tf.Module):
    @tf.function(input_signature=[[tf.TensorSpec([None, 3], name="mean"), tf.TensorSpec([None, 3], name="image")]])
    def __call__(self, pair: Any) -> Any:
        return pair[0] - pair[1]


def saved(model: Any, folder: Path) -> str:
    """Save a model in the format of its kind, and return the folder."""
    if isinstance(model, keras.Model):
        model.export(str(folder), verbose=False)
    else:
        tf.saved_model.save(model, str(folder))
    return str(folder)


def named_specs(*names: str | None) -> list[tf.TensorSpec]:
    return [tf.TensorSpec([None, 3], name=name) for name in names]


class OfKeywords:
    def __call__(self, mean: Any, *, image: Any) -> Any:
        return mean - image


TWO_INPUTS = {
    "Keras list": lambda folder: keras_model("list"),
    "Keras tuple": lambda folder: keras_model("tuple"),
    "Keras dict": lambda folder: keras_model("dict"),
    "Keras OrderedDict": lambda folder: keras_model("ordered"),
    "exported list": lambda folder: saved(keras_model("list"), folder),
    "exported dict": lambda folder: saved(keras_model("dict"), folder),
    "signature": lambda folder: tf.saved_model.load(saved(keras_model("list"), folder)).signatures["serving_default"],
    "tf.function": lambda folder: tf.function(difference),
    "declared tf.function": lambda folder: tf.function(difference, input_signature=named_specs(None, None)),
    "named TensorSpecs": lambda folder: tf.function(lambda a, b: a - b, input_signature=named_specs("mean", "image")),
    "concrete function": lambda folder: tf.function(
        difference, input_signature=named_specs(None, None)
    ).get_concrete_function(),
    "callable": lambda folder: difference,
    "callable of keywords": lambda folder: OfKeywords(),
    "restored module": lambda folder: saved(Difference(), folder),
    "restored module of a list": lambda folder: saved(DifferenceOfOneList(), folder),
}


@pytest.fixture(params=TWO_INPUTS)
def two_inputs(request: Any, tmp_path: Path) -> ModelRunner:
    return ModelRunner(TWO_INPUTS[request.param](tmp_path))


def test_a_mapping_is_matched_by_name_in_any_order_and_superfluous_keys_are_ignored(two_inputs: ModelRunner) -> None:
    values = {"mean": HUNDREDS, "image": ONES, "a": 7 * ONES, "zz": 8 * ONES}
    for order in (["mean", "image"], ["image", "mean"], ["a", "mean", "zz", "image"], ["zz", "image", "a", "mean"]):
        given = {name: values[name] for name in order}
        for mapping in (given, collections.OrderedDict(given), collections.UserDict(given), MappingProxyType(given)):
            np.testing.assert_array_equal(_only(two_inputs(mapping)), DIFFERENCE)


def test_the_names_stand_in_the_order_of_the_flattened_inputs(two_inputs: ModelRunner) -> None:
    names = two_inputs.input_names
    assert names is not None
    assert sorted(map(str, names)) == ["image", "mean"]
    if two_inputs.input_specs is not None:
        assert len(names) == 2
        if isinstance(two_inputs.input_specs, dict):
            assert names == sorted(two_inputs.input_specs)
        else:
            assert names == ["mean", "image"]


def test_a_name_that_is_missing_is_named(two_inputs: ModelRunner) -> None:
    with pytest.raises(ValueError, match="image"):
        two_inputs({"mean": HUNDREDS, "picture": ONES})


def test_a_tuple_is_read_by_position(tmp_path: Path) -> None:
    for number, kind in enumerate(sorted(set(TWO_INPUTS) - {"Keras dict", "Keras OrderedDict", "exported dict"})):
        if kind == "signature":  # a signature's inputs have names, but no order
            continue
        runner = ModelRunner(TWO_INPUTS[kind](tmp_path / str(number)))
        np.testing.assert_array_equal(_only(runner((HUNDREDS, ONES))), DIFFERENCE, err_msg=kind)


def _only(outputs: Any) -> np.ndarray:
    """Return the only output, which has a name if a signature returned it."""
    (output,) = tf.nest.flatten(outputs)
    return output


def test_nests_have_the_names_of_the_inputs_themselves() -> None:
    nested = ModelRunner(keras_model("nested"))
    assert nested.input_names == ["image", "mean"]
    given = {"image": ONES, "extra": ONES, "pair": {"mean": HUNDREDS, "more": ONES}}
    np.testing.assert_array_equal(nested(given), DIFFERENCE)
    in_a_dict = ModelRunner(keras_model("list in a dict"))
    assert in_a_dict.input_names == ["mean", "image"]
    np.testing.assert_array_equal(in_a_dict(collections.UserDict(pair=[HUNDREDS, ONES])), DIFFERENCE)


def test_names_that_keras_and_tensorflow_make_up_are_none(tmp_path: Path) -> None:
    model = unnamed_keras_model()
    model.export(str(tmp_path / "exported"), verbose=False)
    tf.saved_model.save(model, str(tmp_path / "saved"))
    for form in (model, tmp_path / "exported", tmp_path / "saved"):
        runner = ModelRunner(form)
        assert runner.input_names == [None, None]
        np.testing.assert_array_equal(runner((HUNDREDS, ONES)), DIFFERENCE)
        orders = [("zz", "a"), ("input_2", "input_1"), ("a", "zz")]
        if form == tmp_path / "saved":  # numbered inputs may have had names, in their order
            np.testing.assert_array_equal(runner(dict(zip(orders.pop(), (HUNDREDS, ONES), strict=True))), DIFFERENCE)
        for names in orders:  # equal dicts would give different results
            with pytest.raises(ValueError, match=rf"takes inputs in the structure .*{names[0]}.*Missing"):
                runner(dict(zip(names, (HUNDREDS, ONES), strict=True)))
    assert ModelRunner(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])).input_names == [None]
    assert ModelRunner(keras.Sequential([keras.Input((3,), name="x"), keras.layers.Dense(2)])).input_names == ["x"]


def test_inputs_without_names_have_those_of_their_layers() -> None:
    model = unnamed_keras_model()
    first, second = (layer.name for layer in model.layers[:2])
    runner = ModelRunner(model)
    for given in ({first: HUNDREDS, second: ONES}, {second: ONES, "more": ONES, first: HUNDREDS}):
        np.testing.assert_array_equal(runner(given), DIFFERENCE)
    with pytest.raises(ValueError, match=rf"'{first}', '{second}'.*'a'.*Missing: '{first}', '{second}'"):
        runner({"b": HUNDREDS, "a": ONES})
    with pytest.raises(ValueError, match=rf"Missing: '{second}'"):
        runner({first: HUNDREDS, "a": ONES})


def test_inputs_of_which_no_one_has_a_name_are_given_a_mapping_in_its_own_order() -> None:
    spec = tf.TensorSpec([None, 3])
    runner = ModelRunner(tf.function(lambda pair: pair[0] - pair[1], input_signature=[[spec, spec]]))
    for names in ("zz", "a"), ("a", "zz"):
        given = dict(zip(names, (HUNDREDS, ONES), strict=True))
        np.testing.assert_array_equal(runner(given), DIFFERENCE)


def test_a_model_that_does_not_say_its_inputs_has_no_names() -> None:
    class Subclassed(keras.Model):
        def call(self, x: Any) -> Any:
            return x

    assert ModelRunner(Subclassed()).input_names is None
    assert ModelRunner(lambda x: x).input_names is None


def test_a_function_of_one_argument_gets_the_value_of_its_name_else_the_whole_mapping() -> None:
    by_name = ModelRunner(lambda x: x * 2)
    np.testing.assert_array_equal(by_name(collections.UserDict(mean=ONES, x=HUNDREDS)), 2 * HUNDREDS)
    whole = ModelRunner(lambda features: features["mean"] - features["image"])
    np.testing.assert_array_equal(whole(collections.UserDict(image=ONES, mean=HUNDREDS)), DIFFERENCE)


def test_an_argument_with_a_default_is_given_where_the_mapping_names_it() -> None:
    runner = ModelRunner(lambda x, scale=3.0: x * scale)
    np.testing.assert_array_equal(runner({"scale": HUNDREDS, "x": ONES}), HUNDREDS)
    np.testing.assert_array_equal(runner({"x": ONES}), 3 * ONES)
    np.testing.assert_array_equal(runner(ONES), 3 * ONES)


def test_a_subclassed_model_is_given_any_mapping_as_a_dict() -> None:
    class Subclassed(keras.Model):
        def call(self, inputs: Any) -> Any:
            return inputs["mean"] - inputs["image"]

    outputs = ModelRunner(Subclassed())(collections.UserDict(image=ONES, mean=HUNDREDS))
    np.testing.assert_array_equal(outputs, DIFFERENCE)


def test_one_input_and_one_value_match_regardless_of_their_names() -> None:
    x = keras.Input((3,), name="x")
    for model in (keras.Model(x, x * 2), keras.Model({"x": x}, x * 2)):
        np.testing.assert_array_equal(ModelRunner(model)({"pixels": ONES}), 2 * ONES)
        np.testing.assert_array_equal(ModelRunner(model)({"pixels": ONES, "x": HUNDREDS}), 2 * HUNDREDS)


def test_a_keras_layer_and_a_function_of_keywords_are_given_mappings_too() -> None:
    class Layer(keras.layers.Layer):
        def call(self, inputs: Any) -> Any:
            return inputs["mean"] - inputs["image"]

    given = collections.UserDict(image=ONES, mean=HUNDREDS)
    np.testing.assert_array_equal(ModelRunner(Layer())(given), DIFFERENCE)
    np.testing.assert_array_equal(ModelRunner(lambda **values: values["mean"] - values["image"])(given), DIFFERENCE)


def test_a_tf_function_of_one_declared_dict_is_called_by_its_keys() -> None:
    signature = [{"mean": tf.TensorSpec([None, 3]), "image": tf.TensorSpec([None, 3])}]
    runner = ModelRunner(tf.function(lambda values: values["mean"] - values["image"], input_signature=signature))
    assert runner.input_names == ["image", "mean"]
    np.testing.assert_array_equal(runner({"extra": ONES, "image": ONES, "mean": HUNDREDS}), DIFFERENCE)


def test_specs_of_one_name_leave_the_inputs_the_names_of_the_arguments() -> None:
    runner = ModelRunner(tf.function(difference, input_signature=named_specs("x", "x")))
    assert runner.input_names == ["mean", "image"]
    np.testing.assert_array_equal(runner({"image": ONES, "mean": HUNDREDS}), DIFFERENCE)
    np.testing.assert_array_equal(runner((HUNDREDS, ONES)), DIFFERENCE)
    with pytest.raises(ValueError, match="Missing: 'image'"):
        runner({"x": ONES, "mean": HUNDREDS})


def test_inputs_of_one_name_in_a_list_are_taken_by_position_alone() -> None:
    runner = ModelRunner(tf.function(lambda pair: pair[0] - pair[1], input_signature=[named_specs("x", "x")]))
    np.testing.assert_array_equal(runner((HUNDREDS, ONES)), DIFFERENCE)
    for given in ({"x": ONES}, {"x": ONES, "y": HUNDREDS}):
        with pytest.raises(ValueError, match=r"several inputs.*'x'.*tuple"):
            runner(given)
