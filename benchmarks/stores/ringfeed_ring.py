"""RingFeed's ring: `put`, and `take` of many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ringfeed
from stores.interface import Places, Record, Store


def new_ring(places: Places) -> ringfeed.Ring:
    fields = dict.fromkeys(places.names, ((places.field_bytes,), "uint8"))
    return ringfeed.Ring.create(None, fields, places.slots)


class RingFeedStore(Store):
    def __init__(self, places: Places) -> None:
        super().__init__(places)
        self._ring = new_ring(places)
        self._held = self._ring.claim(rows=places.held) if places.held else None
        self.put = self._ring.put

    def take(self, rows: int, use: Callable[[Record], Any]) -> None:
        with self._ring.take(rows, min_rows=rows) as batch:
            use(batch)

    def close(self) -> None:
        if self._held is not None:
            self._held.discard()
        self._ring.close()


def create_and_attach(places: Places) -> None:
    with new_ring(places) as ring, ringfeed.Ring.attach(ring.name):
        pass
