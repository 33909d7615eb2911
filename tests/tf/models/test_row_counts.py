"""Models that cannot be traced with an open number of rows: right for every number of rows, or a clear error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from ringfeed import ModelError, Predictor, Ring
from ringfeed.tf import fuse
from ringfeed.tf.models.runner import _MOST_ROW_COUNTS, ModelRunner

ROWS = np.arange(1, 81, dtype=np.float32).reshape(10, 8)


def share(x: Any) -> Any:
    return tf.reduce_sum(x, 1, keepdims=True) / x.shape[0]


def weighted(x: Any) -> Any:
    return x * np.linspace(1, 2, x.shape[0], dtype=np.float32)[:, None]


def loop(x: Any) -> Any:
    return tf.stack([tf.reduce_sum(x[row]) for row in range(x.shape[0])])


def reshaped(x: Any) -> Any:
    return tf.reshape(x, (x.shape[0], 4, 2)) + float(x.shape[0])


def with_its_length(x: Any) -> Any:
    return {"sum": loop(x), "rows": tf.fill([x.shape[0]], x.shape[0])}


class Mean(keras.Model):
    """A model that reads the number of rows in Python; `keras.Model.predict` raises an error for it."""

    def call(self, x: Any) -> Any:
        return keras.ops.sum(x, axis=1, keepdims=True) / x.shape[0]


MODELS: dict[str, tuple[Callable[..., Any], Callable[[Any], Any]]] = {
    "a share": (lambda: share, share),
    "weights": (lambda: weighted, weighted),
    "a loop": (lambda: loop, loop),
    "reshaped": (lambda: reshaped, reshaped),
    "two outputs": (lambda: with_its_length, with_its_length),
    "a tf.function": (lambda: tf.function(share), share),
    "a Keras model": (Mean, share),
}


def by_batches(function: Callable[[Any], Any], rows: Any, size: int) -> Any:
    parts = [function(tf.constant(rows[start : start + size])) for start in range(0, len(rows), size)]
    return tf.nest.map_structure(lambda *each: np.concatenate(each), *parts)


def assert_equal(actual: Any, expected: Any) -> None:
    def check(one: Any, other: Any) -> None:
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=1e-6)  # a graph multiplies by 1 / rows instead of dividing

    tf.nest.map_structure(check, actual, expected)


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_that_reads_the_number_of_rows_gets_that_of_each_batch(kind: str) -> None:
    make, function = MODELS[kind]
    runner = ModelRunner(make())
    for rows in (4, 2, 4, 10, 1, 2):
        assert_equal(runner(ROWS[:rows]), tf.nest.map_structure(np.asarray, function(tf.constant(ROWS[:rows]))))


@pytest.mark.parametrize("kind", MODELS)
def test_the_last_batch_of_a_predictor_is_computed_with_its_own_number_of_rows(kind: str) -> None:
    make, function = MODELS[kind]
    expected = by_batches(function, ROWS, 4)
    assert_equal(Predictor(make(), batch_size=4).predict(ROWS, verbose=0), expected)
    with Predictor(make(), preprocess=lambda row: row, workers=0, batch_size=4) as predictor:
        assert_equal(predictor.predict(ROWS, verbose=0), expected)
        assert_equal(predictor.predict(iter(ROWS[:6]), verbose=0), by_batches(function, ROWS[:6], 4))


def test_with_workers_the_last_batch_is_computed_with_its_own_number_of_rows() -> None:
    for model, function in ((share, share), (Mean(), share), (loop, loop)):
        with Predictor(model, preprocess=lambda row: row, workers=1, batch_size=4) as predictor:
            assert_equal(predictor.predict(ROWS, verbose=0), by_batches(function, ROWS, 4))


def test_samples_that_are_padded_in_the_ring_have_the_number_of_their_batch() -> None:
    rows = np.arange(30, dtype=np.float32).reshape(6, 5)  # 20 bytes per row, padded to 64
    with Predictor(share, preprocess=lambda row: row, workers=1, batch_size=4) as predictor:
        assert_equal(predictor.predict(rows, verbose=0), by_batches(share, rows, 4))


def test_ragged_and_sparse_batches_have_their_own_number_of_rows_too() -> None:
    runner = ModelRunner(lambda x: x.to_tensor() / x.shape[0])
    for rows in (4, 2, 3):
        ragged = tf.RaggedTensor.from_row_lengths(tf.range(2.0 * rows), [2] * rows)
        assert_equal(runner(ragged), ragged.to_tensor().numpy() / rows)
    runner = ModelRunner(lambda x: tf.sparse.to_dense(x) / x.shape[0])
    for rows in (4, 2, 3):
        assert_equal(runner(tf.sparse.from_dense(ROWS[:rows])), ROWS[:rows] / rows)


def test_several_inputs_have_the_number_of_their_batch() -> None:
    runner = ModelRunner(lambda a, b: a * b.shape[0] + b)
    for rows in (3, 2, 5):
        assert_equal(runner((ROWS[:rows], ROWS[:rows])), ROWS[:rows] * rows + ROWS[:rows])


def test_a_function_for_one_number_of_rows_is_made_once_and_not_kept_without_end() -> None:
    runner = ModelRunner(tf.function(share))
    for _ in range(3):
        for rows in (4, 2):
            runner(ROWS[:rows])
    assert runner.traces == 2
    many = np.ones((_MOST_ROW_COUNTS + 5, 8), np.float32)
    for rows in range(1, len(many) + 1):
        assert_equal(runner(many[:rows]), np.full((rows, 1), np.float32(8) / np.float32(rows)))
    assert len(runner._of_one_length) == _MOST_ROW_COUNTS


class Declared(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([4, 8])])
    def __call__(self, x: Any) -> Any:
        return x / x.shape[0]


def declared_model(kind: str, folder: Path) -> Any:
    module = Declared()
    concrete = module.__call__.get_concrete_function()
    if kind == "tf.function":
        return module.__call__
    if kind == "concrete function":
        return concrete
    tf.saved_model.save(module, str(folder), signatures={"serving_default": concrete})
    return folder


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("tf.function", {}),
        ("concrete function", {}),
        ("SavedModel", {}),
        ("SavedModel", {"signature": "serving_default"}),
    ],
)
def test_a_function_declared_for_one_number_of_rows_refuses_others(kind: str, options: Any, tmp_path: Path) -> None:
    model = declared_model(kind, tmp_path)
    runner = ModelRunner(model, **options)
    for rows in (2, 5):
        with pytest.raises((ValueError, TypeError, tf.errors.InvalidArgumentError), match=r"\[4,8\]|\(4, 8\)"):
            runner(ROWS[:rows])
    np.testing.assert_allclose(tf.nest.flatten(runner(ROWS[:4]))[0], ROWS[:4] / 4)
    with Predictor(
        model, preprocess=lambda row: row, workers=0, batch_size=4, on_error="return", **options
    ) as predictor:
        results = predictor.predict(ROWS[:6], verbose=0)
    np.testing.assert_allclose([tf.nest.flatten(result)[0] for result in results[:4]], ROWS[:4] / 4)
    assert all(isinstance(result, ModelError) for result in results[4:])


def test_of_functions_that_were_saved_for_several_numbers_of_rows_each_gets_its_own(tmp_path: Path) -> None:
    module = tf.Module()
    module.__call__ = tf.function(lambda x: x / x.shape[0])
    module.serve = module.__call__
    for rows in (4, 2):
        module.serve(tf.constant(ROWS[:rows]))
    tf.saved_model.save(module, str(tmp_path))
    runner = ModelRunner(tmp_path)
    for rows in (4, 2, 4):
        assert_equal(runner(ROWS[:rows]), ROWS[:rows] / rows)
    with pytest.raises((ValueError, TypeError)):
        runner(ROWS[:3])


def test_a_ring_is_no_way_around_the_number_of_rows() -> None:
    for model in (share, tf.function(share), Mean()):
        with Ring.create_nameless({"x": ((8,), "float32")}, 16) as ring, pytest.raises(ValueError, match="None values"):
            fuse(ring, model, 4)
    with Ring.create_nameless({"x": ((8,), "float32")}, 16) as ring:
        for row in ROWS[:6]:
            ring.put({"x": row})
        ring.finish()
        fused = fuse(ring, Declared().__call__, 4)
        np.testing.assert_allclose(fused(), ROWS[:4] / 4)
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[2,8\].*\[4,8\]"):
            fused()


def test_rows_of_another_inner_shape_do_not_get_the_number_of_the_first() -> None:
    runner = ModelRunner(share)
    for rows, columns in ((4, 8), (4, 3), (2, 3), (2, 8), (3, 5)):
        batch = ROWS[:rows, :columns]
        assert_equal(runner(batch), share(tf.constant(batch)).numpy())
