"""Which records become a batch, and when, in the words of TensorFlow Serving and Triton.

It may not know models or TensorFlow, nor how a batch is used.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .._core import Batch
from ..arguments import check_int, check_ints, check_seconds
from ..ring import Ring
from ..ring_options import MAX_SLOTS

DEFAULT_BATCH_SIZE = 32
DEFAULT_LINGER_SECONDS = 0.002


class BatchPolicy(Protocol):
    """Decides which batches an engine takes, and when.

    Attributes
    ----------
    batch_size : int
        Most rows that the model is given at a time.
    """

    @property
    def batch_size(self) -> int:
        """Most rows in a batch."""
        ...

    def take(self, ring: Ring, max_rows: int, while_waiting: Callable[[], bool]) -> Batch:
        """Wait for the next batch, and take it.

        Parameters
        ----------
        ring : Ring
        max_rows : int
            Most rows known to fit into the device's memory.
        while_waiting : callable
            The policy calls it every now and then while it waits; if it returns true, the policy raises `RingEmpty`.

        Raises
        ------
        RingEmpty
            `while_waiting` ended the wait.
        RingFinished, ProducerFailed, RingClosed
            No more records come.
        """
        ...

    def padded_size(self, rows: int) -> int:
        """Return the number of rows that the model is given for `rows` records."""
        ...


@dataclass(frozen=True)
class Batching:
    """The default policy of an engine.

    Parameters
    ----------
    batch_size : int
        Most rows in a batch.
    linger : float
        Seconds that the first record of a batch waits for others, 0.002 by default. With 0 no record waits.
    allowed_batch_sizes : sequence of int, optional
        The model is given batches of these sizes only; smaller batches are padded. This serves models of a fixed shape,
        and XLA, which compiles anew for each size. `batch_size` may not exceed the largest.
    preferred_batch_sizes : sequence of int, optional
        The largest of these that is ready is taken at once. The policy waits, up to `linger`, only while fewer records
        are ready than the smallest.

    Raises
    ------
    ValueError
        Sizes contradict each other.
    """

    batch_size: int
    linger: float = DEFAULT_LINGER_SECONDS
    allowed_batch_sizes: Sequence[int] | None = None
    preferred_batch_sizes: Sequence[int] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch_size", check_int(self.batch_size, "batch_size", 1))
        object.__setattr__(self, "linger", check_seconds(self.linger, "linger"))
        for name in ("allowed_batch_sizes", "preferred_batch_sizes"):
            sizes = getattr(self, name)
            if sizes is None:
                continue
            object.__setattr__(self, name, tuple(sorted(set(check_ints(sizes, name, 1)))))
        if self.allowed_batch_sizes and self.allowed_batch_sizes[-1] < self.batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is more than the largest of allowed_batch_sizes "
                f"{list(self.allowed_batch_sizes)}: such a batch could not be run. Allow it, or lower batch_size."
            )
        if self.preferred_batch_sizes and self.preferred_batch_sizes[-1] > self.batch_size:
            raise ValueError(
                f"preferred_batch_sizes {list(self.preferred_batch_sizes)} pass batch_size {self.batch_size}: "
                "such a batch is never taken. Leave it out, or raise batch_size."
            )

    def take(self, ring: Ring, max_rows: int, while_waiting: Callable[[], bool]) -> Batch:
        """Take the next batch; see `BatchPolicy.take`."""
        most, linger = min(self.batch_size, max_rows), self.linger
        if self.preferred_batch_sizes:
            preferred = [size for size in self.preferred_batch_sizes if size <= most] or [most]
            waiting = next((ready for level in ring.levels if (ready := level.ready)), 0)
            ready = bisect.bisect_right(preferred, waiting)
            most, linger = (preferred[ready - 1], 0.0) if ready else (preferred[0], linger)
        return ring.take_urgent(most, linger=linger, while_waiting=while_waiting)

    def padded_size(self, rows: int) -> int:
        """Return the smallest allowed size that holds `rows` rows."""
        sizes = self.allowed_batch_sizes
        return sizes[bisect.bisect_left(sizes, rows)] if sizes else rows

    def limited_to(self, rows: int) -> Batching:
        """Return the same policy with batches of at most `rows` rows."""
        preferred = [size for size in self.preferred_batch_sizes or () if size <= rows] or None
        return Batching(rows, self.linger, self.allowed_batch_sizes, preferred)


# ---- The policy for the options of an engine -----------------------------------------------------------


def policy_for(
    ring: Ring, policy: BatchPolicy | None, size: Any, linger: Any, allowed: Any, preferred: Any
) -> BatchPolicy:
    """Return the given policy, or one of the given sizes; ValueError or TypeError if it does not fit the ring."""
    if policy is None:
        return _batching(ring, size, linger, allowed, preferred)
    if any(other is not None for other in (size, linger, allowed, preferred)):
        raise ValueError(
            "policy is given, and batch sizes or linger beside it: the policy says all of that. Give it alone."
        )
    rows = max(policy.batch_size, policy.padded_size(policy.batch_size))
    if rows > ring.slots:
        raise ValueError(
            f"policy: batches of up to {rows} rows: ring {ring.name!r} has only {ring.slots} slots. Lower "
            "batch_size or the allowed sizes, or create the ring with more slots."
        )
    return policy


def _batching(ring: Ring, size: Any, linger: Any, allowed: Any, preferred: Any) -> Batching:
    if allowed is not None and not len(allowed):
        raise ValueError("allowed_batch_sizes []: give one integer or more.")
    if size is None or size == "auto":
        size = min(max(allowed) if allowed else ring.slots if size else DEFAULT_BATCH_SIZE, ring.slots)
    _check_rows("batch_size", size, ring)
    for each in allowed or ():
        _check_rows("allowed_batch_sizes", each, ring)
    wait = check_seconds(DEFAULT_LINGER_SECONDS if linger is None else linger, f"ring {ring.name!r}: linger")
    return Batching(size, wait, allowed, preferred)


def _check_rows(what: str, rows: Any, ring: Ring) -> None:
    if check_int(rows, what, 1, MAX_SLOTS) > ring.slots:
        raise ValueError(
            f"{what} {rows}: ring {ring.name!r} has only {ring.slots} slots. Lower it, or create the ring with more."
        )
