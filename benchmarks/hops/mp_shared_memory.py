"""`multiprocessing.shared_memory`, in two usual hand-written forms.

A pool: one block with a slot per record; the numbers of free and filled slots go through `SimpleQueue`s. A block per
record, as in the documentation: a new `SharedMemory` for each array, whose name goes through a queue.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np

from hops.interface import Job, Receiver, Rows, Sender, Transport

MOST_SLOTS = 1024  # their numbers fit into a pipe's buffer, so that no process waits to return a slot


def slot_count(job: Job) -> int:
    return min(job.capacity, MOST_SLOTS)


def attach(name: str) -> SharedMemory:
    """Open a block of another process. The resource tracker, shared by all processes here, already knows it."""
    return SharedMemory(name)


class PoolSender(Sender):
    def __init__(self, job: Job, name: str, free: Any, filled: Any) -> None:
        super().__init__(job)
        self.block, self.free, self.filled = attach(name), free, filled
        self.slots = np.ndarray((slot_count(job), job.record_bytes), np.uint8, self.block.buf)

    def send(self, record: np.ndarray) -> None:
        index = self.free.get()
        self.slots[index] = record
        self.filled.put(index)

    def fill_many(self, count: int) -> None:
        floats = self.slots.view(np.float32)
        for number in range(count):
            index = self.free.get()
            floats[index] = number
            self.filled.put(index)

    def close(self) -> None:
        del self.slots
        self.block.close()


class PoolReceiver(Receiver):
    def __init__(self, job: Job, name: str, free: Any, filled: Any) -> None:
        super().__init__(job)
        self.block, self.free, self.filled = attach(name), free, filled
        self.slots = np.ndarray((slot_count(job), job.record_bytes), np.uint8, self.block.buf)

    def receive(self, use: Callable[[Rows], Any], timeout: float | None) -> int:
        index = self.filled.get()
        use((self.slots[index],))
        self.free.put(index)
        return 1

    def close(self) -> None:
        del self.slots
        self.block.close()


class Pool(Transport):
    sender, receiver = PoolSender, PoolReceiver

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        context = multiprocessing.get_context("spawn")
        self.block = SharedMemory(create=True, size=slot_count(job) * job.record_bytes)
        self.free, self.filled = context.SimpleQueue(), context.SimpleQueue()
        for index in range(slot_count(job)):
            self.free.put(index)

    @staticmethod
    def missing(job: Job) -> str | None:
        return (
            "SimpleQueue.get has no timeout, by which one receiver of several could stop" if job.receivers > 1 else None
        )

    def to_senders(self, number: int) -> tuple[Any, ...]:
        return self.block.name, self.free, self.filled

    def to_receivers(self, number: int) -> tuple[Any, ...]:
        return self.block.name, self.free, self.filled

    def close(self) -> None:
        self.block.close()
        self.block.unlink()


class BlockSender(Sender):
    def __init__(self, job: Job, free: Any, filled: Any) -> None:
        super().__init__(job)
        self.free, self.filled = free, filled

    def send(self, record: np.ndarray) -> None:
        self._with_new_block(lambda array: np.copyto(array, record))

    def fill_many(self, count: int) -> None:
        for number in range(count):
            self._with_new_block(lambda array, number=number: array.view(np.float32).fill(number))  # type: ignore[misc]

    def _with_new_block(self, fill: Callable[[np.ndarray], None]) -> None:
        self.free.acquire()
        block = SharedMemory(create=True, size=self.job.record_bytes)
        fill(np.ndarray((self.job.record_bytes,), np.uint8, block.buf))
        self.filled.put(block.name)
        block.close()


class BlockReceiver(Receiver):
    def __init__(self, job: Job, free: Any, filled: Any) -> None:
        super().__init__(job)
        self.free, self.filled = free, filled

    def receive(self, use: Callable[[Rows], Any], timeout: float | None) -> int:
        block = attach(self.filled.get())
        use((np.ndarray((self.job.record_bytes,), np.uint8, block.buf),))
        block.close()
        block.unlink()
        self.free.release()
        return 1


class Blocks(Transport):
    sender, receiver = BlockSender, BlockReceiver

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        context = multiprocessing.get_context("spawn")
        self.free, self.filled = context.Semaphore(min(job.capacity, 256)), context.SimpleQueue()

    @staticmethod
    def missing(job: Job) -> str | None:
        return Pool.missing(job)

    def to_senders(self, number: int) -> tuple[Any, ...]:
        return self.free, self.filled

    def to_receivers(self, number: int) -> tuple[Any, ...]:
        return self.free, self.filled
