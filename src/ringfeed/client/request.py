"""The options of a request: priority, tag, and the time that is left for its answer.

It may not know rings, nor how a request is sent.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from ..arguments import check_timeout

FOREVER_NS = 2**63 - 1
"""The deadline of a request without a timeout."""

_LONGEST_TIMEOUT_SECONDS = 9e9  # about 285 years; in nanoseconds it still fits 64 bits


class RequestOptions(NamedTuple):
    """The options that a user gives with a request.

    Attributes
    ----------
    timeout : float or None
        Seconds for the whole request; None for no limit.
    deadline_ns : int
        CLOCK_MONOTONIC nanoseconds at which the timeout ends.
    priority, tag : int
    """

    timeout: float | None
    deadline_ns: int
    priority: int = 0
    tag: int = 0

    @classmethod
    def of(cls, timeout: Any, priority: int = 0, tag: int = 0) -> RequestOptions:
        """Check the timeout and start its time."""
        seconds = check_timeout(timeout, "timeout")
        if seconds >= _LONGEST_TIMEOUT_SECONDS:
            return cls(None, FOREVER_NS, priority, tag)
        return cls(seconds, time.monotonic_ns() + int(seconds * 1e9), priority, tag)

    def seconds_left(self, timeout: float | None) -> float | None:
        """Return a timeout, cut to the time before the deadline: a request waits for several things in turn."""
        if not timeout:
            return timeout
        return min(max((self.deadline_ns - time.monotonic_ns()) / 1e9, 0.0), timeout)
