"""How many rows fit into a device's memory, learned from the batches that fitted and those that did not.

It may not know of models, batches or rings.
"""

from __future__ import annotations

import time

_PROBE_BATCHES = 8
_PROBE_SECONDS = 1.0
_LONGEST_FACTOR = 64


class MemoryLimit:
    """The most rows known to fit into a device's memory.

    The limit halves when the device runs out of memory. Later, after some batches or some time, the replica tries
    twice as many rows, because a device may be short of memory for a moment only. If they fit, the next trial comes
    as soon. If they do not, the next trial waits twice as long.

    Parameters
    ----------
    rows : int
        The most rows that the engine ever asks for.

    Attributes
    ----------
    rows : int
        The most rows known to fit.
    times_lowered : int
        How often the device ran out of memory.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.times_lowered = 0
        self._most = rows
        self._factor = 1
        self._batches = 0
        self._since = 0.0

    def cap(self, rows: int) -> None:
        """Never allow more than `rows` rows from now on."""
        self._most = min(self._most, rows)
        self.rows = min(self.rows, rows)

    @property
    def next_rows(self) -> int:
        """Most rows of the next batch: twice the known limit if a trial is due."""
        if self.rows >= self._most:
            return self.rows
        waited = time.monotonic() - self._since
        is_due = self._batches >= self._factor * _PROBE_BATCHES or waited >= self._factor * _PROBE_SECONDS
        return min(2 * self.rows, self._most) if is_due else self.rows

    def record_out_of_memory(self, rows: int) -> None:
        """Lower the limit: a batch of `rows` rows did not fit."""
        was_a_trial = rows > self.rows
        self.times_lowered += 1
        self.rows = max(min(self.rows, rows // 2), 1)
        self._factor = min(2 * self._factor, _LONGEST_FACTOR) if was_a_trial else 1
        self._batches, self._since = 0, time.monotonic()

    def record_fit(self, rows: int) -> None:
        """Count a batch of `rows` rows that fitted; raise the limit if it was a trial."""
        self._batches += 1
        if rows > self.rows:
            self.rows = min(rows, self._most)
            self._factor = 1
