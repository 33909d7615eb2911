"""Engines of one ring serve one model: which two models count as the same."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from serving import first_number

import ringfeed
from ringfeed.tf.models import loading


def twice(x):
    return x[:, 0] * 2


def keras_model(value):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, use_bias=False, name="scores")], name="judge")
    model.layers[0].set_weights([np.full((4, 1), value, np.float32)])
    return model


def test_an_engine_of_another_model_is_refused_with_both_named_unless_it_is_asked_for(ring, serve):
    serve(ring, first_number)
    with pytest.raises(ringfeed.LayoutMismatch, match=r"model 'first_number' \(pid \d+\).*'twice'.*same_model=False"):
        ringfeed.Engine(ring, twice).start()
    with pytest.raises(ringfeed.LayoutMismatch, match="same_model=False"):
        ringfeed.Engine(ring, lambda x: x[:, 0]).start()
    serve(ring, first_number)
    serve(ring, twice, same_model=False)


def test_weights_tell_models_of_one_architecture_apart(make_ring, serve, make_client):
    ring = make_ring({"x": ((4,), "float32")})
    first = serve(ring, keras_model(1.0))
    second = serve(ring, keras_model(1.0))
    with pytest.raises(ringfeed.LayoutMismatch, match=r"'judge'.*'judge'"):
        ringfeed.Engine(ring, keras_model(2.0)).start()
    assert make_client(ring).predict(np.ones(4, np.float32)) == 4
    first.stop()
    second.stop()
    serve(ring, keras_model(2.0))  # replaces the engines that are gone
    assert make_client(ring).predict(np.ones(4, np.float32)) == 8


class Judge(tf.Module):
    """A model with a weight, and with a variable that counts its calls and is no weight."""

    def __init__(self, value):
        super().__init__()
        self.weight = tf.Variable(tf.fill([4, 1], float(value)))
        self.calls = tf.Variable(0.0)

    @tf.function(input_signature=[tf.TensorSpec([None, 4], name="x")])
    def __call__(self, x):
        self.calls.assign_add(1.0)
        rows = tf.map_fn(lambda row: tf.linalg.matvec(self.weight, row, transpose_a=True), x)  # read in a loop
        return tf.cond(self.calls < 0.0, lambda: rows + self.weight[0], lambda: rows)


def recurrent(value):
    x = keras.Input((4,), name="x")
    steps = keras.layers.Reshape((4, 1))(x)
    cell = keras.layers.LSTM(1, kernel_initializer=keras.initializers.Constant(value), recurrent_initializer="ones")
    return keras.Model(x, keras.layers.BatchNormalization()(cell(steps)))


def saved(value, folder, kind):
    path = str(folder / f"{kind}-{value}" / "judge")
    if kind == "module":
        tf.saved_model.save(Judge(value), path)
    elif kind == "exported":
        recurrent(value).export(path, verbose=False)
    else:
        tf.saved_model.save(recurrent(value), path)
    return path


def closure(value, kind):
    kept = {"variable": tf.Variable, "tensor": tf.constant, "array": np.float32, "number": float}[kind](float(value))

    def function(x):
        return x[:, 0] * kept

    return tf.function(function) if kind == "tensor" else function


@pytest.mark.parametrize("kind", ["module", "exported", "saved"])
def test_weights_tell_saved_models_apart(make_ring, serve, tmp_path, kind):
    ring = make_ring({"x": ((4,), "float32")})
    first = saved(1.0, tmp_path, kind)
    serve(ring, first)
    serve(ring, first)  # loaded again, with a counter of its own
    with pytest.raises(ringfeed.LayoutMismatch, match=r"'judge'.*'judge'"):
        ringfeed.Engine(ring, saved(2.0, tmp_path, kind)).start()


def test_weights_tell_saved_models_apart_whose_objects_cannot_be_restored(make_ring, serve, tmp_path):
    def graph_of(value):
        path = saved(value, tmp_path, "exported")
        saved_model = loading._read(path, None)
        return loading._load_graph(path, saved_model, ValueError("no objects"))

    ring = make_ring({"x": ((4,), "float32")})
    serve(ring, graph_of(1.0))
    serve(ring, graph_of(1.0))
    with pytest.raises(ringfeed.LayoutMismatch, match=r"'GraphOnly'.*'GraphOnly'"):
        ringfeed.Engine(ring, graph_of(2.0)).start()


@pytest.mark.parametrize("kind", ["variable", "tensor", "array", "number"])
def test_captured_values_tell_functions_apart(make_ring, serve, kind):
    ring = make_ring({"x": ((4,), "float32")})
    serve(ring, closure(1, kind))
    serve(ring, closure(1, kind))
    with pytest.raises(ringfeed.LayoutMismatch, match=r"'function'.*'function'"):
        ringfeed.Engine(ring, closure(2, kind)).start()


def test_a_counter_of_calls_does_not_make_another_model(make_ring, serve, make_client):
    ring, judge = make_ring({"x": ((4,), "float32")}), Judge(1)
    serve(ring, judge)
    assert make_client(ring).predict(np.ones(4, np.float32)).tolist() == [4]
    serve(ring, judge)
    judge.weight.assign_add(tf.ones([4, 1]))
    with pytest.raises(ringfeed.LayoutMismatch):
        ringfeed.Engine(ring, judge).start()
