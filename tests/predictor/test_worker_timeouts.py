"""Items that hang, and workers that are stopped, with `item_timeout=`."""

from __future__ import annotations

import logging
import os
import pathlib
import signal
import time
from typing import Any

import numpy as np
import pytest
from predict_runs import running, spec_of

import ringfeed
from ringfeed.workers import worker_process
from ringfeed.workers.item_status import ItemStatusPage
from ringfeed.workers.item_timeout import ItemWatchdog
from ringfeed.workers.pool import WorkerPool
from ringfeed.workers.tags import PROBE_TAG
from support import in_thread, process_state, wait_until

LIMIT = 0.4
"""Seconds; far more than a quick item takes on a busy machine."""


def hang() -> None:
    while True:
        time.sleep(3600)


def spin_without_the_interpreter() -> None:
    """Hang like C code that holds the GIL."""
    import ctypes

    ctypes.PyDLL(None).sleep(3600)


class HangsWhenRead:
    def __init__(self, n: int) -> None:
        self.n = n

    def __setstate__(self, state: Any) -> None:
        hang()


def of_number(item: Any) -> np.ndarray:
    return np.full(4, item, np.float32)


@pytest.mark.parametrize("how", [hang, spin_without_the_interpreter])
def test_an_item_that_hangs_fails_by_name_and_no_other_is_lost(how: Any, tmp_path: pathlib.Path) -> None:
    tries = tmp_path / "tries"

    def decode(item: int) -> np.ndarray:
        if item in (7, 40, 41, 99):
            with open(tries, "a") as file:
                file.write(f"{item} ")
            how()
        return of_number(item)

    with running(decode, item_timeout=LIMIT) as run:
        before = run.pool.process_ids
        results, failures = run(range(100))
        assert run.pool.process_ids != before
        assert sorted(run(range(6))[0]) == list(range(6))
    assert sorted(results) == [n for n in range(100) if n not in (7, 40, 41, 99)]
    assert all((row == index).all() for index, row in results.items())
    assert sorted(failure.index for failure in failures) == [7, 40, 41, 99]
    for failure in failures:
        assert type(failure) is ringfeed.PreprocessError
        assert failure.exception_type == "TimeoutError"
        assert type(failure.__cause__) is TimeoutError
        assert f"item {failure.index} ({failure.index}): preprocess took longer than item_timeout=0.4 s" in str(failure)
    assert sorted(map(int, tries.read_text().split())) == [7, 40, 41, 99]  # no item was tried again


def test_an_item_that_hangs_while_it_is_read_fails_as_well() -> None:
    items = [HangsWhenRead(n) if n in (30, 31) else n for n in range(60)]
    with running(of_number, item_timeout=LIMIT) as run:
        results, failures = run(items)
    assert sorted(failure.index for failure in failures) == [30, 31]
    assert len(results) == 58


class Lazy:
    """An object that computes when it is converted into an array."""

    def __init__(self, item: int) -> None:
        self.item = item

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        if self.item == 30:
            hang()
        return of_number(self.item)


def test_a_result_that_hangs_when_it_is_made_an_array_fails_as_well() -> None:
    with running(Lazy, item_timeout=LIMIT) as run:
        results, failures = run(range(60))
    assert [failure.index for failure in failures] == [30]
    assert len(results) == 59


def test_a_first_item_that_hangs_fails_and_the_next_is_tried() -> None:
    def decode(item: int) -> np.ndarray:
        if item < 2:
            hang()
        return of_number(item)

    with running(decode, item_timeout=LIMIT) as run:
        results, failures = run(range(10))
    assert sorted(failure.index for failure in failures) == [0, 1]
    assert {failure.exception_type for failure in failures} == {"TimeoutError"}
    assert sorted(results) == list(range(2, 10))


