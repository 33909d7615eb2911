"""What every store of the comparison gets and owes, and which there are. Knows no store.

A store has so many places for records, and a record is a dictionary of arrays. To add a peer: write a class like those
beside this file, the way its own documentation recommends, and add a line below.
"""

from __future__ import annotations

import importlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Record = Mapping[str, np.ndarray]
MOST_AT_ONCE = 16


@dataclass(frozen=True)
class Places:
    """What a store is made of.

    Attributes
    ----------
    fields : int
        Arrays of a record: `x0`, `x1` and so on.
    field_bytes : int
        The size of each, uint8.
    slots : int
        Records that fit.
    held : int
        So many places are taken by someone who does not move.
    """

    fields: int
    field_bytes: int
    slots: int
    held: int = 0

    @property
    def at_once(self) -> int:
        """Records that are put, and then taken together: 16, or half of what fits."""
        return min(MOST_AT_ONCE, self.slots // 2)

    @property
    def names(self) -> list[str]:
        return [f"x{number}" for number in range(self.fields)]

    @property
    def record_bytes(self) -> int:
        return self.fields * self.field_bytes

    def record(self) -> dict[str, np.ndarray]:
        return {name: np.zeros(self.field_bytes, np.uint8) for name in self.names}


class Store(ABC):
    """Places for records.

    Attributes
    ----------
    put : callable
        Called with a record, it puts that into a place. The store's own function, with nothing around it.
    """

    put: Callable[[Any], Any]

    def __init__(self, places: Places) -> None:
        self.places = places

    @staticmethod
    def missing(places: Places) -> str | None:
        """Say why it can not have such places; None where it can."""
        return None

    @abstractmethod
    def take(self, rows: int) -> None:
        """Take so many records, which are there, and let go of them."""

    @abstractmethod
    def close(self) -> None: ...


@dataclass(frozen=True)
class Entry:
    """Where to find something, its name in the tables, and the module that must be there for it."""

    way: str
    module: str
    name: str
    needs: str = ""

    def missing(self) -> str | None:
        if self.needs and importlib.util.find_spec(self.needs) is None:
            return f"{self.needs} is not installed"
        return None

    def load(self) -> Any:
        return getattr(importlib.import_module(self.module), self.name)


# Classes of stores.
STORES = (
    Entry("RingFeed", "stores.ringfeed_ring", "RingFeedStore"),
    Entry("iceoryx2", "stores.iceoryx", "IceoryxStore", "iceoryx2"),
    Entry("faster-fifo", "stores.faster_fifo_queue", "FasterFifoStore", "faster_fifo"),
    Entry("multiprocessing.Queue", "stores.mp_queue", "QueueStore"),
)
# Functions of places that make a segment under a name, open it by that name, and let go of both.
SEGMENTS = (
    Entry("RingFeed", "stores.ringfeed_ring", "create_and_attach"),
    Entry("iceoryx2", "stores.iceoryx", "create_and_attach", "iceoryx2"),
    Entry("shared_memory, which reserves no memory", "stores.mp_shared_memory", "create_and_attach"),
)
