"""Run spin on one configuration. It may not know the list of configurations."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

MODEL = Path(__file__).resolve().parent
BUILD = MODEL.parent.parent / "build" / "model"
MOST_MEGABYTES = 12000
BITSTATE_MINUTES = 30


def run(command: list[str | Path], **more: object) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and capture its output."""
    return subprocess.run(command, capture_output=True, text=True, **more)  # type: ignore[call-overload, no-any-return]


def fetch_spin() -> str | None:
    """Fetch Debian's package into build/, without root: with the system's apt lists, or else with private lists."""
    folder = BUILD / "spin"
    found = folder / "usr" / "bin" / "spin"
    if found.exists():
        return str(found)
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return None
    state = folder / "apt"
    (state / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (state / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    private = [f"-oDir::State::lists={state}/lists", f"-oDir::Cache={state}", "-oAPT::Sandbox::User="]
    timeout = ["-oAcquire::http::Timeout=20", "-oAcquire::Retries=1"]
    for options in ([], private):
        if options:
            run(["apt-get", "-qq", *timeout, *options, "update"])
        run(["apt-get", "-qq", *timeout, *options, "download", "spin"], cwd=folder)
        for package in sorted(folder.glob("spin_*.deb")):
            run(["dpkg-deb", "-x", package, folder])
        if found.exists():
            return str(found)
    return None


@dataclass
class Result:
    """The output of pan. `error` is the assertion that failed, or "" if every property holds."""

    states: int
    stood_for: int
    hash_factor: float
    seconds: float
    megabytes: float
    error: str
    complete: bool


def with_symmetry(folder: Path) -> None:
    """Make pan.c store representatives of symmetric states (symmetry.c)."""
    pan = folder / "pan.c"
    text, calls = re.subn(r"II = [bh]_store\(\(char \*\)&now, vsize\)", "II = store_representative()", pan.read_text())
    if not calls:
        sys.exit("symmetry.c: the pan.c of this spin has no known call that stores a state; use spin 6.5")
    pan.write_text(f'int store_representative(void);\n{text}\n#include "{MODEL / "symmetry.c"}"\n')


def compiler_flags(sets: dict[str, int], mutation: str, orbits: bool, bitstate: bool) -> list[str]:
    flags = ["-O0" if mutation else "-O2", "-w", "-DSAFETY", f"-DMEMLIM={MOST_MEGABYTES}"]
    flags.append("-DBITSTATE" if bitstate else "-DCOLLAPSE")
    if "SYMMETRY" in sets:
        flags.append("-DNOREDUCE")
        flags += [f"-D{name}={sets[name]}" for name in ("PRODUCERS", "TAKERS", "SLOTS", "RECORDS")]
    return flags + (["-DORBITS"] if orbits else [])


def check(
    spin: str,
    folder: Path,
    sets: dict[str, int],
    mutation: str = "",
    *,
    model: str = "ring.pml",
    symmetry: bool = True,
    orbits: bool = False,
    bitstate: bool = False,
    backwards: bool = False,
) -> Result:
    """Build and run the checker (pan) of one configuration."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)

    def must(command: list[str | Path]) -> None:
        done = run(command, cwd=folder)
        if done.returncode != 0:
            sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")

    defines = [f"-D{name}={value}" for name, value in sets.items()] + ([f"-D{mutation}"] if mutation else [])
    must(["cpp", "-P", *defines, MODEL / model, folder / "model.pml"])
    must([spin, "-a", "model.pml"])
    if sets.get("SYMMETRY") and symmetry:
        with_symmetry(folder)
    order = ["-DT_REVERSE", "-DP_REVERSE"] if backwards else []
    must(["gcc", *compiler_flags(sets, mutation, orbits, bitstate), *order, "-o", "pan", "pan.c"])
    options = ["-w34", f"-Q{BITSTATE_MINUTES}"] if bitstate else []
    begun = time.monotonic()
    said = run(["./pan", "-m8000000", *options], cwd=folder).stdout
    seconds = time.monotonic() - begun

    def number(pattern: str) -> float:
        found = re.search(pattern, said)
        return float(found.group(1)) if found else 0.0

    error = re.search(r"^pan:\d+: (.*?) \(at depth", said, re.MULTILINE)
    errors = re.search(r"errors: (\d+)", said)
    complete = bool(errors) and "Search not completed" not in said and "max search depth too small" not in said
    return Result(
        states=int(number(r"([\d.e+]+) states, stored")),
        stood_for=int(number(r"(\d+) states stood for")),
        hash_factor=number(r"hash factor: ([\d.e+]+)"),
        seconds=seconds,
        megabytes=number(r"([\d.]+)\s+total actual memory"),
        error=error.group(1) if error else "",
        complete=complete,
    )


def property_of(error: str) -> str:
    """Return the name of the property whose assertion spin reports."""
    for sign, words in (
        ("invalid end state", "no deadlock"),
        ("since", "one looker in a slice"),
        ("spared", "a look within a round"),
        ("unhurt", "the last looker continues"),
        ("steady", "the next look within three ticks"),
        ("planned", "no sleeper planned by more than planned"),
        ("done", "no lost request, no lost wake-up"),
        ("answers", "one answer for each request"),
        ("==held", "only its engine changes a held cell"),
        ("outputs", "no torn answer, no answer to another request"),
        ("writer", "no torn answer"),
        ("assertion violated 0", "no lost wake-up"),
        ("in_vain", "no wake-ups without end"),
        ("payload", "no torn, doubled or reordered record"),
        ("under_way", "no lost record"),
        ("reader", "no torn record"),
        ("==self", "only its owner writes a cell's record"),
        ("seen_by", "only its owner changes a held slot"),
        ("words", "no lost slot"),
        ("inside", "no end while a producer is inside or expected"),
        ("raised", "takers are told of every failure"),
        ("text_state", "a published text is complete"),
        ("entered", "the ring is finished"),
        ("fresh", "the order of a chain"),
        ("hops", "no circle"),
        ("due", "no doubled record"),
    ):
        if sign in error:
            return words
    return error
