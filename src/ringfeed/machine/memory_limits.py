"""The memory that this process may still use: what the machine has available, and what its control groups allow.

It may not know of rings. Linux kills a process that exceeds such a limit, without a warning; so a ring that would
exceed it is refused. Sources: man 5 proc_meminfo; the kernel's admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")

_UNLIMITED = 2**62  # for "no limit" version 1 writes the largest possible number of bytes
_MIN_MOUNT_FIELDS = 6  # before the optional fields and the separator after them


@dataclass(frozen=True)
class Room:
    """Available memory, and the limit that determines it.

    Attributes
    ----------
    bytes : int
    limit : str
        A name for messages: ``"the machine"``, or a control group with its folder.
    """

    bytes: int
    limit: str


def available_bytes() -> int:
    """Return how many bytes of memory this process can still fill without being killed or swapped.

    Returns
    -------
    int
        The minimum of the machine's available memory and of the memory that each visible control group of this process
        has left. 2**62 if nothing is known.
    """
    return room().bytes


def room(*, with_swap: bool = False, proc: Path = PROC) -> Room:
    """Return the minimum of the memory that the machine and the control groups leave to this process.

    Parameters
    ----------
    with_swap : bool
        Count free swap, too. Use it for memory that is reserved and may never be filled.
    proc : pathlib.Path
        The folder of the proc file system.

    Returns
    -------
    Room
    """
    machine = _numbers(proc / "meminfo", 1024)
    swap = machine.get("SwapFree", 0) if with_swap else 0
    rooms = [Room(machine["MemAvailable"] + swap, "the machine")] if "MemAvailable" in machine else []
    for folder, version in cgroup_folders("memory", proc):
        left = _left_by_v2(folder, swap) if version == 2 else _left_by_v1(folder, swap)
        if left is not None:
            rooms.append(Room(max(left, 0), f"the control group {folder}"))
    return min(rooms, key=lambda room: room.bytes, default=Room(_UNLIMITED, "nothing that is known"))


def cgroup_folders(controller: str, proc: Path = PROC) -> Iterator[tuple[Path, int]]:
    """Yield the folders of this process's control groups, innermost first, each with its version (1 or 2).

    Parameters
    ----------
    controller : str
        ``"memory"``, ``"cpu"`` ... Folders of version 2 are yielded even if the controller is not enabled there.
    proc : pathlib.Path
        The folder of the proc file system.

    Yields
    ------
    (pathlib.Path, int)
    """
    groups = {}  # version: the path of this process's group within the hierarchy
    for line in _lines(proc / "self" / "cgroup"):
        _, controllers, path = (line.split(":", 2) + [""] * 2)[:3]
        if not path.startswith("/"):  # not a line of that file
            continue
        if not controllers:
            groups[2] = path
        elif controller in controllers.split(","):
            groups[1] = path
    for line in _lines(proc / "self" / "mountinfo"):
        mount = _mount_of(line)
        if mount is None:
            continue
        root, place, kind, options = mount
        version = 2 if kind == "cgroup2" else 1 if kind == "cgroup" and controller in options.split(",") else 0
        if version in groups:
            for folder in _upwards(Path(place), root, groups.pop(version)):
                yield folder, version


def _mount_of(line: str) -> tuple[str, str, str, str] | None:
    """Return root, mount point, file system type and options of a line of mountinfo; None if it is malformed.

    Single blanks separate the fields. Fields that users choose, such as the source, can be empty.
    """
    fields = line.split(" ")
    try:
        kind, _, *options = fields[fields.index("-", _MIN_MOUNT_FIELDS) + 1 :]
    except ValueError:
        return None
    return _unescaped(fields[3]), _unescaped(fields[4]), kind, " ".join(options)


def _upwards(place: Path, root: str, group: str) -> Iterator[Path]:
    """Yield the folder of a group and of its parents, up to the mount point of the hierarchy."""
    inner = Path(group)
    # In a container the group may be outside of the mounted hierarchy; then only the mount point is visible.
    inside = ".." not in inner.parts and inner.is_relative_to(root)
    folder = place / inner.relative_to(root) if inside else place
    while folder != place:
        yield folder
        folder = folder.parent
    yield place


def _left_by_v2(folder: Path, swap_free: int) -> int | None:
    limits = [limit for name in ("memory.max", "memory.high") if (limit := _number(folder / name)) is not None]
    used = _number(folder / "memory.current")
    if not limits or used is None:
        return None
    swap = swap_free
    if swap_free and (most := _number(folder / "memory.swap.max")) is not None:
        swap = min(swap_free, max(most - (_number(folder / "memory.swap.current") or 0), 0))
    return min(limits) - used + _cache_bytes(folder, "") + swap


def _left_by_v1(folder: Path, swap_free: int) -> int | None:
    limit, used = _number(folder / "memory.limit_in_bytes"), _number(folder / "memory.usage_in_bytes")
    if limit is None or used is None or limit >= _UNLIMITED:
        return None
    swap = swap_free
    both, both_used = (_number(folder / f"memory.memsw.{name}_in_bytes") for name in ("limit", "usage"))
    if swap_free and both is not None and both_used is not None and both < _UNLIMITED:
        swap = min(swap_free, max((both - limit) - (both_used - used), 0))
    return limit - used + _cache_bytes(folder, "total_") + swap


def _cache_bytes(folder: Path, prefix: str) -> int:
    """Return the memory that a group uses for pages of files. The kernel frees it before it kills a process."""
    stat = _numbers(folder / "memory.stat", 1)
    return sum(stat.get(f"{prefix}{part}", 0) for part in ("active_file", "inactive_file"))


# ---- Reading -----------------------------------------------------------------------------------------


def _lines(file: Path) -> list[str]:
    """Return the lines of a kernel file. Not by `splitlines`: names may contain other separators than newline."""
    try:
        return [line for line in os.fsdecode(file.read_bytes()).split("\n") if line]
    except OSError:  # a kernel without this file, or a container that hides it
        return []


def _number(file: Path) -> int | None:
    """Return the number in a file; None if there is no such file, or it contains ``max``."""
    with contextlib.suppress(OSError, ValueError):
        return int(file.read_text())
    return None


def _numbers(file: Path, unit: int) -> dict[str, int]:
    """Return the numbers of a file with lines such as ``MemFree: 12 kB``, by name."""
    numbers = {}
    for line in _lines(file):
        with contextlib.suppress(ValueError):  # a line of another form
            name, number, *_ = line.split()
            numbers[name.rstrip(":")] = int(number) * unit
    return numbers


def _unescaped(path: str) -> str:
    """Return a path of mountinfo with its octal escapes of blanks and other characters decoded."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)
