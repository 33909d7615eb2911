"""The machine, the versions and the date of a measurement, without names or paths of this machine."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
from typing import Any

DISTRIBUTIONS = (
    *("ringfeed", "tensorflow", "keras", "numpy", "pillow", "scikit-learn", "scikit-image"),
    *("faster-fifo", "iceoryx2", "pyzmq", "torch", "ray", "mosec", "litserve", "grpcio", "tensorflow-serving-api"),
)


def core_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def surroundings() -> dict[str, Any]:
    """Return the date, machine and versions; a distribution that is not installed has the version None."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": {
            "processor": _processor(),
            "architecture": platform.machine(),
            "cores": core_count(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "system": f"{platform.system()} {re.split('[-+]', platform.release())[0]}",
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in DISTRIBUTIONS}},
    }


def version(distribution: str) -> str | None:
    """Return the installed version; None if there is none."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()
