"""Raw items on their way to a worker: in a slot of the task ring, or beside it when they are large.

An item is pickled with its buffers out of band (PEP 574): arrays inside it are never pickled, their
bytes are laid into the slot, and the worker copies them from there into memory of its own, because a function may
keep its item for longer than the slot. A message is

    count, then count lengths (uint64), then the parts, each on 64 bytes: the pickle, the buffers

Large items lie in a memory file of the feeding process, without a name: it goes with the process and
its workers, whatever ends them. It may not know what an item is for.
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
"""Whose scalar types plain pickle takes, 20 times faster than cloudpickle."""
_COMMON_TYPES = frozenset({str, bytes, int})
"""Of them those that most items are, found in one step."""
_WORD_BYTES = 8
_SMALL_BYTES = 4096
"""A pickle below this is copied once more, to lie behind the head in one piece: cheaper than a second write."""
_HEAD_OF_ONE = struct.Struct(f"QQ{_ALIGNMENT - 2 * _WORD_BYTES}x")
"""Count 1, the pickle's length, and the padding behind them."""
_TWO_WORDS = struct.Struct("QQ")
_THREE_WORDS = struct.Struct("QQQ")
_SPILLED = 0xFFFF_FFFF_FFFF_FFFF
"""In the place of the count: the message lies in the spill file; its offset and length follow."""


def _aligned(count: int) -> int:
    return -(-count // _ALIGNMENT) * _ALIGNMENT


def _is_plain(item: Any) -> bool:
    """Tell whether it is surely the same thing in a process that does not know our ``__main__``."""
    if isinstance(item, (tuple, list, dict, set, frozenset)):
        return type(item) in (tuple, list) and len(item) <= 16 and all(map(_is_plain, item))
    if isinstance(item, (np.ndarray, np.generic)):
        return not item.dtype.hasobject and type(item).__module__ == "numpy"
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
        if type(item) in _COMMON_TYPES:
            body = pickle.dumps(item, protocol=5)
        elif _is_plain(item):
            if type(item) is np.ndarray and not item.flags.forc:
                item = np.ascontiguousarray(item)  # NumPy pickles others in band
            body = pickle.dumps(item, protocol=5, buffer_callback=buffers.append)
        else:
            body = by_value.dumps(item, buffers.append)
        if not buffers and len(body) < _SMALL_BYTES:
            self._head = _HEAD_OF_ONE.pack(1, len(body)) + body  # laid in as one piece
            self._parts: list[Any] = []
            self.message_bytes = _aligned(len(self._head))
            return
        self._parts = [body, *(buffer.raw() for buffer in buffers)]
        lengths = [len(part) for part in self._parts]
        self._head = struct.pack(f"{1 + len(lengths)}Q", len(lengths), *lengths)
        self.message_bytes = _aligned(len(self._head)) + sum(map(_aligned, lengths))

    def write(self, target: np.ndarray[Any, Any]) -> None:
        """Lay the message into an array of uint8 of at least `message_bytes`."""
        target.data[: len(self._head)] = self._head
        start = _aligned(len(self._head))
        for part in self._parts:
            # By NumPy, which lets other threads run while it copies much.
            target[start : start + len(part)] = np.frombuffer(part, np.uint8)
            start += _aligned(len(part))


class SpillFile:
    """Memory for items that are too large for a slot. Workers get its descriptor.

    Each item gets a stretch that was never used before, so that a message which comes late, of an item
    that is done, finds zeros there and no other item.
    """

    def __init__(self) -> None:
        self._file = memory_files.OwnDescriptor(memory_files.create("ringfeed-items"))
        self._end = 0
        self._closed = False
        self._lock = threading.RLock()  # a signal handler may close the file while its thread does

    @property
    def descriptor(self) -> int:
        """The file's descriptor; it stays the file's own."""
        return self._file.number

    @property
    def closed(self) -> bool:
        """Whether the file was closed."""
        return self._closed

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
            memory_files.grow(self._file.number, self._end)
            memory = mmap.mmap(self._file.number, length, offset=offset)
        encoded.write(np.frombuffer(memory, np.uint8))
        return SpilledItem(memory, offset)

    def close(self) -> None:
        """Close the file; twice does no harm. Whoever has it open goes on."""
        with self._lock:
            self._closed = True
            self._file.close()


class SpilledItem:
    """An item in the spill file, until `remove`."""

    def __init__(self, memory: mmap.mmap, offset: int) -> None:
        self._memory = memory
        self._where = _THREE_WORDS.pack(_SPILLED, offset, len(memory))

    def write(self, target: np.ndarray[Any, Any]) -> None:
        """Say in an array of uint8 where the item lies."""
        target.data[: len(self._where)] = self._where

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
        uint8, as `write` filled it. Nothing of the item looks at this memory.
    spill_descriptor : int
        Of the spill file.

    Raises
    ------
    LookupError
        The item was removed: it is done.
    """
    memory = message.data
    count, length = _TWO_WORDS.unpack_from(memory)
    is_ours = count == _SPILLED
    if is_ours:
        _, offset, length = _THREE_WORDS.unpack_from(memory)
        memory = _read_spilled(spill_descriptor, offset, length).data
        count, length = _TWO_WORDS.unpack_from(memory)
        if count == 0:
            raise LookupError("the item was removed: it is done.")
    if count == 1:
        return pickle.loads(memory[_ALIGNMENT : _ALIGNMENT + length])  # without buffers: it copies all
    lengths = struct.unpack_from(f"{count}Q", memory, _WORD_BYTES)
    start = _aligned(_WORD_BYTES * (1 + count))
    body, start = memory[start : start + lengths[0]], start + _aligned(lengths[0])
    if not is_ours:  # all buffers in one go: an allocation for each would cost more than the copy
        memory, start = _aligned_copy(message[start : start + sum(map(_aligned, lengths[1:]))]), 0
    buffers = []
    for length in lengths[1:]:
        buffers.append(memory[start : start + length])
        start += _aligned(length)
    return pickle.loads(body, buffers=buffers)


def aligned_room(length: int) -> np.ndarray[Any, Any]:
    """Return new memory of so many bytes, which starts on 64 bytes."""
    room = np.empty(length + _ALIGNMENT, np.uint8)
    start = -room.__array_interface__["data"][0] % _ALIGNMENT
    return room[start : start + length]


def _aligned_copy(part: np.ndarray[Any, Any]) -> memoryview:
    room = aligned_room(len(part))
    room[...] = part
    return room.data
