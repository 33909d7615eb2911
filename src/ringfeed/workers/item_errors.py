"""The errors of single items, and of calls without a result: each names the item.

It may not know workers, rings or models.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import PreprocessError, RingClosed, SampleMismatch, WorkerCrashed
from .failures import Failure, message_of, rebuild_exception, type_name


def closed_during_call() -> RingClosed:
    """Return the error of a call whose predictor was closed by another thread, a callback or a signal handler."""
    return RingClosed("this Predictor was closed during the call, which has no result; make a new one.")


def preprocess_error(failure: Failure, index: int, item: Any, last_death: str) -> PreprocessError | WorkerCrashed:
    """Return the error of a failed item. Its cause is the exception that was raised, if that is known here."""
    named = f"item {index} ({shorten(item)})"
    if failure.kind == "crashed":
        reason = f" (last: {last_death})" if last_death else ""
        return WorkerCrashed(f"{named}: the worker process died over it, and so did the next{reason}.", index, item)
    if failure.kind == "unfit":
        return SampleMismatch(f"{named}: {failure.text}", index, item)
    text = failure.text if failure.kind == "timeout" else f"preprocess raised\n{failure.text.rstrip()}"
    error = PreprocessError(f"{named}: {text}", index, item, failure.exception_type)
    error.__cause__ = rebuild_exception(failure)
    return error


def unsendable_error(reason: BaseException, index: int, item: Any) -> PreprocessError:
    """Return the error of an item that cannot be sent to a worker; pickling it raised `reason`."""
    text = f"item {index} ({shorten(item)}) cannot be sent to a worker process: {message_of(reason)}"
    error = PreprocessError(text, index, item, type_name(type(reason)))
    error.__cause__ = reason
    return error


def shorten(item: Any, most: int = 80) -> str:
    """Return a short text for an item of any size, even if the item's own ``repr`` raises."""
    try:
        if isinstance(item, np.ndarray):
            return f"array of shape {item.shape}, {item.dtype.name}"
        if isinstance(item, (bytes, bytearray)) and len(item) > most:
            return f"{len(item)} bytes"
        text = repr(item[: most + 1] if type(item) is str else item)
    except Exception as error:
        return f"a {type_name(type(item))}, whose repr raises {type_name(type(error))}"
    return text if len(text) <= most else text[: most - 3] + "..."
