"""The predictor's rings: no name, no need of /dev/shm, and as many slots as there is memory for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import ringfeed.pipeline
from pipelines import running

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
def test_where_memory_is_short_there_are_fewer_slots_and_never_less_than_two_batches_and_two_a_worker(
    monkeypatch: pytest.MonkeyPatch, batches_that_fit: int, slots: int
) -> None:
    row_bytes = int(np.prod(LARGE_SHAPE)) * 4
    room = int(batches_that_fit * 16 * row_bytes / ringfeed.pipeline._SHARE_OF_MEMORY) + row_bytes
    monkeypatch.setattr(ringfeed.pipeline, "available_bytes", lambda: room)
    with running(lambda item: np.full(LARGE_SHAPE, item, np.float32), batch_size=16) as run:
        results, failures = run(range(100))
        assert run.pipeline.rows.slots == slots
    assert not failures
    assert sorted(results) == list(range(100))


def test_what_is_asked_for_is_not_made_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ringfeed.pipeline, "available_bytes", lambda: 0)
    with running(lambda item: np.full(LARGE_SHAPE, item, np.float32), batch_size=4, slots=50) as run:
        run(range(10))
        assert run.pipeline.rows.slots == 50


@pytest.mark.parametrize(("workers", "batch_size", "slots"), [(3, 4, 14), (5, 1, 12)])
def test_fewer_slots_than_two_batches_and_two_a_worker_are_made_as_many(
    workers: int, batch_size: int, slots: int
) -> None:
    with running(lambda item: np.full(512, item, np.float64), workers, batch_size=batch_size, slots=1) as run:
        for _ in range(2):
            results, failures = run(range(10), batch_size=batch_size)
            assert run.pipeline.rows.slots == slots
            assert not failures
            assert len(results) == 10


def test_the_rings_stand_in_no_folder() -> None:
    before = set(os.listdir("/dev/shm"))
    with running(lambda item: np.zeros(16), batch_size=4) as run:
        run(range(10))
        targets = [os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd") if _exists(number)]
        assert sum("memfd:" in target for target in targets) >= 3
        assert not [name for name in set(os.listdir("/dev/shm")) - before if f"-{os.getpid()}-" in name]


def _exists(number: str) -> bool:
    return Path(f"/proc/self/fd/{number}").is_symlink()
