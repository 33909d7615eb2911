"""A Predictor with `workers=0`: preprocessing in the caller's process."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from preprocessing import given

import ringfeed

tf = pytest.importorskip("tensorflow")


def test_without_workers_preprocess_runs_here_and_now() -> None:
    seen: list[tuple[int, int]] = []

    def prepare(item: int) -> np.ndarray:
        seen.append((os.getpid(), threading.get_ident()))
        return np.full(3, item)

    with ringfeed.Predictor(lambda x: x + 1, preprocess=prepare, workers=0, batch_size=4) as predictor:
        assert predictor.worker_process_ids == []
        assert predictor.predict(range(10))[:, 0].tolist() == list(range(1, 11))
        assert [row[0] for _, row in predictor.stream(range(10))] == list(range(1, 11))
    assert set(seen) == {(os.getpid(), threading.get_ident())}
    assert len(seen) == 20


def test_without_workers_an_error_has_the_exception_itself_as_its_cause() -> None:
    def prepare(item: int) -> float:
        return 1 / item

    with ringfeed.Predictor(lambda x: x, preprocess=prepare, workers=0) as predictor:
        with pytest.raises(ringfeed.PreprocessError, match="item 2 ") as caught:
            predictor.predict([1, 2, 0])
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert caught.value.__cause__.__traceback__ is not None
        assert caught.value.exception_type == "ZeroDivisionError"


def test_without_workers_the_initializer_runs_once_and_there_is_no_timeout() -> None:
    info: list[Any] = []
    with ringfeed.Predictor(lambda x: x, preprocess=given, workers=0, initializer=lambda i: info.append(i)) as one:
        assert one.predict([1.5]).tolist() == [1.5]
    assert [each.number for each in info] == [0]
    with pytest.raises(ValueError, match="item_timeout"):
        ringfeed.Predictor(lambda x: x, preprocess=given, workers=0, item_timeout=1.0)


def test_workers_draw_numbers_of_their_own_from_the_seed_that_they_are_given() -> None:
    def seed(info: ringfeed.WorkerInfo) -> None:
        random.seed(info.seed)

    def draw(item: int) -> np.ndarray:
        return np.array([ringfeed.worker_info().number, random.getrandbits(60)], np.int64)

    with ringfeed.Predictor(lambda x: x, preprocess=draw, workers=2, initializer=seed, batch_size=8) as predictor:
        drawn = predictor.predict(range(400))
    assert len(set(drawn[:, 1].tolist())) == 400
    assert set(drawn[:, 0].tolist()) <= {0, 1}


def test_without_workers_a_stream_reads_the_next_item_only_after_a_result() -> None:
    results: list[float] = []

    def items() -> Iterator[float]:
        for number in range(5):
            assert len(results) == number
            yield float(number)

    with ringfeed.Predictor(lambda x: x * 2, preprocess=given, workers=0) as predictor:
        for _, result in predictor.stream(items()):
            results.append(float(result))
    assert results == [0, 2, 4, 6, 8]


def test_an_initializer_without_preprocess_is_refused() -> None:
    with pytest.raises(ValueError, match="initializer="):
        ringfeed.Predictor(lambda x: x, initializer=print)


def test_without_workers_this_process_is_a_worker_while_it_works_as_one() -> None:
    told: list[Any] = []

    def prepare(item: float) -> np.ndarray:
        told.append(ringfeed.worker_info())
        return np.float32([item])

    with ringfeed.Predictor(
        lambda x: x, preprocess=prepare, workers=0, initializer=lambda: told.append(ringfeed.worker_info())
    ) as one:
        one.predict([1, 2], verbose=0)
    assert ringfeed.worker_info() is None
    assert len(set(told)) == 1
    assert (told[0].number, told[0].count) == (0, 1)


def test_without_workers_a_function_owns_the_out_that_it_keeps() -> None:
    kept: list[np.ndarray] = []

    def fill(item: int, out: np.ndarray) -> None:
        for array in kept:
            array[...] = -1
        out[...] = item
        kept.append(out[:1])

    with ringfeed.Predictor(
        lambda x: x, preprocess=fill, workers=0, sample_spec=((2,), "float32"), batch_size=8
    ) as one:
        assert one.predict(range(5), verbose=0).tolist() == [[i, i] for i in range(5)]
