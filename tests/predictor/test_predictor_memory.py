"""The predictor's rings: no name, no need of /dev/shm, and as many slots as there is memory for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from predict_runs import copy_rows, running

from ringfeed.errors import NoSpace
from ringfeed.machine.memory_limits import available_bytes
from ringfeed.workers import predict_rings

LARGE_SHAPE = (224, 224, 3)

PROGRAM = """
import os
import numpy as np
import ringfeed

assert os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize <= 1 << 20

def prepare(item):
    return np.full((224, 224, 3), item, np.float32)

with ringfeed.Predictor(lambda x: x[:, 0, 0, 0], preprocess=prepare, workers=2) as predictor:
    assert predictor.predict(range(300)).tolist() == list(range(300))
    assert predictor.ring.slots >= 128
print("good")
"""


def test_a_predictor_needs_no_room_in_shared_memory() -> None:
    pytest.importorskip("tensorflow")
    if not shutil.which("unshare"):
        pytest.skip("needs unshare")
    script = 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$0" -c "$1"'
    command = ["unshare", "--mount", "sh", "-c", script, sys.executable, textwrap.dedent(PROGRAM)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.stderr.startswith(("unshare:", "mount:")):
        pytest.skip(f"may not mount: {done.stderr.strip()}")
    assert done.stdout == "good\n", done.stderr


@pytest.mark.parametrize(("batches_that_fit", "slots"), [(1000, 68), (3, 48), (2, 36), (0, 36)])
def test_short_memory_means_fewer_slots_but_at_least_two_batches_and_two_a_worker(
    monkeypatch: pytest.MonkeyPatch, batches_that_fit: int, slots: int
) -> None:
    row_bytes = int(np.prod(LARGE_SHAPE)) * 4
    room = int(batches_that_fit * 16 * row_bytes / predict_rings._SHARE_OF_MEMORY) + row_bytes
    monkeypatch.setattr(predict_rings, "available_bytes", lambda: room)
    with running(lambda item: np.full(LARGE_SHAPE, item, np.float32), batch_size=16) as run:
        results, failures = run(range(100))
        assert run.loop.rows.slots == slots
    assert not failures
    assert sorted(results) == list(range(100))


@pytest.mark.parametrize("batch_size", [1000, 1_000_000, 20_000_000])
@pytest.mark.parametrize("shape", [(4,), LARGE_SHAPE], ids=["small", "large"])
@pytest.mark.parametrize("make", [list, iter], ids=["sequence", "iterator"])
@pytest.mark.parametrize("is_default", [False, True])
def test_a_batch_size_far_above_the_number_of_items_is_no_reason_to_fail(
    is_default: bool, make: Any, shape: tuple[int, ...], batch_size: int
) -> None:
    with running(
        lambda item: np.full(shape, item, np.float32), workers=1, batch_size=batch_size if is_default else 4
    ) as run:
        results, failures = run(make(range(10)), batch_size=batch_size)
        assert run.loop.rows.segment_bytes < available_bytes() / 2
    assert not failures
    assert sorted(results) == list(range(10))


@pytest.mark.parametrize("partition", ["dynamic", "contiguous"])
def test_batches_larger_than_the_ring_are_put_together_beside_it(
    monkeypatch: pytest.MonkeyPatch, partition: str
) -> None:
    monkeypatch.setattr(predict_rings, "available_bytes", lambda: 0)
    monkeypatch.setattr(predict_rings, "MAX_SLOTS", 512)
    calls: list[int] = []

    def model(rows: Any, template: Any) -> Any:
        calls.append(len(rows["0"]))
        return copy_rows(rows, template)

    with running(lambda item: np.full(1024, item, np.float32), model=model, partition=partition) as run:
        for items in (iter(range(1500)), range(1500)) if partition == "dynamic" else (range(1500),):
            results, failures = run(items, batch_size=600)
            assert not failures
            assert {index: row[0] for index, row in results.items()} == {i: i for i in range(1500)}
            assert calls == [600, 600, 300]
            assert run.loop.rows.slots == 512
            calls.clear()


def test_a_batch_that_memory_does_not_hold_is_an_error_that_names_its_size() -> None:
    def prepare(item: int) -> np.ndarray:
        return np.zeros(1 << 24, np.float32)

    with running(prepare, workers=1) as run, pytest.raises(NoSpace, match="batch_size=1000000"):
        run(range(1_000_000), batch_size=1_000_000)


def test_a_requested_number_of_slots_is_not_reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict_rings, "available_bytes", lambda: 0)
    with running(lambda item: np.full(LARGE_SHAPE, item, np.float32), batch_size=4, slots=50) as run:
        run(range(10))
        assert run.loop.rows.slots == 50


@pytest.mark.parametrize(("workers", "batch_size", "slots"), [(3, 4, 14), (5, 1, 12)])
def test_slots_are_raised_to_two_batches_and_two_a_worker(workers: int, batch_size: int, slots: int) -> None:
    with running(lambda item: np.full(512, item, np.float64), workers, batch_size=batch_size, slots=1) as run:
        for _ in range(2):
            results, failures = run(range(10), batch_size=batch_size)
            assert run.loop.rows.slots == slots
            assert not failures
            assert len(results) == 10


def test_the_rings_have_no_file_in_any_folder() -> None:
    before = set(os.listdir("/dev/shm"))
    with running(lambda item: np.zeros(16), batch_size=4) as run:
        run(range(10))
        targets = [os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd") if _exists(number)]
        assert sum("memfd:" in target for target in targets) >= 3
        assert not [name for name in set(os.listdir("/dev/shm")) - before if f"-{os.getpid()}-" in name]


def _exists(number: str) -> bool:
    return Path(f"/proc/self/fd/{number}").is_symlink()
