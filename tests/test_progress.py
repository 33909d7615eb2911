"""When a progress bar is shown, and the text of its one line. Terminals (pty), pipes and files are real.

If ipykernel is installed, a notebook's kernel is real too; the development environment lacks it. Otherwise a program
runs with a fake IPython.
"""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import textwrap

import pytest

from ringfeed.progress import Progress, is_wanted
from support import run_program

WORK = """
from ringfeed.progress import Progress, is_wanted
progress = Progress(4, "auto", unit="batch")
for _ in range(4):
    progress.advance(1)
progress.close()
"""

STAND_IN_FOR_IPYTHON = """
import sys, types
class Shell:
    config = {config!r}
IPython = sys.modules["IPython"] = types.ModuleType("IPython")
IPython.get_ipython = lambda: {shell}
"""

STAND_IN_FOR_KERAS = """
import sys, types
keras = sys.modules["keras"] = types.ModuleType("keras")
keras.config = types.SimpleNamespace(is_interactive_logging_enabled=lambda: False)
"""


def test_auto_shows_nothing_in_a_pipe_or_a_file(tmp_path):
    assert run_program(WORK) == (0, "", "")
    log = tmp_path / "log"
    with log.open("wb") as file:
        subprocess.run([sys.executable, "-c", WORK], check=True, stderr=file)
    assert log.read_bytes() == b""


def test_auto_shows_a_bar_on_a_terminal():
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with os.fdopen(terminal, "rb") as screen:
        process = subprocess.Popen([sys.executable, "-c", WORK], stderr=end, stdout=subprocess.DEVNULL)
        os.close(end)
        shown = b""
        try:
            while part := screen.read1(4096):
                shown += part
        except OSError:  # the other end is closed
            pass
        assert process.wait() == 0
    assert b"4/4" in shown


@pytest.mark.parametrize(
    ("config", "shell", "is_shown"),
    [
        ({"IPKernelApp": {}}, "Shell()", True),  # Jupyter, VS Code, Colab
        ({}, "types.SimpleNamespace(kernel=object())", True),  # an embedded kernel
        ({"TerminalIPythonApp": {}}, "Shell()", False),  # IPython itself, with its output in a pipe
        ({}, "None", False),  # a program that only imported IPython
    ],
)
def test_auto_shows_a_bar_in_a_kernel_alone(config, shell, is_shown):
    program = STAND_IN_FOR_IPYTHON.format(config=config, shell=shell) + WORK
    status, output, errors = run_program(program)
    assert (status, output) == (0, "")
    assert ("4/4" in errors) is is_shown
    assert "Warning" not in errors  # also if the notebook has no widgets


def test_a_real_kernel_shows_a_bar():
    pytest.importorskip("ipykernel", reason="ipykernel is not installed: only the fake kernel is tested")
    manager = pytest.importorskip("jupyter_client.manager")
    kernel, client = manager.start_new_kernel(kernel_name="python3", env=dict(os.environ))
    try:
        shown = []
        client.execute_interactive(WORK, timeout=100, output_hook=lambda message: shown.append(str(message["content"])))
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)
    assert "4 [00:00" in "".join(shown)


def test_the_switch_of_keras_for_its_bars_counts_here_too():
    program = (
        STAND_IN_FOR_KERAS
        + STAND_IN_FOR_IPYTHON.format(config={"IPKernelApp": {}}, shell="Shell()")
        + WORK
        + textwrap.dedent(
            """
            import logging
            logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
            for verbose in (1, 2):
                progress = Progress(4, verbose, unit="batch")
                progress.advance(4)
                progress.close()
            """
        )
    )
    status, output, errors = run_program(program)
    assert (status, output) == (0, "")
    assert errors.count("absl: 4 batches in 0.0 s") == 2
    assert "4/4" not in errors


@pytest.mark.parametrize(
    "stream",
    [
        "None",
        "open(os.devnull)",
        "types.SimpleNamespace(flush=int, write=len)",
        "types.SimpleNamespace(flush=int, isatty=lambda: 1 / 0)",
    ],
)
def test_a_program_without_a_standard_error_has_no_bar_and_no_failure(stream):
    close = "" if stream != "open(os.devnull)" else "sys.stderr.close()"
    program = f"""
        import types
        from ringfeed.progress import Progress, is_wanted
        sys.stderr = {stream}
        {close}
        assert not is_wanted("auto")
        for verbose in ("auto", 0, *([1, 2] if sys.stderr is None else [])):
            progress = Progress(4, verbose)
            progress.advance(4)
            progress.close()
    """
    assert run_program(program)[:2] == (0, "")


@pytest.mark.parametrize(
    ("count", "unit", "start", "end"),
    [
        (0, "item", "0 items in", " items/s"),
        (1, "item", "1 item in", " items/s"),
        (3, "item", "3 items in", " items/s"),
        (1, "batch", "1 batch in", " batches/s"),
        (2, "batch", "2 batches in", " batches/s"),
        (2, "box", "2 boxes in", " boxes/s"),
    ],
)
def test_one_line_says_what_was_done_in_plain_english(capsys, count, unit, start, end):
    progress = Progress(None, 2, unit)
    progress.advance(count)
    progress.close()
    line = capsys.readouterr().err
    assert line.startswith(start)
    assert line.endswith(end + "\n")


def test_true_and_false_are_numbers_as_in_keras():
    assert is_wanted(True)
    assert not is_wanted(False)
    assert is_wanted(2)
