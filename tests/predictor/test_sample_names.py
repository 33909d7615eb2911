"""Samples with names, for models that say no shapes: each input by its name, and what is too much left out."""

from __future__ import annotations

import collections
import re
from typing import Any

import numpy as np
import pytest
from preprocessing import MORE, InOrder, Reversed, WithMore

import ringfeed
import ringfeed.tf.models.runner

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")


def two(a: Any, b: Any) -> Any:
    return a * 10 + b


def with_an_option(a: Any, b: Any, scale: Any = 1.0) -> Any:
    return (a * 10 + b) * scale


def by_keyword(a: Any, *, b: Any) -> Any:
    return a * 10 + b


def of_inputs(inputs: Any, args_0: Any) -> Any:
    """A named tuple with names like those that TensorFlow generates."""
    return inputs * 10 + args_0


def predicted(model: Any, function: Any, workers: int, count: int = 3, **options: Any) -> Any:
    with ringfeed.Predictor(model, preprocess=function, workers=workers, batch_size=2, **options) as predictor:
        outputs = predictor.predict(range(count), verbose=0)
        assert predictor.failures == []
        return np.asarray(outputs).tolist()


@pytest.mark.parametrize(("more", "workers"), [*((more, 0) for more in MORE), ("text", 1), ("of varying length", 1)])
def test_more_keys_than_a_function_has_arguments_are_left_out(more: str, workers: int) -> None:
    def function(i: int) -> Any:
        return {**MORE[more](i), "b": np.float32(i), "a": np.float32(i + 1)}

    assert predicted(two, function, workers) == [10, 21, 32]


@pytest.mark.parametrize("model", [two, tf.function(two), by_keyword, with_an_option])
def test_functions_of_every_form_take_a_mapping_by_the_names_of_their_arguments(model: Any) -> None:
    def function(i: int) -> Any:
        return collections.UserDict({"path": "x", "b": np.float32(i), "a": np.float32(i + 1)})

    assert predicted(model, function, 0) == [10, 21, 32]


def test_an_argument_that_may_be_left_out_is_taken_where_the_sample_has_it() -> None:
    def function(i: int) -> Any:
        return {"path": "x", "scale": np.float32(2), "b": np.float32(i), "a": np.float32(i + 1)}

    assert predicted(with_an_option, function, 0) == [20, 42, 64]


def test_any_names_of_arguments_count() -> None:
    def function(i: int) -> Any:
        return {"args_0": np.float32(i), "path": "x", "inputs": np.float32(i + 1)}

    assert predicted(of_inputs, function, 0) == [10, 21, 32]


def test_a_function_of_one_argument_takes_the_key_of_its_name_else_the_whole_mapping() -> None:
    assert predicted(lambda a: a, lambda i: {"path": "x", "a": np.float32(i)}, 0) == [0, 1, 2]
    assert predicted(lambda x: x["a"] - x["b"], lambda i: {"b": np.float32(1), "a": np.float32(i)}, 0) == [-1, 0, 1]


@pytest.mark.parametrize(("kind", "workers"), [(Reversed, 0), (InOrder, 0), (WithMore, 0), (WithMore, 1)])
def test_named_tuples_are_taken_by_name_where_they_have_all_names(kind: Any, workers: int) -> None:
    def function(i: int) -> Any:
        values = {"a": np.float32([i + 1]), "b": np.float32([i]), "path": "x"}
        return kind(**{name: values[name] for name in kind._fields})

    a, b = keras.Input((1,), name="a"), keras.Input((1,), name="b")
    declared = tf.function(two, input_signature=[tf.TensorSpec([None, 1]), tf.TensorSpec([None, 1])])
    for model in (two, keras.Model([b, a], a * 10 + b), declared):
        assert np.ravel(predicted(model, function, workers)).tolist() == [10, 21, 32]


def test_in_memory_a_function_takes_a_named_tuple_by_name_too() -> None:
    a, b = np.float32([[1], [2]]), np.float32([[3], [4]])
    declared = tf.function(two, input_signature=[tf.TensorSpec([None, 1]), tf.TensorSpec([None, 1])])
    for model in (two, declared):
        runner = ringfeed.tf.models.runner.ModelRunner(model)
        assert runner(Reversed(a=a, b=b)).tolist() == [[13], [24]]
        assert runner((a, b)).tolist() == [[13], [24]]


def test_named_tuples_whose_parts_are_in_another_order_than_those_of_the_first_fail_by_name() -> None:
    def function(i: int) -> Any:
        return (Reversed if i else InOrder)(a=np.float32(i), b=np.float32(i))

    with ringfeed.Predictor(lambda x: x[0], preprocess=function, workers=0, on_error="return") as predictor:
        good, bad = predictor.predict(range(2), verbose=0)
    assert good == 0
    assert isinstance(bad, ringfeed.SampleMismatch)
    assert "same structure" in str(bad)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"a": 1.0, "x": 2.0}, r"arguments a, b; .*2 values \(a, x\)"),
        ({"a": 1.0}, r"arguments a, b; .*1 values \(a\)"),
        (np.ones(3), "arguments a, b"),
        ((1.0, 2.0, 3.0), "arguments a, b; .*3 values"),
        (Reversed(1.0, "text"), "text"),
    ],
)
@pytest.mark.parametrize("workers", [0])
def test_a_first_sample_without_the_arguments_names_fails_alone(wrong: Any, said: str, workers: int) -> None:
    def function(i: int) -> Any:
        return wrong if i == 0 else {"a": np.float32(1), "b": np.float32(i)}

    with ringfeed.Predictor(two, preprocess=function, workers=workers, on_error="return") as predictor:
        bad, *good = predictor.predict(range(3), verbose=0)
    assert isinstance(bad, ringfeed.SampleMismatch)
    assert re.search(said, str(bad))
    assert good == [11, 12]


