"""`partition.split_model`: the stages, run in a row, return the outputs of the whole model."""

from __future__ import annotations

import re
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from model_zoo import inputs_for, plans

from ringfeed import RecordSpec
from ringfeed.tf.models.partition import split_model

X = np.random.default_rng(1).random((4, 6), np.float32)


def compose(stages: list[Any], inputs: Any) -> Any:
    """Run stages in a row; check that the tensors between two stages are the next stage's inputs, and a record."""
    value = stages[0](inputs)
    for stage in stages[1:]:
        assert isinstance(value, dict)
        assert list(value) == [tensor.name for tensor in stage.inputs] or set(value) == set(stage.input)
        fields = {name: (tensor.shape[1:], tensor.dtype) for name, tensor in stage.input.items()}
        assert list(RecordSpec(fields)) == list(stage.input)
        assert all(tuple(value[name].shape[1:]) == shape for name, (shape, _) in fields.items())
        # Arrays, as through a ring: a tensor would carry the mask that Keras attached to it.
        value = stage({name: tensor.numpy() for name, tensor in value.items()})
    return value


def assert_equal(actual: Any, expected: Any) -> None:
    tf.nest.assert_same_structure(actual, expected)
    for one, other in zip(tf.nest.flatten(actual), tf.nest.flatten(expected), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(np.asarray(one, np.float64), np.asarray(other, np.float64), rtol=1e-5, atol=1e-6)


def assert_splits(model: Any, at: list[str], inputs: Any) -> list[Any]:
    stages = split_model(model, at)
    assert len(stages) == len(at) + 1
    assert_equal(compose(stages, inputs), model(inputs))
    own = {id(weight) for weight in model.weights}
    assert {id(weight) for stage in stages for weight in stage.weights} <= own
    return stages


# ---- Random models -----------------------------------------------------------------------------------

WIDTH = 3


def random_model(random: np.random.Generator) -> tuple[Any, list[str]]:
    """Return a functional model (skips, shared and nested layers, several inputs and outputs), and its layers."""
    inputs = [keras.Input((WIDTH,), name=f"in_{number}") for number in range(random.integers(1, 4))]
    shared = keras.layers.Dense(WIDTH, name="shared", activation="tanh")
    nested_in = keras.Input((WIDTH,))
    nested = keras.Model(nested_in, nested_in + keras.layers.Dense(WIDTH)(nested_in), name="nested")
    tensors, names = list(inputs), []

    def any_tensor() -> Any:
        return tensors[random.integers(max(0, len(tensors) - 4), len(tensors))]

    for number in range(random.integers(3, 9)):
        kind = random.choice(["dense", "add", "shared", "nested", "split", "ops", "batch_norm"])
        name = f"{kind}_layer_{number}"
        if kind == "dense":
            new = [keras.layers.Dense(WIDTH, name=name)(any_tensor())]
        elif kind == "batch_norm":
            new = [keras.layers.BatchNormalization(name=name)(any_tensor())]
        elif kind == "add":
            new = [keras.layers.Add(name=name)([any_tensor(), any_tensor()])]
        elif kind == "shared":
            new, name = [shared(any_tensor())], "shared"
        elif kind == "nested":
            new, name = [nested(any_tensor())], "nested"
        elif kind == "split":
            twice = keras.layers.Concatenate(name=name)([any_tensor(), any_tensor()])
            new = list(keras.ops.split(twice, 2, axis=1))
        else:
            new, name = [any_tensor() * 2.0 - any_tensor()], ""
        tensors += new
        names += [name] if name and name not in names else []
    early = tensors[random.integers(len(tensors))]
    joined = keras.layers.Concatenate(name="joined")([any_tensor(), any_tensor()])
    outputs = [keras.layers.Dense(2, name="end")(joined), early, any_tensor()][: random.integers(1, 4)]
    named = {f"out_{number}": tensor for number, tensor in enumerate(outputs)}
    model = keras.Model(inputs, [outputs, named, outputs[0]][random.integers(3)], name="drawn")
    there = {layer.name for layer in model.layers}
    return model, [name for name in names if name in there] or ["joined"]


@pytest.mark.parametrize("seed", range(25))
def test_stages_in_a_row_return_the_outputs_of_the_whole_model(seed: int) -> None:
    random = np.random.default_rng(seed)
    keras.backend.clear_session()
    model, names = random_model(random)
    inputs = [random.random((3, WIDTH), np.float32) for _ in model.inputs]
    splits = 0
    for count in (1, 2, 3):
        at = sorted(random.choice(names, min(count, len(names)), replace=False), key=names.index)
        try:
            assert_splits(model, at, inputs)
            splits += 1
        except ValueError as error:  # the layer leads to no output, or another call of a shared layer needs it
            if not re.search("empty|nothing is left|has no layer", str(error)):
                raise
    assert splits


@given(st.data())
@settings(max_examples=10, deadline=None, phases=[Phase.generate])
def test_models_of_the_zoo_can_be_cut_in_front_of_their_last_layers(data: st.DataObject) -> None:
    plan = data.draw(plans())
    model, inputs = plan.build(), tf.nest.map_structure(tf.convert_to_tensor, data.draw(inputs_for(plan)))
    hidden = [layer.name for layer in model.layers if isinstance(layer, keras.layers.Dense) and layer.units == 4]
    stages = split_model(model, hidden[-1:])
    half = plan.policy != "float32"
    for one, other in zip(
        tf.nest.flatten(compose(stages, inputs)), tf.nest.flatten(model(inputs, training=False)), strict=True
    ):
        assert one.dtype == other.dtype
        scale = float(tf.reduce_max(tf.abs(tf.cast(other, "float64")))) if half else 1.0
        if not half or one.dtype.is_floating:
            np.testing.assert_allclose(
                np.asarray(one, np.float64),
                np.asarray(other, np.float64),
                rtol=1e-2,
                atol=3e-2 * scale if half else 1e-5,
            )


def test_a_real_network_is_cut_at_several_layers() -> None:
    keras.utils.set_random_seed(2)
    model = keras.applications.MobileNetV2(weights=None, input_shape=(96, 96, 3), classes=10)
    images = np.random.default_rng(3).random((2, 96, 96, 3), np.float32)
    at = ["block_2_expand_relu", "block_5_project_BN", "block_13_expand", "global_average_pooling2d"]
    stages = assert_splits(model, at, images)
    assert set(stages[1].input) == {
        "block_2_expand_relu",
        "block_1_project_BN",
    }  # the second tensor skips the cut layer
    assert stages[4].layers[-1] is model.layers[-1]
    assert sum(stage.count_params() for stage in stages) == model.count_params()


# ---- Tensors that cross a cut ------------------------------------------------------------------------


def test_inputs_that_come_in_late_and_outputs_that_are_early_pass_by() -> None:
    a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b", dtype="int32")
    early = keras.layers.Dense(2, name="early")(a)
    middle = keras.layers.Dense(6, name="middle")(early)
    late = keras.layers.Add(name="late")([middle, keras.ops.cast(b, "float32")])
    model = keras.Model({"a": a, "b": b}, {"late": late, "early": early, "a_again": a})
    stages = assert_splits(model, ["early", "middle"], {"a": X, "b": np.ones((4, 6), np.int32)})
    assert list(stages[1].input) == ["a", "b", "early"]
    assert stages[1].input["b"].dtype == "int32"
    assert list(stages[2].input) == ["a", "b", "early", "middle"]


def test_a_sequential_model_is_cut_as_well() -> None:
    layers = [keras.layers.Dense(5, name=f"dense_{number}") for number in range(4)]
    model = keras.Sequential([keras.Input((6,)), *layers])
    stages = assert_splits(model, ["dense_0", "dense_2"], X)
    assert [[layer.name for layer in stage.layers[1:]] for stage in stages] == [
        ["dense_0"],
        ["dense_1", "dense_2"],
        ["dense_3"],
    ]
    assert stages[1].layers[1] is layers[1]
    assert_equal(split_model(model, [])[0](X), model(X))


def test_a_mask_crosses_beside_its_tensor() -> None:
    words = keras.Input((5,), dtype="int32", name="words")
    x = keras.layers.Embedding(11, 4, mask_zero=True, name="embedding")(words)
    x = keras.layers.Dense(3, name="dense")(x)
    model = keras.Model(words, keras.layers.LSTM(2, name="end")(keras.layers.LSTM(2, return_sequences=True)(x)))
    inputs = np.array([[1, 2, 0, 0, 0], [3, 4, 5, 6, 0], [7, 0, 0, 0, 0]], np.int32)
    for at in ("embedding", "dense"):
        stages = assert_splits(model, [at], inputs)
        assert at in stages[1].input


def test_a_layer_that_is_called_twice_is_cut_behind_its_last_call() -> None:
    shared, x = keras.layers.Dense(6, name="shared"), keras.Input((6,), name="x")
    first = shared(x)
    second = shared(keras.layers.Activation("relu", name="between")(first))
    model = keras.Model(x, keras.layers.Add(name="end")([first, second]))
    stages = assert_splits(model, ["shared"], X)
    assert list(stages[1].input) == ["shared_call1", "shared_call2"]
    stages = assert_splits(model, ["between", "shared"], X)
    assert shared in stages[0].layers
    assert shared in stages[1].layers


def test_long_names_are_shortened_to_the_length_of_a_fields_name() -> None:
    x = keras.Input((6,), name="x")
    one, other = (keras.layers.Dense(2, name="n" * 80 + end)(x) for end in "ab")
    model = keras.Model(x, keras.layers.Concatenate(name="both")([one, other]))
    stages = assert_splits(model, ["n" * 80 + "a"], X)
    assert all(len(name) <= 63 for name in stages[1].input)
    keras.backend.clear_session()


def test_splitting_leaves_the_model_as_it_was(tmp_path: Any) -> None:
    keras.utils.set_random_seed(1)
    x = keras.Input((6,), name="x")
    model = keras.Model(x, keras.layers.Dense(2, name="b")(keras.layers.Dense(3, name="a")(x)))
    before, config = model.predict(X, verbose=0), model.get_config()
    split_model(model, ["a"])
    assert model.get_config() == config
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "model.keras").predict(X, verbose=0), before)


