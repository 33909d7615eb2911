"""First items that a model without declared inputs does not take: the error belongs to that item alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from preprocessing import given

import ringfeed

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

PICTURE = np.full((8, 8, 3), 2, np.float32)
KERNEL = np.ones((3, 3, 3, 2), np.float32)
FIRST = {
    "grey": np.ones((8, 8), np.float32),
    "RGBA": np.ones((8, 8, 4), np.float32),
    "too small": np.ones((1, 1, 3), np.float32),
    "a number": np.float32(3),
    "two pictures": np.ones((2, 8, 8, 3), np.float32),
    "of a dtype that it does not take": np.ones((8, 8, 3), np.complex64),
    "a dict": {"picture": np.ones((8, 8, 3), np.float32)},
}


class Convolution(keras.Model):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.convolution = keras.layers.Conv2D(2, 3, kernel_initializer="ones")

        self(PICTURE[np.newaxis])

    def call(self, pictures: Any) -> Any:
        return tf.reduce_mean(self.convolution(pictures), (1, 2))


def eager() -> Any:
    model = Convolution()
    model.compile(run_eagerly=True)
    return model


def convolution(pictures: Any) -> Any:
    return tf.reduce_mean(tf.nn.conv2d(pictures, KERNEL, 1, "VALID"), (1, 2))


def functional() -> Any:
    pictures = keras.Input((None, None, 3))
    return keras.Model(pictures, keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(2, 3)(pictures)))


MODELS: dict[str, Callable[[], Any]] = {
    "subclassed": Convolution,
    "eager": eager,
    "a callable": lambda: convolution,
    "a tf.function": lambda: tf.function(convolution),
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_first_item_that_the_model_does_not_take_fails_alone(kind: str) -> None:
    with ringfeed.Predictor(MODELS[kind](), preprocess=given, workers=0, batch_size=2, on_error="skip") as predictor:
        for name, first in FIRST.items():
            if name == "two pictures" and kind in (
                "a callable",
                "a tf.function",
            ):  # tf.nn.conv2d takes any batch of them
                continue
            assert predictor.predict([first, PICTURE, PICTURE], verbose=0).shape == (2, 2), name
            assert [failure.index for failure in predictor.failures] == [0], name
            assert predictor.predict([PICTURE] * 3, verbose=0).tolist() == [[54, 54]] * 3
            assert predictor.failures == []
            assert predictor.predict([first], verbose=0).shape == (0, 2), name
            streamed = dict(predictor.stream(iter([first, PICTURE, first, PICTURE])))
            assert sorted(streamed) == [1, 3], name


@pytest.mark.parametrize("kind", ["subclassed", "a callable"])
def test_with_workers_a_first_item_that_the_model_does_not_take_fails_alone(kind: str) -> None:
    with ringfeed.Predictor(MODELS[kind](), preprocess=given, workers=1, batch_size=2, on_error="skip") as predictor:
        for name in ("grey", "RGBA", "too small"):
            first = FIRST[name]
            for items in ([first, PICTURE, PICTURE], iter([first, first, PICTURE, PICTURE])):
                assert predictor.predict(items, verbose=0).tolist() == [[54, 54]] * 2
                assert {failure.index for failure in predictor.failures} <= {0, 1}
            assert predictor.predict([PICTURE] * 3, verbose=0).tolist() == [[54, 54]] * 3
            assert predictor.predict([first], verbose=0).shape == (0, 2)
            assert sorted(dict(predictor.stream([first, PICTURE, first, PICTURE]))) == [1, 3]


def test_a_model_of_free_axes_refuses_only_a_picture_that_is_too_small() -> None:
    with ringfeed.Predictor(functional(), preprocess=given, workers=0, on_error="return") as predictor:
        for _ in range(2):
            small, *good = predictor.predict([FIRST["too small"], PICTURE, PICTURE], verbose=0)
            assert isinstance(small, ringfeed.ModelError)
            assert (small.index, len(good)) == (0, 2)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_structure_that_a_model_of_named_inputs_does_not_take_is_the_first_items_error(workers: int) -> None:
    a, b = keras.Input((1,), name="a"), keras.Input((1,), name="b")
    model = keras.Model({"k2": a, "k1": b}, a * 10 + b)
    one, two = np.float32([1]), np.float32([2])
    with ringfeed.Predictor(model, preprocess=given, workers=workers, on_error="skip") as predictor:
        for _ in range(2):
            assert predictor.predict([(one, two), {"k1": two, "k2": one}], verbose=0).tolist() == [[12]]
            assert [failure.index for failure in predictor.failures] == [0]


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_in_the_place_of_results_contain_the_error_of_the_model(workers: int) -> None:
    with ringfeed.Predictor(Convolution(), preprocess=given, workers=workers, on_error="return") as predictor:
        items = [FIRST["RGBA"], FIRST["grey"], PICTURE, FIRST["RGBA"]]
        four, grey, good, other = predictor.predict(items, verbose=0)
    assert good.tolist() == [54, 54]
    for index, error, said in ((0, four, "axis -1"), (1, grey, "ndim")):
        assert isinstance(error, ringfeed.ModelError)
        assert isinstance(error, ValueError)
        assert error.index == index
        assert f"item {index} " in str(error)
        assert said in str(error.__cause__)
    assert isinstance(other, ringfeed.SampleMismatch)


@pytest.mark.parametrize("workers", [0, 1])
def test_where_errors_are_raised_the_error_of_the_first_item_is_raised(workers: int) -> None:
    with ringfeed.Predictor(Convolution(), preprocess=given, workers=workers) as predictor:
        with pytest.raises(ValueError, match="axis -1"):
            predictor.predict([FIRST["RGBA"], PICTURE], verbose=0)
        assert predictor.predict([PICTURE], verbose=0).tolist() == [[54, 54]]
        with pytest.raises(ringfeed.ModelError, match="item 0 ") as caught:
            predictor.predict([FIRST["RGBA"], PICTURE], verbose=0)
        assert caught.value.index == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_numbers_that_do_not_fill_whole_rows_are_the_first_items_error(workers: int) -> None:
    with ringfeed.Predictor(
        lambda x: tf.reshape(x, (-1, 12)), preprocess=given, workers=workers, on_error="skip"
    ) as predictor:
        for first in (np.ones((2, 2), np.float32), np.ones((4, 3, 2), np.float32), np.ones(7, np.float32)):
            good = np.ones((2, 2, 3), np.float32)
            assert predictor.predict([first, good, good], verbose=0).shape == (2, 12)
            assert [failure.index for failure in predictor.failures] == [0]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("shapes", [[(3,)], [(3,), (4,), (5, 2)]])
def test_a_model_that_refuses_every_item_is_reported_and_not_run_for_each(workers: int, shapes: Any) -> None:
    runs = []

    @tf.function
    def broken(x: Any) -> Any:
        runs.append(1)
        raise ValueError("broken model")

    items = [np.ones(shapes[number % len(shapes)], np.float32) for number in range(60)]
    with ringfeed.Predictor(broken, preprocess=given, workers=workers, on_error="skip") as predictor:
        for form in (items, iter(items)):
            runs.clear()
            with pytest.raises(ValueError, match="broken model"):
                predictor.predict(form, verbose=0)
            assert predictor.failures == []
            assert len(runs) <= 8 * len(shapes)


def test_an_endless_stream_into_a_model_that_refuses_every_item_ends() -> None:
    def items() -> Any:
        length = 0
        while True:
            length += 1
            yield np.ones(length, np.float32)

    @tf.function
    def broken(x: Any) -> Any:
        raise ValueError("broken model")

    with ringfeed.Predictor(broken, preprocess=given, workers=0, on_error="skip") as predictor:
        with pytest.raises(ValueError, match="broken model"):
            next(predictor.stream(items()))
        with pytest.raises(ValueError, match="broken model"):
            next(predictor.stream(itertools.repeat(np.ones(3, np.float32))))


def test_many_first_items_that_do_not_fit_are_skipped_one_by_one() -> None:
    with ringfeed.Predictor(Convolution(), preprocess=given, workers=0, on_error="skip") as predictor:
        outputs = predictor.predict([FIRST["grey"]] * 200 + [PICTURE] * 3, verbose=0)
        assert outputs.tolist() == [[54, 54]] * 3
        assert [failure.index for failure in predictor.failures] == list(range(200))


def test_a_stateful_model_is_not_run_once_more() -> None:
    count = tf.Variable(0)

    @tf.function
    def counting(x: Any) -> Any:
        count.assign_add(tf.shape(x)[0])
        return x

    with ringfeed.Predictor(counting, preprocess=given, workers=0) as predictor:
        predictor.predict(np.ones((5, 3)), verbose=0)
    assert int(count) == 5


@pytest.mark.parametrize("workers", [0, 1])
def test_a_deferred_first_item_is_reported_where_the_model_raises_over_many_later_rows(workers: int) -> None:
    singular, good = np.zeros((3, 3), np.float32), np.eye(3, dtype=np.float32)
    items = [np.ones((3, 2), np.float32), *[singular] * 130, *[good] * 3]
    with ringfeed.Predictor(tf.linalg.inv, preprocess=given, workers=workers, on_error="skip") as predictor:
        for form in (items, iter(items)):
            np.testing.assert_array_equal(predictor.predict(form, verbose=0), [good] * 3)
            assert sorted(failure.index for failure in predictor.failures) == list(range(131))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_model_that_refuses_every_item_keeps_its_cause(workers: int) -> None:
    @tf.function(autograph=False)
    def broken(x: Any) -> Any:
        try:
            raise KeyError("the reason")
        except KeyError as reason:
            raise ValueError("broken model") from reason

    tf.debugging.disable_traceback_filtering()  # this removes the cause
    try:
        with ringfeed.Predictor(broken, preprocess=given, workers=workers) as predictor:
            with pytest.raises(ValueError, match="broken model") as caught:
                predictor.predict(np.ones((3, 2), np.float32), verbose=0)
            assert isinstance(caught.value.__cause__, KeyError)
    finally:
        tf.debugging.enable_traceback_filtering()


STRUCTURES: dict[str, Callable[[Any], Any]] = {
    "an array": lambda x: x,
    "a tuple": lambda x: (x,),
    "a dict": lambda x: {"x": x},
    "a dict with more": lambda x: {"label": "text", "x": x},
}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("spec", [((3,), "float32"), {"x": ((3,), "float32")}], ids=["an array", "a dict"])
def test_where_a_spec_gives_the_input_the_structure_of_an_earlier_call_does_not_count(workers: int, spec: Any) -> None:
    inputs = keras.Input((3,), name="x")
    model = keras.Model(inputs, inputs * 2)
    structures = {name: make for name, make in STRUCTURES.items() if isinstance(spec, dict) or "more" not in name}
    rows = np.float32([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    with ringfeed.Predictor(model, preprocess=given, workers=workers, sample_spec=spec) as predictor:
        for make in [*structures.values(), *reversed(structures.values())]:
            np.testing.assert_array_equal(predictor.predict([make(row) for row in rows], verbose=0), rows * 2)
    with ringfeed.Predictor(model, preprocess=given, workers=workers, sample_spec=spec, on_error="return") as predictor:
        predictor.predict(rows, verbose=0)
        bad = [(row, row) for row in rows]
        for error in predictor.predict(bad, verbose=0):
            assert isinstance(error, ringfeed.SampleMismatch)
            assert "preprocess returned 2 arrays" in str(error)


@pytest.mark.parametrize("workers", [0, 1])
def test_where_a_spec_gives_several_inputs_each_call_has_the_structure_of_its_first_item(workers: int) -> None:
    a, b = keras.Input((1,), name="a"), keras.Input((1,), name="b")
    model = keras.Model({"a": a, "b": b}, a * 10 + b)
    spec = {"a": ((1,), "float32"), "b": ((1,), "float32")}
    one, two = np.float32([1]), np.float32([2])
    with ringfeed.Predictor(model, preprocess=given, workers=workers, sample_spec=spec) as predictor:
        for item in ({"a": one, "b": two}, (one, two), {"b": two, "a": one}, {"b": two, "c": "text", "a": one}):
            assert predictor.predict([item] * 3, verbose=0).tolist() == [[12]] * 3


class Counting(keras.Model):
    """A model that returns the number of its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.compile(run_eagerly=True)

    def call(self, rows: Any) -> Any:
        self.calls += 1
        return tf.fill((tf.shape(rows)[0],), self.calls)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("count", "batch_size", "options"),
    [(3, 1, {}), (1, 32, {}), (4, 2, {"sample_spec": ((3,), "float32")})],
    ids=["batches of one", "one item", "a spec"],
)
def test_an_eager_model_is_called_as_often_as_by_keras_where_the_first_batch_is_one_row_or_a_spec_is_given(
    workers: int, count: int, batch_size: int, options: Any
) -> None:
    rows = np.ones((count, 3), np.float32)
    expected = Counting().predict(rows, batch_size=batch_size, verbose=0).tolist()
    with ringfeed.Predictor(Counting(), given, workers, batch_size, **options) as predictor:
        assert predictor.predict(rows, verbose=0).tolist() == expected
        again = [calls + expected[-1] for calls in expected]
        assert predictor.predict(rows, verbose=0).tolist() == again


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_calls_an_eager_model_once_for_its_first_item(workers: int) -> None:
    with ringfeed.Predictor(Counting(), given, workers) as predictor:
        assert int(next(predictor.stream([np.ones(3, np.float32)] * 3))[1]) == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_an_item_whose_keys_are_not_text_fails_alone(workers: int) -> None:
    def difference(a: Any, b: Any) -> Any:
        return a - b

    def by_name(item: int) -> Any:
        return {0: np.float32([item])} if item % 2 else {"a": np.float32([item]), "b": np.float32([1])}

    with ringfeed.Predictor(difference, preprocess=by_name, workers=workers, on_error="return") as predictor:
        results = predictor.predict([1, 2, 3, 4], verbose=0)
    assert isinstance(results[0], Exception)
    assert "(0)" in str(results[0])
    assert isinstance(results[2], Exception)
    assert [results[1].tolist(), results[3].tolist()] == [[1], [3]]


