"""Plain data as JSON: what one process may believe of another that it does not trust with its pickles.

Reading makes numbers, texts, bytes and nests of them, never an object of a class that the writer chose. What else may
travel, and as what, is said by whoever writes and reads it: `special`. It may not know who that is.

    bool, int, float, str, None      themselves; an integer of many digits {"int": "0x..."}
    list                             a list
    tuple, set, frozenset            {"tuple": [...]}, ...
    dict                             {"dict": [[key, value], ...]}
    bytes, complex, path             {"bytes": base64}, {"complex": [real, imaginary]}, {"path": text}
    array                            {"array": [dtype, shape, base64]}
    anything else                    what `special` makes of it, an object with another single key
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
"""What reading damaged data raises."""

MOST_DEPTH = 16
_MOST_JSON_INT = 1 << 63
_PATHS = (pathlib.PosixPath, pathlib.PurePosixPath)
_SEQUENCES = {"tuple": tuple, "set": set, "frozenset": frozenset}


class NotPlain(ValueError):
    """A value that is no plain data, or more than there is room for; or what was read says nothing."""


class Room:
    """Bytes that plain data may still take, roughly."""

    def __init__(self, left: int) -> None:
        self.left = left

    def take(self, count: int) -> None:
        """Take some of it; NotPlain says that there is less."""
        if count > self.left:
            raise NotPlain("too much data")
        self.left -= count

    def take_text(self, text: str) -> None:
        """Take as much as a text needs, in which a character may be escaped as six."""
        self.take(len(text) if len(text) > self.left else len(dumps(text)))


def to_json(
    value: Any, room: Room, special: Callable[[Any, Room, int], Any] | None = None, depth: int = MOST_DEPTH
) -> Any:
    """Return what `json.dumps` takes for a value.

    Exact types only: a subclass of str may be anything. NumPy's scalars become Python's.

    Parameters
    ----------
    value : object
    room : Room
    special : callable, optional
        ``special(value, room, depth)`` for what is not plain.
    depth : int
        How many more nests may lie in each other.

    Raises
    ------
    NotPlain
        There is no room for it, or it is not plain and there is no `special`.
    """
    if isinstance(value, np.generic) and value.dtype.kind in "biufcSU":
        value = value.item()
    kind = type(value)
    if value is None or kind is bool or kind is float:
        room.take(8)
        return value
    if kind is int:
        room.take(8 + value.bit_length() // 4)
        return value if -_MOST_JSON_INT <= value < _MOST_JSON_INT else {"int": hex(value)}
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
    """Return the value that `to_json` wrote so.

    Parameters
    ----------
    tree : object
        As `json.loads` returns it; it may come from a broken or hostile process.
    special : callable, optional
        ``special(key, content)`` for an object whose single key is none of those above.

    Raises
    ------
    NotPlain
        It says nothing.
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
        raise NotPlain(f"{key!r:.40} is not known")
    return special(key, content)


def dumps(tree: Any) -> bytes:
    """Return the text of what `to_json` made, in UTF-8: escaped as ASCII, a letter may take six bytes.

    Halves of surrogates, as in names of files that are no text, come back as they were.
    """
    return json.dumps(tree, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def loads(body: bytes | memoryview) -> Any:
    """Return what `dumps` wrote, for `from_json`. NotPlain says that it is no JSON."""
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