# ---- Refused cuts ------------------------------------------------------------------------------------


def chain() -> Any:
    x = keras.Input((6,), name="x")
    y = keras.layers.Dense(3, name="first_dense")(x)
    inner = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, name="hidden")], name="inner")
    return keras.Model(x, keras.layers.Dense(3, name="third_dense")(inner(y)), name="chain")


@pytest.mark.parametrize(
    ("at", "message"),
    [
        (["frist_dense"], r"model 'chain' has no layer 'frist_dense'; there are 'first_dense'"),
        (["hidden"], r"'hidden' is inside 'inner'"),
        (["x"], r"'x' is an input"),
        (["third_dense"], r"nothing is left behind 'third_dense'"),
        (["inner", "first_dense"], r"'first_dense' behind 'inner' leaves that stage empty.*comes before it"),
        (["inner", "inner"], r"leaves that stage empty.*is there already"),
    ],
)
def test_a_cut_that_makes_no_sense_says_why(at: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_model(chain(), at)


class Subclassed(keras.Model):
    def call(self, x: Any) -> Any:
        return x


class Overridden(keras.Model):
    def predict_step(self, data: Any) -> Any:
        return super().predict_step(data) + 1


def test_a_model_that_is_not_made_of_layers_is_refused() -> None:
    x = keras.Input((6,))
    overridden = Overridden(x, keras.layers.Dense(3, name="a")(x))
    for model in (Subclassed(), keras.Sequential([keras.layers.Dense(2, name="a")]), overridden):
        with pytest.raises(ValueError, match="is not a functional model"):
            split_model(model, ["a"])
    with pytest.raises(TypeError, match="only a Keras model"):
        split_model(lambda x: x, ["a"])


def test_a_tensor_that_cannot_be_a_field_cannot_cross() -> None:
    x = keras.Input((None, 6), name="x")
    free = keras.Model(x, keras.layers.GlobalMaxPooling1D()(keras.layers.Dense(3, name="a")(x)))
    with pytest.raises(ValueError, match=r"'a' passes the cut at 'a' and is of shape \(None, None, 3\).*fixed shape"):
        split_model(free, ["a"])
    y = keras.Input((6,), name="y")
    with pytest.raises(ValueError, match="passes the cut"):
        split_model(keras.Model(y, keras.layers.Dense(2, name="end")(y) + keras.ops.sum(y)), ["sum"])
    many = [keras.layers.Dense(1, name=f"d{number}")(y) for number in range(70)]
    last = keras.layers.Concatenate(name="all")(many)
    wide = keras.Model(y, [keras.layers.Dense(1, name="end")(last), *many])
    with pytest.raises(ValueError, match=r"tensors that pass the cut at 'all' are not a record.*64 fields"):
        split_model(wide, ["all"])
