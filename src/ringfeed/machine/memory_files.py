"""Memory files without a name: the kernel frees one when the last process that has it open closes it.

The seals of a file limit what a process that has it open can do (man 2 fcntl, "File Sealing"). None of these files can
be truncated, which would kill a process that maps it by SIGBUS. No process can add a seal, which would block others. It
may not know the contents of the files.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import Any


def above_standard_streams(descriptor: int) -> int:
    """Return a descriptor of the same file that is above 2, and close the given descriptor.

    In a process with closed standard streams a new file gets one of their numbers. Then a print would write into it.
    """
    if descriptor > 2:
        return descriptor
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(descriptor)


def create(name: str, size: int = 0) -> int:
    """Return the descriptor of a new file of `size` zero bytes; `name` appears in ``/proc`` only.

    The size is fixed, except that a file of size 0 can grow.
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
    """A descriptor that is closed exactly once, even if several threads and signal handlers close it.

    Parameters
    ----------
    number : int
        The descriptor. This object owns it from now on.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._left = [number]

    def close(self) -> None:
        """Close the descriptor. It may be called several times."""
        with contextlib.suppress(IndexError):
            os.close(self._left.pop())  # `pop` is one step of the interpreter, so only one caller gets it


def create_with(name: str, contents: Any) -> int:
    """Return the descriptor of a new, read-only file with these bytes.

    Large contents go to a worker in such a file. A message that is larger than a socket's buffer would block its
    sender while the receiver is stopped.
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
    """Grow a file to at least `size` bytes; another process may have made it longer already."""
    try:
        os.ftruncate(descriptor, size)
    except PermissionError:  # the file is longer: a seal forbids shrinking
        if os.fstat(descriptor).st_size < size:
            raise


def read(descriptor: int) -> bytearray:
    """Return the contents of a file from its start, without moving the file position that processes share."""
    contents = bytearray(os.fstat(descriptor).st_size)
    done = 0
    while done < len(contents):
        count = os.preadv(descriptor, [memoryview(contents)[done:]], done)
        if not count:
            raise OSError("the file became shorter while it was read")
        done += count
    return contents
