"""Plain data as JSON, for data from a process whose pickles are not trusted.

Reading makes numbers, texts, bytes and nests of them, never an object of a class that the writer chose. The caller's
`special` defines what else may travel, and in which form. It may not know the caller.

    bool, int, float, str, None      themselves; an integer of many digits {"int": "0x..."}
    list                             a list
    tuple, set, frozenset            {"tuple": [...]}, ...
    dict                             {"dict": [[key, value], ...]}
    bytes, complex, path             {"bytes": base64}, {"complex": [real, imaginary]}, {"path": text}
    array                            {"array": [dtype, shape, base64]}
    anything else                    the result of `special`, an object with another single key
"""

from __future__ import annotations

import base64
import json
import math
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

DAMAGE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, MemoryError)
"""Exceptions that reading damaged data raises."""

MAX_DEPTH = 16
_MAX_JSON_INT = 1 << 63
_PATHS = (pathlib.PosixPath, pathlib.PurePosixPath)
_SEQUENCES = {"tuple": tuple, "set": set, "frozenset": frozenset}


class NotPlain(ValueError):
    """A value is no plain data, or there is no room for it; or the data read is invalid."""


class Room:
    """The approximate number of bytes that plain data may still take."""

    def __init__(self, left: int) -> None:
        self.left = left

    def take(self, count: int) -> None:
        """Take some bytes; raises `NotPlain` if fewer are left."""
        if count > self.left:
            raise NotPlain("too much data")
        self.left -= count

    def take_text(self, text: str) -> None:
        """Take the bytes of a text, in which an escaped character takes six."""
        self.take(len(text) if len(text) > self.left else len(dumps(text)))


def to_json(
    value: Any, room: Room, special: Callable[[Any, Room, int], Any] | None = None, depth: int = MAX_DEPTH
) -> Any:
    """Return a value in the form that `json.dumps` takes.

    Only exact types: a subclass of str may be anything. Scalars of NumPy become scalars of Python.

    Parameters
    ----------
    value : object
    room : Room
    special : callable, optional
        ``special(value, room, depth)`` for a value that is not plain.
    depth : int
        How many more levels of nests are allowed.

    Raises
    ------
    NotPlain
        There is no room for the value, or it is not plain and there is no `special`.
    """
    if isinstance(value, np.generic) and value.dtype.kind in "biufcSU":
        value = value.item()
    kind = type(value)
    if value is None or kind is bool or kind is float:
        room.take(8)
        return value
    if kind is int:
        room.take(8 + value.bit_length() // 4)
        return value if -_MAX_JSON_INT <= value < _MAX_JSON_INT else {"int": hex(value)}
    if kind is str:
        room.take_text(value)
        return value
    if kind is bytes:
        room.take(4 * len(value) // 3)
        return {"bytes": _base64(value)}
    if kind is complex:
        room.take(24)
        return {"complex": [value.real, value.imag]}
    if kind in _PATHS:
        return {"path": to_json(str(value), room)}
    if kind is np.ndarray and value.dtype.kind in "biufc":
        room.take(4 * value.nbytes // 3 + 64)
        return {"array": [value.dtype.str, list(value.shape), _base64(value.tobytes())]}
    if depth > 0 and kind in (list, tuple, set, frozenset, dict):
        room.take(8 * len(value))
        if kind is dict:
            return {"dict": [[to_json(part, room, special, depth - 1) for part in pair] for pair in value.items()]}
        parts = [to_json(part, room, special, depth - 1) for part in value]
        return parts if kind is list else {kind.__name__: parts}
    if special is not None:
        return special(value, room, depth - 1)
    raise NotPlain(f"a {kind.__name__} is not plain data")


def from_json(tree: Any, special: Callable[[str, Any], Any] | None = None) -> Any:
    """Return the value that `to_json` wrote in this form.

    Parameters
    ----------
    tree : object
        The result of `json.loads`; it may come from a broken or hostile process.
    special : callable, optional
        ``special(key, content)`` for an object with another single key than those above.

    Raises
    ------
    NotPlain
        The data is invalid.
    """
    try:
        return _read(tree, special)
    except NotPlain:
        raise
    except DAMAGE as error:
        raise NotPlain(f"not plain data: {error}") from None


def _read(tree: Any, special: Callable[[str, Any], Any] | None) -> Any:
    if isinstance(tree, list):
        return [_read(part, special) for part in tree]
    if not isinstance(tree, dict):
        return tree
    ((key, content),) = tree.items()
    if key in _SEQUENCES:
        return _SEQUENCES[key](_read(part, special) for part in _listed(content))
    if key == "dict":
        return {_read(name, special): _read(part, special) for name, part in _listed(content)}
    if key == "int":
        return int(_text(content), 16)
    if key == "bytes":
        return base64.b64decode(_text(content), validate=True)
    if key == "complex":
        real, imaginary = content
        return complex(float(real), float(imaginary))
    if key == "path":
        return pathlib.Path(_text(content))
    if key == "array":
        return _array(*content)
    if special is None:
        raise NotPlain(f"{key!r:.40} is unknown")
    return special(key, content)


def dumps(tree: Any) -> bytes:
    """Return the JSON text of a tree in UTF-8: escaped as ASCII, a letter may take six bytes.

    Lone surrogates, as in file names that are no text, survive the round trip.
    """
    return json.dumps(tree, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def loads(body: bytes | memoryview) -> Any:
    """Return the tree that `dumps` wrote, for `from_json`; raises `NotPlain` if it is no JSON."""
    try:
        return json.loads(bytes(body))
    except (ValueError, RecursionError) as error:
        raise NotPlain(f"not JSON: {error}") from None


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _text(content: Any) -> str:
    if not isinstance(content, str):
        raise NotPlain("a text is missing")
    return content


def _listed(content: Any) -> list[Any]:
    if not isinstance(content, list):
        raise NotPlain("a list is missing")
    return content


def _array(name: Any, shape: Any, data: Any) -> np.ndarray[Any, Any]:
    dtype = np.dtype(_text(name))
    extent = tuple(_listed(shape))
    if dtype.kind not in "biufc" or not all(type(length) is int and length >= 0 for length in extent):
        raise NotPlain("no array of numbers")
    body = base64.b64decode(_text(data), validate=True)
    if math.prod(extent) * dtype.itemsize != len(body):
        raise NotPlain("an array of another size")
    return np.frombuffer(body, dtype).reshape(extent).copy()
