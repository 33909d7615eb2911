"""Let TensorFlow's threads leave Python before the interpreter exits.

This file may not know feeds, datasets or tensors. A thread that is inside Python when the interpreter exits aborts the
process. So the exit stops all feeds, and waits until their threads have left.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..._core import stop_feeds

_EXIT_SECONDS = 2.0  # the longest wait for the threads
_QUIET_SECONDS = 0.03  # a thread that has just left comes back to learn that its round is over

_inside: set[int] = set()  # threads of TensorFlow that are inside this package
_used = False
_ending = False


@contextmanager
def inside_python() -> Iterator[None]:
    """Mark a call by one of TensorFlow's threads; the interpreter's exit waits for the end of the call."""
    global _used
    _used = True
    thread = threading.get_ident()
    _inside.add(thread)
    try:
        yield
    finally:
        _inside.discard(thread)


def is_ending() -> bool:
    """Tell whether the interpreter is exiting, so that every feed must end."""
    return _ending


@atexit.register
def _wait_for_threads() -> None:
    """Stop all feeds, and wait until TensorFlow's threads have left Python."""
    global _ending
    _ending = True
    give_up = time.monotonic() + _EXIT_SECONDS
    quiet_since = time.monotonic()
    while (asking := stop_feeds()) or _used:
        now = time.monotonic()
        if now >= min(give_up, quiet_since + _QUIET_SECONDS):
            return
        if asking or _inside - {threading.get_ident()}:
            quiet_since = now
        time.sleep(0.002)
