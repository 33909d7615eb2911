"""Setup of a helper process: it leaves Ctrl-C to the parent, and ends when the parent ends for any reason."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading


def follow_the_parent() -> None:
    """Set up a process that `multiprocessing` started; its first call."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends Ctrl-C to the whole group; the parent cleans up
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
