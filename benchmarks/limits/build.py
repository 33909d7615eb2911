"""Builds the programs of this folder at their first use, and again when a source is newer. Knows no figure."""

from __future__ import annotations

import functools
import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUILT = ROOT / "build" / "limits"
CORE = [path for path in sorted((ROOT / "csrc").glob("*/*.c")) if path.parent.name not in ("model", "tf_op")]
HEADERS = [*HERE.glob("*.h"), *(ROOT / "csrc").glob("*/*.h")]
SOURCES = {"machine": [HERE / "machine.c"]}
SOURCES |= {name: [HERE / f"{name}.c", *CORE] for name in ("hop", "one_core", "passes")}
# The flags of the extension.
FLAGS = ["-std=gnu11", "-O3", "-g", "-DNDEBUG", f"-I{ROOT / 'csrc' / 'include'}", f"-I{ROOT / 'csrc'}"]
# A limit may use every instruction of this machine. valgrind does not support all of them.
FOR_THIS_MACHINE = {"machine": ["-march=native"], "hop": ["-march=native"]}
WATCHDOG_SECONDS = 120.0


class LimitsMissing(Exception):
    """The programs cannot be built here; the message says why."""


def compiler() -> list[str] | None:
    """Return the system's C compiler (`CC`, or else cc); None if there is none."""
    command = shlex.split(os.environ.get("CC", "cc"))
    return command if command and shutil.which(command[0]) else None


def why_missing() -> str | None:
    """Build the programs if necessary; return why the limits cannot be measured, or None if they can."""
    try:
        for name in ("machine", "hop"):
            program(name)
    except LimitsMissing as reason:
        return str(reason)
    return None


@functools.cache
def program(name: str) -> Path:
    """Return the path of "machine" or "hop", built if necessary.

    Raises
    ------
    LimitsMissing
        There is no C compiler, or it failed.
    """
    command, target = compiler(), BUILT / name
    if command is None:
        raise LimitsMissing(f"no C compiler: {os.environ.get('CC', 'cc')!r} is not installed")
    newest = max(path.stat().st_mtime for path in [*SOURCES[name], *HEADERS])
    if target.exists() and target.stat().st_mtime > newest:
        return target
    BUILT.mkdir(parents=True, exist_ok=True)
    partly = target.with_suffix(f".{os.getpid()}")
    arguments = [
        *command,
        *FLAGS,
        *FOR_THIS_MACHINE.get(name, []),
        "-o",
        str(partly),
        *map(str, SOURCES[name]),
        "-lpthread",
        "-lrt",
    ]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LimitsMissing(f"{command[0]} could not build {name}: {done.stderr.strip()[-300:]}")
    partly.replace(target)
    return target


def run(name: str, figures: list[str], **environment: int) -> dict[str, float]:
    """Run a program once; return the named figures, or all figures if none is named.

    Parameters
    ----------
    environment : int
        `BATCHES`, the amount of work; the head of each program describes it.

    Raises
    ------
    LimitsMissing
        The program could not be built, or it failed.
    """
    settings = os.environ | {key: str(value) for key, value in environment.items()}
    try:
        done = subprocess.run(
            [str(program(name)), *figures],
            env=settings,
            capture_output=True,
            text=True,
            check=False,
            timeout=WATCHDOG_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise LimitsMissing(f"{name} {figures} gave no figure for {WATCHDOG_SECONDS:.0f} s") from error
    if done.returncode != 0:
        raise LimitsMissing(f"{name} {figures} failed: {done.stderr.strip()[-300:]}")
    measured: dict[str, float] = json.loads(done.stdout)
    return measured
