"""Raw items on their way to a worker: in a slot of the task ring, or beside it when they are large.

An item is pickled with its buffers out of band (PEP 574): arrays inside it are never pickled, their
bytes are laid into the slot, and the worker's arrays look at them there. A message is

    count, then count lengths (uint64), then the parts, each on 64 bytes: the pickle, the buffers

It may not know what an item is for.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
from typing import Any

import cloudpickle
import numpy as np
import posix_ipc

_ALIGNMENT = 64
_PLAIN_MODULES = frozenset({"builtins", "pathlib", "pathlib._local"})
"""Whose scalar types plain pickle takes, 20 times faster than cloudpickle."""
_SPILLED = 0xFFFF_FFFF_FFFF_FFFF
"""In the place of the count: the message lies in a segment of its own, whose name follows."""


def _aligned(count: int) -> int:
    return -(-count // _ALIGNMENT) * _ALIGNMENT


def _is_plain(item: Any) -> bool:
    """Tell whether it is surely the same thing in a process that does not know our ``__main__``."""
    if isinstance(item, (tuple, list, dict, set, frozenset)):
        return type(item) in (tuple, list) and len(item) <= 16 and all(map(_is_plain, item))
    if isinstance(item, (np.ndarray, np.generic)):
        return not item.dtype.hasobject
    return type(item).__module__ in _PLAIN_MODULES and not callable(item)


class EncodedItem:
    """An item ready to be laid into memory.

    Parameters
    ----------
    item : object
        Anything that pickle or cloudpickle takes; classes and functions of ``__main__`` travel too.

    Attributes
    ----------
    message_bytes : int
        Room that the message needs.
    """

    def __init__(self, item: Any) -> None:
        buffers: list[pickle.PickleBuffer] = []
        if isinstance(item, np.ndarray) and not item.flags.forc:
            item = np.ascontiguousarray(item)  # NumPy pickles others in band
        dumps = pickle.dumps if _is_plain(item) else cloudpickle.dumps
        body = dumps(item, protocol=5, buffer_callback=buffers.append)
        self._parts: list[Any] = [body, *(buffer.raw() for buffer in buffers)]
        lengths = [len(part) for part in self._parts]
        self._head = np.array([len(lengths), *lengths], np.uint64).tobytes()
        self.message_bytes = _aligned(len(self._head)) + sum(map(_aligned, lengths))

    def write(self, target: np.ndarray[Any, Any]) -> None:
        """Lay the message into an array of uint8 of at least `message_bytes`."""
        target[: len(self._head)] = np.frombuffer(self._head, np.uint8)
        start = _aligned(len(self._head))
        for part in self._parts:
            target[start : start + len(part)] = np.frombuffer(part, np.uint8)
            start += _aligned(len(part))


class SpilledItem:
    """An item too large for a slot, in a segment of its own until `remove`.

    Parameters
    ----------
    encoded : EncodedItem
    """

    def __init__(self, encoded: EncodedItem) -> None:
        self.name = f"/ringfeed.item-{os.getpid()}-{os.urandom(6).hex()}"
        segment = posix_ipc.SharedMemory(self.name, flags=posix_ipc.O_CREX, mode=0o600, size=encoded.message_bytes)
        try:
            os.posix_fallocate(segment.fd, 0, encoded.message_bytes)
            with mmap.mmap(segment.fd, encoded.message_bytes) as memory:
                encoded.write(np.frombuffer(memory, np.uint8))
        except BaseException:
            self.remove()
            raise
        finally:
            os.close(segment.fd)

    def write(self, target: np.ndarray[Any, Any]) -> None:
        """Lay the segment's name into an array of uint8."""
        name = self.name.encode()
        head = np.array([_SPILLED, len(name)], np.uint64).tobytes() + name
        target[: len(head)] = np.frombuffer(head, np.uint8)

    def remove(self) -> None:
        """Remove the segment; twice does no harm."""
        with contextlib.suppress(posix_ipc.ExistentialError):
            posix_ipc.unlink_shared_memory(self.name)


def read_item(message: np.ndarray[Any, Any]) -> Any:
    """Return the item of a message.

    Parameters
    ----------
    message : numpy.ndarray
        uint8, as `write` filled it. Arrays of the item look at this memory and keep it.
    """
    count = int(message[:8].view(np.uint64)[0])
    if count == _SPILLED:
        length = int(message[8:16].view(np.uint64)[0])
        segment = posix_ipc.SharedMemory(message[16 : 16 + length].tobytes().decode())
        try:
            message = np.frombuffer(mmap.mmap(segment.fd, segment.size), np.uint8)
        finally:
            os.close(segment.fd)
        count = int(message[:8].view(np.uint64)[0])
    lengths = message[8 : 8 + 8 * count].view(np.uint64).tolist()
    parts, start = [], _aligned(8 + 8 * count)
    for length in lengths:
        parts.append(message[start : start + length])
        start += _aligned(length)
    return pickle.loads(parts[0].data, buffers=parts[1:])
