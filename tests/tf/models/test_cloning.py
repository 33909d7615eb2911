"""`cloning.clone`: a copy returns the outputs of the model, and has weights of its own."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from model_zoo import assert_same, inputs_for, plans

from ringfeed.tf.models.cloning import clone
from ringfeed.tf.models.runner import ModelRunner


@given(st.data())
@settings(max_examples=10, deadline=None, phases=[Phase.generate])
def test_a_copy_of_any_model_returns_the_outputs_of_the_model(data):
    plan = data.draw(plans())
    inputs = data.draw(inputs_for(plan))
    model = plan.build()
    copy = clone(model)
    assert type(copy) is type(model)
    assert not {id(weight) for weight in copy.weights} & {id(weight) for weight in model.weights}
    assert_same(ModelRunner(copy)(inputs), ModelRunner(model)(inputs))


def test_layers_of_layers_are_copied():
    x = keras.Input((9, 4))
    y = keras.layers.Bidirectional(keras.layers.LSTM(3, return_sequences=True))(x)
    y = keras.layers.MultiHeadAttention(2, 3)(y, y)
    model = keras.Model(x, keras.layers.TimeDistributed(keras.layers.Dense(3))(y))
    rows = np.random.default_rng(1).random((3, 9, 4), np.float32)
    np.testing.assert_allclose(clone(model)(rows), model(rows), rtol=1e-5, atol=1e-6)


def test_a_copy_keeps_the_table_of_a_lookup_layer():
    words = keras.Input((), dtype="string", name="words")
    lookup = keras.layers.StringLookup()
    lookup.adapt(["a", "b", "c"])
    model = keras.Model(words, keras.layers.Dense(2)(keras.layers.Embedding(5, 3)(lookup(words))))
    rows = tf.constant(["a", "c", "unknown"])
    np.testing.assert_array_equal(clone(model)(rows), model(rows))


def test_a_model_that_ran_eagerly_still_does():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse", run_eagerly=True)
    assert clone(model).run_eagerly
    assert model.compiled


def test_a_model_that_is_not_built_has_nothing_to_copy():
    with pytest.raises(ValueError, match="is not built"):
        clone(keras.Sequential([keras.layers.Dense(2)]))
