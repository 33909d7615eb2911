"""`multiprocessing.Queue`: dictionaries of arrays, pickled by a thread of its own."""

from __future__ import annotations

import multiprocessing

from stores.interface import Places, Store


class QueueStore(Store):
    def __init__(self, places: Places) -> None:
        super().__init__(places)
        self._queue = multiprocessing.get_context("spawn").Queue(maxsize=places.slots)
        self.put = self._queue.put

    @staticmethod
    def missing(places: Places) -> str | None:
        return "nobody can hold a place in it" if places.held else None

    def take(self, rows: int) -> None:
        get = self._queue.get
        for _ in range(rows):
            get()

    def close(self) -> None:
        self._queue.close()
        self._queue.join_thread()
