"""The text of a producer's error, as takers in other processes get it.

It may not know of rings. Whatever an exception's class does when it is asked for its text, there is one.
"""

from __future__ import annotations

import os
import traceback


def failure_text(error: BaseException, most_bytes: int) -> bytes:
    """Return which process raised what, and below that the last lines of the traceback.

    Parameters
    ----------
    error : BaseException
        With its traceback.
    most_bytes : int
        The text is cut to so many: the message at its end, the traceback at its start.

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
    """Return type and message, and what a traceback prints above them."""
    only = traceback.format_exception_only(type(error), error)
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    if lines[-len(only) :] == only:
        del lines[-len(only) :]
    # Of a SyntaxError the place comes first; behind the message stand notes.
    return next((line for line in only if not line.startswith(" ")), only[-1]), "".join(lines)


def _encode(text: str) -> bytes:
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace")


def _first(text: bytes, most: int) -> bytes:
    if len(text) <= most:
        return text
    return text[: most - 3].decode("utf-8", "ignore").encode() + b"..."


def _last(text: bytes, most: int) -> bytes:
    """Return the last whole lines, or the end of a line that is too long."""
    if len(text) <= most:
        return text
    kept = text[len(text) - most :]
    _, newline, whole_lines = kept.partition(b"\n")
    return whole_lines if newline else kept.decode("utf-8", "ignore").encode()
