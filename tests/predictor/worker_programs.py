"""Programs of their own whose workers are started in unusual surroundings."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import textwrap

HERE = pathlib.Path(__file__).parent
PATHS = [str(HERE), str(HERE.parent), *filter(None, sys.path)]

RUN = """
import sys
import numpy as np
from predict_runs import running
from ringfeed.errors import RingFeedError

def call(function, items=range(40), **options):
    with running(function, **options) as run:
        results, failures = run(items)
    if failures:
        raise failures[0]
    return [results[index] for index in range(len(results))]
"""


def program(
    body: str, *flags: str, executable: str = sys.executable, **options: object
) -> subprocess.CompletedProcess[str]:
    """Run a program that can use `call(function)`, as a file whose name is its only argument."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(PATHS)}
    environment |= options.pop("environment", {})  # type: ignore[call-overload]
    source = textwrap.dedent(RUN) + textwrap.dedent(body)
    command = [executable, *flags, "-c", source]
    return subprocess.run(command, text=True, capture_output=True, env=environment, **options)  # type: ignore[call-overload]


def passes(done: subprocess.CompletedProcess[str], said: str = "") -> None:
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == said, done.stderr


def set_before_anything(setting: str, body: str) -> subprocess.CompletedProcess[str]:
    """Run a program that sets an attribute of `sys` before any import, as an application that embeds Python does."""
    source = f"import sys\n{setting}\n" + textwrap.dedent(RUN) + textwrap.dedent(body)
    environment = {**os.environ, "PYTHONPATH": ":".join(PATHS)}
    return subprocess.run([sys.executable, "-c", source], text=True, capture_output=True, env=environment)
