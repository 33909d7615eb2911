"""The processor time and memory of processes, as the kernel counts them. Linux only."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

import psutil


def processor_seconds(pids: Iterable[int]) -> float:
    """Return the processor time of all threads of some processes, in nanosecond resolution."""
    nanoseconds = 0
    for pid in pids:
        for statistics in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):  # the thread has ended
                nanoseconds += int(statistics.read_text().split()[0])
    return nanoseconds / 1e9


def with_children(pid: int) -> list[int]:
    """Return a process and all of its descendants."""
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


def resident_megabytes(pids: Iterable[int]) -> float:
    """Return the resident memory of some processes in MB; memory that they share counts once (PSS)."""
    return sum(psutil.Process(pid).memory_full_info().pss for pid in pids) / 1e6


def private_megabytes(pids: Iterable[int]) -> float:
    """Return the resident memory of some processes in MB, without shared memory."""
    total = 0
    for pid in pids:
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
        )
        total += sum(int(status[name].split()[0]) for name in ("RssAnon", "RssFile"))
    return total / 1000
