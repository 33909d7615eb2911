"""The checks of arguments: every public function of the package refuses a wrong value by these.

It may not know what an argument is for. A message names the argument, the value and the remedy:
``ring 'cams': slots 0: give an integer from 1 to 16777216.``
A value of the wrong type is a TypeError, a value out of bounds a ValueError.
An exception that the value itself raises when it is asked for its number reaches the caller.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import numpy as np

FOREVER = ", or None to wait for ever"

_BOOLS = (bool, np.bool_)
_NO_REAL_NUMBERS = (*_BOOLS, str, bytes, bytearray, complex, np.complexfloating)


def check_int(value: Any, name: str, least: int, most: int | None = None, *, advice: str = "") -> int:
    """Return an argument that is an integer within bounds.

    Integers are Python's, NumPy's, and what else has ``__index__``. Booleans and floats are none, nor is 2.0.

    Parameters
    ----------
    value
        What the caller gave.
    name : str
        The argument's name, for the message; the object comes before it, as in ``"ring 'cams': slots"``.
    least, most : int
        The bounds, both included. There is no upper bound without `most`.
    advice : str
        What the message says behind the bounds, as a sentence.
    """
    number = as_int(value)
    if number is not None and least <= number and (most is None or number <= most):
        return number
    bounds = f"an integer, {least} or more" if most is None else f"an integer from {least} to {most}"
    refuse(value, name, f"give {bounds}.{advice and ' ' + advice}", TypeError if number is None else ValueError)


def as_int(value: Any) -> int | None:
    """Return an integer as Python's; None for a value that is no integer."""
    value = _scalar(value)
    if isinstance(value, _BOOLS):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def check_ints(values: Any, name: str, least: int) -> tuple[int, ...]:
    """Return an argument that is a sequence of integers, one or more, each of at least `least`."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        refuse(values, name, f"give a sequence of integers, each {least} or more.", TypeError)
    checked = tuple(check_int(value, name, least) for value in values)
    if not checked:
        refuse(values, name, "give one integer or more.", ValueError)
    return checked


def check_seconds(value: Any, name: str, *, above_zero: bool = False, finite: bool = False, or_none: str = "") -> float:
    """Return an argument that is a duration in seconds: 0 or more, and not NaN.

    Any real number will do: Python's, NumPy's, a Fraction or a Decimal. Booleans, texts and complex numbers are none.

    Parameters
    ----------
    value, name
        As for `check_int`.
    above_zero, finite : bool
        Refuse 0; refuse infinity.
    or_none : str
        What the message adds where the caller's argument may also be None, such as ``", or None for no limit"``.
    """
    seconds = None
    value = _scalar(value)
    if not isinstance(value, _NO_REAL_NUMBERS):
        try:
            seconds = float(value)
        except TypeError:
            seconds = None
        except (ValueError, OverflowError):  # a signaling NaN; an integer of more than 308 digits
            seconds = math.nan
    is_refused = (above_zero and seconds == 0) or (finite and seconds == math.inf)
    if seconds is not None and seconds >= 0 and not is_refused:
        return seconds + 0.0  # -0.0 becomes 0.0
    bounds = "seconds above 0" if above_zero else "seconds, 0 or more"
    refuse(value, name, f"give {bounds}{or_none}.", TypeError if seconds is None else ValueError)


def check_timeout(value: Any, name: str) -> float:
    """Return an argument that says how many seconds to wait; None becomes infinity."""
    return math.inf if value is None else check_seconds(value, name, or_none=FOREVER)


def check_bool(value: Any, name: str) -> bool:
    """Return an argument that is True or False, Python's or NumPy's; 0, 1 and texts are neither."""
    value = _scalar(value)
    if isinstance(value, _BOOLS):
        return bool(value)
    refuse(value, name, "give True or False.", TypeError)


def check_choice(value: Any, name: str, choices: Sequence[str], *, or_none: str = "") -> str:
    """Return an argument that is one of a few words."""
    if isinstance(value, str) and value in choices:
        return str(value)
    listed = [f'"{choice}"' for choice in choices]
    remedy = f"give {', '.join(listed[:-1])} or {listed[-1]}{or_none}."
    refuse(value, name, remedy, ValueError)


def refuse(value: Any, name: str, remedy: str, kind: type[Exception]) -> NoReturn:
    """Raise an error that names the argument, the value and the remedy."""
    try:
        shown = repr(value)
    except Exception:  # Python shows no integer of more than 4300 digits
        shown = f"of type {type(value).__name__}"
    raise kind(f"{name} {shown if len(shown) <= 80 else shown[:77] + '...'}: {remedy}") from None


def _scalar(value: Any) -> Any:
    """Return the only element of an array without axes; any other value as it is."""
    return value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value
