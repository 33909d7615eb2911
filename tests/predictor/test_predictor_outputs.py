"""What the model returns goes to the items that it belongs to, or an error says why it cannot."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from preprocessing import failing_where_negative, given

import ringfeed

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

ROWS = np.random.default_rng(0).integers(1, 5, (10, 4)).astype(np.float32)
LENGTHS = np.array([1, 3, 2, 4, 1, 1, 2, 3, 1, 2])


def keras_model(function: Callable[[Any], Any]) -> Any:
    """Return a Keras model that consists of one function."""

    class Model(keras.Model):
        def call(self, inputs: Any) -> Any:
            return function(inputs)

    return Model()


def same(actual: Any, expected: Any) -> None:
    if expected is None or actual is None:
        assert actual is expected
        return
    assert type(actual) is type(expected)
    if isinstance(expected, tf.SparseTensor):
        actual, expected = tf.sparse.to_dense(actual).numpy(), tf.sparse.to_dense(expected).numpy()
    if isinstance(expected, tf.RaggedTensor):
        assert actual.to_list() == expected.to_list()
        return
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(actual, expected)


def trimmed(rows: Any) -> Any:
    """Cut a batch to its longest row, as models of texts do. The first number of a row is its length."""
    return rows[:, : tf.cast(tf.reduce_max(rows[:, 0]), tf.int32)]


OF_ROWS = {
    "the inputs themselves": lambda rows: rows,
    "trimmed": trimmed,
    "ragged": lambda rows: tf.RaggedTensor.from_tensor(rows, lengths=tf.cast(rows[:, 0], tf.int64)),
    "sparse": tf.sparse.from_dense,
    "text": lambda rows: tf.strings.as_string(rows[:, 0]),
    "without an inner axis": lambda rows: rows[:, 0],
    "an empty inner axis": lambda rows: rows[:, :0],
    "bfloat16": lambda rows: tf.cast(rows, tf.bfloat16),
}


@pytest.mark.parametrize("kind", OF_ROWS)
@pytest.mark.parametrize(("workers", "batch_size"), [(1, 16), (1, 4), (0, 4)])
def test_outputs_of_any_kind_are_those_of_keras(kind: str, workers: int, batch_size: int) -> None:
    model = keras_model(OF_ROWS[kind])
    expected = model.predict(ROWS, batch_size=batch_size, verbose=0)
    with ringfeed.Predictor(model, preprocess=given, workers=workers, batch_size=batch_size) as predictor:
        same(predictor.predict(ROWS), expected)
        same(predictor.predict(iter(ROWS)), expected)
        streamed = dict(predictor.stream(ROWS))
    assert sorted(streamed) == list(range(10))
    if isinstance(expected, np.ndarray):
        for index, row in streamed.items():
            same(np.asarray(row), np.asarray(expected[index]))


def test_rows_of_many_workers_are_put_in_order_for_outputs_of_any_kind() -> None:
    rows = np.arange(1, 401, dtype=np.float32)[:, np.newaxis] * [[1, 0, 2]]
    model = keras_model(lambda x: {"s": tf.sparse.from_dense(x), "r": tf.RaggedTensor.from_tensor(x), "d": x})
    with ringfeed.Predictor(model, preprocess=given, workers=2, batch_size=7) as predictor:
        outputs = predictor.predict(rows)
        streamed = dict(predictor.stream(iter(rows)))
    np.testing.assert_array_equal(tf.sparse.to_dense(outputs["s"]).numpy(), rows)
    assert outputs["r"].to_list() == rows.tolist()
    np.testing.assert_array_equal(outputs["d"], rows)
    for index in range(400):
        np.testing.assert_array_equal(tf.sparse.to_dense(streamed[index]["s"]).numpy(), rows[index])
        np.testing.assert_array_equal(streamed[index]["r"], rows[index])


NOT_OF_ROWS = {
    "one row for a batch": lambda rows: rows[:1],
    "a scalar for a batch": tf.reduce_sum,
    "twice as many rows": lambda rows: tf.concat([rows, rows], 0),
    "the axes exchanged": tf.transpose,
    "no row": lambda rows: rows[:0],
    "one of two outputs": lambda rows: (rows, rows[1:]),
    "ragged rows that are fewer": lambda rows: tf.RaggedTensor.from_tensor(rows)[:-1],
    "a sparse row for a batch": lambda rows: tf.sparse.from_dense(rows[:1]),
}


@pytest.mark.parametrize("kind", NOT_OF_ROWS)
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_outputs_that_are_not_one_row_an_item_are_an_error_that_says_so(kind: str, workers: int, on_error: str) -> None:
    model = NOT_OF_ROWS[kind]
    with ringfeed.Predictor(model, preprocess=given, workers=workers, batch_size=8, on_error=on_error) as predictor:
        with pytest.raises(ringfeed.ModelError, match=r"for 8 rows.*one row for each row"):
            predictor.predict(ROWS[:8])
        if workers:  # without a batch size, each item of a stream has its own call
            with pytest.raises(ringfeed.ModelError, match="one row for each row"):
                list(predictor.stream(ROWS, linger=5.0))


# ---- stop_predicting ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def doubling() -> Any:
    return keras.Sequential([keras.Input((4,)), keras.layers.Rescaling(2.0)])


def stopping_after(batches: int) -> Any:
    class Stop(keras.callbacks.Callback):
        def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch + 1 == batches:
                self.model.stop_predicting = True

    return Stop()


@pytest.mark.parametrize("items_as", [list, iter])
@pytest.mark.parametrize(("workers", "on_error"), [(0, "raise"), (1, "raise"), (2, "skip"), (3, "return")])
def test_a_callback_that_stops_gets_the_rows_so_far_and_no_others(doubling, items_as, workers, on_error) -> None:
    with ringfeed.Predictor(doubling, preprocess=given, workers=workers, batch_size=3, on_error=on_error) as predictor:
        outputs = predictor.predict(items_as(ROWS), callbacks=[stopping_after(2)])
        np.testing.assert_array_equal(np.stack(list(outputs)), ROWS[:6] * 2)
        np.testing.assert_array_equal(np.stack(list(predictor.predict(items_as(ROWS)))), ROWS * 2)


@pytest.mark.parametrize("callbacks", [None, []])
@pytest.mark.parametrize("workers", [0, 1])
def test_another_thread_may_stop_a_prediction(doubling, callbacks, workers: int) -> None:
    seen = threading.Event()
    stopped = threading.Event()

    def items() -> Any:
        for number in range(1000):
            if number == 20:
                seen.set()
                stopped.wait()
            yield ROWS[0]

    def stop() -> None:
        seen.wait()
        doubling.stop_predicting = True
        stopped.set()

    thread = threading.Thread(target=stop)
    thread.start()
    with ringfeed.Predictor(doubling, preprocess=given, workers=workers, batch_size=4) as predictor:
        outputs = predictor.predict(items(), callbacks=callbacks)
    thread.join()
    assert len(outputs) < 1000
    assert len(outputs) % 4 == 0
    np.testing.assert_array_equal(outputs, np.tile(ROWS[0] * 2, (len(outputs), 1)))


# ---- failed rows -------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [2, 3, 32])
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("bad", [[0], [4], [9], [0, 1, 2], [2, 5, 6, 9], [1, 3, 5, 7, 9]])
def test_a_model_that_looks_across_rows_never_sees_failed_ones(batch_size: int, workers: int, bad: list[int]) -> None:
    model = keras_model(lambda rows: rows - tf.reduce_mean(rows, axis=0))
    items = ROWS.copy()
    items[bad] = -1
    expected = model.predict(np.delete(ROWS, bad, axis=0), batch_size=batch_size, verbose=0)
    with ringfeed.Predictor(
        model, preprocess=failing_where_negative, workers=workers, batch_size=batch_size, on_error="skip"
    ) as predictor:
        for form in (items, iter(items)):
            np.testing.assert_array_equal(predictor.predict(form), expected)
            assert sorted(failure.index for failure in predictor.failures) == bad


@pytest.mark.parametrize("workers", [0, 2])
def test_a_model_that_refuses_zeros_gets_none(workers: int) -> None:
    matrices = np.stack([np.eye(3) * number for number in range(1, 41)]).astype(np.float32)

    def prepare(index: int) -> np.ndarray:
        if index % 7 == 3:
            raise ValueError("no such matrix")
        return matrices[index]

    with ringfeed.Predictor(tf.linalg.inv, preprocess=prepare, workers=workers, on_error="skip") as predictor:
        outputs = predictor.predict(range(40))
    good = [index for index in range(40) if index % 7 != 3]
    np.testing.assert_allclose(outputs, np.stack([np.eye(3) / (index + 1) for index in good]), rtol=1e-6)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("singular", [[0], [13], [39], [0, 1], [3, 17, 18, 31], list(range(40))])
def test_a_row_over_which_the_model_raises_is_that_items_error(workers: int, singular: list[int]) -> None:
    matrices = np.stack([np.eye(3) * number for number in range(1, 41)]).astype(np.float32)
    matrices[singular] = 0
    with ringfeed.Predictor(
        tf.linalg.inv, preprocess=lambda index: matrices[index], workers=workers, on_error="return"
    ) as predictor:
        results = predictor.predict(range(40))
        streamed = dict(predictor.stream(range(40)))
    for index in range(40):
        for result in (results[index], streamed[index]):
            if index in singular:
                assert isinstance(result, ringfeed.ModelError)
                assert isinstance(result, tf.errors.InvalidArgumentError)
                assert (result.index, result.item) == (index, index)
                assert f"item {index} " in str(result)
                assert "not invertible" in str(result)
                assert isinstance(result.__cause__, tf.errors.InvalidArgumentError)
            else:
                np.testing.assert_allclose(result, np.eye(3) / (index + 1), rtol=1e-6)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("on_error", ["skip", "return"])
def test_few_good_rows_among_many_bad_ones_have_results(workers: int, on_error: str) -> None:
    good = [3, 6]
    matrices = np.zeros((8, 3, 3), np.float32)
    matrices[good] = np.eye(3)
    with ringfeed.Predictor(
        tf.linalg.inv, preprocess=lambda index: matrices[index], workers=workers, on_error=on_error
    ) as predictor:
        predictor.predict(good)  # from now on the predictor knows that the model takes these rows
        results = predictor.predict(range(8))
        assert [failure.index for failure in predictor.failures] == [0, 1, 2, 4, 5, 7]
    kept = results if on_error == "skip" else [results[index] for index in good]
    np.testing.assert_array_equal(kept, [np.eye(3)] * 2)


def test_a_row_over_which_the_model_raises_is_raised_by_name_and_the_predictor_goes_on() -> None:
    matrices = np.stack([np.eye(3)] * 9).astype(np.float32)
    matrices[5] = 0
    with ringfeed.Predictor(tf.linalg.inv, preprocess=lambda i: matrices[i], workers=1) as predictor:
        with pytest.raises(ringfeed.ModelError, match="item 5 ") as caught:
            predictor.predict(range(9))
        assert caught.value.index == 5
        assert len(predictor.predict(range(5))) == 5


def test_an_error_of_the_models_form_is_raised_unchanged() -> None:
    model = tf.function(lambda x: tf.matmul(x, tf.ones((3, 3))))
    calls = []

    def counted(x: Any) -> Any:
        calls.append(1)
        return model(x)

    with ringfeed.Predictor(
        tf.function(counted), preprocess=given, workers=1, on_error="skip", batch_size=8
    ) as predictor:
        with pytest.raises(ValueError, match="Dimensions must be equal"):
            predictor.predict(ROWS)
        assert predictor.failures == []
    assert len(calls) < 8  # it was not tried on every row


def test_rows_over_which_the_model_raises_keep_no_slots() -> None:
    with ringfeed.Predictor(
        tf.linalg.inv, preprocess=given, workers=1, on_error="skip", batch_size=4, slots=8
    ) as predictor:
        singular = (np.zeros((3, 3), np.float32) for _ in range(300))
        assert list(predictor.stream(singular, linger=0.0, window=1)) == []
        assert len(predictor.failures) == 300
        assert len(predictor.predict([np.eye(3, dtype=np.float32)] * 5)) == 5


def test_an_error_of_the_model_that_guards_its_attributes_is_an_items_error_as_well() -> None:
    class Guarded(Exception):
        @property
        def index(self) -> int:
            return 0

    class Eager(keras.Model):
        def call(self, rows: Any) -> Any:
            if bool(tf.reduce_any(rows < 0)):
                raise Guarded("no")
            return rows

    model = Eager()
    model.compile(run_eagerly=True)
    rows = ROWS.copy()
    rows[3] = -1
    with ringfeed.Predictor(model, preprocess=given, workers=0, on_error="skip") as predictor:
        np.testing.assert_array_equal(predictor.predict(rows), np.delete(ROWS, 3, axis=0))
        assert [failure.index for failure in predictor.failures] == [3]


def test_an_output_whose_kind_changes_from_batch_to_batch_is_an_error_that_names_both() -> None:
    def changing(rows: Any) -> Any:
        return tf.cast(rows, tf.float64) if rows.shape[0] == 2 else rows

    model = keras_model(changing)
    model.compile(run_eagerly=True)
    with (
        ringfeed.Predictor(model, preprocess=given, workers=0, batch_size=4) as predictor,
        pytest.raises(ringfeed.ModelError, match=r"float64.*float32"),
    ):
        predictor.predict(ROWS)


def test_a_predictor_that_is_dropped_ends_its_workers() -> None:
    import gc

    from support import is_gone, wait_until

    predictor = ringfeed.Predictor(lambda x: x, preprocess=given, workers=1)
    predictor.predict([1.0])
    (worker,) = predictor.worker_process_ids
    del predictor
    gc.collect()
    wait_until(lambda: is_gone(worker))
