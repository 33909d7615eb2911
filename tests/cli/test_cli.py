"""The command `ringfeed`."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import pytest

import ringfeed
from ringfeed.cli import main


def own_a_ring_and_die(pipe, name):
    ring = ringfeed.Ring.create(name, {"x": ((512,), "int64")}, slots=8)
    pipe.tell("made")
    pipe.hear()
    del ring


def test_doctor_says_what_works(capsys):
    assert main(["doctor", "--no-tensorflow"]) == 0
    lines = capsys.readouterr().out.splitlines()
    subjects = [line[4:].partition(":")[0] for line in lines]
    assert subjects == [
        *[f"ringfeed {ringfeed.__version__}", "/dev/shm", "a ring", "rings on this machine"],
        *["lock_memory", "huge_pages", "pin_memory"],
    ]
    assert all(line.startswith(("ok  ", "NO  ")) for line in lines)
    assert "ok  a ring: created, written, read and removed" in lines


def test_doctor_gives_the_same_answer_on_huge_pages_as_a_ring(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with ringfeed.Ring.create(None, {"x": ((1 << 21,), "uint8")}, slots=2, huge_pages=True) as ring:
            answer = ring.memory["huge_pages"]
    main(["doctor", "--no-tensorflow"])
    assert f"{'ok' if answer == 'granted' else 'NO'}  huge_pages: {answer}" in capsys.readouterr().out


def test_doctor_reports_tensorflow_and_the_native_op():
    done = subprocess.run([sys.executable, "-m", "ringfeed", "doctor"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "ok  native op: datasets, take and fuse use it" in done.stdout


def test_doctor_says_why_the_native_op_is_not_used():
    environment = {**os.environ, "RINGFEED_NATIVE_OP": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "ringfeed", "doctor"], capture_output=True, text=True, check=False, env=environment
    )
    assert "NO  native op: it is switched off by RINGFEED_NATIVE_OP=0; datasets take" in done.stdout


def test_doctor_fails_if_no_ring_can_be_created(capsys, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise ringfeed.NoSpace("no room")

    monkeypatch.setattr(ringfeed.Ring, "create", refuse)
    assert main(["doctor", "--no-tensorflow"]) == 1
    assert "NO  a ring: no room" in capsys.readouterr().out


def test_rings_are_listed_and_only_dead_ones_removed(ring, ring_name, start, capsys):
    owner = start(own_a_ring_and_die, ring_name)
    assert owner.told() == "made"
    owner.kill()
    prefix = ring_name.rpartition("-")[0].rpartition("-")[0]
    assert main(["list", f"{prefix}-*"]) == 0
    listed = capsys.readouterr().out
    assert f"{ring.name}: alive, " in listed
    assert "8 slots of RecordSpec('x': int64[512])" in listed
    assert f"{ring_name}: owner dead, " in listed
    for arguments, removed in ((["--dry-run"], True), ([], True), ([], False)):
        assert main(["clean", f"{prefix}-*", *arguments]) == 0
        printed = capsys.readouterr().out
        assert (ring_name in printed) is removed
        assert ring.name not in printed
    assert printed == "nothing to remove\n"


@pytest.mark.parametrize("arguments", [[], ["mend"], ["clean", "a", "b"]])
def test_unknown_arguments_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert "usage: ringfeed" in capsys.readouterr().err
