"""Runs the body of a test in a process where TensorFlow has two CPU devices, "CPU:0" and "CPU:1".

The devices must be split before TensorFlow is first used. Therefore all tests of a module share a separate process.
"""

from __future__ import annotations

import os
import re
import tempfile
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import cloudpickle
import pytest

from support import Child, pickled_by_value


def _serve(pipe: Any) -> None:
    # TensorFlow logs placements as information. The log goes to a file; failures of a test go through the connection.
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "0"
    with tempfile.TemporaryFile() as log, open(os.devnull, "wb") as nothing:
        os.dup2(log.fileno(), 2)
        os.dup2(nothing.fileno(), 1)
    import tensorflow as tf

    tf.debugging.set_log_device_placement(True)
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    while (function := pipe.hear()) is not None:
        try:
            cloudpickle.loads(function)[0]()
        except BaseException:
            pipe.tell(traceback.format_exc())
        else:
            pipe.tell(None)


@pytest.fixture(scope="module")
def two_cpus() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Return a function that runs another function in that process; an exception there fails the test."""
    child = Child(_serve)

    def run(function: Callable[[], None]) -> None:
        child.tell(pickled_by_value(function))
        if failure := child.told():
            pytest.fail(failure, pytrace=False)

    yield run
    child.tell(None)
    child.result()
    child.end()


def on_two_cpus(function: Callable[..., None]) -> Callable[..., None]:
    """Make a test of a function that needs two devices: the function runs in the other process."""

    def test(two_cpus: Any) -> None:
        two_cpus(function)

    test.__name__, test.__doc__ = function.__name__, function.__doc__
    return test


def devices_of(call: Callable[[], Any]) -> dict[str, str]:
    """Return, for each kind of operation that a call placed ("MatMul"), the device of the last one ("CPU:1").

    TensorFlow places the operations of a function at its first call.
    """
    with open("/proc/self/fd/2", "rb") as log:
        log.seek(0, os.SEEK_END)
        call()
        lines = log.read().decode(errors="replace").splitlines()
    # "I0000 ... placer.cc:162] name: (MatMul): /job:localhost/replica:0/task:0/device:CPU:1"
    found = (re.search(r": \((\w+)\): /job:\S*/device:(\S+)", line) for line in lines)
    return {match[1]: match[2] for match in found if match}
