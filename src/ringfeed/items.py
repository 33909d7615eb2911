"""Raw items on their way to a worker: in a slot of the task ring, or beside it when they are large.

An item is pickled with its buffers out of band (PEP 574): arrays inside it are never pickled, their
bytes are laid into the slot, and the worker's arrays look at them there. A message is

    count, then count lengths (uint64), then the parts, each on 64 bytes: the pickle, the buffers

Large items lie in a memory file of the feeding process, without a name: it goes with the process and
its workers, whatever ends them. It may not know what an item is for.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import threading
from typing import Any

import cloudpickle
import numpy as np

from .errors import RingClosed

_ALIGNMENT = 64
_PLAIN_MODULES = frozenset({"builtins", "pathlib", "pathlib._local"})
"""Whose scalar types plain pickle takes, 20 times faster than cloudpickle."""
_SPILLED = 0xFFFF_FFFF_FFFF_FFFF
"""In the place of the count: the message lies in the spill file; its offset and length follow."""


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


class SpillFile:
    """Memory for items that are too large for a slot. Workers get its descriptor.

    Each item gets a stretch that was never used before, so that a message which comes late, of an item
    that is done, finds zeros there and no other item.
    """

    def __init__(self) -> None:
        self._descriptor = os.memfd_create("ringfeed-items", os.MFD_CLOEXEC)
        self._end = 0
        self._closed = False
        self._lock = threading.Lock()

    @property
    def descriptor(self) -> int:
        """The file's descriptor; it stays the file's own."""
        return self._descriptor

    def lay(self, encoded: EncodedItem) -> SpilledItem:
        """Lay an item into a stretch of its own.

        Raises
        ------
        RingClosed
            The file was closed.
        """
        length = -(-encoded.message_bytes // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        with self._lock:
            if self._closed:
                raise RingClosed("the predictor was closed.")
            offset, self._end = self._end, self._end + length
            os.ftruncate(self._descriptor, self._end)
            memory = mmap.mmap(self._descriptor, length, offset=offset)
        encoded.write(np.frombuffer(memory, np.uint8))
        return SpilledItem(memory, offset)

    def close(self) -> None:
        """Close the file; twice does no harm. Whoever has it open goes on."""
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self._descriptor)


class SpilledItem:
    """An item in the spill file, until `remove`."""

    def __init__(self, memory: mmap.mmap, offset: int) -> None:
        self._memory = memory
        self._where = np.array([_SPILLED, offset, len(memory)], np.uint64).view(np.uint8)

    def write(self, target: np.ndarray[Any, Any]) -> None:
        """Say in an array of uint8 where the item lies."""
        target[: len(self._where)] = self._where

    def remove(self) -> None:
        """Give the memory back; twice does no harm."""
        if not self._memory.closed:
            # Where the kernel does not take pages out of a file, they go with the file.
            with contextlib.suppress(OSError):
                self._memory.madvise(mmap.MADV_REMOVE)
            self._memory.close()


def _read_spilled(descriptor: int, offset: int, length: int) -> np.ndarray[Any, Any]:
    """Return a copy of a stretch of the spill file.

    Of its own memory, because a function may keep its item for longer than the stretch lasts. It costs no
    more than mapping it: as many page faults as reading copies pages.
    """
    room = np.empty(length + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    message = room[start : start + length]
    done = 0
    while done < length:
        count = os.preadv(descriptor, [message[done:].data], offset + done)
        if count == 0:
            raise LookupError("the spill file ends before the item does.")
        done += count
    return message


def read_item(message: np.ndarray[Any, Any], spill_descriptor: int = -1) -> Any:
    """Return the item of a message.

    Parameters
    ----------
    message : numpy.ndarray
        uint8, as `write` filled it. Arrays of the item look at this memory and keep it, but for items in
        the spill file, which are copied.
    spill_descriptor : int
        Of the spill file.

    Raises
    ------
    LookupError
        The item was removed: it is done.
    """
    count = int(message[:8].view(np.uint64)[0])
    if count == _SPILLED:
        message = _read_spilled(spill_descriptor, *message[8:24].view(np.uint64).tolist())
        count = int(message[:8].view(np.uint64)[0])
        if count == 0:
            raise LookupError("the item was removed: it is done.")
    lengths = message[8 : 8 + 8 * count].view(np.uint64).tolist()
    parts, start = [], _aligned(8 + 8 * count)
    for length in lengths:
        parts.append(message[start : start + length])
        start += _aligned(length)
    return pickle.loads(parts[0].data, buffers=parts[1:])
