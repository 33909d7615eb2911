"""Everything that RingFeed raises, in words of its domain.

It may not know who raises what; `RingFeedError` catches all of it.
"""

from __future__ import annotations

from typing import Any


class RingFeedError(Exception):
    """Base of every error of this package."""


class RingFull(RingFeedError):
    """No slot became free within the timeout."""


class RingEmpty(RingFeedError):
    """Too few records were published within the timeout."""


class RingFinished(RingFeedError):
    """The ring was finished: there are no more records, and no more are accepted."""


class RingClosed(RingFeedError):
    """The handle was closed, or the ring's owner closed it or is gone."""


class RingNotFound(RingFeedError):
    """No ring of that name exists."""


class RingExists(RingFeedError):
    """A living process already owns a ring of that name."""


class LayoutMismatch(RingFeedError):
    """The segment is not a ring that this version of RingFeed can read."""


class RecordMismatch(RingFeedError):
    """A record's fields, shapes or dtypes are not those of the ring."""


class NoSpace(RingFeedError):
    """The shared-memory file system is too small or too full for the ring."""


class SlotLost(RingFeedError):
    """A claim was taken back before it was published, because its owner had been found dead."""


class EngineDied(RingFeedError):
    """The engine that was to answer a request is gone."""


class DeadlineExceeded(RingFeedError):
    """A request's deadline passed before the model had seen it."""


class ModelError(RingFeedError):
    """The model raised over a request, or gave something that its reply can not hold; the message carries the text."""


class ItemError(RingFeedError):
    """An item could not be turned into a record.

    Attributes
    ----------
    index : int
        Position of the item in the input.
    item : object
        The item itself.
    """

    def __init__(self, message: str, index: int = -1, item: Any = None) -> None:
        super().__init__(message)
        self.index = index
        self.item = item

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self.index, self.item)


class PreprocessError(ItemError):
    """The user's preprocessing raised; the message carries the worker's traceback."""


class WorkerCrashed(ItemError):
    """A worker process died over the item, and so did the one that tried it again."""
