"""Arguments of Python functions, checked. What is wrong is named, with its mend."""

from __future__ import annotations

import math
import operator
from typing import Any


def whole(value: Any, what: str, least: int, most: int) -> int:
    """Return a whole number in bounds; ValueError or TypeError name what is none."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{what} {value!r:.80}: give a whole number from {least} to {most}.") from None
    if not least <= number <= most:
        raise ValueError(f"{what} {value!r:.80}: give a whole number from {least} to {most}.")
    return number


def seconds(timeout: Any, what: str) -> float:
    """Return seconds to wait; None is for ever. ValueError or TypeError name what is none."""
    if timeout is None:
        return math.inf
    try:
        seconds = float(0.0 + timeout)  # the sum takes no text
    except (TypeError, OverflowError):
        raise TypeError(f"{what} {timeout!r:.80}: give seconds, 0 or more, or None to wait for ever.") from None
    if not seconds >= 0:
        raise ValueError(f"{what} {timeout!r:.80}: give seconds, 0 or more, or None to wait for ever.")
    return seconds