def test_a_function_that_fills_the_slot_and_hangs_fails_as_well() -> None:
    def decode(item: int, out: np.ndarray) -> None:
        out[...] = item
        if item in (0, 50):
            hang()

    with running(decode, item_timeout=LIMIT, spec=spec_of((16,))) as run:
        results, failures = run(range(100))
    assert sorted(failure.index for failure in failures) == [0, 50]
    assert all((row == index).all() for index, row in results.items())


def test_waiting_for_a_slow_model_does_not_count() -> None:
    def slow_model(batch: Any, template: Any) -> np.ndarray:
        time.sleep(2 * LIMIT)
        return np.array(batch["0"])

    with running(of_number, item_timeout=LIMIT, model=slow_model, batch_size=4, slots=8) as run:
        before = run.pool.process_ids
        results, failures = run(range(16), batch_size=4)
        assert run.pool.process_ids == before
    assert not failures
    assert len(results) == 16


def test_items_within_the_time_limit_are_not_lost() -> None:
    def decode(item: int) -> np.ndarray:
        time.sleep(LIMIT / 8)
        return of_number(item)

    with running(decode, item_timeout=LIMIT) as run:
        before = run.pool.process_ids
        results, failures = run(range(30))
        assert run.pool.process_ids == before
    assert not failures
    assert len(results) == 30


@pytest.mark.parametrize("fills", [False, True])
def test_a_worker_that_is_stopped_during_an_item_is_replaced_and_the_item_fails(fills: bool, tmp_path: Any) -> None:
    def work(item: int) -> np.ndarray:
        if item == 50:
            os.kill(os.getpid(), signal.SIGSTOP)
        return of_number(item)

    def fill(item: int, out: np.ndarray) -> None:
        out[...] = work(item)

    options: Any = {"spec": spec_of((4,))} if fills else {}
    with running(fill if fills else work, item_timeout=LIMIT, **options) as run:
        results, [failure] = run(range(100))
    assert failure.index == 50
    assert failure.exception_type == "TimeoutError"
    assert len(results) == 99


def test_workers_that_are_stopped_at_any_moment_are_replaced_and_the_items_come() -> None:
    """Mostly a worker is stopped between two items. Then no item may be blamed."""
    with running(of_number, item_timeout=LIMIT) as run:
        run(range(4))
        stopped = []
        chunks = run.chunks(range(3000))
        done: list[int] = []
        failed: list[Any] = []
        for number, chunk in enumerate(chunks):
            done += chunk.indices.tolist()
            failed += chunk.failures
            if number in (5, 60):
                victim = run.pool.process_ids[0]
                os.kill(victim, signal.SIGSTOP)
                stopped.append(victim)
            if number == 120:
                for victim in run.pool.process_ids:
                    os.kill(victim, signal.SIGSTOP)
                    stopped.append(victim)
            run.pool.kill_overdue()
        assert not set(stopped) & set(run.pool.process_ids)
    assert all(failure.exception_type == "TimeoutError" for failure in failed)
    assert len(failed) <= len(stopped)
    assert sorted(done + [failure.index for failure in failed]) == list(range(3000))


def test_a_worker_that_is_stopped_before_a_probe_is_replaced() -> None:
    with running(of_number, workers=1, item_timeout=LIMIT) as run:
        wait_until(lambda: run.pool.replace_dead() or run.pool._workers[0].is_ready)
        [pid] = run.pool.process_ids
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: process_state(pid) == "T")
        results, failures = run(range(10))
        assert run.pool.process_ids != [pid]
    assert not failures
    assert len(results) == 10


def test_a_large_first_item_does_not_wait_for_a_stopped_worker() -> None:
    with running(lambda item: np.float32(item[-1]), workers=1, item_timeout=LIMIT) as run:
        wait_until(lambda: run.pool.replace_dead() or run.pool._workers[0].is_ready)
        os.kill(run.pool.process_ids[0], signal.SIGSTOP)
        results, failures = run([np.full(3 << 20, n, np.uint8) for n in range(3)])
    assert not failures
    assert [float(results[n]) for n in range(3)] == [0, 1, 2]


