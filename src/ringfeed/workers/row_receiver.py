"""Receiving rows: batches from the ring of rows, each row matched with its item or with the reason of its failure.

It may not know the model, nor what becomes of the rows.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from operator import is_not
from typing import Any

import numpy as np
import numpy.typing as npt

from ..ctrl_c import LostInterrupts
from ..errors import ItemError, RingEmpty
from .failure_record import read_failure
from .failures import Failure
from .item_errors import preprocess_error
from .item_sender import NOT_IN_FLIGHT, ItemSender
from .pool import WorkerPool
from .predict_rings import PredictRings
from .tags import CALL_SHIFT, FAILED, INDEX_MASK

_SLICE_SECONDS = 0.05


@dataclass(frozen=True)
class ReceivedRows:
    """A batch, and the meaning of its rows.

    Attributes
    ----------
    batch : Batch
        The caller releases it.
    indices : array of int64, shape (rows,)
        The index of each row's item.
    items : list
        The item of each row, or `NOT_IN_FLIGHT` for a row whose item is not wanted any more.
    good : array of bool, shape (rows,)
        Rows that hold a sample, and whose item is wanted.
    failures : dict of int to Failure
        The reason of each failed row whose item is wanted, by the row's number.
    last_death : str
        How the last worker died.
    """

    batch: Any
    indices: npt.NDArray[np.int64]
    items: list[Any]
    good: npt.NDArray[np.bool_]
    failures: dict[int, Failure]
    last_death: str

    @property
    def count(self) -> int:
        """Number of rows whose item is wanted."""
        return len(self.failures) + int(self.good.sum())

    def errors(self) -> list[ItemError]:
        """Return the errors of the failed rows."""
        return [
            preprocess_error(failure, int(self.indices[row]), self.items[row], self.last_death)
            for row, failure in self.failures.items()
        ]


class RowReceiver:
    """Receives the rows of one call.

    Parameters
    ----------
    rings : PredictRings
    pool : WorkerPool
    call : int
        The number of the call, which the tags of its rows carry.

    Attributes
    ----------
    interrupts : LostInterrupts
        Checked in each wait.
    """

    def __init__(self, rings: PredictRings, pool: WorkerPool, call: int) -> None:
        self._rings = rings
        self._pool = pool
        self._call = call
        self._failures: dict[int, Failure] = {}
        self.interrupts = LostInterrupts()

    def watch_interrupts(self) -> None:
        """Watch for a lost Ctrl-C from now on: code of the caller may have run, which handles its own."""
        self.interrupts = LostInterrupts()

    def receive(self, sender: ItemSender, most: int, least: int = 1, linger: float = 0.0) -> ReceivedRows | None:
        """Wait a short time for rows; dead workers are replaced if none came.

        Parameters
        ----------
        most, least : int
            Bounds of the number of rows.
        linger : float
            Seconds to wait for more rows.

        Returns
        -------
        ReceivedRows or None
            None if fewer than `least` rows came.

        Raises
        ------
        RingClosed
            The predictor was closed.
        KeyboardInterrupt
            A Ctrl-C was lost meanwhile.
        """
        rows = self._rings.rows
        assert rows is not None
        try:
            batch = rows.take(most, min_rows=least, timeout=_SLICE_SECONDS, linger=linger)
        except RingEmpty:
            self.interrupts.check()
            self._rings.look_for_stall()
            self._read_failures()  # a worker that waits for room in their ring keeps a batch from being full
            self._rings.replace_dead_workers()
            return None
        return self._match(sender, batch)

    def _match(self, sender: ItemSender, batch: Any) -> ReceivedRows:
        """Find the item of each row, and the reason of each failed row."""
        tags = batch.tags
        indices = (tags & np.uint64(INDEX_MASK)).astype(np.int64)
        if ((tags >> np.uint64(CALL_SHIFT)) == self._call).all():
            items = sender.mark_done(indices.tolist())
            return ReceivedRows(batch, indices, items, _in_flight(items), {}, self._pool.last_death)
        failed = (tags & np.uint64(FAILED)) != 0
        unflagged = tags & np.uint64(FAILED - 1)
        wanted = (unflagged >> np.uint64(CALL_SHIFT)) == self._call
        # The failures of unwanted rows are taken, too: unread, they would fill the failures ring, and workers
        # would wait there for ever.
        failures = {row: self._failure(int(unflagged[row])) for row in np.flatnonzero(failed).tolist()}
        items = [NOT_IN_FLIGHT] * len(tags)
        for row, item in zip(np.flatnonzero(wanted).tolist(), sender.mark_done(indices[wanted].tolist()), strict=True):
            items[row] = item
        wanted = _in_flight(items)
        failures = {row: failure for row, failure in failures.items() if wanted[row]}
        return ReceivedRows(batch, indices, items, wanted & ~failed, failures, self._pool.last_death)

    def _failure(self, tag: int) -> Failure:
        """Return the failure of a row. The worker published it before the row."""
        if tag not in self._failures:
            self._read_failures()
        return self._failures.pop(tag, Failure("raised", "(the worker died before it could describe the failure)"))

    def _read_failures(self) -> None:
        """Take all published failures out of their ring."""
        ring = self._rings.failures
        assert ring is not None
        while True:
            try:
                batch = ring.take(ring.slots, timeout=0)
            except RingEmpty:
                return
            with batch:
                for tag, body in zip(batch.tags.tolist(), batch["failure"], strict=True):
                    self._failures[tag] = read_failure(body)
                del body


def _in_flight(items: list[Any]) -> npt.NDArray[np.bool_]:
    """Tell which items are wanted. An item whose worker died after its row was published is done twice; one counts."""
    return np.fromiter(map(is_not, items, itertools.repeat(NOT_IN_FLIGHT)), bool, len(items))
