"""The answer to a request: its outputs as arrays, or its exception.

It may not know which thread waits for the answer, nor how.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _core
from .._core import Reply
from ..errors import DeadlineExceeded, EngineDied, ModelError, RingFeedError


def answer_of(reply: Reply, *, copy: bool, with_rows: bool = False) -> Any:
    """Return the outputs of a reply whose rows are all answered.

    Parameters
    ----------
    reply : Reply
    copy : bool
        Return arrays with memory of their own, or views that keep the cells in use.
    with_rows : bool
        Return arrays of shape (rows, *shape), or those of the only row.

    Returns
    -------
    numpy.ndarray, or dict of str to numpy.ndarray

    Raises
    ------
    ModelError, DeadlineExceeded, EngineDied
        The error of the first row without outputs.
    """
    for row in range(reply.rows):
        outcome, text = reply.outcome(row)
        if outcome != _core.OUTPUTS:
            raise error_of(outcome, text, reply.ring.name)
    return reply.outputs(copy, with_rows)


def error_of(outcome: int, text: str, ring_name: str) -> RingFeedError:
    """Return the exception for an outcome of a request."""
    if outcome == _core.LATE:
        return DeadlineExceeded(
            f"ring {ring_name!r}: the request's time was over before the model began with it. Wait longer, send less, "
            "or add engines."
        )
    if outcome == _core.STOPPED:
        return EngineDied(f"ring {ring_name!r}: the engine was stopped before it came to the request. {text}".rstrip())
    if outcome == _core.ENGINE_DIED:
        return EngineDied(
            f"ring {ring_name!r}: the engine died over the request, and the ring drops the records of a dead taker "
            "(redeliver=False). Ask again."
        )
    return ModelError(f"ring {ring_name!r}: {text}")


def deadline_exceeded(reply: Reply) -> DeadlineExceeded:
    """Return the error of a request that was not answered before its deadline."""
    began = "had begun with the request" if reply.started() else "had not begun with the request"
    return DeadlineExceeded(
        f"ring {reply.ring.name!r}: no answer within the timeout; the model {began}. Wait longer, send less, or add "
        "engines."
    )


class RowsAnswer:
    """The answers to the rows of one call, stored into one array for each output as they arrive."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._stored = 0
        self._arrays: Any = None

    def store(self, start: int, reply: Reply) -> bool:
        """Store the answers of a reply from row `start` on. Return whether all rows are stored.

        Raises
        ------
        ModelError, DeadlineExceeded, EngineDied
            As `answer_of`.
        """
        part = answer_of(reply, copy=False, with_rows=True)
        if self._arrays is None:
            if isinstance(part, dict):
                self._arrays = {name: self._array_for(array) for name, array in part.items()}
            else:
                self._arrays = self._array_for(part)
        if isinstance(part, dict):
            for name, array in part.items():
                self._arrays[name][start : start + len(array)] = array
        else:
            self._arrays[start : start + len(part)] = part
        self._stored += reply.rows
        return self._stored == self._rows

    def _array_for(self, part: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.empty((self._rows, *part.shape[1:]), part.dtype)

    @property
    def arrays(self) -> Any:
        """The outputs of shape (rows, *shape): an array, or a dict of arrays."""
        return self._arrays
