"""Which records become a batch, and when: the words of TensorFlow Serving and Triton.

It may not know models, TensorFlow, or what becomes of a batch.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .._core import Batch
from ..arguments import seconds, whole
from ..errors import RingEmpty
from ..ring import Ring
from ..ring_options import MAX_SLOTS

DEFAULT_BATCH_SIZE = 32
DEFAULT_LINGER_SECONDS = 0.002


class BatchPolicy(Protocol):
    """Takes the batches of an engine.

    Attributes
    ----------
    max_batch_size : int
        Most rows that the model is given at a time.
    """

    @property
    def max_batch_size(self) -> int:
        """Most rows in a batch."""
        ...

    def take(self, ring: Ring, ceiling: int, while_waiting: Callable[[], bool]) -> Batch:
        """Take the next batch, waiting for it.

        Parameters
        ----------
        ring : Ring
        ceiling : int
            Most rows that the device has memory for, as far as is known.
        while_waiting : callable
            To be called now and then; it ends the wait by returning true.

        Raises
        ------
        RingEmpty
            The wait was ended.
        RingFinished, ProducerFailed, RingClosed
            No more records come.
        """
        ...

    def padded_size(self, rows: int) -> int:
        """Return the number of rows that the model is to be given for so many records."""
        ...


@dataclass(frozen=True)
class Batching:
    """The policy of an engine, unless it is given another one.

    Parameters
    ----------
    max_batch_size : int
        Most rows in a batch.
    batch_timeout : float
        Seconds that the first record of a batch waits for others; 0 takes what is there.
    allowed_batch_sizes : sequence of int, optional
        The model is given batches of these sizes only, padded up: for models of a fixed shape, and for XLA, which
        compiles anew for each size. The last is the largest; `max_batch_size` may not be more.
    preferred_batch_sizes : sequence of int, optional
        The largest of these that is ready is taken at once; only while there are fewer records than the smallest, more
        are waited for, as long as `batch_timeout`.

    Raises
    ------
    ValueError
        Sizes contradict each other.
    """

    max_batch_size: int
    batch_timeout: float = 0.002
    allowed_batch_sizes: Sequence[int] | None = None
    preferred_batch_sizes: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.max_batch_size < 1:
            raise ValueError(f"max_batch_size {self.max_batch_size!r}: give a whole number of at least 1.")
        if not self.batch_timeout >= 0:
            raise ValueError(f"batch_timeout {self.batch_timeout!r}: give seconds, 0 or more.")
        for name in ("allowed_batch_sizes", "preferred_batch_sizes"):
            sizes = getattr(self, name)
            if sizes is None:
                continue
            sizes = tuple(sorted({int(size) for size in sizes}))
            if not sizes or sizes[0] < 1:
                raise ValueError(f"{name} {list(sizes)!r}: give whole numbers of at least 1.")
            object.__setattr__(self, name, sizes)
        if self.allowed_batch_sizes and self.allowed_batch_sizes[-1] < self.max_batch_size:
            raise ValueError(
                f"max_batch_size {self.max_batch_size} is more than the largest of allowed_batch_sizes "
                f"{list(self.allowed_batch_sizes)}: such a batch could not be run. Allow it, or lower max_batch_size."
            )
        if self.preferred_batch_sizes and self.preferred_batch_sizes[-1] > self.max_batch_size:
            raise ValueError(
                f"preferred_batch_sizes {list(self.preferred_batch_sizes)} pass max_batch_size {self.max_batch_size}: "
                "such a batch is never taken. Leave it out, or raise max_batch_size."
            )

    def take(self, ring: Ring, ceiling: int, while_waiting: Callable[[], bool]) -> Batch:
        """Take the next batch; see `BatchPolicy.take`."""
        most, linger = min(self.max_batch_size, ceiling), self.batch_timeout
        if self.preferred_batch_sizes:
            preferred = [size for size in self.preferred_batch_sizes if size <= most] or [most]
            waiting = next((ready for level in ring.levels if (ready := level.ready)), 0)
            ready = bisect.bisect_right(preferred, waiting)
            most, linger = (preferred[ready - 1], 0.0) if ready else (preferred[0], linger)
        return ring.take_urgent(most, linger=linger, while_waiting=while_waiting)

    def padded_size(self, rows: int) -> int:
        """Return the smallest allowed size that holds so many rows."""
        sizes = self.allowed_batch_sizes
        return sizes[bisect.bisect_left(sizes, rows)] if sizes else rows

    def limited_to(self, rows: int) -> Batching:
        """Return the same policy with batches of at most so many rows."""
        preferred = [size for size in self.preferred_batch_sizes or () if size <= rows] or None
        return Batching(rows, self.batch_timeout, self.allowed_batch_sizes, preferred)


class PuppetPolicy:
    """Batches on command, without a clock: for tests.

    Parameters
    ----------
    max_batch_size : int
    allowed_batch_sizes : sequence of int, optional
        As for `Batching`.

    Examples
    --------
    >>> policy = PuppetPolicy(max_batch_size=8)
    >>> engine = ringfeed.Engine(ring, model, policy=policy)
    >>> futures = [client.submit(x) for x in samples]
    >>> policy.release(4)  # the engine takes one batch, of four rows
    """

    def __init__(self, max_batch_size: int, allowed_batch_sizes: Sequence[int] | None = None) -> None:
        self._sizes = Batching(max_batch_size, 0.0, allowed_batch_sizes)
        self._commands: list[int] = []
        self._changed = threading.Condition()

    @property
    def max_batch_size(self) -> int:
        """Most rows in a batch."""
        return self._sizes.max_batch_size

    def release(self, rows: int) -> None:
        """Have one batch taken, of exactly so many rows, as soon as they are there."""
        if not 1 <= rows <= self.max_batch_size:
            raise ValueError(f"rows {rows!r}: give a whole number from 1 to max_batch_size {self.max_batch_size}.")
        with self._changed:
            self._commands.append(rows)
            self._changed.notify()

    def take(self, ring: Ring, ceiling: int, while_waiting: Callable[[], bool]) -> Batch:
        """Take the next batch that was commanded; see `BatchPolicy.take`."""
        with self._changed:
            while not self._commands:
                self._changed.wait(0.05)
                if not self._commands and while_waiting():
                    raise RingEmpty(f"ring {ring.name!r}: no batch was commanded.")
            rows = self._commands.pop(0)
        return ring.take_urgent(rows, min_rows=rows, while_waiting=while_waiting)

    def padded_size(self, rows: int) -> int:
        """Return the smallest allowed size that holds so many rows."""
        return self._sizes.padded_size(rows)


# ---- What an engine's arguments say ------------------------------------------------------------------


def either(name: str, value: Any, other_name: str, other: Any) -> Any:
    """Return the one of two names of one thing that was given."""
    if value is not None and other is not None:
        raise ValueError(f"{name}={value!r} and {other_name}={other!r}: they are two names of one thing; give one.")
    return other if value is None else value


def policy_for(
    ring: Ring, policy: BatchPolicy | None, size: Any, linger: Any, allowed: Any, preferred: Any
) -> BatchPolicy:
    """Return the policy given, or that of the sizes given; checked against the ring."""
    if policy is None:
        return _batching(ring, size, linger, allowed, preferred)
    if any(other is not None for other in (size, linger, allowed, preferred)):
        raise ValueError(
            "policy is given, and batch sizes or linger beside it: the policy says all of that. Give it alone."
        )
    rows = max(policy.max_batch_size, policy.padded_size(policy.max_batch_size))
    if rows > ring.slots:
        raise ValueError(
            f"policy: batches of up to {rows} rows: ring {ring.name!r} has only {ring.slots} slots. Lower "
            "max_batch_size or the allowed sizes, or create the ring with more slots."
        )
    return policy


def _batching(ring: Ring, size: Any, linger: Any, allowed: Any, preferred: Any) -> Batching:
    if allowed is not None and not len(allowed):
        raise ValueError("allowed_batch_sizes []: give one size at least.")
    if size is None or size == "auto":
        size = min(max(allowed) if allowed else ring.slots if size else DEFAULT_BATCH_SIZE, ring.slots)
    _check_rows("batch_size", size, ring)
    for each in allowed or ():
        _check_rows("allowed_batch_sizes", each, ring)
    wait = seconds(DEFAULT_LINGER_SECONDS if linger is None else linger, f"ring {ring.name!r}: linger")
    return Batching(size, wait, allowed, preferred)


def _check_rows(what: str, rows: Any, ring: Ring) -> None:
    if whole(rows, what, 1, MAX_SLOTS) > ring.slots:
        raise ValueError(
            f"{what} {rows}: ring {ring.name!r} has only {ring.slots} slots. Lower it, or create the ring with more."
        )
