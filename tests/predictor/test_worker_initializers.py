"""The information of a worker about itself (its number and its seed), and its initializer."""

from __future__ import annotations

import functools
import os
import random
import signal
from typing import Any

import numpy as np
import pytest
from predict_runs import running

import ringfeed
from ringfeed.errors import RingFeedError
from ringfeed.workers.pool import WorkerPool
from support import run_program, wait_until

SHARED = """
import collections, os, signal
from predict_runs import running

generator = np.random.default_rng(7)
calls = 0
seen = None

def seeded():
    global generator, calls, seen
    calls += 1
    info = ringfeed.worker_info()
    generator = np.random.default_rng(info.seed)
    seen = info

def given(info):
    seeded()
    assert info == ringfeed.worker_info()

def draw(item):
    import time
    time.sleep(0.001)
    number = ringfeed.worker_info().number
    return np.array([generator.integers(1 << 60), calls, number, seen.count, os.getpid()], np.int64)

def draws(initializer):
    with running(draw, workers=2, initializer=initializer, partition="contiguous") as run:
        rows = list(run(range(100))[0].values())
        for pid in list(run.pool.process_ids):
            os.kill(pid, signal.SIGKILL)
        return rows + list(run(range(100))[0].values())
"""


def test_an_initializer_runs_once_in_each_process_and_shares_the_functions_globals() -> None:
    body = (
        SHARED
        + """
for initializer in (seeded, given):
    rows = draws(initializer)
    processes = collections.defaultdict(set)
    for number, calls_, worker, count, pid in rows:
        assert (calls_, count) == (1, 2)
        processes[worker].add(pid)
    assert set(processes) == {0, 1}, processes
    assert all(len(pids) >= 2 for pids in processes.values()), processes
    assert len({number for number, *_ in rows}) == len(rows), "the same random number twice"
assert ringfeed.worker_info() is None
assert calls == 0
"""
    )
    status, _, errors = run_program(body, PYTHONPATH=os.pathsep.join(_paths()))
    assert status == 0, errors


def _paths() -> list[str]:
    import sys

    return [os.path.dirname(__file__), os.path.dirname(os.path.dirname(__file__)), *sys.path]


def look(item: int) -> np.ndarray:
    info = ringfeed.worker_info()
    assert info is not None
    return np.array([info.number, info.count, info.seed], np.uint64)


def test_a_replaced_worker_keeps_the_number_and_gets_a_new_seed() -> None:
    seeds = set()
    for _ in range(2):
        with running(look, workers=2, partition="contiguous") as run:
            for _ in range(2):
                rows = {tuple(map(int, row)) for row in run(range(100))[0].values()}
                assert {(number, count) for number, count, _ in rows} == {(0, 2), (1, 2)}
                fresh = {seed for _, _, seed in rows}
                assert len(fresh) == 2
                assert not fresh & seeds
                seeds |= fresh
                assert all(0 <= seed < 1 << 64 for seed in fresh)
                before = set(run.pool.process_ids)
                for pid in before:
                    os.kill(pid, signal.SIGKILL)
                wait_until(
                    lambda before=before, pool=run.pool: pool.replace_dead() or not before & set(pool.process_ids)
                )
    assert ringfeed.worker_info() is None


class Failing:
    """An initializer that raises, in the first process or in a later one."""

    def __init__(self, marker: str | None, error: BaseException) -> None:
        self.marker = marker
        self.error = error

    def __call__(self) -> None:
        if self.marker is None or os.path.exists(self.marker):
            raise self.error


@pytest.mark.parametrize("error", [ValueError("no such model"), SystemExit(3), KeyboardInterrupt()])
def test_an_initializer_that_raises_is_reported_at_the_first_call_with_its_traceback(error: BaseException) -> None:
    with running(look, initializer=Failing(None, error)) as run:
        with pytest.raises(RingFeedError, match="initializer raised") as info:
            run(range(3))
        assert type(error).__name__ in str(info.value)
        assert "in __call__" in str(info.value)
        with pytest.raises(RingFeedError):  # and again
            run(range(3))


def test_an_initializer_that_raises_in_a_replaced_worker_is_reported_too(tmp_path) -> None:
    with running(look, workers=1, initializer=Failing(str(tmp_path / "now"), ValueError("gone"))) as run:
        run(range(3))
        (tmp_path / "now").touch()
        os.kill(run.pool.process_ids[0], signal.SIGKILL)
        with pytest.raises(RingFeedError, match="gone"):
            run(range(3))
        (tmp_path / "now").unlink()
        assert len(run(range(3))[0]) == 3


def no_argument() -> None: ...
def optional(level: int = 3) -> None:
    assert level == 3


def with_info(info: Any) -> None:
    assert info is ringfeed.worker_info()


def any_arguments(*args: Any, **kwargs: Any) -> None:
    assert not args
    assert not kwargs


class Method:
    def start(self, info: Any) -> None:
        assert info.count == 1


@pytest.mark.parametrize(
    "initializer",
    [
        no_argument,
        optional,
        with_info,
        any_arguments,
        Method().start,
        functools.partial(optional, 3),
        functools.partial(optional, level=3),
        random.seed,
        np.random.seed,
    ],
)
def test_an_initializer_may_take_nothing_or_the_workers_info(initializer: Any) -> None:
    with running(look, workers=1, initializer=initializer) as run:
        assert len(run(range(3))[0]) == 3


@pytest.mark.parametrize("initializer", [lambda a, b: None, lambda *, info: None, 3, "start"])
def test_an_object_that_cannot_be_an_initializer_is_refused_at_once(initializer: Any) -> None:
    with pytest.raises(TypeError, match="initializer"):
        WorkerPool(look, 1, initializer=initializer)


def test_an_initializer_that_cannot_be_sent_is_named() -> None:
    import threading

    lock = threading.Lock()
    with pytest.raises(TypeError, match=r"initializer .* cannot be sent"):
        WorkerPool(look, 1, initializer=lambda: lock)


def test_a_large_function_reaches_workers_that_are_slow_to_start() -> None:
    """The function is sent as a file, so that no sender waits for the worker to read it."""
    large = np.arange(8 << 20, dtype=np.uint8)
    with running(lambda item: np.int64(large[item]), workers=2) as run:
        assert {int(row) for row in run(range(200))[0].values()} == set(range(200))
