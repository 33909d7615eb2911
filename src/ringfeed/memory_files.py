"""Files in memory, without a name: they go with the last process that has them open.

It may not know what is in them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import Any


def above_standard_streams(descriptor: int) -> int:
    """Return a descriptor of the same file that is none of 0, 1 and 2, and close the one given.

    In a process whose standard streams are closed a new file takes their place, and what prints writes into it.
    """
    if descriptor > 2:
        return descriptor
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(descriptor)


def create(name: str, size: int = 0) -> int:
    """Return the descriptor of a new file of so many zeros; `name` is for ``/proc`` alone."""
    descriptor = above_standard_streams(os.memfd_create(name, os.MFD_CLOEXEC))
    try:
        os.ftruncate(descriptor, size)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


class OwnDescriptor:
    """A descriptor that is closed once, whoever says so first: another thread, or a signal handler amid a close.

    Parameters
    ----------
    number : int
        The descriptor, which is this object's from now on.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._left = [number]

    def close(self) -> None:
        """Close it; twice does no harm."""
        with contextlib.suppress(IndexError):
            os.close(self._left.pop())  # taken in one step of the interpreter, which nothing comes between


def create_with(name: str, contents: Any) -> int:
    """Return the descriptor of a new file with these bytes.

    Large contents go to a worker so: a message beyond a socket's buffer keeps its sender waiting for a receiver that
    is stopped.
    """
    descriptor = create(name)
    try:
        left = memoryview(contents).cast("B")
        while left:
            left = left[os.write(descriptor, left) :]
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read(descriptor: int) -> bytearray:
    """Return what is in a file from its start, wherever others read or write it."""
    contents = bytearray(os.fstat(descriptor).st_size)
    done = 0
    while done < len(contents):
        count = os.preadv(descriptor, [memoryview(contents)[done:]], done)
        if not count:
            raise OSError("the file became shorter while it was read")
        done += count
    return contents
