"""How many rows a device has memory for, and whether a replica's model works at all: learnt from what happens.

It may not know of models, batches or rings.
"""

from __future__ import annotations

import time

_PROBE_BATCHES = 8
_PROBE_SECONDS = 1.0
_LONGEST_FACTOR = 64
_FIRST_REST_SECONDS = 0.5
_LONGEST_REST_SECONDS = 30.0
_FAILED_ROWS = 3


class Ceiling:
    """Most rows that a device has memory for, as far as is known.

    It halves when memory does not suffice. Later, after a number of batches or some time, twice as many rows are tried:
    a device may be short of memory for a moment only. Where they fit, the next trial comes as soon; where they do not,
    it waits for twice as long.

    Attributes
    ----------
    rows : int
        So many are known to fit.
    lowered : int
        How often the device had too little memory.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.lowered = 0
        self._most = rows
        self._factor = 1
        self._batches = 0
        self._since = 0.0

    def limit(self, rows: int) -> None:
        """Never allow more than so many."""
        self._most = min(self._most, rows)
        self.rows = min(self.rows, rows)

    @property
    def allowed(self) -> int:
        """Most rows of the next batch: twice as many as fit, where it is time to try."""
        if self.rows >= self._most:
            return self.rows
        waited = time.monotonic() - self._since
        is_time = self._batches >= self._factor * _PROBE_BATCHES or waited >= self._factor * _PROBE_SECONDS
        return min(2 * self.rows, self._most) if is_time else self.rows

    def lower(self, failed_rows: int) -> None:
        """Take note that so many rows were too many."""
        was_a_trial = failed_rows > self.rows
        self.lowered += 1
        self.rows = max(min(self.rows, failed_rows // 2), 1)
        self._factor = min(2 * self._factor, _LONGEST_FACTOR) if was_a_trial else 1
        self._batches, self._since = 0, time.monotonic()

    def passed(self, rows: int) -> None:
        """Take note that so many rows fitted."""
        self._batches += 1
        if rows > self.rows:
            self.rows = min(rows, self._most)
            self._factor = 1


class Health:
    """Whether a replica answers: one that fails everything, and at once, would take the work of those that do not.

    Attributes
    ----------
    is_ill : bool
        Nothing has worked since several rows failed, one after the other.
    """

    def __init__(self) -> None:
        self.is_ill = False
        self._failed = 0
        self._rest = 0.0
        self._until = 0.0

    @property
    def has_failed(self) -> bool:
        """Whether the last batch failed."""
        return self._failed > 0

    @property
    def rest_seconds(self) -> float:
        """So long it should leave the work to others; 0 where it should try a request."""
        return max(self._until - time.monotonic(), 0.0) if self.is_ill else 0.0

    def worked(self) -> bool:
        """Take note that rows were answered. Returns whether it was ill before."""
        was_ill, self.is_ill = self.is_ill, False
        self._failed, self._rest = 0, 0.0
        return was_ill

    def failed(self, rows: int) -> bool:
        """Take note that all rows of a batch failed. Returns whether it is ill from now on."""
        was_ill = self.is_ill
        self._failed += rows
        if self._failed < _FAILED_ROWS:
            return False
        self.is_ill = True
        self._rest = min(max(2 * self._rest, _FIRST_REST_SECONDS), _LONGEST_REST_SECONDS)
        self._until = time.monotonic() + self._rest
        return not was_ill
