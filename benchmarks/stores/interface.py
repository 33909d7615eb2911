"""The interface of all stores of the comparison, and their list. Knows no store.

A store has a number of places for records, and a record is a dictionary of uint8 arrays. To add a peer, write a class
like those beside this file, as the peer's own documentation recommends, and add a line below.
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
    """The parameters of a store.

    Attributes
    ----------
    fields : int
        The number of arrays of a record: `x0`, `x1` and so on.
    field_bytes : int
        The size of each array, of uint8.
    slots : int
        The capacity in records.
    held : int
        The number of places that stay claimed.
    """

    fields: int
    field_bytes: int
    slots: int
    held: int = 0

    @property
    def at_once(self) -> int:
        """How many records are put and then taken together: 16, or half of the capacity."""
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
    """A store of records.

    Attributes
    ----------
    put : callable
        The store's own function that puts a record, without a wrapper.
    """

    put: Callable[[Any], Any]

    def __init__(self, places: Places) -> None:
        self.places = places

    @abstractmethod
    def take(self, rows: int, use: Callable[[Record], Any]) -> None:
        """Take `rows` existing records, and release them.

        Calls `use` with each record, or once with all of them if they are arrays of (rows, bytes).
        """

    @abstractmethod
    def close(self) -> None:
        """Release everything, including records that were not taken."""

    def check(self) -> None:
        """Check that records arrive whole and in order; else RuntimeError."""
        sent = [{name: np.full(self.places.field_bytes, at, np.uint8) for name in self.places.names} for at in (1, 2)]
        for record in sent:
            self.put(record)
        came: dict[str, list[np.ndarray]] = {name: [] for name in self.places.names}

        def note(record: Record) -> None:
            for name, arrays in came.items():
                arrays.extend(np.array(record[name]).reshape(-1, self.places.field_bytes))

        self.take(len(sent), note)
        if any(not np.array_equal(came[name], [record[name] for record in sent]) for name in came):
            raise RuntimeError(f"{type(self).__name__}: two records were put into {self.places}, others came")


@dataclass(frozen=True)
class Entry:
    """The module of a store, and its name in the tables.

    Attributes
    ----------
    needs : str
        The required module.
    holds : bool
        Whether a caller can hold a place and write into it later.
    """

    way: str
    module: str
    name: str
    needs: str = ""
    holds: bool = True

    def missing(self, held: bool = False) -> str | None:
        """Return why the store does not take part; None if it does."""
        if self.needs and importlib.util.find_spec(self.needs) is None:
            return f"{self.needs} is not installed"
        return None if self.holds or not held else "nobody can hold a place in it"

    def load(self) -> Any:
        return getattr(importlib.import_module(self.module), self.name)


# Classes of stores.
STORES = (
    Entry("RingFeed", "stores.ringfeed_ring", "RingFeedStore"),
    Entry("iceoryx2", "stores.iceoryx", "IceoryxStore", "iceoryx2"),
    Entry("faster-fifo", "stores.faster_fifo_queue", "FasterFifoStore", "faster_fifo", holds=False),
    Entry("multiprocessing.Queue", "stores.mp_queue", "QueueStore", holds=False),
)
# Functions of `Places` that create a segment under a name, open it by that name, and release both.
SEGMENTS = (
    Entry("RingFeed", "stores.ringfeed_ring", "create_and_attach"),
    Entry("iceoryx2", "stores.iceoryx", "create_and_attach", "iceoryx2"),
    Entry("shared_memory, which reserves no memory", "stores.mp_shared_memory", "create_and_attach"),
)