def test_a_declared_function_whose_ranks_are_free_leaves_out_more_keys_too() -> None:
    declared = tf.function(two, input_signature=[tf.TensorSpec(None), tf.TensorSpec(None)])

    def function(i: int) -> Any:
        return {"path": "x", "b": np.float32(i), "a": np.float32(i + 1)}

    assert predicted(declared, function, 0) == [10, 21, 32]


def test_a_subclassed_model_gets_all_keys_because_it_declares_no_inputs() -> None:
    class Model(keras.Model):
        def call(self, x: Any) -> Any:
            return x["a"] * 10 + x["b"]

    def function(i: int) -> Any:
        return {"b": np.float32([i]), "c": np.float32([7]), "a": np.float32([i + 1])}

    assert predicted(Model(), function, 0) == [[10], [21], [32]]


def numbered(*dtypes: str, names: tuple[str, str] = ("input_1", "input_2")) -> Any:
    """Return a model whose inputs have names as in Keras 2. The first takes 2 numbers, the second 3."""
    first, second = (
        keras.Input((length,), name=name, dtype=dtype)
        for length, name, dtype in zip((2, 3), names, dtypes, strict=True)
    )
    outputs = keras.layers.Concatenate()([keras.ops.cast(first, "float32"), keras.ops.cast(second, "float32")])
    return keras.Model([first, second], outputs)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("names", [("input_1", "input_2"), ("input_1", "mask"), ("mask", "input_1")])
def test_inputs_with_numbers_for_names_are_checked_and_cast_by_name_as_in_keras(
    names: tuple[str, str], workers: int
) -> None:
    model = numbered("float16", "float32", names=names)

    def function(i: int) -> Any:
        return {names[1]: np.float64([1.0001, 2, i]), names[0]: np.float64([3, i])}

    batch = {name: np.stack([function(i)[name] for i in range(3)]) for name in names}
    expected = model.predict(batch, verbose=0)
    assert expected[0, 2] == np.float32(1.0001)
    np.testing.assert_array_equal(predicted(model, function, workers), expected)


def test_inputs_without_names_are_asked_for_by_those_of_their_layers() -> None:
    first, second = keras.Input((1,)), keras.Input((1,))
    model = keras.Model([first, second], first * 10 - second)
    names = [layer.name for layer in model.layers[:2]]

    def function(i: int) -> Any:
        return {names[1]: np.float32([i]), "more": "text", names[0]: np.float32([1])}

    assert predicted(model, function, 0) == [[10], [9], [8]]
    wrong = {"a": np.float32([1]), "b": np.float32([2])}
    with (
        ringfeed.Predictor(model, preprocess=lambda i: wrong, workers=0) as predictor,
        pytest.raises(ringfeed.SampleMismatch, match=rf"2 inputs \({names[0]}, {names[1]}\).*\(a, b\)"),
    ):
        predictor.predict([0], verbose=0)
    assert predicted(model, lambda i: (np.float32([1]), np.float32([i])), 0) == [[10], [9], [8]]


def test_inputs_of_one_name_are_taken_by_those_of_the_arguments_else_in_a_tuple() -> None:
    specs = [tf.TensorSpec([None, 1], name="x")] * 2
    declared = tf.function(two, input_signature=specs)
    listed = tf.function(lambda pair: two(*pair), input_signature=[specs])

    def function(i: int) -> Any:
        return {"b": np.float32([i]), "a": np.float32([i + 1])}

    assert predicted(declared, function, 0) == [[10], [21], [32]]
    assert predicted(listed, lambda i: (np.float32([i + 1]), np.float32([i])), 0) == [[10], [21], [32]]
    with (
        ringfeed.Predictor(listed, preprocess=lambda i: {"x": [1.0], "y": [2.0]}, workers=0) as predictor,
        pytest.raises(ringfeed.SampleMismatch, match=r"several inputs.*'x'.*tuple"),
    ):
        predictor.predict([0], verbose=0)


def test_a_saved_model_whose_names_were_lost_takes_samples_in_the_order_of_their_keys_alone(tmp_path: Any) -> None:
    a, b = keras.Input((1,), name="a"), keras.Input((1,), name="b")
    tf.saved_model.save(keras.Model({"a": a, "b": b}, a * 10 + b), str(tmp_path))

    def function(i: int) -> Any:
        return {"a": np.float32([i + 1]), "b": np.float32([i])}

    outputs = np.ravel(predicted(str(tmp_path), function, 0))
    assert outputs.tolist() == [10, 21, 32]
    with (
        ringfeed.Predictor(str(tmp_path), preprocess=lambda i: dict([*function(i).items()][::-1]), workers=0) as other,
        pytest.raises(ringfeed.SampleMismatch, match=r"2 inputs \(inputs, inputs_1\).*\(b, a\)"),
    ):
        other.predict([0], verbose=0)
