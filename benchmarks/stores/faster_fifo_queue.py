"""faster-fifo: dictionaries of arrays, pickled; `put` and `get_many`."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import faster_fifo

from stores.interface import Places, Record, Store

FRAME_BYTES = 64  # bytes per record: a generous estimate of the queue's overhead


class FasterFifoStore(Store):
    def __init__(self, places: Places) -> None:
        super().__init__(places)
        message_bytes = len(pickle.dumps(places.record(), pickle.HIGHEST_PROTOCOL)) + FRAME_BYTES
        self._queue = faster_fifo.Queue(max_size_bytes=places.slots * message_bytes, maxsize=places.slots)
        self.put = self._queue.put

    def take(self, rows: int, use: Callable[[Record], Any]) -> None:
        while rows:
            records = self._queue.get_many(max_messages_to_get=rows)
            for record in records:
                use(record)
            rows -= len(records)

    def close(self) -> None:
        self._queue.close()
