"""Raw items on their way to a worker: in a slot of the task ring, or beside it if they are large.

An item is pickled with its buffers out of band (PEP 574): arrays inside it are never pickled. Their bytes are copied
into the slot, and from there by the worker into memory of its own, because a function may keep its item for longer than
the slot. A message is

    count, then count lengths (uint64), then the parts, each aligned to 64 bytes: the pickle, the buffers

Large items lie in a memory file of the sending process. The file has no name: it disappears with its process and the
workers, however they end. It may not know the purpose of an item.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import struct
import threading
from typing import Any

import numpy as np

from ..errors import RingClosed
from ..machine import memory_files
from . import by_value

_ALIGNMENT = 64
_PLAIN_MODULES = frozenset({"builtins", "pathlib", "pathlib._local"})
"""Scalar types of these modules go through plain pickle, 20 times faster than cloudpickle."""
_COMMON_TYPES = frozenset({str, bytes, int})
"""The types of most items, recognised in one step."""
_WORD_BYTES = 8
_SMALL_BYTES = 4096
"""A smaller pickle is copied once more, to follow the head in one piece: cheaper than a second write."""
_HEAD_OF_ONE = struct.Struct(f"QQ{_ALIGNMENT - 2 * _WORD_BYTES}x")
"""Count 1, the pickle's length, and the padding behind them."""
_TWO_WORDS = struct.Struct("QQ")
_THREE_WORDS = struct.Struct("QQQ")
_SPILLED = 0xFFFF_FFFF_FFFF_FFFF
"""In place of the count: the message lies in the spill file; its offset and length follow."""


