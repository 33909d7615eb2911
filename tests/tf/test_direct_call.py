"""A function called directly gives what its own call gives, errors included."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from ringfeed.tf.direct_call import direct_call, direct_step

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
        tf.debugging.assert_less(tf.reduce_max(x), 9.5)
        return tf.gather(x, tf.cast(x[:, 0], tf.int32))  # the line that is named

    concrete = traced(pick, ROWS)
    for call in (concrete, direct_call(concrete)):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"not in \[0, 1\)") as caught:
            call(tf.constant([[9.0, 1.0]]))
        assert "test_direct_call.py" in str(caught.value)
        assert "in pick" in str(caught.value)
