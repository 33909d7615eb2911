"""The signatures of the user's functions: which arguments they take.

It may not know when or where the functions are called.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def fills_slot(function: Callable[..., Any]) -> bool:
    """Tell whether the function takes ``(item, out)`` rather than ``(item)``.

    It does if its second parameter has no default or is named ``out``.

    Raises
    ------
    TypeError
        It takes ``out`` by keyword only.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return False  # a built-in without a signature takes the item
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if any(p.name == "out" and p.kind == p.KEYWORD_ONLY and p.default is p.empty for p in parameters):
        raise TypeError("preprocess takes out by keyword only; make it the second positional parameter.")
    return len(positional) >= 2 and (positional[1].name == "out" or positional[1].default is inspect.Parameter.empty)


def takes_info(initializer: Callable[..., Any]) -> bool:
    """Tell whether an initializer needs an argument: it is then called with a `WorkerInfo`.

    Raises
    ------
    TypeError
        It is no function, or needs other arguments.
    """
    if not callable(initializer):
        raise TypeError(f"initializer {initializer!r:.80}: give a function, or None.")
    try:
        parameters = inspect.signature(initializer).parameters.values()
    except (TypeError, ValueError):
        return False  # a built-in without a signature
    needed = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(needed) > 1 or any(p.kind == p.KEYWORD_ONLY for p in needed):
        names = ", ".join(p.name for p in needed)
        raise TypeError(f"initializer {initializer!r:.80} needs {names}; it may take nothing, or one WorkerInfo.")
    return bool(needed)
