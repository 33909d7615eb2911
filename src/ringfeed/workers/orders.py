"""What a pool tells its workers, and what they ask of the user's functions. Their answers: worker_answers.py.

It may not know how it is sent, nor what either does about it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .identity import WorkerInfo
from .sample_spec import Wanted
from .samples import RowLayout

MARK = "RINGFEED_STARTS_A_WORKER"
"""In the environment of a process that is to become a worker, until it is one. A program that is no Python keeps it."""

PROBE_TAG = (1 << 64) - 2
"""Of an item that has no tag of its own, because it is probed."""


@dataclass(frozen=True)
class Setup:
    """What a worker gets first.

    Two descriptors come with it: a file with the pickle of the function and the initializer, and, if there is an
    `item_timeout`, the board.
    """

    fills_slot: bool
    info: WorkerInfo
    item_timeout: float | None


@dataclass(frozen=True)
class Probe:
    """Order: preprocess one item and say what came out. The item comes in a file, laid out as in a task."""

    number: int


@dataclass(frozen=True)
class Open:
    """Order: work on these rings; their descriptors (tasks, rows, failures, spill file) come with it."""

    layout: RowLayout
    wanted: Wanted  # by which the layout was chosen, and the first item of a later call is judged


def fills_slot(function: Callable[..., Any]) -> bool:
    """Tell whether the function takes ``(item, out)`` rather than ``(item)``.

    It does when its second parameter has no default or is named ``out``.
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
    """Tell whether an initializer is to be given a `WorkerInfo`: whether it needs an argument.

    Raises
    ------
    TypeError
        It is no function, or needs something else.
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
