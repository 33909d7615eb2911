"""Pickles for a process that does not have our main module: its functions and classes travel by value.

It may not know what travels, nor where to.
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
_under_way = 0
_registered_here = False


def dumps(thing: Any, buffer_callback: Callable[[Any], Any] | None = None) -> bytes:
    """Return the pickle of anything, by protocol 5.

    Functions and classes of ``__main__`` travel by value, and so do those of ``__mp_main__``: that is the name of the
    main module in a process that multiprocessing started by spawn or forkserver.

    Parameters
    ----------
    thing : object
    buffer_callback : callable, optional
        As of `pickle.dumps`.
    """
    main = sys.modules.get("__mp_main__")
    with contextlib.nullcontext() if main is None else _without_reference_to(main):
        return bytes(cloudpickle.dumps(thing, 5, buffer_callback))


@contextlib.contextmanager
def _without_reference_to(module: ModuleType) -> Iterator[None]:
    """Let cloudpickle take a module's functions by value. Its registry is the process's: it is left as it was found."""
    global _under_way, _registered_here
    with _lock:
        if _under_way == 0 and module.__name__ not in cloudpickle.list_registry_pickle_by_value():
            cloudpickle.register_pickle_by_value(module)
            _registered_here = True
        _under_way += 1
    try:
        yield
    finally:
        with _lock:
            _under_way -= 1
            if _under_way == 0 and _registered_here:
                cloudpickle.unregister_pickle_by_value(module)
                _registered_here = False
