"""A failure as bytes in a slot of the failures ring: its length, then the encoded failure.

It may not know which item failed, nor why.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .failures import Failure
from .messages import decode_failure, encode_failure
from .plain_data import NotPlain

FAILURE_BYTES = 16384
"""Bytes of a slot of the failures ring."""

_LENGTH_BYTES = 8
_MIN_TEXT = 500
"""Characters of a failure's text that are kept in any case."""


def write_failure(target: np.ndarray[Any, Any], failure: Failure) -> None:
    """Write a failure into an array of `FAILURE_BYTES` uint8."""
    body = encode_within_slot(failure)
    target[:_LENGTH_BYTES] = np.array([len(body)], np.uint64).view(np.uint8)
    target[_LENGTH_BYTES : _LENGTH_BYTES + len(body)] = np.frombuffer(body, np.uint8)


def read_failure(source: np.ndarray[Any, Any]) -> Failure:
    """Return the failure in an array that `write_failure` filled, or a failure that says it is unreadable."""
    length = int(source[:_LENGTH_BYTES].view(np.uint64)[0])
    try:
        return decode_failure(source[_LENGTH_BYTES : _LENGTH_BYTES + length].tobytes())
    except NotPlain as error:
        return Failure("raised", f"(the worker's description of the failure is unreadable: {error})")


def encode_within_slot(failure: Failure) -> bytes:
    """Return a failure as bytes, shortened until it fits into a slot."""
    room = FAILURE_BYTES - _LENGTH_BYTES
    try:
        body = encode_failure(failure)
        if len(body) > room and failure.sample is not None:
            raise NotPlain(
                "preprocess returned a structure too large to describe; return fewer arrays, with shorter names."
            )
    except NotPlain as reason:
        failure = Failure("unfit", str(reason))
        body = encode_failure(failure)
    # The text is shortened first: the end of a traceback names the error, and the exception cannot be rebuilt without
    # its recipe.
    for recipe in (failure.recipe, None):
        text = failure.text
        while len(body) > room:
            body = encode_failure(Failure(failure.kind, text, failure.exception_type, recipe))
            if len(text) <= _MIN_TEXT:
                break
            text = "..." + text[len(text) // 4 + 4 :]
    return body
