"""The interpreter of a worker: which program is started, and which programs are refused."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import textwrap

import pytest
from worker_programs import PATHS, RUN, passes, program, set_before_anything

NOT_PYTHON = r"""
#include <stdio.h>
int main(void)
{
    FILE *starts = fopen("STARTS", "a");
    fputc('x', starts);
    return fclose(starts);
}
"""

REFUSED = """
import multiprocessing
try:
    call(lambda item: np.float32(item))
except RingFeedError as error:
    print("refused:", error)
"""


@pytest.fixture
def stand_in(tmp_path: pathlib.Path) -> pathlib.Path:
    """Return a C program that records each of its starts."""
    (tmp_path / "source.c").write_text(NOT_PYTHON.replace("STARTS", str(tmp_path / "starts")))
    subprocess.run(["cc", "-o", tmp_path / "our-service", tmp_path / "source.c"], check=True)
    return tmp_path / "our-service"


def test_a_program_that_is_not_python_is_refused_before_it_is_started(stand_in: pathlib.Path) -> None:
    done = set_before_anything(f"sys.executable = {str(stand_in)!r}", REFUSED)
    assert done.stdout.startswith("refused:"), done.stderr
    assert str(stand_in) in done.stdout
    assert "multiprocessing.set_executable" in done.stdout
    assert not (stand_in.parent / "starts").exists()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("sys.executable = None", "None"),
        ("sys.executable = ''", "''"),
        ("sys.executable = '/usr/bin/uwsgi'", "/usr/bin/uwsgi"),
        ("sys.executable = '/opt/pythonista/bin/app'", "/opt/pythonista/bin/app"),
        ("sys.frozen = True", "frozen"),
        ("sys.frozen = 'macosx_app'; sys.executable = '/opt/our app/our app'", "/opt/our app/our app"),
    ],
)
def test_a_path_that_is_no_interpreter_is_named_with_the_remedy(setting: str, said: str) -> None:
    done = set_before_anything(setting, REFUSED)
    assert done.stdout.startswith("refused:"), done.stderr
    assert said in done.stdout
    assert "multiprocessing.set_executable" in done.stdout


@pytest.mark.parametrize("setting", ["sys.executable = ''", "sys.frozen = True; sys.executable = '/opt/app'"])
def test_an_interpreter_that_the_user_names_is_used(setting: str, tmp_path: pathlib.Path) -> None:
    named = tmp_path / "an interpreter"
    named.symlink_to(os.path.realpath(sys.executable))
    body = f"import multiprocessing\nmultiprocessing.set_executable({str(named)!r})\n"
    body += "print(sum(call(lambda item: np.float32(item))))\n"
    passes(set_before_anything(setting, body), "780.0")


def test_a_program_named_like_python_does_not_start_itself_endlessly(tmp_path: pathlib.Path) -> None:
    """A frozen program is called python3. It starts itself as a worker, and that process refuses."""
    frozen = tmp_path / "python3"
    main = tmp_path / "main.py"
    main.write_text(
        f"import sys; sys.executable = {str(frozen)!r}\n" + textwrap.dedent(RUN) + "call(lambda item: np.float32(1))\n"
    )
    frozen.write_text(
        f"#!/bin/sh\nprintf x >> {tmp_path}/starts\nPYTHONPATH={':'.join(PATHS)} exec {sys.executable} {main}\n"
    )
    frozen.chmod(0o755)
    done = subprocess.run([frozen], text=True, capture_output=True)
    assert done.returncode != 0
    assert "started as a worker process" in done.stderr
    assert "multiprocessing.set_executable" in done.stderr
    assert "RingFeedError" in done.stderr.splitlines()[-1] or "worker processes die" in done.stderr
    assert len((tmp_path / "starts").read_text()) <= 1 + 2 + 3  # the program, two workers, and their replacements


def test_an_interpreter_that_is_not_there_is_named() -> None:
    done = program("import multiprocessing; multiprocessing.set_executable('/nowhere/python')" + REFUSED)
    assert done.stdout.startswith("refused:"), done.stderr
    assert "/nowhere/python" in done.stdout


def test_a_predictor_in_a_program_started_by_a_worker_is_no_worker() -> None:
    """A program that a worker's function starts does not inherit the mark of a worker."""
    body = """
    def nested(item):
        import subprocess
        inner = "from predict_runs import running\\nimport numpy as np\\n"
        inner += "with running(np.float32) as run: print(len(run(range(5))[0]))"
        return np.float32(subprocess.run([sys.executable, "-c", inner], check=True, capture_output=True).stdout)
    print(call(nested, range(1)))
    """
    done = program(body)
    assert done.returncode == 0, done.stderr
    assert "5.0" in done.stdout
