"""The text of a producer's exception, for takers in other processes.

It may not know rings. It returns a text even if the exception's own methods raise.
"""

from __future__ import annotations

import os
import traceback


def failure_text(error: BaseException, most_bytes: int) -> bytes:
    """Return a line with the process and the exception, and below it the last lines of the traceback.

    Parameters
    ----------
    error : BaseException
        The exception with its traceback.
    most_bytes : int
        The maximum length. A longer message loses its end, a longer traceback its start.

    Returns
    -------
    bytes
        UTF-8, without a NUL.
    """
    head, body = f"In process {os.getpid()}: ", ""
    try:
        what, body = _lines_of(error)
        head += what
    except Exception as another:
        name = type.__getattribute__(type(error), "__name__")
        head += f"{name}, whose text raised {type.__getattribute__(type(another), '__name__')}"
    encoded = _encode(head.rstrip("\n"))
    if not body:
        return _first(encoded, most_bytes)
    encoded = _first(encoded, most_bytes // 2)
    return encoded + b"\n" + _last(_encode(body.rstrip("\n")), most_bytes - len(encoded) - 1)


def _lines_of(error: BaseException) -> tuple[str, str]:
    """Return the line with type and message, and the lines of the traceback above it."""
    only = traceback.format_exception_only(type(error), error)
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    if lines[-len(only) :] == only:
        del lines[-len(only) :]
    # For a SyntaxError the location comes first. Notes follow the message.
    return next((line for line in only if not line.startswith(" ")), only[-1]), "".join(lines)


def _encode(text: str) -> bytes:
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace")


def _first(text: bytes, most: int) -> bytes:
    if len(text) <= most:
        return text
    return text[: most - 3].decode("utf-8", "ignore").encode() + b"..."


def _last(text: bytes, most: int) -> bytes:
    """Return the last complete lines, or the end of a line that is too long."""
    if len(text) <= most:
        return text
    kept = text[len(text) - most :]
    _, newline, complete_lines = kept.partition(b"\n")
    return complete_lines if newline else kept.decode("utf-8", "ignore").encode()
