"""The outputs for a batch fit the declared ones, or are an error of exactly those requests; they never broadcast."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from serving import rows_of, x_of

import ringfeed
from ringfeed.testing import ManualPolicy
from ringfeed.tf import fuse, why_not_native
from ringfeed.tf.models.output_spec import OutputSpec

ROW = ((4,), "float32")
BAD = 13.0


def if_bad(x: Any, good: Any, bad: Any) -> Any:
    """Return `good`, or `bad` of another shape for a batch with a row that is 13."""
    return tf.cond(tf.reduce_any(tf.equal(x, BAD)), lambda: tf.cast(bad, x.dtype), lambda: tf.cast(good, x.dtype))


MISBEHAVING = {
    "trims an inner axis": lambda x: if_bad(x, x, x[:, :2]),
    "one column": lambda x: if_bad(x, x, x[:, :1]),
    "one row": lambda x: if_bad(x, x, tf.repeat(x[:1], tf.where(tf.shape(x)[0] == 1, 2, 1), axis=0)),
    "twice as many rows": lambda x: if_bad(x, x, tf.repeat(x, 2, axis=0)),
    "no rows": lambda x: if_bad(x, x, x[:0]),
    "a scalar": lambda x: if_bad(x, x, tf.reduce_sum(x)),
    "one axis less": lambda x: if_bad(x, x, x[:, 0]),
    "one axis more": lambda x: if_bad(x, x, x[:, tf.newaxis]),
}


def row(number: float) -> np.ndarray:
    return np.full(4, number, np.float32)


def outcomes(client: ringfeed.Client, policy: ManualPolicy, numbers: list[float]) -> list[Any]:
    """Ask for numbers as one batch; return the answer or the error for each."""
    futures = [client.submit(row(number)) for number in numbers]
    policy.release(len(futures))
    return [future.exception() or future.result().tolist() for future in futures]


def check_outcomes(found: list[Any], numbers: list[float]) -> None:
    for number, outcome in zip(numbers, found, strict=True):
        if number == BAD:
            assert isinstance(outcome, ringfeed.ModelError), outcome
            assert "row" in str(outcome)
        else:
            assert outcome == row(number).tolist()


@pytest.mark.parametrize("kind", MISBEHAVING)
@pytest.mark.parametrize("allowed", [None, [4]], ids=["as they are", "padded"])
def test_a_row_whose_output_is_of_another_shape_fails_alone(make_ring, serve, make_client, kind, allowed) -> None:
    ring = make_ring({"x": ROW}, slots=16)
    policy = ManualPolicy(4, allowed_batch_sizes=allowed)
    serve(ring, MISBEHAVING[kind], policy=policy, allow_row_mixing=True)
    client = make_client(ring.name)
    for numbers in ([1.0, BAD, 3.0, 4.0], [5.0, 6.0], [BAD], [BAD, 7.0, BAD]):
        check_outcomes(outcomes(client, policy, numbers), numbers)


@pytest.mark.parametrize("kind", MISBEHAVING)
def test_a_row_whose_output_is_of_another_shape_fails_alone_in_a_stage_too(make_ring, make_client, kind) -> None:
    ring = make_ring({"x": ROW}, slots=16)
    stages = [MISBEHAVING[kind], lambda y: y * 1]
    with ringfeed.Pipeline(stages, ring=ring, batch_size=4, linger=0.01, structure="x") as pipeline:
        client = make_client(ring.name)
        numbers = [1.0, 2.0, BAD, 3.0, 4.0, 5.0]
        futures = [client.submit(row(number)) for number in numbers]
        check_outcomes([future.exception() or future.result().tolist() for future in futures], numbers)
        assert sum(stage.failed for stage in pipeline.stats()) == 1


def pooled(x: Any) -> Any:
    return tf.reduce_mean(x, axis=0, keepdims=True)


AT_START = {
    "one row for a batch": (pooled, r"\[1, 4\] for 8 rows.*one row for each row"),
    "a scalar for a batch": (tf.reduce_sum, r"has shape \(\) for 1 rows.*one row for each row"),
    "twice as many rows": (lambda x: tf.repeat(x, 2, axis=0), r"has shape \(2, 4\) for 1 rows"),
    "rows beside each other": (lambda x: tf.matmul(x, x, transpose_b=True), r"float32\[8, 8\] for 8 rows"),
    "ragged": (lambda x: tf.RaggedTensor.from_tensor(x), "is a RaggedTensor"),
    "sparse": (lambda x: tf.sparse.from_dense(x), "is a SparseTensor"),
    "None": (lambda x: None, "returns nothing|NoneType"),
    "None among others": (lambda x: {"a": x, "b": None}, "output 'b' is a NoneType"),
    "texts": (lambda x: tf.strings.as_string(x), "output 'output'.*string|dtype"),
}


@pytest.mark.parametrize("kind", AT_START)
@pytest.mark.parametrize("options", [{}, {"batch_size": "auto"}, {"allowed_batch_sizes": [8]}], ids=str)
def test_what_is_seen_of_a_model_beforehand_is_an_error_at_start(make_ring, kind, options) -> None:
    model, message = AT_START[kind]
    ring = make_ring({"x": ROW}, slots=8)
    if "allowed_batch_sizes" in options:
        message = "8 rows|mixes rows|is a |returns nothing|dtype|string"
    elif options:
        message = message.replace("8, 8", r"\d, \d").replace("8 rows", r"\d rows")
    options = options or {"batch_size": 8}
    with pytest.raises(ValueError, match=message):
        ringfeed.Engine(ring, model, allow_row_mixing="allowed_batch_sizes" not in options, **options).start()


def test_a_keras_model_in_int8_returns_rows_or_an_error(make_ring) -> None:
    x = keras.Input((4,))
    model = keras.Model(x, keras.ops.mean(keras.layers.Dense(4)(x), axis=0, keepdims=True))
    ring = make_ring({"x": ROW}, slots=8)
    with pytest.raises(ValueError, match="one row for each row"):
        ringfeed.Engine(ring, model, batch_size=8, precision="int8").start()
    with pytest.raises(ValueError, match=r"output is \[1, 4\] for 5 rows"):
        ringfeed.Engine(ring, model, batch_size=8, precision="int8", samples=np.ones((5, 4), np.float32))


def test_a_strategy_does_not_take_rows_too_many_for_those_of_the_next_replica(make_ring, make_client) -> None:
    ring = make_ring({"x": ROW}, slots=8)
    policy = ManualPolicy(4)
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    twice = ringfeed.Engine(ring, lambda x: tf.repeat(x, 2, axis=0), batch_size=4, strategy=strategy)
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="row for each row"):
        twice.start()
    model = MISBEHAVING["twice as many rows"]
    with ringfeed.Engine(ring, model, policy=policy, strategy=strategy):
        numbers = [1.0, BAD, 3.0]
        check_outcomes(outcomes(make_client(ring.name), policy, numbers), numbers)


@pytest.mark.skipif(why_not_native() is not None, reason=f"no op: {why_not_native()}")
def test_padding_in_a_fused_model_does_not_cut_rows_of_others(make_ring) -> None:
    ring = make_ring({"x": ROW}, slots=8)
    options = {"pad": "ring", "allow_row_mixing": True, "timeout": 5.0}
    for model in (lambda x: tf.repeat(x, 2, axis=0), pooled, tf.reduce_sum):
        with pytest.raises(ValueError, match="one row for each row"):
            fuse(ring, model, 4, **options)
    fused = fuse(ring, MISBEHAVING["twice as many rows"], 4, **options)
    ring.put({"x": row(3)})
    assert fused().numpy().tolist() == [row(3).tolist()]
    ring.put({"x": row(BAD)})
    with pytest.raises(tf.errors.InvalidArgumentError, match="row for each row"):
        fused()


def test_a_spec_names_the_output_that_differs_in_shape_dtype_or_number() -> None:
    spec = OutputSpec.of({"a": tf.zeros((2, 3)), "b": tf.zeros((2,), tf.int64)}, 2, "m")
    good = [np.zeros((5, 3), np.float32), np.zeros(5, np.int64)]
    assert spec.mismatch(good, 5) is None
    assert spec.mismatch([tf.constant(array) for array in good], 5) is None
    assert "output 'b' is int32[5] for 5 rows" in (spec.mismatch([good[0], good[1].astype(np.int32)], 5) or "")
    assert "'a'" in (spec.mismatch([good[0][:, :1], good[1]], 5) or "")
    assert "1 outputs" in (spec.mismatch(good[:1], 5) or "")
    assert "float32[1, 3] for 5 rows" in (spec.mismatch([good[0][:1], good[1]], 5) or "")


def test_a_models_rows_are_numbered_by_their_requests(ring, serve, make_client) -> None:
    serve(ring, lambda x: x[:, :2])
    assert make_client(ring.name).predict(rows_of([3, 4]))[1].tolist() == x_of(4)[:2].tolist()
