"""Items that fail: each error names its item, and the others are not affected."""

from __future__ import annotations

import os
import pathlib
import signal
from typing import Any

import numpy as np
import pytest
from predict_runs import as_row, running

from ringfeed.errors import PreprocessError, RingFeedError, SampleMismatch, WorkerCrashed


def test_an_error_names_its_item_and_carries_the_workers_traceback() -> None:
    def decode(item: int) -> np.ndarray:
        if item == 13:
            raise ValueError("unlucky")
        return as_row(item)

    with running(decode) as run:
        results, failures = run(range(50))
    assert sorted(results) == [i for i in range(50) if i != 13]
    [failure] = failures
    assert isinstance(failure, PreprocessError)
    assert (failure.index, failure.item) == (13, 13)
    assert "item 13 (13)" in str(failure)
    assert "ValueError: unlucky" in str(failure)
    assert "in decode" in str(failure)


def test_a_very_long_error_text_keeps_its_end() -> None:
    def decode(item: int) -> np.ndarray:
        if item:
            raise ValueError("x" * 100_000 + " the end")
        return as_row(item)

    with running(decode) as run:
        _, [failure] = run(range(2))
    assert str(failure).endswith("the end")


@pytest.mark.parametrize("failing", [1, 30, 200])
def test_items_before_the_first_good_one_fail_alone(failing: int) -> None:
    def decode(item: int) -> np.ndarray:
        if item < failing:
            raise ValueError("too early")
        return as_row(item)

    for items in (range(220), iter(range(220))):
        with running(decode) as run:
            results, failures = run(items)
        assert sorted(results) == list(range(failing, 220))
        assert sorted(failure.index for failure in failures) == list(range(failing))


def test_when_every_item_fails_each_has_its_error() -> None:
    with running(lambda item: 1 / 0) as run:
        results, failures = run(range(5))
    assert not results
    assert [failure.index for failure in failures] == list(range(5))


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (np.zeros((8, 9), np.float32), ["(8, 9)", "(16,)"]),
        (np.zeros(16, np.complex64), ["complex64", "float32"]),
        ([np.zeros(16, np.float32)], ["a list of 1", "one array"]),
    ],
)
def test_a_later_item_that_does_not_fit_fails_with_both_descriptions(other: object, said: list[str]) -> None:
    with running(lambda item: other if item == 7 else as_row(item)) as run:
        results, [failure] = run(range(30))
    assert len(results) == 29
    assert failure.index == 7
    for text in said:
        assert text in str(failure)


@pytest.mark.parametrize("form", ["a list under a name", "many names", "long names", "a list of mappings", "deep"])
def test_a_first_item_whose_description_is_too_long_fails_alone_and_ends_no_worker(form: str) -> None:
    def decode(item: int) -> Any:
        if item:
            return {"image": as_row(item)}
        if form == "a list under a name":
            return {"image": [[0.0] * 3] * 50_176}  # a picture, as a list of its points
        if form == "many names":
            return {f"number {number}": 0.0 for number in range(40_000)}
        if form == "long names":
            return {"x" * 1_000_000 + str(number): 0.0 for number in range(2)}
        if form == "a list of mappings":
            return {"image": [{"a": 0.0, "b": 1.0}] * 20_000}
        nest: Any = 0.0
        for _ in range(150):
            nest = [nest]
        return {"image": nest, "other": 0}

    with running(decode, model=lambda rows, template: np.array(rows["0"])) as run:
        before = run.pool.process_ids
        for _ in range(2):  # in the second call the rings exist already
            results, failures = run(range(20))
            assert sorted(results) == list(range(1, 20))
            [failure] = failures
            assert isinstance(failure, SampleMismatch)
            assert "item 0 (0): preprocess returned" in str(failure)
            assert len(str(failure)) < 1000
            if "list" in form:
                assert "numpy.asarray" in str(failure)
        assert run.pool.process_ids == before


def test_an_item_that_kills_its_worker_is_tried_once_more_and_then_fails_by_name(tmp_path: pathlib.Path) -> None:
    def decode(item: int) -> np.ndarray:
        if item == 17:
            with open(tmp_path / "tries", "a") as tries:
                tries.write("x")
            os.kill(os.getpid(), signal.SIGKILL)
        return as_row(item)

    with running(decode) as run:
        run(range(4))
        results, failures = run(range(60))
        assert len(run.pool) == 2
    assert sorted(results) == [i for i in range(60) if i != 17]
    [failure] = failures
    assert isinstance(failure, WorkerCrashed)
    assert failure.index == 17
    assert "SIGKILL" in str(failure)
    assert (tmp_path / "tries").read_text() == "xx"


def test_an_item_whose_worker_is_killed_once_is_done_by_another(tmp_path: pathlib.Path) -> None:
    def decode(item: int) -> np.ndarray:
        if item == 17 and not (tmp_path / "tried").exists():
            (tmp_path / "tried").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return as_row(item)

    with running(decode, workers=1) as run:
        run(range(4))
        results, failures = run(range(60))
    assert not failures
    assert {index: row[0] for index, row in results.items()} == {i: i for i in range(60)}


def test_workers_killed_at_random_change_no_result() -> None:
    random = np.random.default_rng(5)
    with running(as_row) as run:
        results: dict[int, np.ndarray] = {}
        failures = []
        next_kill = 200
        for chunk in run.chunks(range(3000)):
            failures += chunk.failures
            results.update(zip(chunk.indices.tolist(), chunk.outputs, strict=True))
            # A worker that holds an item of a killed worker is spared: two deaths in a row would blame the item.
            if len(results) >= next_kill and len(results) == max(results) + 1:
                next_kill = len(results) + 400
                os.kill(random.choice(run.pool.process_ids), signal.SIGKILL)
    assert next_kill > 200, "no worker was killed"
    assert not failures
    assert {index: row[0] for index, row in results.items()} == {i: i for i in range(3000)}


def test_a_worker_that_cannot_load_the_function_reports_the_reason() -> None:
    class Poison:
        def __call__(self, item: int) -> np.ndarray:
            return as_row(item)

        def __reduce__(self):
            return exec, ("raise ImportError('no decoder here')",)

    with running(Poison()) as run, pytest.raises(RingFeedError, match="no decoder here"):
        run(range(3))


def test_workers_that_die_before_they_are_ready_are_not_restarted_for_ever() -> None:
    class Poison:
        def __call__(self, item: int) -> np.ndarray:
            return as_row(item)

        def __reduce__(self):
            return exec, ("import os; os._exit(3)",)

    with running(Poison()) as run, pytest.raises(RingFeedError, match="exit code 3"):
        run(range(3))


def test_an_error_of_the_users_iterator_comes_through() -> None:
    def items():
        yield from range(20)
        raise LookupError("the list of files is gone")

    with running(as_row) as run:
        with pytest.raises(LookupError, match="the list of files is gone"):
            run(items())
        assert len(run(range(5))[0]) == 5


def test_an_item_that_cannot_be_sent_fails_alone() -> None:
    import threading

    items = [0, 1, threading.Lock(), 3]
    with running(as_row) as run:
        results, [failure] = run(items)
    assert sorted(results) == [0, 1, 3]
    assert failure.index == 2
    assert "cannot be sent" in str(failure)
