"""How many workers there are by default: by the cores, the affinity, and the quotas of control groups."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator

import pytest

from ringfeed.machine.cpu_limits import available_cores, cpu_quota

CORES = len(os.sched_getaffinity(0))


def write(path: pathlib.Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def own(tmp_path: pathlib.Path, text: str) -> pathlib.Path:
    write(tmp_path / "own", text)
    return tmp_path / "own"


@pytest.mark.parametrize(
    ("limit", "cores"),
    [
        ("50000 100000\n", 0.5),
        ("250000 100000", 2.5),
        ("max 100000\n", None),
        ("30000 10000", 3.0),
        ("100000", 1.0),
        ("", None),
        ("nonsense", None),
        ("-1 100000", None),
        ("0 0", None),
    ],
)
def test_a_quota_of_version_2_is_read(limit: str, cores: float | None, tmp_path: pathlib.Path) -> None:
    write(tmp_path / "root/app/cpu.max", limit)
    assert cpu_quota(tmp_path / "root", own(tmp_path, "0::/app\n")) == cores


@pytest.mark.parametrize(("quota", "cores"), [("50000", 0.5), ("-1", None), ("250000\n", 2.5), ("x", None)])
@pytest.mark.parametrize("controllers", ["cpu", "cpu,cpuacct", "cpuacct,cpu"])
def test_a_quota_of_version_1_is_read(
    quota: str, cores: float | None, controllers: str, tmp_path: pathlib.Path
) -> None:
    group = tmp_path / "root" / controllers / "app/inner"
    write(group / "cpu.cfs_quota_us", quota)
    write(group / "cpu.cfs_period_us", "100000\n")
    groups = own(tmp_path, f"5:memory:/app/inner\n4:{controllers}:/app/inner\n1:name=systemd:/x\n0::/\n")
    assert cpu_quota(tmp_path / "root", groups) == cores


@pytest.mark.parametrize("line", ["", "nonsense", "0:", "::", "4:cpu", "7:name=systemd:/x", "3:memory:/\udcff"])
@pytest.mark.parametrize("name", ["app", "a b", "\r\x0b\x85", "\udcff", "end\u2028"])
def test_odd_lines_and_names_of_groups_do_not_disturb(line: str, name: str, tmp_path: pathlib.Path) -> None:
    write(tmp_path / "root" / name / "cpu.max", "50000 100000")
    (tmp_path / "own").write_bytes(os.fsencode(f"{line}\n0::/{name}\n{line}\n"))
    assert cpu_quota(tmp_path / "root", tmp_path / "own") == 0.5


def test_the_least_quota_of_a_group_and_its_parents_counts(tmp_path: pathlib.Path) -> None:
    root = tmp_path / "root"
    write(root / "pod/cpu.max", "150000 100000")
    write(root / "pod/container/cpu.max", "400000 100000")
    write(root / "pod/container/inner/cpu.max", "max 100000")
    write(root / "beside/cpu.max", "1000 100000")
    groups = own(tmp_path, "0::/pod/container/inner\n")
    assert cpu_quota(root, groups) == 1.5
    write(root / "cpu.max", "50000 100000")
    assert cpu_quota(root, groups) == 0.5


@pytest.mark.parametrize("named", ["0::/\n", "0::/docker/0123/of/the/host\n", "0::/../../elsewhere\n", ""])
def test_in_a_container_the_mount_is_its_own_group(named: str, tmp_path: pathlib.Path) -> None:
    write(tmp_path / "root/cpu.max", "50000 100000")
    assert cpu_quota(tmp_path / "root", own(tmp_path, named)) == 0.5


def test_with_both_versions_mounted_each_is_read_where_it_is(tmp_path: pathlib.Path) -> None:
    root = tmp_path / "root"
    write(root / "unified/app/cpu.max", "300000 100000")
    write(root / "cpu,cpuacct/app/cpu.cfs_quota_us", "120000")
    write(root / "cpu,cpuacct/app/cpu.cfs_period_us", "100000")
    assert cpu_quota(root, own(tmp_path, "4:cpu,cpuacct:/app\n0::/app\n")) == 1.2


def test_a_machine_without_a_quota_file_has_no_quota(tmp_path: pathlib.Path) -> None:
    assert cpu_quota(tmp_path / "nowhere", tmp_path / "nothing") is None
    assert cpu_quota(tmp_path / "nowhere", own(tmp_path, "0::/app\n")) is None
    assert available_cores(tmp_path / "nowhere") == CORES


@pytest.mark.parametrize(
    ("limit", "workers"),
    [("10000 100000", 1), ("50000 100000", 1), ("100000 100000", 1), ("110000 100000", 2), ("max 100000", CORES)],
)
def test_a_quota_is_rounded_up_and_never_beyond_the_cores(limit: str, workers: int, tmp_path: pathlib.Path) -> None:
    write(tmp_path / "cpu.max", limit)
    write(tmp_path / "unified/cpu.max", limit)
    assert available_cores(tmp_path) == min(workers, CORES)


def test_the_affinity_counts_as_well(tmp_path: pathlib.Path) -> None:
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(everywhere)})
    try:
        assert available_cores(tmp_path) == 1
    finally:
        os.sched_setaffinity(0, everywhere)


@contextlib.contextmanager
def control_group(quota_us: int) -> Iterator[pathlib.Path]:
    """Make a group with a quota in microseconds of each 100,000. Skip the test if that is forbidden."""
    name = f"ringfeed-test-{os.getpid()}"
    own_groups = pathlib.Path("/proc/self/cgroup").read_text().splitlines()
    parent = {line.split(":", 2)[1]: line.split(":", 2)[2].lstrip("/") for line in own_groups}
    root = pathlib.Path("/sys/fs/cgroup")
    version_1 = next((key for key in parent if "cpu" in key.split(",")), None)
    folder = root / version_1 / parent[version_1] / name if version_1 else root / parent.get("", "") / name
    made = False
    try:
        try:
            folder.mkdir()
            made = True
            if version_1:
                (folder / "cpu.cfs_quota_us").write_text(str(quota_us))
            else:
                (folder / "cpu.max").write_text(f"{quota_us} 100000")
        except OSError as error:
            pytest.skip(f"this machine makes no control group: {error}")
        yield folder
    finally:
        if made:
            folder.rmdir()


def test_a_process_in_a_real_control_group_of_half_a_core_starts_one_worker(start) -> None:
    def count(pipe, procs: str) -> int:
        with open(procs, "w") as file:
            file.write(str(os.getpid()))
        from ringfeed.workers.pool import available_cores

        return available_cores()

    with control_group(50_000) as folder:
        assert start(count, str(folder / "cgroup.procs")).result() == 1
    assert available_cores() >= 1
