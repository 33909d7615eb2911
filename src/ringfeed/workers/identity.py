"""Which worker process this is, and the seed of its own.

It may not know how workers are started, nor what they do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class WorkerInfo:
    """A worker process, as it knows itself.

    Attributes
    ----------
    number : int
        From 0 to `count` - 1. The process that replaces a worker has the same number.
    count : int
        Number of workers.
    seed : int
        A random number from 0 to 2**64 - 1, drawn anew for each process: no two workers, also of other predictors, and
        no two processes of one number have the same. Use it as ``numpy.random.default_rng(info.seed)``,
        ``random.seed(info.seed)``, ``torch.manual_seed(info.seed)``, ``numpy.random.seed(info.seed % 2**32)``.
    """

    number: int
    count: int
    seed: int


_info: WorkerInfo | None = None


_in_process: ContextVar[WorkerInfo | None] = ContextVar("ringfeed_worker", default=None)


def worker_info() -> WorkerInfo | None:
    """Return which worker this process is; None in a process that is none.

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
    """Let this thread be a worker for the block, whatever its process is."""
    token = _in_process.set(info)
    try:
        yield
    finally:
        _in_process.reset(token)


def become(info: WorkerInfo) -> None:
    """Be this worker from now on."""
    global _info
    _info = info
