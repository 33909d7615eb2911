"""`multiprocessing.Queue`: its thread pickles dictionaries of arrays.

Here that thread and the taker share one GIL, so that a record takes two to three times as long as between processes.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

from stores.interface import Places, Record, Store


class QueueStore(Store):
    def __init__(self, places: Places) -> None:
        super().__init__(places)
        self._queue = multiprocessing.get_context("spawn").Queue(maxsize=places.slots)
        self.put = self._queue.put

    def take(self, rows: int, use: Callable[[Record], Any]) -> None:
        get = self._queue.get
        for _ in range(rows):
            use(get())

    def close(self) -> None:
        self._queue.cancel_join_thread()  # the queue's thread may wait until the remaining records are taken
        self._queue.close()
