"""Functions for workers, in a module of their own: workers that import it import no TensorFlow with it."""

from __future__ import annotations

import collections
import os
import signal
import time
from typing import Any

import numpy as np


def given(item: Any) -> Any:
    return item


def failing_where_negative(item: np.ndarray) -> np.ndarray:
    if item[0] < 0:
        raise ValueError("negative")
    return item


def as_user_dict(index: int) -> Any:
    return collections.UserDict({"b": np.float32([index]), "other": np.zeros(3), "a": np.float32([1])})


def in_turns(index: int) -> Any:
    sample = {"a": np.float32([1]), "b": np.float32([index])}
    return sample if index % 2 else dict(reversed(sample.items()))


def with_more_now_and_then(index: int) -> Any:
    more = {"z": "text", "c": None} if index % 3 == 1 else {}
    return {**more, "b": np.float32([index]), "a": np.float32([1])}


class Unspeakable:
    """An object without a text, which cannot be pickled."""

    def __repr__(self) -> str:
        raise RuntimeError("no text")

    def __reduce__(self) -> Any:
        raise RuntimeError("no pickle")


def row_of_four(item: float) -> np.ndarray:
    return np.full(4, item, np.float32)


Reversed = collections.namedtuple("Reversed", "b a")
InOrder = collections.namedtuple("InOrder", "a b")
WithMore = collections.namedtuple("WithMore", "path b a")

MORE = {
    "text": lambda i: {"path": "x"},
    "None": lambda i: {"label": None},
    "of varying length": lambda i: {"size": np.zeros(i + 1)},
    "now and then": lambda i: {"z": 1} if i % 2 else {},
    "a nest": lambda i: {"c": {"deep": [i] * i, "text": "x"}},
    "an object": lambda i: {"c": {1, 2}, "d": np.empty(0)},
}


_KEPT: list[Any] = []


def unevenly(number: int) -> np.ndarray:
    time.sleep(0.001 * (number * 7919 % 5))
    return np.float32([number % 13, number, -number])


def unevenly_into(number: int, out: np.ndarray) -> None:
    out[...] = unevenly(number)


def unevenly_and_keeping(number: int, out: np.ndarray) -> None:
    """Keep `out`: the function then gets memory that is copied into a slot afterwards."""
    _KEPT.append(out)
    unevenly_into(number, out)


def refusing_some(number: int) -> np.ndarray:
    if number % 5 == 0 or 40 <= number < 60:
        raise ValueError("one of those")
    return unevenly(number)


def dying_once(item: tuple[int, str]) -> np.ndarray:
    number, folder = item
    if number % 10 == 3:
        try:
            os.mkdir(f"{folder}/{number}")
        except FileExistsError:
            pass
        else:
            os.kill(os.getpid(), signal.SIGKILL)
    return unevenly(number)


def waiting_for_a_file(item: tuple[int, str]) -> np.ndarray:
    number, path = item
    while number == 1 and not os.path.exists(path):
        time.sleep(0.001)
    return np.float32([number % 13, number, -number])
