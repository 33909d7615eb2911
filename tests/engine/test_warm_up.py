"""Models that cannot run on rows of zeros are tried on rows that the user gives."""

from __future__ import annotations

import collections
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import ringfeed
from ringfeed.tf import TAGS, fuse, why_not_native

MATRIX = ((2, 2), "float32")
MATRICES = np.float32([[[1, 2], [3, 4]], [[2, 0], [0, 4]], [[0, 1], [1, 0]], [[5, 1], [2, 2]]])
INVERSES = np.linalg.inv(MATRICES)
WORD = ((), "int32")


def inverse(matrix: Any) -> Any:
    return tf.linalg.inv(matrix)


def checked(matrix: Any) -> Any:
    return tf.debugging.check_numerics(1 / tf.linalg.det(matrix), "not a number")[:, tf.newaxis]


def embedded(word: Any) -> Any:
    """Look up words, numbered from 1."""
    with tf.device("/CPU:0"):  # a GPU returns zeros for indices out of range
        return tf.gather(tf.constant([[1.0, 2.0], [3.0, 4.0]]), word - 1)


def in_python(matrix: Any) -> Any:
    def look(values: Any) -> Any:
        if not values.numpy().any():
            raise ValueError("zeros make no sense")
        return values * 2

    return tf.ensure_shape(tf.py_function(look, [matrix], tf.float32), (None, 2, 2))


def keras_inverse() -> keras.Model:
    class Inverse(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return tf.cast(tf.linalg.inv(tf.cast(x, tf.float32)), x.dtype)

    matrix = keras.Input((2, 2), name="matrix")
    x = Inverse()(matrix)
    return keras.Model(matrix, keras.layers.Dense(2, kernel_initializer="identity")(x))


CANNOT_TAKE_ZEROS = {
    "inverse": (inverse, {"matrix": MATRIX}, {"matrix": MATRICES}, INVERSES),
    "check_numerics": (checked, {"matrix": MATRIX}, {"matrix": MATRICES}, 1 / np.linalg.det(MATRICES)[:, None]),
    "embedding": (embedded, {"word": WORD}, {"word": np.int32([2, 1, 1, 2])}, [[3, 4], [1, 2], [1, 2], [3, 4]]),
    "Python code": (in_python, {"matrix": MATRIX}, {"matrix": MATRICES}, MATRICES * 2),
    "Keras": (keras_inverse(), {"matrix": MATRIX}, {"matrix": MATRICES}, INVERSES),
}


@pytest.fixture(params=CANNOT_TAKE_ZEROS)
def case(request: Any) -> Any:
    return CANNOT_TAKE_ZEROS[request.param]


def serve_and_ask(case: Any, **options: Any) -> None:
    model, fields, rows, expected = case
    with (
        ringfeed.Ring.create(None, fields, 16) as ring,
        ringfeed.Engine(ring, model, linger=0.0, **options),
        ringfeed.Client(ring) as client,
    ):
        answers = (
            client.predict(dict(rows))
            if fields != {"word": WORD}
            else np.array([client.predict({"word": word}) for word in rows["word"]])
        )
        np.testing.assert_allclose(answers, expected, rtol=2e-2 if "precision" in options else 1e-5)


def test_without_warm_up_it_is_an_error_that_names_it(case: Any, make_ring: Any) -> None:
    model, fields, _, _ = case
    ring = make_ring(fields, slots=16)
    for options in ({}, {"batch_size": "auto"}, {"allowed_batch_sizes": [4]}):
        with pytest.raises(ValueError, match=r"fails on rows of zeros.*give rows as warm_up=.*The error was"):
            ringfeed.Engine(ring, model, **options).start()
    with pytest.raises(ValueError, match=r"fails on rows of zeros.*give rows as warm_up="):
        ringfeed.Pipeline([model, lambda x: x], ring=ring)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_size": "auto"},
        {"allowed_batch_sizes": [1, 4]},
        {"strategy": tf.distribute.OneDeviceStrategy("CPU:0")},
    ],
    ids=["plain", "auto", "padded", "strategy"],
)
def test_with_rows_it_is_served(case: Any, options: Any) -> None:
    serve_and_ask(case, warm_up=case[2], **options)


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_a_copy_in_another_precision_is_served_too(precision: str) -> None:
    serve_and_ask(CANNOT_TAKE_ZEROS["Keras"], warm_up={"matrix": MATRICES}, precision=precision)


