"""How much memory this process may still use: what the machine has, and what its control groups allow.

It may not know of rings. Linux kills a process that passes such a limit, and says nothing to it before; so a ring that
would pass one is refused. Sources: man 5 proc_meminfo; the kernel's admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")

_UNLIMITED = 2**62  # version 1 writes the largest whole number of pages
_LEAST_MOUNT_FIELDS = 6  # before those that are optional, and the separator behind them


@dataclass(frozen=True)
class Room:
    """Memory that can be had, and what limits it.

    Attributes
    ----------
    bytes : int
    limit : str
        Words for a message: ``"the machine"``, or a control group with its folder.
    """

    bytes: int
    limit: str


def available_bytes() -> int:
    """Return how many bytes of memory this process can still fill without being killed or made to swap.

    Returns
    -------
    int
        The least of what the machine has available and of what each control group of this process leaves, up to the
        outermost that can be seen from here. 2**62 where nothing is known.
    """
    return room().bytes


def room(*, with_swap: bool = False, proc: Path = PROC) -> Room:
    """Return the least of what the machine and the control groups leave to this process.

    Parameters
    ----------
    with_swap : bool
        Count free swap, too: more can be reserved than is good to use.
    proc : pathlib.Path
        Where the kernel tells of processes.
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
    """Yield the folders of this process's control groups, the innermost first, each with its version, 1 or 2.

    Parameters
    ----------
    controller : str
        ``"memory"``, ``"cpu"`` ...; folders of version 2 come in any case, whether it is enabled there or not.
    proc : pathlib.Path
        Where the kernel tells of processes.
    """
    groups = {}  # version: the path of our group within its hierarchy
    for line in _lines(proc / "self" / "cgroup"):
        _, controllers, path = (line.split(":", 2) + [""] * 2)[:3]
        if not path.startswith("/"):  # no line of that file
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
    """Return of a line of mountinfo the root, the place, the kind and its options; None where it is none.

    Fields lie between single blanks, and those that anybody may choose can be empty, as the source is.
    """
    fields = line.split(" ")
    try:
        kind, _, *options = fields[fields.index("-", _LEAST_MOUNT_FIELDS) + 1 :]
    except ValueError:
        return None
    return _unescaped(fields[3]), _unescaped(fields[4]), kind, " ".join(options)


def _upwards(place: Path, root: str, group: str) -> Iterator[Path]:
    """Yield a group's folder and those above it, up to where the hierarchy is mounted."""
    inner = Path(group)
    # In a container the group may lie outside of what is mounted: then the mount is all that we can see of it.
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
    """Return what a group uses for pages of files, which the kernel drops before it kills."""
    told = _numbers(folder / "memory.stat", 1)
    return sum(told.get(f"{prefix}{part}", 0) for part in ("active_file", "inactive_file"))


# ---- Reading -----------------------------------------------------------------------------------------


def _lines(file: Path) -> list[str]:
    """Return the lines of a file of the kernel's; names in them may hold whatever else ends a line elsewhere."""
    try:
        return [line for line in os.fsdecode(file.read_bytes()).split("\n") if line]
    except OSError:  # a kernel without it, or a container that hides it
        return []


def _number(file: Path) -> int | None:
    """Return the number in a file; None where there is no such file, or it says ``max``."""
    with contextlib.suppress(OSError, ValueError):
        return int(file.read_text())
    return None


def _numbers(file: Path, unit: int) -> dict[str, int]:
    """Return what a file of lines such as ``MemFree: 12 kB`` says."""
    told = {}
    for line in _lines(file):
        with contextlib.suppress(ValueError):  # a line that tells something else
            name, number, *_ = line.split()
            told[name.rstrip(":")] = int(number) * unit
    return told


def _unescaped(path: str) -> str:
    """Return a path of mountinfo, where blanks and their like are written as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)