def test_an_item_that_crashed_a_worker_and_then_hangs_is_given_up(tmp_path: pathlib.Path) -> None:
    def decode(item: int) -> np.ndarray:
        if item == 20:
            if (tmp_path / "tried").exists():
                hang()
            (tmp_path / "tried").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return of_number(item)

    with running(decode, item_timeout=LIMIT) as run:
        results, [failure] = run(range(60))
    assert failure.index == 20
    assert failure.exception_type == "TimeoutError"
    assert len(results) == 59


def test_an_item_that_timed_out_leaves_the_list_when_its_failure_is_reported() -> None:
    def decode(item: int) -> np.ndarray:
        if item % 2:
            hang()
        return of_number(item)

    with running(decode, workers=1, item_timeout=0.05) as run:
        results, failures = run(range(6))
        page = run.pool._watchdog._page
        assert not any(page.has_timed_out(tag) for tag in range(1 << 12))
    assert sorted(results) == [0, 2, 4]
    assert sorted(failure.index for failure in failures) == [1, 3, 5]


def test_an_initializer_is_not_limited_but_a_slow_one_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: pathlib.Path
) -> None:
    monkeypatch.setattr(worker_process, "_SLOW_START_SECONDS", 0.1)

    def start() -> None:
        while not (tmp_path / "go on").exists():
            time.sleep(0.001)

    with (
        caplog.at_level(logging.WARNING, "ringfeed"),
        running(of_number, item_timeout=LIMIT, initializer=start) as run,
        in_thread(run, range(5)) as running_call,
    ):
        wait_until(lambda: "is not ready after" in caplog.text)
        (tmp_path / "go on").touch()
        assert len(running_call.result()[0]) == 5
    assert "initializer" in caplog.text
    assert caplog.text.count("is not ready after") <= 2  # once for each worker


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf"), "2", [1]])
def test_a_timeout_that_is_none_is_refused(wrong: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="item_timeout"):
        WorkerPool(of_number, 1, item_timeout=wrong)


# ---- the watch ---------------------------------------------------------------------------------------


def test_a_pause_of_the_whole_program_makes_no_item_late() -> None:
    """As with Ctrl-Z, workers and watch stop while the clock continues."""
    watch = ItemWatchdog(60.0, 2)
    page = ItemStatusPage(watch.descriptor, 2)
    try:
        page.begin(0, 5)
        wait_until(lambda: watch._seen[0] is not None or watch.find_overdue([os.getpid()] * 2))
        for _ in range(4):
            watch._last_check -= 3600.0  # no check for an hour
            assert watch.find_overdue([os.getpid()] * 2) == []
        for _ in range(8):
            watch._last_check -= 3600.0
            found = watch.find_overdue([os.getpid()] * 2)
        assert found == [(0, 5)] or page.has_timed_out(5)
        assert page.has_timed_out(5)
        assert not page.has_timed_out(6)
        page.clear_timed_out(5)
        assert not page.has_timed_out(5)
    finally:
        page.close()
        watch.close()
        watch.close()


def test_the_page_tells_items_apart_by_the_whole_tag() -> None:
    watch = ItemWatchdog(1.0, 3)
    page = ItemStatusPage(watch.descriptor, 3)
    try:
        for worker, tag in enumerate([0, (1 << 63) - 1, PROBE_TAG]):
            assert page.entry(worker) is None
            page.begin(worker, tag)
            found = page.entry(worker)
            assert found is not None
            assert found[0] == tag
            assert not page.has_timed_out(tag)
            page.add_timed_out(tag)
            assert page.has_timed_out(tag)
            page.end(worker)
            assert page.entry(worker) is None
        for tag in range(1000, 1064):  # a full list forgets the oldest
            page.add_timed_out(tag)
        assert not page.has_timed_out(0)
        assert all(page.has_timed_out(tag) for tag in range(1001, 1064))
    finally:
        page.close()
        watch.close()