def _aligned(count: int) -> int:
    return -(-count // _ALIGNMENT) * _ALIGNMENT


def _is_plain(item: Any) -> bool:
    """Tell whether an item is certainly the same in a process that does not know our ``__main__``."""
    if isinstance(item, (tuple, list, dict, set, frozenset)):
        return type(item) in (tuple, list) and len(item) <= 16 and all(map(_is_plain, item))
    if isinstance(item, (np.ndarray, np.generic)):
        return not item.dtype.hasobject and type(item).__module__ == "numpy"
    return type(item).__module__ in _PLAIN_MODULES and not callable(item)


class EncodedItem:
    """An item ready to be written into memory.

    Parameters
    ----------
    item : object
        Any object that pickle or cloudpickle takes, including classes and functions of ``__main__``.

    Attributes
    ----------
    message_bytes : int
        The size of the message.
    """

    def __init__(self, item: Any) -> None:
        buffers: list[pickle.PickleBuffer] = []
        if type(item) in _COMMON_TYPES:
            body = pickle.dumps(item, protocol=5)
        elif _is_plain(item):
            if type(item) is np.ndarray and not item.flags.forc:
                item = np.ascontiguousarray(item)  # NumPy pickles others in band
            body = pickle.dumps(item, protocol=5, buffer_callback=buffers.append)
        else:
            body = by_value.dumps(item, buffers.append)
        if not buffers and len(body) < _SMALL_BYTES:
            self._head = _HEAD_OF_ONE.pack(1, len(body)) + body  # written as one piece
            self._parts: list[Any] = []
            self.message_bytes = _aligned(len(self._head))
            return
        self._parts = [body, *(buffer.raw() for buffer in buffers)]
        lengths = [len(part) for part in self._parts]
        self._head = struct.pack(f"{1 + len(lengths)}Q", len(lengths), *lengths)
        self.message_bytes = _aligned(len(self._head)) + sum(map(_aligned, lengths))

    def write(self, target: np.ndarray[Any, Any]) -> None:
        """Write the message into an array of uint8 of at least `message_bytes`."""
        target.data[: len(self._head)] = self._head
        start = _aligned(len(self._head))
        for part in self._parts:
            # By NumPy, which lets other threads run during large copies.
            target[start : start + len(part)] = np.frombuffer(part, np.uint8)
            start += _aligned(len(part))


class SpillFile:
    """Memory for items that are too large for a slot. Workers get its descriptor.

    Each item gets a range that was never used before. A late message, of an item that is done, finds zeros there and no
    other item.
    """

    def __init__(self) -> None:
        self._file = memory_files.OwnDescriptor(memory_files.create("ringfeed-items"))
        self._end = 0
        self._closed = False
        self._lock = threading.RLock()  # a signal handler may close the file while its thread does

    @property
    def descriptor(self) -> int:
        """The file's descriptor, owned by this object."""
        return self._file.number

    @property
    def closed(self) -> bool:
        """Whether the file was closed."""
        return self._closed

    def add(self, encoded: EncodedItem) -> SpilledItem:
        """Write an item into a range of its own.

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
            memory_files.grow(self._file.number, self._end)
            memory = mmap.mmap(self._file.number, length, offset=offset)
        encoded.write(np.frombuffer(memory, np.uint8))
        return SpilledItem(memory, offset)

    def close(self) -> None:
        """Close the file; a second call has no effect. Workers that have it open can still read it."""
        with self._lock:
            self._closed = True
            self._file.close()


class SpilledItem:
    """An item in the spill file, until `remove`."""

    def __init__(self, memory: mmap.mmap, offset: int) -> None:
        self._memory = memory
        self._reference = _THREE_WORDS.pack(_SPILLED, offset, len(memory))

    def write(self, target: np.ndarray[Any, Any]) -> None:
        """Write the place of the item into an array of uint8."""
        target.data[: len(self._reference)] = self._reference

    def remove(self) -> None:
        """Free the memory; a second call has no effect."""
        if not self._memory.closed:
            # If the kernel cannot take pages out of a file, they are freed with the file.
            with contextlib.suppress(OSError):
                self._memory.madvise(mmap.MADV_REMOVE)
            self._memory.close()


def _read_spilled(descriptor: int, offset: int, length: int) -> np.ndarray[Any, Any]:
    """Return a copy of a range of the spill file.

    It is a copy, because a function may keep its item for longer than the range exists. It costs no more than a
    mapping, which has as many page faults as reading copies pages.
    """
    message = aligned_room(length)
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
        uint8, as `write` filled it. The item does not refer to this memory.
    spill_descriptor : int
        Of the spill file.

    Raises
    ------
    LookupError
        The item was removed, because it is done.
    """
    memory = message.data
    count, length = _TWO_WORDS.unpack_from(memory)
    is_own_copy = count == _SPILLED
    if is_own_copy:
        _, offset, length = _THREE_WORDS.unpack_from(memory)
        memory = _read_spilled(spill_descriptor, offset, length).data
        count, length = _TWO_WORDS.unpack_from(memory)
        if count == 0:
            raise LookupError("the item was removed: it is done.")
    if count == 1:
        return pickle.loads(memory[_ALIGNMENT : _ALIGNMENT + length])  # without buffers, pickle copies everything
    lengths = struct.unpack_from(f"{count}Q", memory, _WORD_BYTES)
    start = _aligned(_WORD_BYTES * (1 + count))
    body, start = memory[start : start + lengths[0]], start + _aligned(lengths[0])
    if not is_own_copy:  # all buffers at once: an allocation for each would cost more than the copy
        memory, start = _aligned_copy(message[start : start + sum(map(_aligned, lengths[1:]))]), 0
    buffers = []
    for length in lengths[1:]:
        buffers.append(memory[start : start + length])
        start += _aligned(length)
    return pickle.loads(body, buffers=buffers)


def aligned_room(length: int) -> np.ndarray[Any, Any]:
    """Return new memory of this many bytes, aligned to 64 bytes."""
    room = np.empty(length + _ALIGNMENT, np.uint8)
    start = -room.__array_interface__["data"][0] % _ALIGNMENT
    return room[start : start + length]


def _aligned_copy(part: np.ndarray[Any, Any]) -> memoryview:
    room = aligned_room(len(part))
    room[...] = part
    return room.data
