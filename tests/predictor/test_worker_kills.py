"""Workers killed by SIGKILL at any moment, ready or just starting: the results are those of a quiet day."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from predict_runs import running

from support import wait_until

LARGE_BYTES = 200_000
"""More bytes than a slot of the task ring takes, so that the item is stored in the spill file."""


RESULTS_BETWEEN_KILLS = 200


def summed(item: np.ndarray | int) -> np.ndarray:
    """Work on an item for a while. Return its first value and its sum, which show that all of it arrived."""
    values = np.asarray(item)
    row = np.empty(8, np.float64)
    row[:4] = values.flat[0]
    row[4:] = values.sum(dtype=np.int64)
    for _ in range(20):
        np.sort(np.arange(2000)[::-1])
    return row


def items_of(kind: str, count: int) -> list[Any]:
    if kind == "small":
        return list(range(count))
    return [np.full(LARGE_BYTES if n % 5 == 1 else 10, n % 251, np.uint8) for n in range(count)]


def nothing_is_missing(results: dict[int, Any], count: int, shares: int) -> bool:
    """Tell whether, in each share, all items before the last finished item are finished."""
    assert count % shares == 0
    share = count // shares
    done = [[index for index in results if index // share == part] for part in range(shares)]
    return all(
        max(each, default=start - 1) - start + 1 == len(each)
        for start, each in zip(range(0, count, share), done, strict=True)
    )


@contextmanager
def killing(pids: Callable[[], list[int]], done: Callable[[], int], seed: int, pause: float) -> Iterator[list[int]]:
    """Kill one worker after the other, in a thread, while the block runs. Yield the killed process ids.

    Between two kills, more results come than a ring of rows holds. An item is abandoned when two workers in a row
    die over it, and no item here may be blamed.
    """
    chance = np.random.default_rng(seed)
    killed: list[int] = []
    over = threading.Event()

    def kill() -> None:
        last = done()
        while not over.wait(chance.uniform(0.2, 1.8) * pause):
            now = done()
            if now < last + RESULTS_BETWEEN_KILLS:
                continue
            last = now
            pid = int(chance.choice(pids()))
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            killed.append(pid)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize(("kind", "partition"), [("large", "dynamic"), ("small", "contiguous")])
def test_workers_killed_at_random_moments_change_no_result(kind: str, partition: str) -> None:
    items = items_of(kind, 1200)
    results: dict[int, np.ndarray] = {}
    failures = []
    with running(summed, partition=partition) as run:
        calm, _ = run(items[:40])
        settled = 0
        with killing(lambda: run.pool.process_ids, lambda: settled, seed=11, pause=0.02) as killed:
            for chunk in run.chunks(items):
                failures += chunk.failures
                assert not results.keys() & set(chunk.indices.tolist())
                if chunk.outputs is not None:
                    results.update(zip(chunk.indices.tolist(), chunk.outputs, strict=True))
                # No kill while another worker may hold an item of a dead worker.
                safe = nothing_is_missing(results, len(items), 1 if partition == "dynamic" else 2)
                settled = len(results) if safe else 0
    assert failures == []
    assert killed
    assert sorted(results) == list(range(len(items)))
    for index, item in enumerate(items):
        np.testing.assert_array_equal(results[index], summed(item))
    for index, row in calm.items():
        np.testing.assert_array_equal(results[index], row)


def test_workers_that_are_killed_while_they_start_are_started_again() -> None:
    with running(summed) as run:
        started = list(run.pool.process_ids)
        for pid in started:
            os.kill(pid, signal.SIGKILL)
        chunks = run.chunks(range(200))
        results = dict.fromkeys(next(chunks).indices.tolist())
        for _ in range(4):  # while they import what they need
            before = list(run.pool.process_ids)
            for pid in before:
                os.kill(pid, signal.SIGKILL)
            wait_until(lambda before=before: run.pool.replace_dead() or not set(before) & set(run.pool.process_ids))
        for chunk in chunks:
            assert not chunk.failures
            results |= dict.fromkeys(chunk.indices.tolist())
    assert sorted(results) == list(range(200))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["small", "large"])
def test_predict_of_ten_thousand_items_during_kills_equals_predict_without(kind: str) -> None:
    pytest.importorskip("tensorflow")
    import ringfeed

    items = items_of(kind, 10_000)
    with ringfeed.Predictor(lambda rows: rows * 2, preprocess=summed, workers=2) as predictor:
        without = predictor.predict(items)
        ring = predictor.ring
        assert ring is not None
        # More rows are released than are finished in order, so kills are farther apart.
        with killing(
            lambda: predictor.worker_process_ids, lambda: ring.stats()["released"] // 4, seed=3, pause=0.3
        ) as killed:
            with_kills = predictor.predict(items)
        print(f"{len(killed)} workers killed")
        assert len(killed) >= 5
        assert predictor.failures == []
    np.testing.assert_array_equal(with_kills, without)
    np.testing.assert_array_equal(with_kills[:, 0], [2 * float(np.asarray(item).flat[0]) for item in items])
