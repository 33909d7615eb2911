"""The number of this worker process, and its own seed.

It may not know how workers are started, nor what they do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

WORKER_MARK = "RINGFEED_STARTS_A_WORKER"
"""Set in the environment of a process that will become a worker, until it is one. A program that is no Python
interpreter keeps it."""


@dataclass(frozen=True)
class WorkerInfo:
    """The number and the seed of a worker process.

    Attributes
    ----------
    number : int
        From 0 to `count` - 1. The process that replaces a worker has the same number.
    count : int
        Number of workers.
    seed : int
        A random number from 0 to 2**64 - 1, drawn anew for each process. No two workers have the same seed, even of
        different predictors; nor have two processes with the same number. Use it as
        ``numpy.random.default_rng(info.seed)``, ``random.seed(info.seed)``,
        ``torch.manual_seed(info.seed)``, ``numpy.random.seed(info.seed % 2**32)``.
    """

    number: int
    count: int
    seed: int


_info: WorkerInfo | None = None


_in_process: ContextVar[WorkerInfo | None] = ContextVar("ringfeed_worker", default=None)


def worker_info() -> WorkerInfo | None:
    """Return the number and seed of this worker process; None in any other process.

    With ``workers=0`` the predictor's own process is worker 0 of 1 while it runs the initializer or `preprocess`.

    Examples
    --------
    >>> generator = None
    >>> def start():  # initializer=start
    ...     global generator
    ...     generator = numpy.random.default_rng(ringfeed.worker_info().seed)
    """
    return _in_process.get() or _info


@contextmanager
def working_as(info: WorkerInfo) -> Iterator[None]:
    """Let this thread count as a worker within the block, in any process."""
    token = _in_process.set(info)
    try:
        yield
    finally:
        _in_process.reset(token)


def become(info: WorkerInfo) -> None:
    """Make this process the given worker from now on."""
    global _info
    _info = info
