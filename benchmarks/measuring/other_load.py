"""The share of the machine that other programs and the hypervisor (steal) took during a measurement.

A measurement on a busy machine also measures the other programs. This module reports their share and corrects nothing.
Linux only.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
BUSY_COLUMNS = (1, 2, 3, 6, 7, 8)  # of /proc/stat: user, nice, system, irq, softirq, steal


class OtherLoad:
    """Measures from its construction on. Every process outside this process group counts as other load."""

    def __init__(self) -> None:
        self._started_seconds = time.monotonic()
        self._others_seconds = _machine_seconds() - _own_seconds()

    def cores(self) -> float:
        """The average number of this process's usable cores that other programs kept busy."""
        elapsed_seconds = time.monotonic() - self._started_seconds
        others_seconds = _machine_seconds() - _own_seconds() - self._others_seconds
        return max(0.0, others_seconds / elapsed_seconds)


def _machine_seconds() -> float:
    ours = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    lines = [line.split() for line in Path("/proc/stat").read_text(encoding="ascii").splitlines()]
    return sum(int(line[column]) for line in lines if line[0] in ours for column in BUSY_COLUMNS) / TICKS_PER_SECOND


def _own_seconds() -> float:
    group = os.getpgrp()
    ticks = 0
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            # After the name, which may contain anything: state, parent, process group, ..., then four times.
            fields = status.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:  # the process has ended
            continue
        if int(fields[2]) == group:
            ticks += sum(int(time_used) for time_used in fields[11:15])
    return ticks / TICKS_PER_SECOND
