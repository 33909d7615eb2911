"""Every x that `keras.Model.predict` accepts gives the same result here; errors name the mistake."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from model_zoo import Echo, X, aligned, assert_same, small_model

from ringfeed.tf.models.runner import ModelRunner
from ringfeed.tf.predict.in_memory import predict_in_memory
from ringfeed.tf.predict.inputs import iterate_batches

Y = np.arange(70, dtype=np.int64)

KERAS_VERSION = tuple(int(part) for part in keras.__version__.split(".")[:2])


@pytest.fixture(scope="module")
def model() -> Any:
    return small_model()


@pytest.fixture(scope="module")
def runner(model: Any) -> ModelRunner:
    return ModelRunner(model)


def datasets() -> dict[str, Any]:
    slices = tf.data.Dataset.from_tensor_slices
    return {
        "x": slices(X).batch(16),
        "x and y": slices((X, Y)).batch(16),
        "x, y and weights": slices((X, Y, Y)).batch(16),
        "(x,)": slices((X,)).batch(16),
        "of unknown length": slices(X).filter(lambda _: True).batch(16),
        "float64": slices(X.astype(np.float64)).batch(16),
        "prefetched": slices(X).batch(16).prefetch(2),
    }


@pytest.mark.parametrize("name", datasets())
def test_datasets_give_the_outputs_of_keras(model: Any, runner: ModelRunner, name: str) -> None:
    dataset = datasets()[name]
    with warnings.catch_warnings():  # Keras warns at the end of an unknown length
        warnings.simplefilter("ignore", UserWarning)
        expected = model.predict(dataset, verbose=0)
        with_steps = model.predict(dataset, verbose=0, steps=3)
    assert_same(predict_in_memory(runner, dataset), expected)
    assert_same(predict_in_memory(runner, dataset, steps=3), with_steps)


def test_an_endless_dataset_ends_with_the_steps(runner: ModelRunner) -> None:
    dataset = tf.data.Dataset.from_tensor_slices(X).batch(10).repeat()
    assert predict_in_memory(runner, dataset, steps=9).shape == (90, 4)


def test_the_batch_size_of_a_dataset_is_its_own(model: Any, runner: ModelRunner) -> None:
    dataset = tf.data.Dataset.from_tensor_slices(X).batch(16)
    with pytest.warns(UserWarning, match="batch_size=5 is ignored"):
        outputs = predict_in_memory(runner, dataset, batch_size=5)
    assert_same(outputs, model.predict(dataset, batch_size=5, verbose=0))


def batches_of(*arrays: np.ndarray, rows: int = 16) -> Iterator[Any]:
    for start in range(0, len(arrays[0]), rows):
        yield tuple(array[start : start + rows] for array in arrays)


@pytest.mark.parametrize(
    "arrays", [(X,), (X, Y), (X, Y, Y), (X.astype(np.float64),)], ids=["x", "xy", "xyw", "float64"]
)
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_generators_give_the_outputs_of_keras(model: Any, runner: ModelRunner, arrays: Any) -> None:
    assert_same(predict_in_memory(runner, batches_of(*arrays)), model.predict(batches_of(*arrays), verbose=0))


def test_a_generator_is_read_no_further_than_the_steps(runner: ModelRunner) -> None:
    generator = batches_of(X)
    assert predict_in_memory(runner, generator, steps=2).shape == (32, 4)
    np.testing.assert_array_equal(next(generator)[0], X[32:48])


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_generators_may_yield_nests_of_arrays() -> None:
    def batches() -> Iterator[Any]:
        for (x,) in batches_of(X):
            yield {"a": x, "b": (x[:, 0], x[:, 1:3])}, x

    model = Echo()
    assert_same(predict_in_memory(ModelRunner(model), batches()), model.predict(batches(), verbose=0))


def test_iterators_and_bare_arrays_are_taken_too(model: Any, runner: ModelRunner) -> None:
    batches = [X[:16], X[16:40], X[40:]]
    assert_same(predict_in_memory(runner, iter(batches)), model.predict(X, verbose=0))


class Rows(keras.utils.PyDataset):
    def __init__(self, form: str = "x and y", length: int | None = 5, **options: Any) -> None:
        super().__init__(**options)
        self.form, self.length, self.told, self.threads = form, length, [], set()

    @property
    def num_batches(self) -> int | None:
        return self.length

    def __getitem__(self, index: int) -> Any:
        self.threads.add(threading.current_thread().name)
        x = X[14 * index % 70 : 14 * index % 70 + 14]
        return {"x": x, "(x,)": (x,), "x and y": (x, x), "list": [x, x], "dict": {"a": x}}[self.form]

    def on_epoch_begin(self) -> None:
        self.told.append("begin")

    def on_epoch_end(self) -> None:
        self.told.append("end")


@pytest.mark.parametrize("form", ["x", "(x,)", "x and y", "list"])
def test_pydatasets_give_the_outputs_of_keras(model: Any, runner: ModelRunner, form: str) -> None:
    dataset = Rows(form)
    assert_same(predict_in_memory(runner, dataset), model.predict(Rows(form), verbose=0))
    assert dataset.told == ["begin", "end"]


def test_pydatasets_may_yield_dicts() -> None:
    model = Echo()
    assert_same(predict_in_memory(ModelRunner(model), Rows("dict")), model.predict(Rows("dict"), verbose=0))


@pytest.mark.parametrize("length", [5, None])
def test_pydatasets_are_read_by_as_many_threads_as_they_ask_for(model: Any, runner: ModelRunner, length: Any) -> None:
    dataset = Rows(workers=3, max_queue_size=2, length=length)
    assert_same(predict_in_memory(runner, dataset, steps=5), model.predict(X, batch_size=14, verbose=0))
    assert all(name.startswith("ringfeed-pydataset") for name in dataset.threads)
    assert not [thread for thread in threading.enumerate() if thread.name in dataset.threads]


def test_pydatasets_that_ask_for_processes_get_a_warning_about_threads(runner: ModelRunner) -> None:
    with pytest.warns(UserWarning, match="is read by 2 threads"):
        assert predict_in_memory(runner, Rows(workers=2, use_multiprocessing=True)).shape == (70, 4)


def test_a_pydataset_gets_on_epoch_end_when_the_model_fails() -> None:
    dataset = Rows()
    with pytest.raises(Exception, match=r"Matrix size-incompatible|Dimensions must be equal"):
        predict_in_memory(ModelRunner(lambda x: tf.matmul(x, tf.ones([3, 3]))), dataset)
    assert dataset.told == ["begin", "end"]


def test_torch_tensors_and_loaders_give_the_outputs_of_keras(model: Any, runner: ModelRunner) -> None:
    torch = pytest.importorskip("torch")
    expected = model.predict(X, batch_size=16, verbose=0)
    assert_same(predict_in_memory(runner, torch.from_numpy(X), 16), expected)
    dataset = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    assert_same(predict_in_memory(runner, torch.utils.data.DataLoader(dataset, batch_size=16)), expected)


def test_jax_arrays_give_the_outputs_of_keras(model: Any, runner: ModelRunner) -> None:
    jax = pytest.importorskip("jax")
    assert_same(predict_in_memory(runner, jax.numpy.asarray(X)), model.predict(X, verbose=0))


def test_pandas_gives_the_outputs_of_keras() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": X[:, 0].astype(np.float64), "b": Y})
    model = Echo()
    for x in (frame, frame["a"], {"a": frame["a"], "b": frame["b"]}, frame[["b"]]):
        assert_same(predict_in_memory(ModelRunner(model), x, 16), model.predict(x, 16, verbose=0))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scipy_sparse_matrices_give_the_outputs_of_keras(dtype: Any) -> None:
    scipy_sparse = pytest.importorskip("scipy.sparse")
    model = keras.Sequential([keras.Input((7,), sparse=True), keras.layers.Dense(3)])
    matrix = scipy_sparse.random(70, 7, density=0.3, format="csr", dtype=dtype, random_state=1)
    assert_same(predict_in_memory(ModelRunner(model), matrix), model.predict(matrix, verbose=0))


def test_sparse_tensors_give_the_outputs_of_keras() -> None:
    model = keras.Sequential([keras.Input((7,), sparse=True), keras.layers.Dense(3)])
    tensor = tf.sparse.from_dense(X * (X > 0.5))
    assert_same(predict_in_memory(ModelRunner(model), tensor), model.predict(tensor, verbose=0))


def test_ragged_tensors_give_the_outputs_of_keras() -> None:
    class Sums(keras.Model):
        def call(self, x: Any) -> Any:
            return tf.reduce_sum(x, axis=1), x

    model = Sums()
    rows = tf.ragged.constant([[float(number)] * (number % 4) for number in range(40)])
    assert_same(predict_in_memory(ModelRunner(model), rows), model.predict(rows, verbose=0))


def test_strings_are_taken_as_arrays_of_any_kind() -> None:
    lookup = keras.Sequential([keras.Input((), dtype="string"), keras.layers.TextVectorization(vocabulary=["a", "b"])])
    words = ["a b", "b a"] * 20
    expected = lookup.predict(tf.constant(words), verbose=0)
    for x in (np.array(words), np.array(words, object), np.array(words, "S"), tf.constant(words)):
        assert_same(predict_in_memory(ModelRunner(lookup), x), expected)


@pytest.mark.skipif(KERAS_VERSION < (3, 13), reason="Keras 3.12, the last for Python 3.10, refuses None as an input")
def test_optional_inputs_may_be_none() -> None:
    model = Echo()
    outputs = predict_in_memory(ModelRunner(model), {"a": X, "b": None})
    assert outputs["b"] is None
    np.testing.assert_array_equal(outputs["a"], X)


def test_a_callable_is_predicted_with_like_a_model() -> None:
    double = ModelRunner(lambda x: {"twice": x["a"] * 2})
    np.testing.assert_array_equal(predict_in_memory(double, {"a": X}, 16)["twice"], X * 2)
    floats = ModelRunner(lambda x: x)
    assert predict_in_memory(floats, X.astype(np.float64)).dtype == np.float64  # only Keras casts to its floatx


# ---- Steps and mistakes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch_size", "steps", "rows"), [(None, None, 70), (None, 3, 70), (16, 2, 32), (16, None, 70), (0, 0, 70)]
)
def test_steps_and_batch_sizes_have_the_meaning_of_keras(
    model: Any, runner: ModelRunner, batch_size: Any, steps: Any, rows: int
) -> None:
    outputs = predict_in_memory(runner, X, batch_size, steps=steps)
    assert len(outputs) == rows
    assert_same(outputs, model.predict(X, batch_size, steps=steps, verbose=0))


def test_more_steps_than_batches_are_a_warning(runner: ModelRunner) -> None:
    with pytest.warns(UserWarning, match="ran out of data after 5 of 9 steps"):
        assert len(predict_in_memory(runner, X, 16, steps=9)) == 70


def test_kerases_limit_on_steps_is_kept(runner: ModelRunner) -> None:
    if not hasattr(keras.config, "set_max_steps_per_epoch"):
        pytest.skip("this Keras has no limit on steps")
    keras.config.set_max_steps_per_epoch(2)
    try:
        assert len(predict_in_memory(runner, X, 16)) == 32
    finally:
        keras.config.set_max_steps_per_epoch(None)


@pytest.mark.parametrize(
    ("x", "options", "error", "message"),
    [
        (X[:0], {}, ValueError, "x is empty"),
        ([X, X[:3]], {}, ValueError, r"different numbers of rows \(70, 3\)"),
        (np.float32(1), {}, ValueError, "no axis for the rows"),
        (X, {"batch_size": -1}, ValueError, "batch_size=-1"),
        (X, {"batch_size": 2.5}, ValueError, "batch_size=2.5"),
        (X, {"steps": -3}, ValueError, "steps=-3"),
        (X, {"verbose": 7}, ValueError, "verbose=7"),
        (None, {}, TypeError, "'NoneType' cannot be split into batches"),
        ([[1.0, 2.0]], {}, TypeError, "'list' cannot be split into batches"),
        (tf.data.Dataset.from_tensor_slices(X[:0]).batch(2), {}, ValueError, "of 0 batches"),
        (tf.data.Dataset.from_tensor_slices(X).filter(lambda _: False).batch(2), {}, ValueError, "holds no batch"),
        (iter([]), {}, ValueError, "holds no batch"),
        (iter([[X, X]]), {}, ValueError, "yielded a list of 2 parts"),
        (iter([(X, X, X, X)]), {}, ValueError, "yielded a tuple of 4 parts"),
        (iter([(1.0,)]), {}, ValueError, "no axis for the rows"),
    ],
)
def test_an_input_that_cannot_be_predicted_is_an_error_with_its_reason(
    runner: ModelRunner, x: Any, options: Any, error: Any, message: str
) -> None:
    with pytest.raises(error, match=message):
        predict_in_memory(runner, x, **options)


# ---- Batches ----------------------------------------------------------------------------------------


def test_batches_of_an_array_are_views_of_it() -> None:
    x = aligned(np.zeros((100, 16), np.float32))  # 64 bytes per row, so that every batch is aligned to 64 bytes
    batches = list(iterate_batches(x, 32, floatx="float32"))
    assert [len(batch) for batch in batches] == [32, 32, 32, 4]
    assert all(np.shares_memory(batch, x) for batch in batches)


def test_the_numbers_of_batches_and_rows_are_known_where_they_can_be() -> None:
    known = {
        "array": (iterate_batches(X, 16), (5, 70)),
        "steps": (iterate_batches(X, 16, 2), (2, 32)),
        "dataset": (iterate_batches(tf.data.Dataset.range(10).batch(4)), (3, None)),
        "endless": (iterate_batches(tf.data.Dataset.range(10).batch(4).repeat()), (None, None)),
        "pydataset": (iterate_batches(Rows()), (5, None)),
        "generator": (iterate_batches(batches_of(X)), (None, None)),
    }
    for name, (batches, expected) in known.items():
        assert (batches.total, batches.rows) == expected, name
