"""The number of cores that this process may use: its CPU affinity and the quotas of its control groups.

It may not know the purpose of the cores.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CGROUP_ROOT = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


def available_cores(cgroup_root: str | os.PathLike[str] = CGROUP_ROOT) -> int:
    """Return the number of processes that can compute at the same time, at least 1.

    It is the number of cores in this process's CPU affinity, or the control group's quota if that is less. A quota is
    rounded up, 2.5 cores to 3: two processes would leave half a core unused, and a third one computes while the others
    wait for files.

    Parameters
    ----------
    cgroup_root : path
        The folder at which the control groups are mounted.

    Returns
    -------
    int
    """
    cores = len(os.sched_getaffinity(0))
    quota = cpu_quota(cgroup_root)
    return cores if quota is None else max(1, min(cores, math.ceil(quota - 1e-6)))


def cpu_quota(
    cgroup_root: str | os.PathLike[str] = CGROUP_ROOT, own_groups: str | os.PathLike[str] = _OWN_GROUPS
) -> float | None:
    """Return the CPU quota of this process's control group in cores: the minimum over the group and its parents.

    Parameters
    ----------
    cgroup_root : path
        The folder at which the control groups are mounted: version 2 (``cpu.max``), version 1 (``cpu.cfs_quota_us``),
        or both.
    own_groups : path
        A file in the format of ``/proc/self/cgroup``.

    Returns
    -------
    float or None
        None if there is no quota, or the kernel does not report one.
    """
    root = Path(cgroup_root)
    try:
        # Not `splitlines`: names of groups may contain other line separators than "\n".
        lines = [line for line in os.fsdecode(Path(own_groups).read_bytes()).split("\n") if line]
    except OSError:
        lines = []
    quotas: list[float] = []
    for line in lines or ["0::/"]:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if not controllers:
            for mount in (root, root / "unified"):  # version 2 alone, or together with version 1
                quotas += filter(None, map(_quota_of_version_2, _upwards(mount, group)))
        elif "cpu" in controllers.split(","):
            for mount in {root / "cpu", root / controllers}:
                quotas += filter(None, map(_quota_of_version_1, _upwards(mount, group)))
    return min(quotas, default=None)


def _upwards(mount: Path, group: str) -> Iterator[Path]:
    """Yield the folders of a group and its parents, up to the mount.

    In a container a group may have the name that it has on the host. Then there is no folder of that name, and the
    mount itself is the container's group.
    """
    names = [name for name in PurePosixPath(group).parts if name not in ("/", "..", ".")]
    for length in range(len(names), -1, -1):
        yield mount.joinpath(*names[:length])


def _quota_of_version_2(folder: Path) -> float | None:
    try:
        quota, _, period = (folder / "cpu.max").read_text().strip().partition(" ")
    except (OSError, ValueError):
        return None
    return _cores(quota, period or "100000")  # the kernel's default period


def _quota_of_version_1(folder: Path) -> float | None:
    try:
        return _cores((folder / "cpu.cfs_quota_us").read_text(), (folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None


def _cores(quota: str, period: str) -> float | None:
    """Return a quota (microseconds per period) in cores; None for "max", -1 and text that is no number."""
    try:
        quota_us, period_us = int(quota), int(period)
    except ValueError:
        return None
    return quota_us / period_us if quota_us > 0 and period_us > 0 else None
