"""Each model call of `predict` has the rows that it has in Keras, in the items' order, whichever worker is faster."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from preprocessing import dying_once, refusing_some, unevenly, unevenly_and_keeping, unevenly_into, waiting_for_a_file

import ringfeed

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

ITEMS = 101


ROWS = np.stack([[number % 13, number, -number] for number in range(ITEMS)]).astype(np.float32)

MIXING: dict[str, Callable[[Any], Any]] = {
    "the least of the batch": lambda rows: rows - tf.reduce_min(rows, 0),
    "its mean": lambda rows: rows - tf.reduce_mean(rows, 0),
    "the row before": lambda rows: tf.concat([rows[:1], rows[:-1]], 0),
    "sums so far": lambda rows: tf.cumsum(rows, 0),
    "the place in the batch": lambda rows: tf.range(tf.shape(rows)[0]),
    "ranks": lambda rows: tf.argsort(tf.argsort(rows[:, 0])),
    "ragged, to the batch's most": lambda rows: tf.RaggedTensor.from_tensor(
        tf.repeat(rows, 4, 1), lengths=tf.cast(tf.minimum(rows[:, 0], tf.reduce_max(rows[:, 0]) - 1), tf.int64)
    ),
}


def mixing(kind: str) -> Any:
    class Model(keras.Model):
        def call(self, inputs: Any) -> Any:
            return MIXING[kind](inputs)

    return Model()


def same(actual: Any, expected: Any) -> None:
    if isinstance(expected, tf.RaggedTensor):
        assert actual.to_list() == expected.to_list()
    else:
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("kind", MIXING)
@pytest.mark.parametrize(("workers", "batch_size"), [(2, 1), (3, 4), (4, 32), (2, 200)])
def test_a_model_that_mixes_rows_gives_the_numbers_of_keras(kind: str, workers: int, batch_size: int) -> None:
    model = mixing(kind)
    expected = model.predict(ROWS, batch_size=batch_size, verbose=0)
    with ringfeed.Predictor(model, preprocess=unevenly, workers=workers, batch_size=batch_size) as predictor:
        same(predictor.predict(range(ITEMS)), expected)
        same(predictor.predict(iter(range(ITEMS))), expected)
        same(predictor.predict(range(ITEMS), batch_size=7), model.predict(ROWS, batch_size=7, verbose=0))


def test_a_model_that_mixes_rows_gives_the_numbers_of_keras_for_some_steps() -> None:
    model = mixing("sums so far")
    with ringfeed.Predictor(model, preprocess=unevenly, workers=2, batch_size=8) as predictor:
        same(predictor.predict(range(ITEMS), steps=3), model.predict(ROWS[:24], batch_size=8, verbose=0))
        same(predictor.predict(iter(range(ITEMS)), steps=13), model.predict(ROWS, batch_size=8, verbose=0))


@pytest.mark.parametrize("preprocess", [unevenly_into, unevenly_and_keeping])
def test_a_model_that_mixes_rows_gives_the_numbers_of_keras_where_slots_are_filled(preprocess: Any) -> None:
    model = mixing("sums so far")
    with ringfeed.Predictor(
        model, preprocess=preprocess, workers=3, batch_size=8, sample_spec=((3,), "float32")
    ) as predictor:
        same(predictor.predict(range(ITEMS)), model.predict(ROWS, batch_size=8, verbose=0))


@pytest.mark.parametrize("items_as", [list, iter])
def test_items_that_fail_leave_no_gap_in_a_batch(items_as: Any) -> None:
    model = mixing("sums so far")
    good = [number for number in range(ITEMS) if number % 5 and not 40 <= number < 60]
    with ringfeed.Predictor(model, preprocess=refusing_some, workers=3, batch_size=8, on_error="skip") as predictor:
        for _ in range(2):
            same(predictor.predict(items_as(range(ITEMS))), model.predict(ROWS[good], batch_size=8, verbose=0))
            assert sorted(failure.index for failure in predictor.failures) == sorted(set(range(ITEMS)) - set(good))


class CannotBeSent:
    def __reduce__(self) -> Any:
        raise TypeError("it stays here")


def test_items_that_cannot_be_sent_leave_no_gap_in_a_batch() -> None:
    model = mixing("sums so far")
    items = [CannotBeSent() if number % 3 == 1 else number for number in range(ITEMS)]
    good = [number for number in range(ITEMS) if number % 3 != 1]
    with ringfeed.Predictor(model, preprocess=unevenly, workers=2, batch_size=8, on_error="skip") as predictor:
        same(predictor.predict(items), model.predict(ROWS[good], batch_size=8, verbose=0))


def test_an_item_whose_worker_died_is_still_in_its_batch(tmp_path: Path) -> None:
    model = mixing("sums so far")
    with ringfeed.Predictor(model, preprocess=dying_once, workers=3, batch_size=8) as predictor:
        same(
            predictor.predict([(number, str(tmp_path)) for number in range(ITEMS)]),
            model.predict(ROWS, batch_size=8, verbose=0),
        )
    assert len(list(tmp_path.iterdir())) == 10


def test_one_slow_item_stops_the_others_when_rings_and_workers_are_full(tmp_path: Path) -> None:
    """Rows that come before their turn are kept. Items are read only while there is room for their rows."""
    model, path, count = mixing("sums so far"), tmp_path / "go on", 3000
    with ringfeed.Predictor(model, preprocess=waiting_for_a_file, workers=2, batch_size=8) as predictor:
        same(predictor.predict([(0, str(path))]), model.predict(ROWS[:1], verbose=0))
        most = 1 + predictor._loop._rings.max_items_under_way(8)
        assert most < count // 2
        read, all_read = [0], threading.Event()

        def items() -> Iterator[tuple[int, str]]:
            for number in range(count):
                read[0] = number + 1
                if read[0] == most:
                    all_read.set()
                yield number, str(path)

        read_before_continuing = []

        def continue_later() -> None:
            all_read.wait(60)
            time.sleep(0.3)  # time in which a fault would read further items
            read_before_continuing.append(read[0])
            path.touch()

        thread = threading.Thread(target=continue_later)
        thread.start()
        outputs = predictor.predict(items())
        thread.join()
        assert read_before_continuing == [most]
        rows = np.stack([[number % 13, number, -number] for number in range(count)]).astype(np.float32)
        same(outputs, model.predict(rows, batch_size=8, verbose=0))


@pytest.mark.parametrize("partition", ["contiguous", "stratified"])
@pytest.mark.parametrize("kind", MIXING)
def test_with_shares_a_model_that_mixes_rows_is_refused(kind: str, partition: str) -> None:
    labels = [number % 2 for number in range(ITEMS)] if partition == "stratified" else None
    with ringfeed.Predictor(
        mixing(kind), preprocess=unevenly, workers=2, batch_size=32, partition=partition
    ) as predictor:
        for _ in range(2):
            with pytest.raises(ringfeed.ModelError, match=rf"partition='{partition}'.*mixes rows.*'dynamic'"):
                predictor.predict(range(ITEMS), labels=labels)


NOT_MIXING: dict[str, Callable[[Any], Any]] = {
    "rows by themselves": lambda rows: rows * 2 + tf.reduce_sum(rows, 1, keepdims=True),
    "a product of matrices": lambda rows: rows @ tf.random.stateless_normal((3, 50), [1, 2]),
    "random numbers": lambda rows: rows + tf.random.uniform(tf.shape(rows)),
    "texts": lambda rows: tf.strings.as_string(rows[:, 0]),
}


@pytest.mark.parametrize("kind", NOT_MIXING)
@pytest.mark.parametrize("is_eager", [False, True])
def test_with_shares_other_models_are_accepted(kind: str, is_eager: bool) -> None:
    function = NOT_MIXING[kind]

    def eager(rows: Any) -> Any:
        return tf.constant(function(rows).numpy())

    class Model(keras.Model):
        def call(self, inputs: Any) -> Any:
            return function(inputs)

    with ringfeed.Predictor(
        eager if is_eager else Model(), preprocess=unevenly, workers=2, batch_size=32, partition="contiguous"
    ) as predictor:
        outputs = predictor.predict(range(ITEMS))
    if kind == "rows by themselves":
        np.testing.assert_allclose(outputs, function(ROWS), rtol=1e-6)
    else:
        assert len(outputs) == ITEMS
