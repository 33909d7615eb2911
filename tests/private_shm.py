"""Programs that run with a private /dev/shm, of a size that the test chooses. Needs permission to mount."""

import shutil
import subprocess
import sys
import textwrap

import pytest

PRELUDE = """
import os, subprocess, sys
import numpy as np
import ringfeed
MIB = 2**20
def create(name, mebibytes):
    return ringfeed.Ring.create(name, {"x": ((MIB,), "uint8")}, slots=mebibytes, participants=8)
def said_by(call, *arguments):
    try:
        call(*arguments)
    except ringfeed.RingFeedError as error:
        return f"{type(error).__name__}: {error}"
def fill():
    with open("/dev/shm/filler", "wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError as error:
            assert error.errno == 28, error
    assert os.statvfs("/dev/shm").f_bavail == 0
"""


def run_with_private_shm(options, source):
    """Run a program with its own /dev/shm; return the lines that it printed. Skip where mounting is not permitted."""
    if not shutil.which("unshare"):
        pytest.skip("needs unshare")
    program = PRELUDE + textwrap.dedent(source)
    script = f'mount -t tmpfs -o {options} tmpfs /dev/shm && exec "$0" -c "$1"'
    command = ["unshare", "--mount", "sh", "-c", script, sys.executable, program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.stderr.startswith(("unshare:", "mount:")):
        pytest.skip(f"may not mount: {done.stderr.strip()}")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()
