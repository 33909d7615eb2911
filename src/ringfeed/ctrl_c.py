"""Detection of lost Ctrl-C interrupts.

Python raises KeyboardInterrupt at the main thread's current instruction. In a destructor, or in a library that catches
every exception (as TensorFlow does while it traces a function), the exception is lost, and a later wait continues. It
may not know the waits that use it.
"""

from __future__ import annotations

import signal
import threading

from ._core import InterruptWatch


def ctrl_c_raises() -> bool:
    """Return whether Ctrl-C has Python's default handler, which raises KeyboardInterrupt."""
    return signal.getsignal(signal.SIGINT) is signal.default_int_handler


class LostInterrupts:
    """Raises KeyboardInterrupt again if one occurred and did not reach this code.

    It does nothing outside of the main thread, and in programs with a handler of their own.
    """

    def __init__(self) -> None:
        raises_here = threading.current_thread() is threading.main_thread() and ctrl_c_raises()
        self._watch = InterruptWatch() if raises_here else None
        self._known = 0

    def forget(self) -> None:
        """Ignore earlier interrupts: other code ran and was responsible for them."""
        if self._watch is not None:
            self._known = self._watch.seen

    def check(self) -> None:
        """Raise a lost interrupt.

        Raises
        ------
        KeyboardInterrupt
            An interrupt occurred since the last check, and its exception did not arrive here.
        """
        if self._watch is None or self._watch.seen == self._known:
            return
        for _ in range(100):
            pass  # Python raises an interrupt that occurred just now in this loop
        self.forget()
        if ctrl_c_raises():
            raise KeyboardInterrupt
