"""Files in memory, without a name: they go with the last process that has them open.

Whoever has one open may do with it what its seals leave (man 2 fcntl, "File Sealing"). None of these can be cut
short: a process that maps it would be ended by SIGBUS. And nobody can add a seal, which would stop the others. It may
not know what is in them.
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
    """Return the descriptor of a new file of so many zeros; `name` is for ``/proc`` alone.

    It keeps its size; one that begins without any can grow.
    """
    descriptor = _unsealed(name)
    try:
        os.ftruncate(descriptor, size)
        _seal(descriptor, fcntl.F_SEAL_GROW if size else 0)
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
    """Return the descriptor of a new file with these bytes, which nobody can change.

    Large contents go to a worker so: a message beyond a socket's buffer keeps its sender waiting for a receiver that
    is stopped.
    """
    descriptor = _unsealed(name)
    try:
        left = memoryview(contents).cast("B")
        while left:
            left = left[os.write(descriptor, left) :]
        _seal(descriptor, fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _unsealed(name: str) -> int:
    return above_standard_streams(os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))


def _seal(descriptor: int, more: int) -> None:
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | more | fcntl.F_SEAL_SEAL)


def grow(descriptor: int, size: int) -> None:
    """Make a file that can grow so many bytes long at least; who else has it open may have made it longer."""
    try:
        os.ftruncate(descriptor, size)
    except PermissionError:  # it would become shorter
        if os.fstat(descriptor).st_size < size:
            raise


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
