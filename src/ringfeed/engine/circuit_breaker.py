"""Whether a replica fails every request, and when it may try the next one: a circuit breaker.

A replica that fails at once would otherwise take the requests away from replicas that work.
It may not know of models, batches or rings.
"""

from __future__ import annotations

import time

_FAILED_ROWS = 3
_FIRST_BACKOFF_SECONDS = 0.5
_LONGEST_BACKOFF_SECONDS = 30.0


class CircuitBreaker:
    """Opens after several rows failed in succession; closes when one row is answered.

    Attributes
    ----------
    is_open : bool
        Nothing has worked since several rows failed, one after the other.
    """

    def __init__(self) -> None:
        self.is_open = False
        self._failed = 0
        self._backoff = 0.0
        self._until = 0.0

    @property
    def has_failed(self) -> bool:
        """Whether the last batch failed."""
        return self._failed > 0

    @property
    def backoff_seconds(self) -> float:
        """Seconds for which the replica should leave requests to others; 0 if it should try one now."""
        return max(self._until - time.monotonic(), 0.0) if self.is_open else 0.0

    def record_success(self) -> bool:
        """Close the breaker: rows were answered. Returns whether it was open."""
        was_open, self.is_open = self.is_open, False
        self._failed, self._backoff = 0, 0.0
        return was_open

    def record_failure(self, rows: int) -> bool:
        """Count a batch of `rows` rows that all failed. Returns whether the breaker opened now."""
        was_open = self.is_open
        self._failed += rows
        if self._failed < _FAILED_ROWS:
            return False
        self.is_open = True
        self._backoff = min(max(2 * self._backoff, _FIRST_BACKOFF_SECONDS), _LONGEST_BACKOFF_SECONDS)
        self._until = time.monotonic() + self._backoff
        return not was_open
