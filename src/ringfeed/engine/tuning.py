"""The best batch size of a model on a device, measured.

It may not know of rings or engines, nor how a model is run: it calls a function with a number of rows. Experimental, as
``batch_size="auto"`` is.
"""

from __future__ import annotations

import itertools
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from ..arguments import check_int, check_ints, check_seconds

_NEAR_BEST = 0.95
"""A smaller batch with this share of the best throughput is preferred, because it waits for fewer rows."""


@dataclass(frozen=True)
class Measurement:
    """The measurement of one batch size.

    Attributes
    ----------
    batch_size : int
        Rows in a batch.
    seconds_per_batch : float
        The median over the rounds.
    rows_per_second : float
        ``batch_size / seconds_per_batch``.
    """

    batch_size: int
    seconds_per_batch: float
    rows_per_second: float

    def __str__(self) -> str:
        milliseconds = self.seconds_per_batch * 1e3
        return f"{self.batch_size} rows: {milliseconds:.3g} ms, {self.rows_per_second:.4g} rows/s"


class Measurements(list[Measurement]):
    """Measurements in the order of their sizes.

    Attributes
    ----------
    out_of_memory_at : int or None
        The smallest size for which the device had too little memory; None if it had enough for all that were tried.
    untried : list of int
        Sizes that were left out: the time was used up, or the device had too little memory for a smaller one.
    """

    def __init__(
        self, measured: Iterable[Measurement] = (), out_of_memory_at: int | None = None, untried: Iterable[int] = ()
    ) -> None:
        super().__init__(measured)
        self.out_of_memory_at = out_of_memory_at
        self.untried = list(untried)

    def __str__(self) -> str:
        lines = [str(each) for each in self]
        if self.out_of_memory_at is not None:
            lines.append(f"{self.out_of_memory_at} rows: out of memory")
        return "; ".join(lines)


def check_latency_target(latency_target: Any) -> float | None:
    """Return the argument of that name: seconds, or None."""
    if latency_target is None:
        return None
    or_none = ", or None for the best throughput"
    return check_seconds(latency_target, "latency_target", above_zero=True, or_none=or_none)


def sizes_up_to(largest: int) -> list[int]:
    """Return the batch sizes to try: 1, 2, 4, ... and the largest itself.

    Raises
    ------
    ValueError
        The largest is less than 1.
    """
    largest = check_int(largest, "largest batch", 1)
    powers = itertools.takewhile(lambda size: size < largest, (2**power for power in itertools.count()))
    return [*powers, largest]


def measure(
    run: Callable[[int], Any],
    sizes: int | Iterable[int],
    *,
    warmup: int = 2,
    rounds: int | None = None,
    seconds: float = 0.25,
    budget_seconds: float = 30.0,
    clock: Callable[[], float] = time.perf_counter,
) -> Measurements:
    """Time a model at batches of growing size.

    Parameters
    ----------
    run : callable
        ``run(size)`` runs the model on a batch of `size` rows and returns when the outputs are there.
    sizes : int or iterable of int
        The largest size, to try 1, 2, 4, ... and itself; or the sizes.
    warmup : int
        Calls of each size that are not counted. The first call traces, allocates memory and chooses kernels.
    rounds : int, optional
        Calls of each size that are counted; by default as many as fit into `seconds`, at least 3.
    seconds : float
        Seconds for each size, if `rounds` is not given.
    budget_seconds : float
        Seconds for all sizes together, warm-up included. No size and no round begins after that, but one size is always
        measured.
    clock : callable
        Returns seconds, as ``time.perf_counter`` does.

    Returns
    -------
    Measurements
        A list of `Measurement`, by size. After the first size for which memory does not suffice
        (``tf.errors.ResourceExhaustedError``) no larger one is tried: see `out_of_memory_at` and `untried`.

    Raises
    ------
    ValueError
        There is no size to try, or a number is out of its range.
    tf.errors.ResourceExhaustedError
        Memory does not suffice for the smallest size.
    """
    ordered = sorted(set(check_ints(sizes, "sizes", 1))) if isinstance(sizes, Iterable) else sizes_up_to(sizes)
    warmup = check_int(warmup, "warmup", 0)
    rounds = None if rounds is None else check_int(rounds, "rounds", 1)
    seconds = check_seconds(seconds, "seconds")
    deadline = clock() + check_seconds(budget_seconds, "budget_seconds")
    measured = Measurements()
    for number, size in enumerate(ordered):
        if measured and clock() >= deadline:
            measured.untried = ordered[number:]
            break
        try:
            for _ in range(warmup):
                run(size)
            times = list(_rounds(run, size, rounds, seconds, deadline, clock))
        except tf.errors.ResourceExhaustedError:
            if not measured:
                raise
            measured.out_of_memory_at, measured.untried = size, ordered[number + 1 :]
            break
        median = max(statistics.median(times), 1e-9)  # a clock may not move during a run that does nothing
        measured.append(Measurement(size, median, size / median))
    return measured


def _rounds(
    run: Callable[[int], Any],
    size: int,
    rounds: int | None,
    seconds: float,
    deadline: float,
    clock: Callable[[], float],
) -> Iterator[float]:
    first = clock()
    for number in itertools.count(1):
        start = clock()
        run(size)
        end = clock()
        yield end - start
        enough = number >= rounds if rounds is not None else number >= 3 and end - first >= seconds
        if enough or end >= deadline:
            return


def choose(measurements: Iterable[Measurement], latency_target: float | None = None) -> int:
    """Choose a batch size.

    Parameters
    ----------
    measurements : iterable of Measurement
    latency_target : float, optional
        Seconds that one batch may take.

    Returns
    -------
    int
        The smallest size whose throughput is within 5 % of the best: it waits for fewer rows. With a target, the
        largest size that keeps it; if none does, the smallest size.

    Raises
    ------
    ValueError
        There are no measurements, or the target is not above 0.

    Warns
    -----
    RuntimeWarning
        No size keeps the target.
    """
    ordered = sorted(measurements, key=lambda each: each.batch_size)
    if not ordered:
        raise ValueError("no measurements: measure one batch size at least.")
    latency_target = check_latency_target(latency_target)
    if latency_target is None:
        best = max(each.rows_per_second for each in ordered)
        return next(each.batch_size for each in ordered if each.rows_per_second >= _NEAR_BEST * best)
    kept = [each.batch_size for each in ordered if each.seconds_per_batch <= latency_target]
    if kept:
        return kept[-1]
    smallest = ordered[0]
    warnings.warn(
        f"latency_target {latency_target * 1e3:.3g} ms: no batch size keeps it; the smallest, "
        f"{smallest.batch_size}, takes {smallest.seconds_per_batch * 1e3:.3g} ms and is used nevertheless. "
        "Allow more time, or give a smaller or faster model.",
        RuntimeWarning,
        stacklevel=2,
    )
    return smallest.batch_size
