"""Finds the rows of a batch over which the model fails, so that an error reaches exactly their requests.

It may not know how rows are run, nor TensorFlow beyond its error for too little memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tensorflow as tf

from .. import _core
from .._core import Requests
from ..workers.common_failure import MIN_ROWS, have_same_text, rows_to_probe
from .error_messages import ErrorMessages
from .memory_limit import MemoryLimit


@dataclass(slots=True)
class RowRange:
    """Rows `start` to `stop` of a batch; if `isolated`, the model sees no other slots beside them."""

    start: int
    stop: int
    isolated: bool = False

    @property
    def rows(self) -> int:
        """How many they are."""
        return self.stop - self.start

    def halves(self, isolated: bool) -> list[RowRange]:
        """Return both halves, the second first: `list.pop` then takes the first one."""
        middle = (self.start + self.stop) // 2
        return [RowRange(middle, self.stop, isolated), RowRange(self.start, middle, isolated)]


class FailureIsolation:
    """Runs the rows of a batch that failed, or that is too large for the device, in smaller parts.

    If the device runs out of memory, a part is halved, down to single rows. After any other error a part is halved too,
    until the error belongs to single rows. But first a few rows, spread over the batch, run alone: if all of them fail
    with the same words, the error is taken for that of every row.

    Parameters
    ----------
    run : callable
        ``run(requests, part)`` runs a `RowRange` and delivers its outputs; it returns the error if that fails.
    padded_size : callable
        From a number of rows to the number that the model is given.
    memory_limit : MemoryLimit
    messages : ErrorMessages
    on_failure : callable
        Called with an exception and the number of rows that it is the answer to.

    Attributes
    ----------
    failed_rows : int
        Rows that were answered with an error.
    """

    def __init__(
        self,
        run: Callable[[Requests, RowRange], Exception | None],
        padded_size: Callable[[int], int],
        memory_limit: MemoryLimit,
        messages: ErrorMessages,
        on_failure: Callable[[Exception, int], None],
    ) -> None:
        self.failed_rows = 0
        self._run = run
        self._padded_size = padded_size
        self._memory_limit = memory_limit
        self._messages = messages
        self._on_failure = on_failure

    def serve(self, requests: Requests, batch: RowRange, limit: int, error: Exception | None) -> None:
        """Answer every row of a batch, with outputs or with an error.

        Parameters
        ----------
        requests : Requests
        batch : RowRange
            All rows of the batch.
        limit : int
            Most rows to run at a time.
        error : Exception or None
            The error with which the whole batch failed; None if it was not run, because it exceeds `limit`.
        """
        parts = [batch]
        answered = looked_for_common = False
        while parts:
            part = parts.pop()
            if part.rows > limit:
                parts += part.halves(part.isolated)
                continue
            if error is None:
                error = self._run(requests, part)
            if error is None:
                answered = True
                continue
            if part.rows >= MIN_ROWS and not (answered or looked_for_common) and not _is_out_of_memory(error):
                looked_for_common = True
                parts += self._unless_common(requests, part)
            else:
                parts += self._after_failure(requests, part, error)
            limit = min(limit, self._memory_limit.rows)
            error = None

    def _unless_common(self, requests: Requests, part: RowRange) -> list[RowRange]:
        """Run some rows of a part alone; return the ranges still to run: none if every row fails alike."""
        errors: list[Exception] = []
        tried: list[int] = []
        left: list[RowRange] = []
        for row in (part.start + number for number in rows_to_probe(part.rows)):
            error = self._run(requests, RowRange(row, row + 1, isolated=True))
            tried.append(row)
            if error is not None:
                errors.append(error)
            if error is None or not have_same_text(errors):
                break
        if len(errors) == len(tried) and have_same_text(errors):
            self._refuse_all(requests, part, errors[0], tried)
            return []
        for row, error in zip(tried, errors, strict=False):  # the last row tried may have no error
            self._refuse(requests, RowRange(row, row + 1), error)
        bounds = [part.start - 1, *tried, part.stop]
        for before, behind in itertools.pairwise(bounds):
            if behind - before > 1:
                left.append(RowRange(before + 1, behind, isolated=True))
        return left[::-1]

    def _after_failure(self, requests: Requests, part: RowRange, error: Exception) -> list[RowRange]:
        """Return the ranges to run again; a single row that cannot run again is refused."""
        out_of_memory = _is_out_of_memory(error)
        if out_of_memory:
            self._memory_limit.record_out_of_memory(self._padded_size(part.rows))
        if part.rows > 1:
            return part.halves(part.isolated or not out_of_memory)
        # A padded row was shown the slots beside it, and the error may be theirs.
        if not part.isolated and not out_of_memory and self._padded_size(1) > 1:
            return [RowRange(part.start, part.stop, isolated=True)]
        self._refuse(requests, part, error)
        return []

    def _refuse(self, requests: Requests, part: RowRange, error: Exception) -> None:
        """Answer the rows of a part with an error."""
        self.failed_rows += part.rows
        self._on_failure(error, part.rows)
        requests.refuse(_core.FAILED, self._messages.for_clients(error), part.start, part.stop)

    def _refuse_all(self, requests: Requests, part: RowRange, error: Exception, tried: Sequence[int]) -> None:
        """Answer all rows of a part with the error of those that were tried; the message tells the others so."""
        self.failed_rows += part.rows
        self._on_failure(error, part.rows)
        text = self._messages.for_clients(error)
        guess = (  # stands before the text, which may fill all the space
            f"the request was not run alone, but taken to fail as {len(tried)} of the {part.rows} rows of its batch "
            f"did, each run alone: {text}"
        )
        for before, row in zip([part.start - 1, *tried], [*tried, part.stop], strict=True):
            if row - before > 1:
                requests.refuse(_core.FAILED, guess, before + 1, row)
            if row < part.stop:
                requests.refuse(_core.FAILED, text, row, row + 1)


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, tf.errors.ResourceExhaustedError)
