"""Everything that RingFeed raises, in words of its domain.

It may not know who raises what; `RingFeedError` catches all of it.
"""

from __future__ import annotations

from typing import Any


class RingFeedError(Exception):
    """Base of every error of this package."""


class RingFull(RingFeedError, TimeoutError):
    """No slot became free within the timeout."""


class RingEmpty(RingFeedError, TimeoutError):
    """Too few records were published within the timeout."""


class RingFinished(RingFeedError):
    """The ring was finished: there are no more records, and no more are accepted."""


class RingClosed(RingFeedError):
    """The handle was closed, or the ring's owner closed it or is gone."""


class RingNotFound(RingFeedError):
    """No ring of that name exists."""


class RingExists(RingFeedError):
    """A living process already owns a ring of that name."""


class AccessRefused(RingFeedError, PermissionError):
    """What has the ring's name is another user's, or open to other users: nothing of it is used."""


class LayoutMismatch(RingFeedError):
    """The segment is not a ring that this version of RingFeed can read."""


class RecordMismatch(RingFeedError, ValueError):
    """A record's fields, shapes or dtypes are not those of the ring."""


class NoSpace(RingFeedError):
    """The shared-memory file system is too small or too full for the ring."""


class SlotLost(RingFeedError):
    """A claim was taken back before it was published, because its owner had been found dead."""


class EngineDied(RingFeedError):
    """The engine that was to answer a request is gone."""


class EngineHung(RingFeedError, TimeoutError):
    """An engine was told to stop, and its model has not returned within the timeout; the message says where it is."""


class DeadlineExceeded(RingFeedError, TimeoutError):
    """A request's deadline passed before the model had seen it."""


class ProducerFailed(RingFeedError):
    """A producer raised inside ``ring.producing()``; the message carries the text of its exception."""


class ItemError(RingFeedError):
    """There is no result for an item.

    Attributes
    ----------
    index : int
        Position of the item in the input; -1 where there is none, as for a request of a client.
    item : object
        The item itself.
    """

    def __init__(self, message: str, index: int = -1, item: Any = None) -> None:
        super().__init__(message)
        self.index = index
        self.item = item

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self.index, self.item)


class ModelError(ItemError):
    """The model raised over a row or a request, or returned what its reply cannot hold; the message has the text."""


class PreprocessError(ItemError):
    """The user's preprocessing raised; the message carries the worker's traceback.

    Attributes
    ----------
    exception_type : str
        Name of the class of the exception, with its module, such as ``"PIL.UnidentifiedImageError"``; empty where
        nothing was raised.

    Notes
    -----
    ``__cause__`` is the exception that was raised. Workers send plain data, and this process unpickles and imports
    nothing for it. So a class that this process has not imported has a stand-in, of its name and below the nearest
    class above it that is known here; an argument that is no plain data (numbers, texts, bytes, arrays, nests of them;
    some 4,000 bytes) is a `RemoteValue`, which has its type's name and its text.
    """

    def __init__(self, message: str, index: int = -1, item: Any = None, exception_type: str = "") -> None:
        super().__init__(message, index, item)
        self.exception_type = exception_type

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self.index, self.item, self.exception_type)


class SampleMismatch(PreprocessError, ValueError):
    """What preprocessing returned for an item is no sample, or not one that the model or the slots take."""


class WorkerCrashed(ItemError):
    """A worker process died over the item, and so did the one that tried it again."""
