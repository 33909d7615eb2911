"""Pickles for a process that lacks our main module: functions and classes of the main module travel by value.

It may not know which objects travel, nor where to.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import cloudpickle

_lock = threading.Lock()
_calls_under_way = 0
_registered_here = False


def dumps(thing: Any, buffer_callback: Callable[[Any], Any] | None = None) -> bytes:
    """Return the pickle of any object, in protocol 5.

    Functions and classes of ``__main__`` travel by value, and so do those of ``__mp_main__``: the main module has that
    name in a process that multiprocessing started by spawn or forkserver.

    Parameters
    ----------
    thing : object
    buffer_callback : callable, optional
        As in `pickle.dumps`.
    """
    main = sys.modules.get("__mp_main__")
    with contextlib.nullcontext() if main is None else _without_reference_to(main):
        return bytes(cloudpickle.dumps(thing, 5, buffer_callback))


@contextlib.contextmanager
def _without_reference_to(module: ModuleType) -> Iterator[None]:
    """Let cloudpickle take a module's functions by value, and restore its registry, which is shared in the process."""
    global _calls_under_way, _registered_here
    with _lock:
        if _calls_under_way == 0 and module.__name__ not in cloudpickle.list_registry_pickle_by_value():
            cloudpickle.register_pickle_by_value(module)
            _registered_here = True
        _calls_under_way += 1
    try:
        yield
    finally:
        with _lock:
            _calls_under_way -= 1
            if _calls_under_way == 0 and _registered_here:
                cloudpickle.unregister_pickle_by_value(module)
                _registered_here = False
