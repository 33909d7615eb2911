"""How a predictor ends: by Ctrl-C, by SIGKILL, forgotten. Each in an interpreter of its own."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import psutil
import pytest

pytest.importorskip("tensorflow")

PROGRAM = """
import os, pathlib, sys, time
import numpy as np
import ringfeed

started = pathlib.Path(sys.argv[1])

def prepare(item):
    (started / f"{os.getpid()}").touch()
    if item >= 40:
        time.sleep(3600)  # what must not hold up the end
    return np.full(16, item, np.float32)

def model(x):
    return x

"""


def start(folder: pathlib.Path, body: str) -> subprocess.Popen[str]:
    """Run the program with `body` in its own session, as a terminal does."""
    program = folder / "program.py"
    program.write_text(PROGRAM + textwrap.dedent(body))
    return subprocess.Popen(
        [sys.executable, str(program), str(folder / "started")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
    )


def segments_of(pid: int) -> list[str]:
    return [name for name in os.listdir("/dev/shm") if name.startswith("ringfeed.") and f"-{pid}-" in name]


def wait_for_end(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert not alive


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "started").mkdir()
    return tmp_path


PREDICT = """
with ringfeed.Predictor(model, preprocess=prepare, workers=2) as predictor:
    print("predicting", flush=True)
    predictor.predict(range(100))
"""
PREDICT_LARGE = """
def prepare_large(item):
    return prepare(int(item[0]))

with ringfeed.Predictor(model, preprocess=prepare_large, workers=2) as predictor:
    print("predicting", flush=True)
    predictor.predict([np.full(1 << 20, n, np.uint8) for n in range(100)])
"""
STREAM = """
predictor = ringfeed.Predictor(model, preprocess=prepare, workers=2)
for index, y in predictor.stream(range(100), linger=0.0):
    if index == 20:
        print("predicting", flush=True)
"""


@pytest.mark.parametrize("body", [PREDICT, STREAM], ids=["predict in with", "stream without with"])
def test_ctrl_c_ends_everything_and_leaves_nothing(folder: pathlib.Path, body: str) -> None:
    process = start(folder, body)
    assert process.stdout is not None
    assert process.stdout.readline() == "predicting\n"
    while len(os.listdir(folder / "started")) < 2:
        assert process.poll() is None
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate()
    assert errors.count("KeyboardInterrupt") == 1, errors
    assert "Traceback" not in errors.split("KeyboardInterrupt")[1]
    wait_for_end(children)
    assert segments_of(process.pid) == []


@pytest.mark.parametrize("body", [PREDICT, PREDICT_LARGE], ids=["small items", "large items"])
def test_the_workers_of_a_killed_predictor_end_and_no_segment_is_left(folder: pathlib.Path, body: str) -> None:
    process = start(folder, body)
    assert process.stdout is not None
    assert process.stdout.readline() == "predicting\n"
    while len(os.listdir(folder / "started")) < 2:
        assert process.poll() is None
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    wait_for_end(children)
    assert segments_of(process.pid) == []


def test_a_forgotten_predictor_ends_with_its_process(folder: pathlib.Path) -> None:
    body = """
    predictor = ringfeed.Predictor(model, preprocess=prepare, workers=2)
    print(len(predictor.predict(range(40))), *predictor.worker_process_ids, flush=True)
    """
    process = start(folder, body)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    count, *pids = map(int, output.split())
    assert count == 40
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert segments_of(process.pid) == []


def test_a_script_without_a_main_guard_and_with_lambdas_works(folder: pathlib.Path) -> None:
    body = """
    factor = 3

    class Scale:
        def __init__(self, by):
            self.by = by
        def __call__(self, item):
            return np.full(4, item * self.by * factor, np.float32)

    with ringfeed.Predictor(lambda x: x + 1, preprocess=Scale(2), workers=2) as predictor:
        print(predictor.predict(range(5))[:, 0].tolist())
    """
    output, errors = start(folder, body).communicate()
    assert output == "[1.0, 7.0, 13.0, 19.0, 25.0]\n", errors
