"""`direct_call`: a direct call has the results and errors of the function's own call."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from ringfeed.tf.models.direct_call import direct_call, direct_step

ROWS = tf.TensorSpec((None, 2), tf.float32)


def traced(function, *specs):
    return tf.function(function, autograph=False).get_concrete_function(*specs)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + 1,
        lambda x: {"b": x + 1, "a": (x * 2, [x[:, 0]])},
        lambda x: (x, None),
        lambda x: tf.sparse.from_dense(x),
        lambda x: tf.RaggedTensor.from_tensor(x),
        lambda x: (),
    ],
    ids=["one", "nest", "with None", "sparse", "ragged", "nothing"],
)
def test_a_step_returns_the_nest_of_the_function_itself(function):
    concrete = traced(function, ROWS)
    rows = tf.constant([[1.0, 2.0], [3.0, 4.0]])
    expected, got = concrete(rows), direct_step(concrete)(rows)
    tf.nest.assert_same_structure(got, expected, expand_composites=True)
    for one, other in zip(*(tf.nest.flatten(nest, expand_composites=True) for nest in (got, expected)), strict=True):
        assert one is other is None or np.array_equal(one, other)


def test_variables_are_read_at_each_call():
    weight = tf.Variable(2.0)
    step = direct_step(traced(lambda x: x * weight, ROWS))
    assert float(step(tf.ones((1, 2)))[0, 0]) == 2
    weight.assign(5.0)
    assert float(step(tf.ones((1, 2)))[0, 0]) == 5


def test_an_error_names_the_line_of_the_model():
    def pick(x):
        return tf.gather(x, tf.cast(x[:, 0], tf.int32))  # the error must name this line

    step = direct_step(traced(pick, ROWS))
    for _ in range(2):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"not in \[0, 1\)") as caught:
            step(tf.constant([[9.0, 1.0]]))
        assert "test_direct_call.py" in str(caught.value)
        assert "in pick" in str(caught.value)
    assert np.array_equal(step(tf.constant([[0.0, 1.0]])), [[0.0, 1.0]])


def test_deferred_captures_are_evaluated_at_each_call():
    now = 1.0

    def add(x):
        graph = tf.compat.v1.get_default_graph()
        return x + graph.capture_call_time_value(lambda: tf.constant(now), tf.TensorSpec((), tf.float32))

    step = direct_step(traced(add, ROWS))
    assert float(step(tf.zeros((1, 2)))[0, 0]) == 1
    now = 7.0
    assert float(step(tf.zeros((1, 2)))[0, 0]) == 7


def test_a_device_that_is_not_there_is_replaced_as_tensorflow_does_it():
    def on_a_gpu(x):
        with tf.device("/GPU:7"):
            return tf.linalg.matmul(x, x, transpose_b=True)

    concrete = traced(on_a_gpu, ROWS)
    rows = tf.constant([[1.0, 2.0]])
    assert np.array_equal(direct_call(concrete)(rows)[0], concrete(rows))


def test_options_of_the_optimizer_count():
    before = tf.config.optimizer.get_experimental_options().get("auto_mixed_precision_onednn_bfloat16", False)
    tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": True})
    try:
        weights = tf.random.stateless_uniform((2, 64), (1, 2))
        concrete = traced(lambda x: tf.nn.relu(tf.matmul(tf.matmul(x, weights), weights, transpose_b=True)), ROWS)
        rows = tf.random.stateless_uniform((512, 2), (3, 4))
        assert np.array_equal(direct_call(concrete)(rows)[0], concrete(rows))
    finally:
        tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": before})


def test_a_function_that_cannot_be_called_directly_is_called_by_its_own_call(monkeypatch):
    concrete = traced(lambda x: x + 1, ROWS)
    calls = []

    def refuse(**_):
        calls.append(1)
        raise tf.errors.InvalidArgumentError(None, None, "not this way")

    monkeypatch.setattr(tf.raw_ops, "StatefulPartitionedCall", refuse)
    step = direct_step(concrete)
    for _ in range(3):
        assert np.array_equal(step(tf.constant([[1.0, 2.0]])), [[2.0, 3.0]])
    assert calls == [1]
