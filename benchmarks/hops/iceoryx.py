"""iceoryx2, publish and subscribe over shared memory: the sender writes records into loaned memory.

Its subscribers cannot wait for a record. One way polls, which keeps a core busy. The other way waits for an event that
the publisher sends with each record, as the documentation shows.
"""

from __future__ import annotations

import ctypes
import time
import uuid
from collections.abc import Callable
from typing import Any

import iceoryx2
import numpy as np

from hops.interface import Job, Receiver, Rows, Sender, Transport

iceoryx2.set_log_level(iceoryx2.LogLevel.Error)


def open_service(job: Job, node: Any, name: str) -> Any:
    payloads = node.service_builder(iceoryx2.ServiceName.new(name)).publish_subscribe(iceoryx2.Slice[ctypes.c_uint8])
    payloads = payloads.enable_safe_overflow(False).subscriber_max_buffer_size(job.capacity)
    payloads = payloads.subscriber_max_borrowed_samples(job.batch).max_publishers(job.senders)
    return payloads.max_nodes(job.senders + job.receivers).open_or_create()


class PublishSender(Sender):
    def __init__(self, job: Job, name: str, with_events: bool) -> None:
        super().__init__(job)
        self.node = iceoryx2.NodeBuilder.new().create(iceoryx2.ServiceType.Ipc)
        builder = open_service(job, self.node, name).publisher_builder().initial_max_slice_len(job.record_bytes)
        self.publisher = builder.backpressure_strategy(iceoryx2.BackpressureStrategy.RetryUntilDelivered).create()
        self.notifier = open_event(job, self.node, name).notifier_builder().create() if with_events else None

    def send(self, record: np.ndarray) -> None:
        sample = self.publisher.loan_slice_uninit(self.job.record_bytes)
        np.frombuffer(sample.payload().as_memory_view(), np.uint8)[...] = record
        sample.assume_init().send()
        if self.notifier is not None:
            self.notifier.notify()

    def fill_many(self, count: int) -> None:
        for number in range(count):
            sample = self.publisher.loan_slice_uninit(self.job.record_bytes)
            np.frombuffer(sample.payload().as_memory_view(), np.float32)[...] = number
            sample.assume_init().send()
            if self.notifier is not None:
                self.notifier.notify()


class SubscribeReceiver(Receiver):
    def __init__(self, job: Job, name: str, with_events: bool) -> None:
        super().__init__(job)
        self.node = iceoryx2.NodeBuilder.new().create(iceoryx2.ServiceType.Ipc)
        self.subscriber = open_service(job, self.node, name).subscriber_builder().buffer_size(job.capacity).create()
        self.listener = open_event(job, self.node, name).listener_builder().create() if with_events else None

    def receive(self, use: Callable[[Rows], Any], timeout: float | None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while (sample := self.subscriber.receive()) is None:
            if self.listener is not None and timeout is None:
                self.listener.blocking_wait()
            elif self.listener is not None:
                self.listener.timed_wait(iceoryx2.Duration.from_secs_f64(max(0.0, deadline - time.monotonic())))
            if deadline is not None and time.monotonic() > deadline:
                return 0
        use((np.frombuffer(sample.payload().as_memory_view(), np.uint8),))
        sample.delete()
        return 1


def open_event(job: Job, node: Any, name: str) -> Any:
    event = node.service_builder(iceoryx2.ServiceName.new(name)).event()
    return event.max_notifiers(job.senders).max_nodes(job.senders + job.receivers).open_or_create()


class IceoryxPolling(Transport):
    sender, receiver = PublishSender, SubscribeReceiver
    with_events = False

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._name = f"ringfeed-bench-{uuid.uuid4().hex}"

    @staticmethod
    def missing(job: Job) -> str | None:
        return "each subscriber gets every record: receivers do not share the work" if job.receivers > 1 else None

    def to_senders(self, number: int) -> tuple[Any, ...]:
        return self._name, self.with_events

    def to_receivers(self, number: int) -> tuple[Any, ...]:
        return self._name, self.with_events


class IceoryxEvents(IceoryxPolling):
    with_events = True
