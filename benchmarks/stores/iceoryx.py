"""iceoryx2: a publisher writes into loaned memory, and a subscriber borrows it. The fields follow each other."""

from __future__ import annotations

import ctypes
import functools
import uuid
from collections.abc import Callable
from typing import Any

import iceoryx2
import numpy as np

from stores.interface import Places, Record, Store

iceoryx2.set_log_level(iceoryx2.LogLevel.Error)


@functools.cache
def node() -> Any:
    """The node of this process; it has one."""
    return iceoryx2.NodeBuilder.new().create(iceoryx2.ServiceType.Ipc)


class Ends:
    """A publisher and its subscriber, which finds the publisher by name."""

    def __init__(self, places: Places) -> None:
        name = iceoryx2.ServiceName.new(f"ringfeed-bench-{uuid.uuid4().hex}")
        builder = node().service_builder(name).publish_subscribe(iceoryx2.Slice[ctypes.c_uint8])
        builder = builder.enable_safe_overflow(False).subscriber_max_buffer_size(places.slots - places.held)
        builder = builder.subscriber_max_borrowed_samples(places.at_once).max_publishers(1).max_subscribers(1)
        self._service = builder.history_size(0).create()
        publisher = self._service.publisher_builder().initial_max_slice_len(places.record_bytes)
        self.publisher = publisher.max_loaned_samples(places.held + 1).create()
        self.subscriber = node().service_builder(name).publish_subscribe(iceoryx2.Slice[ctypes.c_uint8])
        self.subscriber = self.subscriber.open().subscriber_builder().create()

    def close(self) -> None:
        self.subscriber.delete()
        self.publisher.delete()
        del self._service


class IceoryxStore(Store):
    def __init__(self, places: Places) -> None:
        super().__init__(places)
        self._ends = Ends(places)
        self._held = [self._ends.publisher.loan_slice_uninit(places.record_bytes) for _ in range(places.held)]
        self._places_of_fields = [
            (name, slice(first, first + places.field_bytes))
            for name, first in zip(places.names, range(0, places.record_bytes, places.field_bytes), strict=True)
        ]
        self.put = self._put

    def _put(self, record: Record) -> None:
        sample = self._ends.publisher.loan_slice_uninit(self.places.record_bytes)
        memory = np.frombuffer(sample.payload().as_memory_view(), np.uint8)
        for name, place in self._places_of_fields:
            memory[place] = record[name]
        sample.assume_init().send()

    def take(self, rows: int, use: Callable[[Record], Any]) -> None:
        receive = self._ends.subscriber.receive
        samples: list[Any] = [receive() for _ in range(rows)]
        for sample in samples:
            memory = np.frombuffer(sample.payload().as_memory_view(), np.uint8)
            use({name: memory[place] for name, place in self._places_of_fields})
            sample.delete()

    def close(self) -> None:
        for sample in self._held:
            sample.delete()
        self._ends.close()


def create_and_attach(places: Places) -> None:
    Ends(places).close()
