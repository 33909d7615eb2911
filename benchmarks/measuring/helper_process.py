"""Manners for a helper process: leave Ctrl-C to the parent, and end when the parent ends, however it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading


def follow_the_parent() -> None:
    """Call first in a process that was started through multiprocessing."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to the whole group; the parent cleans up
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
