"""The exceptions that RingFeed raises, all derived from `RingFeedError`.

It may not know which code raises them.
"""

from __future__ import annotations

from typing import Any


class RingFeedError(Exception):
    """Base class of every exception of this package."""


class RingFull(RingFeedError, TimeoutError):
    """There is no room for a record or a request, and none came within the timeout.

    Attributes
    ----------
    resource : str
        Which of four things is full:

        - ``"slots"``: the slots of the ring. More `slots` (`Ring.create`) or faster takers make room.
        - ``"reply_cells"``: the cells for answers. More `reply_cells` (`Engine`) make room.
        - ``"max_queue_size"``: the requests that may wait for an engine (`Engine`).
        - ``"max_in_flight"``: the requests of one client under way (`Client`).
    """

    def __init__(self, *arguments: Any, resource: str = "slots") -> None:
        super().__init__(*arguments)
        self.resource = resource


class RingEmpty(RingFeedError, TimeoutError):
    """Too few records were published within the timeout."""


class RingFinished(RingFeedError):
    """The ring was finished: it has no more records and accepts none."""


class RingClosed(RingFeedError):
    """The handle was closed, or the ring's owner closed the ring or died."""


class RingNotFound(RingFeedError):
    """No ring of that name exists."""


class RingExists(RingFeedError):
    """A living process already owns a ring of that name."""


class AccessRefused(RingFeedError, PermissionError):
    """The segment belongs to another user, or other users can open it; RingFeed does not use it."""


class LayoutMismatch(RingFeedError):
    """The segment is no ring that this version of RingFeed can read."""


class RecordMismatch(RingFeedError, ValueError):
    """The fields, shapes or dtypes of a record differ from those of the ring."""


class NoSpace(RingFeedError):
    """The shared-memory file system is too small or too full for the ring."""


class SlotLost(RingFeedError):
    """Recovery took a claim back before it was published, because it had found the claimer dead."""


class EngineDied(RingFeedError):
    """The engine that should answer a request died or was stopped, and no other engine serves the ring."""


class EngineHung(RingFeedError, TimeoutError):
    """An engine was stopped, and its model did not return within the timeout; the message shows where the model is."""


class DeadlineExceeded(RingFeedError, TimeoutError):
    """A request was not answered before its deadline."""


class ProducerFailed(RingFeedError):
    """A producer raised an exception inside ``ring.producing()``; the message contains its text."""


class ItemError(RingFeedError):
    """An item has no result.

    Attributes
    ----------
    index : int
        The position of the item in the input; -1 if it has none, as a client's request.
    item : object
        The item.
    """

    def __init__(self, message: str, index: int = -1, item: Any = None) -> None:
        super().__init__(message)
        self.index = index
        self.item = item

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self.index, self.item)


class ModelError(ItemError):
    """The model raised an exception for a row or a request, or returned an output that does not fit its reply."""


class PreprocessError(ItemError):
    """The user's preprocessing raised an exception; the message contains the worker's traceback.

    Attributes
    ----------
    exception_type : str
        The qualified name of the exception's class, such as ``"PIL.UnidentifiedImageError"``; empty if no exception was
        raised.

    Notes
    -----
    ``__cause__`` is the exception that was raised. Workers send plain data, for which this process unpickles and
    imports nothing. So a class that this process has not imported is replaced by a stand-in: a class of the same name,
    derived from the nearest base class that is known here. An argument that is no plain data (numbers, strings, bytes,
    arrays, nests of them, up to about 4,000 bytes) is replaced by an object with the name of its type and its text.
    """

    def __init__(self, message: str, index: int = -1, item: Any = None, exception_type: str = "") -> None:
        super().__init__(message, index, item)
        self.exception_type = exception_type

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self.index, self.item, self.exception_type)


class SampleMismatch(PreprocessError, ValueError):
    """The value that preprocessing returned for an item is no sample, or does not fit the model or the slots."""


class WorkerCrashed(ItemError):
    """A worker process died while it processed the item, and so did the worker that tried it again."""
