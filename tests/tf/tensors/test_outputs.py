"""Outputs of many batches are joined as in `keras.Model.predict`; outputs that cannot be joined raise at once."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from model_zoo import X, aligned, assert_same

from ringfeed import ModelError
from ringfeed.tf.models.runner import ModelRunner
from ringfeed.tf.predict.callbacks import PredictCallbacks
from ringfeed.tf.predict.in_memory import predict_in_memory
from ringfeed.tf.tensors.outputs import OutputCollector, all_to_numpy, join_outputs

Pair = namedtuple("Pair", "first second")


def as_wide_as_the_batch(x: Any) -> Any:
    """Return rows whose length depends on the batch, like those of a model that trims to the longest row."""
    return tf.tile(x[:, :1], [1, tf.shape(x)[0]])


OUTPUTS: dict[str, Callable[[Any], Any]] = {
    "trimmed": lambda x: x[:, : tf.shape(x)[0] - 4],
    "trimmed to nothing": lambda x: x[:, : tf.shape(x)[0] - 6],
    "as wide as the batch": as_wide_as_the_batch,
    "as wide, float64": lambda x: tf.cast(as_wide_as_the_batch(x), tf.float64) / 3,
    "as wide, float16": lambda x: tf.cast(as_wide_as_the_batch(x), tf.float16),
    "as wide, int64 beyond int32": lambda x: tf.cast(as_wide_as_the_batch(x) * 2**40, tf.int64),
    "as wide, uint8": lambda x: tf.cast(as_wide_as_the_batch(x) * 200, tf.uint8),
    "as wide, bool": lambda x: as_wide_as_the_batch(x) > 0.5,
    "as wide, strings": lambda x: tf.strings.as_string(as_wide_as_the_batch(x)),
    "as wide in two axes": lambda x: tf.tile(x[:, :1, None], [1, tf.shape(x)[0], tf.shape(x)[0] + 1]),
    "as wide, then fixed": lambda x: tf.tile(x[:, :1, None], [1, tf.shape(x)[0], 3]),
    "fixed, then as wide": lambda x: tf.tile(x[:, :1, None], [1, 3, tf.shape(x)[0]]),
    "one row of a batch": lambda x: x[:1],
    "no rows": lambda x: x[:0],
    "a scalar of a batch": lambda x: tf.reduce_sum(x),
    "a uint16 scalar": lambda x: tf.cast(tf.shape(x)[0], tf.uint16),
    "a string of a batch": lambda x: tf.constant("text"),
    "twice the rows": lambda x: tf.concat([x, x], 0),
    "no columns": lambda x: x[:, :0],
    "no columns between": lambda x: tf.zeros([tf.shape(x)[0], 0, 3]),
    "bfloat16": lambda x: tf.cast(x, tf.bfloat16),
    "float8": lambda x: tf.cast(x, tf.dtypes.experimental.float8_e4m3fn),
    "uint16": lambda x: tf.cast(x * 60000, tf.uint16),
    "complex128": lambda x: tf.cast(tf.complex(x, -x), tf.complex128),
    "strings": tf.strings.as_string,
    "ragged": lambda x: tf.RaggedTensor.from_tensor(x, lengths=tf.range(tf.shape(x)[0]) % 7),
    "ragged twice": lambda x: tf.RaggedTensor.from_tensor(tf.tile(x[:, :, None], [1, 1, 2]), ragged_rank=2),
    "sparse": tf.sparse.from_dense,
}
NESTS: dict[str, Callable[[Any], Any]] = {
    "tuple": lambda x: (x, x * 2),
    "list in a dict": lambda x: {"b": [x, x[:, 0]], "a": x},
    "ordered dict": lambda x: OrderedDict([("b", x), ("a", x * 2)]),
    "named tuple": lambda x: Pair(x, [x * 2, (x,)]),
    "empty branch": lambda x: {"a": x, "b": {}, "c": ()},
}


class Shown(keras.Model):
    """A model that applies functions to its input."""

    def __init__(self, functions: Any) -> None:
        super().__init__()
        self.functions = functions

    def call(self, x: Any) -> Any:
        if callable(self.functions):
            return self.functions(x)
        return {name: function(x) for name, function in self.functions.items()}

    def compute_output_spec(self, x: Any) -> Any:
        return None


@pytest.fixture(scope="module", params=[5, 70], ids=["one batch", "three batches"])
def both(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """Return the results of Keras and of RingFeed for all kinds of outputs at once."""
    model, x = Shown({**OUTPUTS, **NESTS}), X[: request.param]
    return model.predict(x, verbose=0), predict_in_memory(ModelRunner(model), x)


@pytest.mark.parametrize("name", [*OUTPUTS, *NESTS])
def test_outputs_are_those_of_keras(both: tuple[Any, Any], name: str) -> None:
    expected, actual = both[0][name], both[1][name]
    if isinstance(expected, bytes) or (isinstance(expected, np.ndarray) and expected.dtype.kind == "O"):
        assert np.shape(expected) == np.shape(actual)
        np.testing.assert_array_equal(actual, expected)
    elif isinstance(expected, tf.RaggedTensor):
        assert (actual.dtype, actual.shape.as_list()) == (expected.dtype, expected.shape.as_list())
        assert actual.to_list() == expected.to_list()
    else:
        assert_same(actual, expected)


def test_ragged_rows_of_dtypes_that_keras_cannot_join_keep_their_values() -> None:
    def both_widths(x: Any) -> Any:
        return {
            "bfloat16": tf.cast(as_wide_as_the_batch(x), tf.bfloat16),
            "float8": tf.cast(as_wide_as_the_batch(x), tf.dtypes.experimental.float8_e5m2),
        }

    outputs = predict_in_memory(ModelRunner(both_widths), X)
    for dtype, output in outputs.items():
        assert output.dtype.name.startswith(dtype)
        values = [row.numpy().astype(np.float32) for row in output]
        assert [len(row) for row in values] == [32] * 64 + [6] * 6
        np.testing.assert_array_equal([row[0] for row in values], X[:, 0].astype(output.dtype.as_numpy_dtype))


@pytest.mark.parametrize("rows", [5, 70])
def test_an_output_that_is_none_in_every_batch_is_none(rows: int) -> None:
    model = ModelRunner(lambda x: {"x": x, "nothing": None, "pair": Pair(x, None)})
    outputs = predict_in_memory(model, X[:rows])
    assert outputs["nothing"] is None
    assert outputs["pair"].second is None
    np.testing.assert_array_equal(outputs["pair"].first, X[:rows])


def test_numbers_and_arrays_of_a_model_that_runs_eagerly_are_outputs_too() -> None:
    runner = eager(lambda x, batch: {"array": x.numpy(), "number": 1.5, "variable": tf.Variable(x)})
    outputs = predict_in_memory(runner, X, 16)
    np.testing.assert_array_equal(outputs["array"], X)
    np.testing.assert_array_equal(outputs["variable"], X)
    np.testing.assert_array_equal(outputs["number"], [1.5] * 5)


# ---- Outputs that change between batches -------------------------------------------------------------


def eager(function: Callable[[Any, int], Any]) -> ModelRunner:
    """Return a model that runs eagerly and counts its batches."""
    model = Shown(lambda x: function(x, next(numbers)))
    numbers = iter(range(100))
    model.compile(run_eagerly=True)
    return ModelRunner(model)


CHANGES: dict[str, tuple[Callable[[Any, int], Any], str]] = {
    "float32 to float64": (lambda x, batch: tf.cast(x, [tf.float32, tf.float64][batch > 0]), "float64 .* float32"),
    "float64 to float32": (lambda x, batch: tf.cast(x, [tf.float64, tf.float32][batch > 0]), "float32 .* float64"),
    "uint8 to uint16": (lambda x, batch: tf.cast(x, [tf.uint8, tf.uint16][batch > 0]), "uint16 .* uint8"),
    "int64 to bool": (lambda x, batch: tf.cast(x, [tf.int64, tf.bool][batch > 0]), "bool .* int64"),
    "ragged to another dtype": (
        lambda x, batch: tf.RaggedTensor.from_tensor(tf.cast(x, [tf.int32, tf.int64][batch > 0])),
        "ragged tensor of int64",
    ),
    "more axes": (lambda x, batch: x[:, None] if batch else x, "with 3 axes, but .* with 2 axes"),
    "fewer axes": (lambda x, batch: tf.reduce_sum(x) if batch else x, "with 0 axes, but .* with 2 axes"),
    "None after rows": (lambda x, batch: {"a": x, "b": [None if batch else x]}, r"\['b'\]\[0\] is None, but"),
    "rows after None": (lambda x, batch: {"a": x, "b": x if batch else None}, r"\['b'\] is .* but None"),
    "sparse after dense": (lambda x, batch: tf.sparse.from_dense(x) if batch else x, "a sparse tensor .* but a dense"),
    "dense after sparse": (lambda x, batch: x if batch else tf.sparse.from_dense(x), "a dense tensor .* but a sparse"),
    "sparse of other columns": (lambda x, batch: tf.sparse.from_dense(x[:, batch:]), r"row shape \(6,\), but"),
    "other keys": (lambda x, batch: {"a": x, "c" if batch else "b": x}, "structure .*'c'.*, but .*'b'"),
    "more keys": (lambda x, batch: {"a": x, **({"b": x} if batch else {})}, "structure .*'b'.*, but {'a': '...'}"),
    "a tuple, then a list": (lambda x, batch: [x, x] if batch else (x, x), r"structure \['...', '...'\], but \("),
    "a tensor, then a tuple": (lambda x, batch: (x,) if batch else x, r"structure \('...',\), but '...'"),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("rows", [None, 70], ids=["rows unknown", "rows known"])
def test_outputs_that_cannot_be_joined_name_the_batch_and_are_never_cast(name: str, rows: int | None) -> None:
    function, message = CHANGES[name]
    collector = OutputCollector(rows)
    collector.add(function(tf.constant(X[:30]), 0))
    with pytest.raises(ModelError, match=f"^batch 2: the model's output.*{message}"):
        collector.add(function(tf.constant(X[30:]), 1))


def test_a_change_of_dtype_is_noticed_at_the_batch_that_changes_it() -> None:
    seen = []

    def counted(x: Any, batch: int) -> Any:
        seen.append(batch)
        return tf.cast(x, tf.float64 if batch == 2 else tf.float32)

    with pytest.raises(ModelError, match=r"batch 3: .* float64 .* float32"):
        predict_in_memory(eager(counted), X, 10)
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_dense_and_ragged_batches_are_joined_as_ragged_rows(order: tuple[int, int]) -> None:
    collector = OutputCollector(70)
    for batch, x in zip(order, (X[:30], X[30:]), strict=True):
        collector.add(tf.constant(x) if batch else tf.RaggedTensor.from_tensor(x))
    assert collector.result().to_list() == X.tolist()


def test_keys_in_another_order_are_the_same_outputs() -> None:
    collector = OutputCollector(70)
    collector.add({"a": tf.constant(X[:30]), "b": tf.constant(X[:30] + 1)})
    collector.add({"b": tf.constant(X[30:] + 1), "a": tf.constant(X[30:])})
    assert_same(collector.result(), {"a": X, "b": X + 1})


def test_fewer_rows_than_were_expected_leave_none_uninitialised() -> None:
    collector = OutputCollector(70)
    collector.add({"all": tf.constant(X[:30]), "one": tf.constant(X[:1])})
    assert_same(collector.result(), {"all": X[:30], "one": X[:1]})


# ---- Memory ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function",
    [
        lambda x: tf.RaggedTensor.from_row_splits(x, tf.stack([0, tf.shape(x)[0]])),
        lambda x: tf.SparseTensor(tf.range(70, dtype=tf.int64)[:, None], x[:, 0], [70]),
        lambda x: x,
    ],
    ids=["ragged", "sparse", "dense"],
)
@pytest.mark.parametrize("with_callback", [False, True])
def test_outputs_of_any_kind_are_memory_of_their_own(function: Any, with_callback: bool) -> None:
    x = aligned(np.ones((70, 1), np.float32))
    seen: list[Any] = []
    watch = keras.callbacks.LambdaCallback(on_predict_batch_end=lambda batch, logs: seen.append(logs["outputs"]))
    model = Shown(function)
    outputs = predict_in_memory(ModelRunner(model), x, 70, callbacks=[watch] if with_callback else None)
    x[...] = -7
    for output in (outputs, *seen):
        assert not any((np.asarray(part) == -7).any() for part in tf.nest.flatten(output, expand_composites=True))
    assert len(seen) == with_callback


def test_one_batch_through_the_runner_is_memory_of_its_own_too() -> None:
    x = aligned(np.ones((6, 2), np.float32))
    ragged = ModelRunner(lambda t: tf.RaggedTensor.from_row_splits(t, [0, 4, 6]))(x)
    x[...] = -7
    np.testing.assert_array_equal(ragged.flat_values, np.ones((6, 2)))


def test_joined_outputs_of_batches_equal_those_of_a_larger_batch() -> None:
    parts = [Shown({**OUTPUTS, **NESTS})(tf.constant(X[start : start + 7])) for start in range(0, 70, 7)]
    joined = all_to_numpy(join_outputs(parts))
    for name in ("no columns", "bfloat16", "uint16", "complex128", "ordered dict", "named tuple", "empty branch"):
        assert_same(joined[name], all_to_numpy(Shown({name: {**OUTPUTS, **NESTS}[name]})(tf.constant(X))[name]))


def test_callbacks_are_shown_outputs_that_are_none_or_nested() -> None:
    seen: list[Any] = []
    watch = keras.callbacks.LambdaCallback(on_predict_batch_end=lambda batch, logs: seen.append(dict(logs)))
    watchers = PredictCallbacks(None, [watch], 1)
    watchers.begin()
    watchers.begin_batch()
    watchers.end_batch([tf.constant(X), None, Pair(np.ones(3), None)])
    watchers.end()
    array, nothing, pair = seen[0]["outputs"]
    np.testing.assert_array_equal(array, X)
    assert nothing is None
    assert pair.second is None