@pytest.mark.parametrize(
    "warm_up",
    [
        MATRICES,
        MATRICES[:1].tolist(),
        tf.constant(MATRICES),
        {"input of the model": MATRICES},
        collections.UserDict(matrix=MATRICES.astype(np.float64), more=None),
        (MATRICES,),
    ],
    ids=["array", "list", "tensor", "another name", "any mapping", "tuple"],
)
def test_the_only_field_may_be_given_in_many_ways(warm_up: Any) -> None:
    serve_and_ask(CANNOT_TAKE_ZEROS["inverse"], warm_up=warm_up)


def weighted(matrix: Any, weight: Any) -> Any:
    return tf.linalg.inv(matrix * weight[:, None, None])


@pytest.mark.parametrize(
    "warm_up",
    [
        {"weight": [2.0, 3.0], "unused": None, "matrix": MATRICES[:2]},
        (MATRICES[:2], [2.0, 3.0]),
        [MATRICES[:2], np.float32([2, 3])],
    ],
    ids=["fields", "tuple of inputs", "list of inputs"],
)
def test_several_fields_are_given_by_name_or_as_the_models_inputs(make_ring: Any, warm_up: Any) -> None:
    ring = make_ring({"unused": ((), "int64"), "weight": ((), "float32"), "matrix": MATRIX}, slots=16)
    with (
        ringfeed.Engine(ring, weighted, linger=0.0, warm_up=warm_up, allowed_batch_sizes=[4]),
        ringfeed.Client(ring) as client,
    ):
        answer = client.predict(
            {"unused": np.zeros(4, np.int64), "weight": np.float32([1, 2, 4, 8]), "matrix": MATRICES}
        )
        np.testing.assert_allclose(answer, INVERSES / np.float32([1, 2, 4, 8])[:, None, None], rtol=1e-5)


def test_warm_up_covers_padded_fields_and_tags(make_ring: Any) -> None:
    ring = make_ring({"matrix": ((3, 2, 2), "float32")}, slots=16)  # 48 of 64 bytes

    def model(given: Any) -> Any:
        return tf.linalg.inv(given["matrix"]) + tf.cast(given["tag"], tf.float32)[:, None, None, None]

    rows = np.stack([MATRICES[:3], MATRICES[1:]])
    structure = {"matrix": "matrix", "tag": TAGS}
    with (
        ringfeed.Engine(ring, model, linger=0.0, structure=structure, warm_up={"matrix": rows}),
        ringfeed.Client(ring) as client,
    ):
        np.testing.assert_allclose(client.predict({"matrix": rows[1]}, tag=7), np.linalg.inv(rows[1]) + 7, rtol=1e-5)


def test_each_stage_is_tried_on_what_the_one_before_makes(make_ring: Any) -> None:
    def shifted(matrix: Any) -> Any:
        return {"low": matrix - 1, "high": matrix + 1}

    def of_differences(low: Any, high: Any) -> Any:  # a matrix of zeros has no inverse, nor has the difference of these
        return tf.linalg.inv(high + low)

    ring = make_ring({"matrix": MATRIX}, slots=16)
    stages = [shifted, of_differences, inverse]
    with pytest.raises(ValueError, match=r"stage 1 .*fails on rows of zeros.*warm_up="):
        ringfeed.Pipeline(stages, ring=ring)
    with ringfeed.Pipeline(stages, ring=ring, warm_up={"matrix": MATRICES}, allowed_batch_sizes=[4]) as pipeline:
        np.testing.assert_allclose(pipeline.predict({"matrix": MATRICES}), 2 * MATRICES, rtol=1e-4, atol=1e-5)