@pytest.mark.parametrize("workers", [0, 1])
def test_for_a_model_that_declares_one_input_each_item_may_have_its_own_structure(workers: int) -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Identity()])

    def in_many_ways(item: int) -> Any:
        array = np.full(2, item, np.float32)
        return [{"a": array}, array, (array,), [array]][item % 4]

    with ringfeed.Predictor(model, preprocess=in_many_ways, workers=workers) as predictor:
        for first in range(4):
            assert predictor.predict(list(range(first, first + 6)), verbose=0)[:, 0].tolist() == [
                *range(first, first + 6)
            ]


def test_the_inputs_of_a_nest_are_named_by_their_paths() -> None:
    a, b = keras.Input((1,), name="a"), keras.Input((1,), name="b")
    model = keras.Model({"q": [a, b]}, keras.layers.Subtract()([a, b]))

    def nested(item: int) -> Any:
        return {"q": {"b": np.float32([1]), "a": np.float32([item]), "c": np.float32([0])}}

    with (
        ringfeed.Predictor(model, preprocess=nested, workers=0) as predictor,
        pytest.raises(ringfeed.RingFeedError, match=r"q\[0\], q\[1\].*q\.b, q\.a, q\.c"),
    ):
        predictor.predict([1, 2], verbose=0)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_empty_result_has_the_output_shapes_of_a_model_without_declared_inputs(workers: int) -> None:
    class Refuses(keras.Model):
        def call(self, rows: Any) -> Any:
            tf.debugging.assert_less(rows, 0.0)
            return {"twice": rows * 2, "first": rows[:, :1]}

    def pair(item: int) -> Any:
        return np.full(2, item, np.float32)

    with ringfeed.Predictor(Refuses(), preprocess=pair, workers=workers, on_error="skip") as predictor:
        result = predictor.predict(list(range(10)), verbose=0)
        assert len(predictor.failures) == 10
    assert {name: array.shape for name, array in result.items()} == {"twice": (0, 2), "first": (0, 1)}
