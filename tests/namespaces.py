"""Programs that run in a mount namespace or a PID namespace of their own. A test skips if the kernel forbids that."""

import shutil
import subprocess
import sys
import textwrap

import pytest

PID_NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc"]

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


def require_pid_namespaces():
    """Skip the test if it may not make a PID namespace."""
    if not shutil.which("unshare"):
        pytest.skip("needs unshare")
    done = subprocess.run([*PID_NAMESPACE, "true"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"may not make a PID namespace: {done.stderr.strip()}")


def run_in_mount_namespace(script, program, *arguments, timeout=None):
    """Run a program in a mount namespace that a script has changed; return the lines that the program printed."""
    if not shutil.which("unshare"):
        pytest.skip("needs unshare")
    command = ["unshare", "--mount", "sh", "-c", f'{script} && exec "$0" -c "$@"', sys.executable]
    done = subprocess.run(
        [*command, textwrap.dedent(program), *arguments], capture_output=True, text=True, check=False, timeout=timeout
    )
    if done.stderr.startswith(("unshare:", "mount:")):
        pytest.skip(f"may not mount: {done.stderr.strip()}")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def run_with_private_shm(options, source):
    """Run a program with its own /dev/shm, a tmpfs with these options; return the lines that it printed."""
    script = f"mount -t tmpfs -o {options} tmpfs /dev/shm"
    return run_in_mount_namespace(script, PRELUDE + textwrap.dedent(source))