def mixes(matrix: Any) -> Any:
    return tf.linalg.inv(matrix) - tf.reduce_mean(matrix, axis=0)


def test_whether_rows_are_mixed_is_found_out_on_the_rows_that_are_given(make_ring: Any) -> None:
    ring = make_ring({"matrix": MATRIX}, slots=16)
    options = {"allowed_batch_sizes": [4], "warm_up": MATRICES}
    with pytest.raises(ValueError, match=r"mixes rows: its result for rows 0 to 1 changes"):
        ringfeed.Engine(ring, mixes, **options).start()
    with pytest.raises(ValueError, match=r"one row of warm_up cannot show the contrary; give at least two"):
        ringfeed.Engine(ring, inverse, **{**options, "warm_up": MATRICES[:1]}).start()
    ringfeed.Engine(ring, mixes, allow_row_mixing=True, **options).start().stop()


@pytest.mark.skipif(why_not_native() is not None, reason=f"no op: {why_not_native()}")
def test_a_fused_model_is_asked_about_padding_on_the_rows_that_are_given(make_ring: Any) -> None:
    ring = make_ring({"word": ((4,), "int32")}, slots=16)

    def model(word: Any) -> Any:
        with tf.control_dependencies([tf.debugging.assert_positive(word)]):
            return embedded(word)

    with pytest.raises(ValueError, match="warm_up="):
        fuse(ring, model, 4, pad="ring")
    with pytest.raises(ValueError, match="fails on the rows of warm_up"):
        fuse(ring, model, 4, pad="ring", warm_up=np.int32([[1, 2, 0, 1], [2, 2, 1, 1]]))
    fused = fuse(ring, lambda word: embedded(tf.maximum(word, 1)), 4, pad="ring", warm_up=np.int32([[1] * 4, [2] * 4]))
    ring.put({"word": np.int32([1, 2, 1, 2])})
    assert fused().numpy().tolist() == [[[1, 2], [3, 4], [1, 2], [3, 4]]]


class Raises:
    def __array__(self, *arguments: Any, **options: Any) -> Any:
        raise RuntimeError("not now")


@pytest.mark.parametrize(
    ("warm_up", "message"),
    [
        (np.zeros((2, 2, 2), np.float32), "fails on the rows of warm_up"),
        (np.ones((2, 3), np.float32), r"'matrix' has shape \[2, 3\]: give rows of shape \[2, 2\]"),
        (MATRICES[0], r"'matrix' has shape \[2, 2\]: give rows"),
        (MATRICES[:0], "for each field, at least 1"),
        ({"matrix": MATRICES, "weight": [1.0]}, None),
        (
            {"weight": MATRICES, "more": MATRICES},
            "has the keys 'weight', 'more': give a dict of the fields 'matrix'",
        ),
        (np.full((1, 2, 2), 1e39), "'matrix' has dtype float64, with values that float32 cannot hold"),
        ([["a", "b"]], "'matrix' has shape"),
        (Raises(), "'matrix' is not an array: RuntimeError: not now"),
    ],
    ids=["fails", "shape", "no rows", "none", "more", "names", "narrow", "texts", "raises"],
)
def test_rows_that_do_not_fit_are_named(make_ring: Any, warm_up: Any, message: str | None) -> None:
    ring = make_ring({"matrix": MATRIX}, slots=16)
    if message is None:
        ringfeed.Engine(ring, inverse, warm_up=warm_up).start().stop()
        return
    with pytest.raises(ValueError, match=message):
        ringfeed.Engine(ring, inverse, warm_up=warm_up).start()


def test_whole_numbers_stay_what_they_are(make_ring: Any) -> None:
    ring = make_ring({"word": ((), "uint8")}, slots=16)
    with pytest.raises(ValueError, match="'word' has dtype int64, with values that uint8 cannot hold"):
        ringfeed.Engine(ring, lambda word: word, warm_up=np.int64([1, 300]))
    ringfeed.Engine(ring, lambda word: word, warm_up=np.int64([1, 255]))
