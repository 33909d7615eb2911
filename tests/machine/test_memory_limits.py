"""The available memory according to the kernel's files. Except in the first test, the tests write these files."""

import os
from pathlib import Path

import pytest

from ringfeed.machine import memory_limits
from ringfeed.machine.memory_limits import Room, cgroup_folders, room

GIB = 2**30


class Machine:
    """A fake /proc and control group hierarchy."""

    def __init__(self, folder):
        self.proc = folder / "proc"
        self.groups = folder / "cgroup"
        self.meminfo(available=8 * GIB)
        self.write(self.proc / "self" / "cgroup", "0::/\n")
        self.write(self.proc / "self" / "mountinfo", "")

    def write(self, file, text):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(os.fsencode(text))

    def meminfo(self, available, swap=0):
        self.write(
            self.proc / "meminfo",
            f"MemTotal: 99999999 kB\nMemAvailable:   {available // 1024} kB\nSwapFree: {swap // 1024} kB\nHugePages: 0",
        )

    def mount(self, version, root="/", group="/", options="rw,memory"):
        kind = "cgroup2" if version == 2 else "cgroup"
        self.write(self.proc / "self" / "cgroup", f"{'0::' if version == 2 else '4:memory:'}{group}\n")
        self.write(
            self.proc / "self" / "mountinfo",
            "22 1 0:21 / /proc rw - proc proc rw\n"
            f"31 23 0:28 {root} {self.groups} rw,nosuid shared:9 - {kind} {kind} {options}\n",
        )

    def group(self, path, **numbers):
        folder = self.groups / path
        for name, value in numbers.items():
            self.write(folder / name.replace("__", "."), f"{value}\n")
        return f"the control group {folder}"

    def room(self, **options):
        return room(proc=self.proc, **options)


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_the_available_memory_of_this_machine_is_positive_and_below_its_total():
    lines = Path("/proc/meminfo").read_text().splitlines()
    total = int(next(line for line in lines if line.startswith("MemTotal")).split()[1]) * 1024
    assert 0 < memory_limits.available_bytes() < total
    assert memory_limits.room(with_swap=True).bytes >= 0


def test_without_control_groups_the_room_is_the_available_memory_of_the_machine(machine):
    assert machine.room() == Room(8 * GIB, "the machine")


def test_swap_counts_only_if_the_caller_asks_for_it(machine):
    machine.meminfo(available=8 * GIB, swap=4 * GIB)
    assert machine.room().bytes == 8 * GIB
    assert machine.room(with_swap=True).bytes == 12 * GIB


