"""PyTorch's `torch.multiprocessing.Queue`: each tensor's memory moves to shared memory, a descriptor travels."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any

import numpy as np

from hops.interface import Job, Receiver, Rows, Sender, Transport


class TensorSender(Sender):
    def __init__(self, job: Job, channel: Any) -> None:
        import torch

        super().__init__(job)
        torch.set_num_threads(1)
        self.torch, self.channel = torch, channel

    def send(self, record: np.ndarray) -> None:
        self.channel.put(self.torch.from_numpy(record).clone())  # a tensor that is shared once is not copied again

    def close(self) -> None:
        self.channel.close()
        self.channel.cancel_join_thread()


class TensorReceiver(Receiver):
    def __init__(self, job: Job, channel: Any) -> None:
        import torch  # noqa: F401 - registers what unpickles tensors

        super().__init__(job)
        self.channel = channel

    def receive(self, use: Callable[[Rows], Any], timeout: float | None) -> int:
        try:
            tensor = self.channel.get(timeout=timeout)
        except queue.Empty:
            return 0
        use((tensor.numpy(),))
        return 1


class TorchQueue(Transport):
    sender, receiver = TensorSender, TensorReceiver

    def __init__(self, job: Job) -> None:
        import torch.multiprocessing

        super().__init__(job)
        # Each tensor on its way holds a descriptor; 256 stay below the usual limit of 1,024.
        context = torch.multiprocessing.get_context("spawn")
        self.channel: Any = context.Queue(maxsize=min(job.capacity, 256))

    def to_senders(self, number: int) -> tuple[Any, ...]:
        return (self.channel,)

    def to_receivers(self, number: int) -> tuple[Any, ...]:
        return (self.channel,)

    def close(self) -> None:
        self.channel.close()
        self.channel.join_thread()
