"""Public helpers for tests of programs that serve models with RingFeed.

It may not know TensorFlow, models, or what becomes of a batch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from ._core import Batch
from .arguments import check_int
from .engine.batching import Batching
from .errors import RingEmpty
from .ring import Ring

__all__ = ["ManualPolicy"]

_CHECK_SECONDS = 0.05
"""How often a waiting engine checks whether it is being stopped."""


def __dir__() -> list[str]:
    return __all__


class ManualPolicy:
    """A batch policy for tests: an engine takes a batch when the test calls `release`, without a clock.

    Parameters
    ----------
    batch_size : int
        Most rows in a batch.
    allowed_batch_sizes : sequence of int, optional
        As for `Batching`.

    Examples
    --------
    >>> policy = ringfeed.testing.ManualPolicy(batch_size=8)
    >>> engine = ringfeed.Engine(ring, model, policy=policy)
    >>> futures = [client.submit(x) for x in samples]
    >>> policy.release(4)  # the engine takes one batch, of four rows
    """

    def __init__(self, batch_size: int, allowed_batch_sizes: Sequence[int] | None = None) -> None:
        self._sizes = Batching(batch_size, 0.0, allowed_batch_sizes)
        self._commands: list[int] = []
        self._changed = threading.Condition()

    @property
    def batch_size(self) -> int:
        """Most rows in a batch."""
        return self._sizes.batch_size

    def release(self, rows: int) -> None:
        """Let the engine take one batch of exactly this many rows, as soon as the ring holds them.

        Parameters
        ----------
        rows : int
            From 1 to `batch_size`.
        """
        rows = check_int(rows, "rows", 1, self.batch_size)
        with self._changed:
            self._commands.append(rows)
            self._changed.notify()

    def take(self, ring: Ring, max_rows: int, while_waiting: Callable[[], bool]) -> Batch:
        """Take the next released batch; see `BatchPolicy.take`."""
        with self._changed:
            while not self._commands:
                self._changed.wait(_CHECK_SECONDS)
                if not self._commands and while_waiting():
                    raise RingEmpty(f"ring {ring.name!r}: no batch was released. Call ManualPolicy.release(rows).")
            rows = self._commands.pop(0)
        return ring.take_urgent(rows, min_rows=rows, while_waiting=while_waiting)

    def padded_size(self, rows: int) -> int:
        """Return the smallest allowed batch size that holds this many rows."""
        return self._sizes.padded_size(rows)