@pytest.mark.parametrize("limit", ["memory__max", "memory__high"])
def test_a_control_group_leaves_its_limit_minus_its_use(machine, limit):
    machine.mount(2, group="/a/b")
    where = machine.group("a/b", **{limit: 2 * GIB, "memory__current": GIB // 2})
    assert machine.room() == Room(2 * GIB - GIB // 2, where)


def test_the_tightest_of_all_parents_counts(machine):
    machine.mount(2, group="/pod/box/inner")
    machine.group("pod/box/inner", memory__max="max", memory__current=GIB)
    machine.group("pod/box", memory__max=6 * GIB, memory__current=GIB)
    where = machine.group("pod", memory__max=4 * GIB, memory__current=3 * GIB)
    machine.group(".", memory__current=5 * GIB)  # the root has no limit
    assert machine.room() == Room(GIB, where)


def test_the_page_cache_of_a_group_counts_as_available(machine):
    machine.mount(2, group="/a")
    told = f"anon {GIB}\nshmem {GIB}\nactive_file {GIB // 2}\ninactive_file {GIB // 4}\nslab 5"
    machine.group("a", memory__max=2 * GIB, memory__current=2 * GIB, memory__stat=told)
    assert machine.room().bytes == GIB // 2 + GIB // 4


def test_a_group_that_is_over_its_limit_has_nothing_left(machine):
    machine.mount(2, group="/a")
    machine.group("a", memory__max=GIB, memory__high=GIB // 2, memory__current=GIB)
    assert machine.room().bytes == 0


@pytest.mark.parametrize(
    ("swap_max", "swap_used", "free", "more"),
    [("max", 0, 3, 3), (2, 1, 3, 1), (5, 1, 3, 3), (0, 0, 3, 0), (1, 2, 3, 0), (5, 0, 0, 0)],
)
def test_swap_of_a_group_is_bound_by_its_own_limit_and_by_the_machines(machine, swap_max, swap_used, free, more):
    machine.meminfo(available=64 * GIB, swap=free * GIB)
    machine.mount(2, group="/a")
    machine.group("a", memory__max=4 * GIB, memory__current=GIB, memory__swap__current=swap_used * GIB)
    machine.group("a", memory__swap__max=swap_max if swap_max == "max" else swap_max * GIB)
    assert machine.room().bytes == 3 * GIB
    assert machine.room(with_swap=True).bytes == (3 + more) * GIB


def test_version_1_is_read_too(machine):
    machine.mount(1, group="/docker/12ab")
    machine.group("docker", memory__limit_in_bytes=2**63 - 4096, memory__usage_in_bytes=GIB)
    where = machine.group(
        "docker/12ab",
        memory__limit_in_bytes=GIB,
        memory__usage_in_bytes=GIB // 2,
        memory__stat=f"active_file 7\ntotal_active_file 0\ntotal_inactive_file {GIB // 4}",
    )
    assert machine.room() == Room(GIB - GIB // 4, where)


def test_version_1_bounds_memory_and_swap_together(machine):
    machine.meminfo(available=64 * GIB, swap=3 * GIB)
    machine.mount(1, group="/a")
    machine.group("a", memory__limit_in_bytes=2 * GIB, memory__usage_in_bytes=GIB)
    machine.group("a", memory__memsw__limit_in_bytes=3 * GIB, memory__memsw__usage_in_bytes=GIB)
    assert machine.room().bytes == GIB
    assert machine.room(with_swap=True).bytes == 2 * GIB


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("root", "group"),
    [("/docker/1a", "/docker/1a"), ("/docker/1a", "/elsewhere"), ("/", "/../../outside"), ("/kube pods", "/kube pods")],
)
def test_in_a_container_the_mounted_folder_is_the_group(machine, version, root, group):
    machine.mount(version, root=root.replace(" ", "\\040"), group=group)
    names = ("memory__max", "memory__current") if version == 2 else ("memory__limit_in_bytes", "memory__usage_in_bytes")
    where = machine.group(".", **dict(zip(names, (GIB, 0), strict=True)))
    assert machine.room() == Room(GIB, where)


def test_groups_of_other_controllers_and_damaged_numbers_do_not_count(machine):
    machine.mount(1, group="/a", options="rw,cpu")
    machine.group("a", memory__limit_in_bytes=GIB, memory__usage_in_bytes=0)
    assert machine.room().limit == "the machine"
    machine.mount(1, group="/a")
    machine.group("a", memory__limit_in_bytes="??", memory__usage_in_bytes=0)
    assert machine.room().limit == "the machine"


ODD_MOUNTS = {
    "a source without a name": "40 23 0:30 / /tmp/x rw,relatime - tmpfs  rw",
    "optional fields": "40 23 0:30 / /tmp/x rw,relatime shared:1 master:2 propagate_from:3 unbindable - tmpfs none rw",
    "no options": "40 23 0:30 / /tmp/x rw - tmpfs none ",
    "a source with blanks": "40 23 0:30 / /tmp/x rw - fuse a\\040b rw",
    "ends of lines in a name": "40 23 0:30 / /tmp/\rx\x0b\x0c\x1c\x85\u2028 rw - tmpfs none rw",
    "bytes that are no text": "40 23 0:30 / /tmp/\udcff rw - tmpfs \udcfe rw",
    "an empty line": "",
    "no separator": "40 23 0:30 / /tmp/x rw",
    "nothing behind the separator": "40 23 0:30 / /tmp/x rw - ",
    "a kind alone": "40 23 0:30 / /tmp/x rw - cgroup2",
    "too few fields": "40 23 - cgroup2 none rw",
}


@pytest.mark.parametrize("line", ODD_MOUNTS.values(), ids=ODD_MOUNTS)
@pytest.mark.parametrize("version", [1, 2])
def test_an_odd_line_of_a_mount_is_skipped(machine, version, line):
    machine.mount(version, group="/a")
    file = machine.proc / "self" / "mountinfo"
    machine.write(file, f"{line}\n{os.fsdecode(file.read_bytes())}{line}\n")
    names = ("memory__max", "memory__current") if version == 2 else ("memory__limit_in_bytes", "memory__usage_in_bytes")
    where = machine.group("a", **dict(zip(names, (GIB, 0), strict=True)))
    assert machine.room() == Room(GIB, where)


def test_control_groups_mounted_without_a_source_are_read(machine):
    machine.write(machine.proc / "self" / "mountinfo", f"31 23 0:28 / {machine.groups} rw - cgroup2  rw\n")
    where = machine.group(".", memory__max=GIB, memory__current=0)
    assert machine.room() == Room(GIB, where)


@pytest.mark.parametrize("name", ["a b", "tab\there", "b\\134", "#1", "\r\x0b\x85", "\udcff", "end\u2028"])
def test_a_group_with_an_odd_name_is_found(tmp_path, name):
    machine = Machine(tmp_path / name)
    escaped = (
        str(machine.groups).replace("\\", "\\134").replace(" ", "\\040").replace("\t", "\\011").replace("#", "\\043")
    )
    machine.write(machine.proc / "self" / "cgroup", f"0::/{name}\n")
    machine.write(machine.proc / "self" / "mountinfo", f"31 23 0:28 / {escaped} rw - cgroup2 none rw\n")
    where = machine.group(name, memory__max=GIB, memory__current=0)
    assert machine.room() == Room(GIB, where)


@pytest.mark.parametrize("line", ["", "nonsense", "0:", "::", "7:name=systemd:/x", "3:memory"])
def test_an_odd_line_of_a_group_is_skipped(machine, line):
    machine.mount(2, group="/a")
    machine.write(machine.proc / "self" / "cgroup", f"{line}\n0::/a\n{line}\n")
    where = machine.group("a", memory__max=GIB, memory__current=0)
    assert machine.room() == Room(GIB, where)


@pytest.mark.parametrize("line", ["", "  ", "MemTotal", "MemFree: many kB", ":"])
def test_an_odd_line_of_numbers_is_skipped(machine, line):
    machine.write(machine.proc / "meminfo", f"{line}\nMemAvailable: {GIB // 1024} kB\n{line}\n")
    assert machine.room() == Room(GIB, "the machine")


def test_a_kernel_without_these_files_sets_no_limit(tmp_path):
    assert room(proc=tmp_path / "none").bytes == 2**62


def test_folders_come_from_the_innermost_outwards(machine):
    machine.mount(2, group="/a/b")
    folders = list(cgroup_folders("cpu", machine.proc))
    assert folders == [(machine.groups / "a" / "b", 2), (machine.groups / "a", 2), (machine.groups, 2)]
