"""PyTorch's `torch.multiprocessing.Queue`: it moves each tensor to shared memory and sends a descriptor."""

from __future__ import annotations

from typing import Any

import numpy as np

from hops.interface import Job, Sender
from hops.mp_queue import Queue, QueueReceiver, QueueSender

MOST_TENSORS = 256  # each tensor in the queue holds a descriptor; the usual limit is 1,024


class TensorSender(QueueSender):
    def __init__(self, job: Job, channel: Any) -> None:
        import torch

        super().__init__(job, channel)
        torch.set_num_threads(1)
        self.torch = torch

    def send(self, record: np.ndarray) -> None:
        self.channel.put(self.torch.from_numpy(record).clone())  # a tensor that is already shared is not copied again

    send_many = Sender.send_many


class TensorReceiver(QueueReceiver):
    def __init__(self, job: Job, channel: Any) -> None:
        import torch  # noqa: F401 - registers what unpickles tensors

        super().__init__(job, channel)

    def array(self, received: Any) -> np.ndarray:
        return received.numpy()


class TorchQueue(Queue):
    sender, receiver = TensorSender, TensorReceiver

    def new_channel(self) -> Any:
        import torch.multiprocessing

        context = torch.multiprocessing.get_context("spawn")
        return context.Queue(maxsize=min(self.job.capacity, MOST_TENSORS))
