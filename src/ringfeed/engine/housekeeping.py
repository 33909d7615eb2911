"""What an engine checks between batches: dead clients, its replies, the next stage, unlinked names, dead letters.

It may not know how a batch is chosen or run.
"""

from __future__ import annotations

import time

from .. import _core, dead_letters
from ..client.reply_pool import ReplyPool
from ..errors import RingFeedError
from ..ring import Ring
from .delivery import NextStageEnded
from .lifecycle import Lifecycle
from .registration import ServiceRegistration
from .unlinked_names import UnlinkedNames

_INTERVAL_SECONDS = 0.2


class RepliesReplaced(RingFeedError):
    """Another engine has replaced the reply pool of the ring, so this engine can answer no client any more."""


class Housekeeping:
    """The checks of one engine; its threads share them.

    Parameters
    ----------
    ring : Ring
        The ring that the engine takes batches from.
    next_ring : Ring or None
        The ring of the next stage.
    pool : ReplyPool
    registration : ServiceRegistration
    lifecycle : Lifecycle
    """

    def __init__(
        self,
        ring: Ring,
        next_ring: Ring | None,
        pool: ReplyPool,
        registration: ServiceRegistration,
        lifecycle: Lifecycle,
    ) -> None:
        self._ring, self._next_ring, self._pool = ring, next_ring, pool
        self._registration, self._lifecycle = registration, lifecycle
        self._unlinked_names = UnlinkedNames(ring, pool)
        self._last = 0.0

    def begin(self) -> None:
        """Have this engine answer the dead letters of its ring."""
        for level in self._ring.levels:
            level._handle_dead_letters(self._answer_dead_letter)

    def end(self) -> None:
        """Leave dead letters to other engines. A second call does nothing."""
        for level in self._ring.levels:
            level._handle_dead_letters_no_more(self._answer_dead_letter)

    def run_if_due(self) -> None:
        """Run all checks, if the last time was long enough ago.

        Raises
        ------
        RepliesReplaced, NextStageEnded
            The engine cannot serve any more.
        """
        now = time.monotonic()
        if now - self._last < _INTERVAL_SECONDS:
            return
        self._last = now
        self._pool.cells.recover()
        self._registration.return_if_alone()
        if not self._lifecycle.must_stop:
            self._unlinked_names.check()
        if self._pool.was_replaced():
            raise RepliesReplaced(
                f"ring {self._ring.name!r}: another engine has made the replies anew, for other outputs or settings. "
                "This engine can answer no client any more. Start it again."
            )
        self._check_next_ring()

    def _check_next_ring(self) -> None:
        ring = self._next_ring
        if ring is None:
            return
        if not ring.closed:
            ring._reap()  # detects a dead owner: if no thread waits on that ring, no other call does
        if ring.closed or ring.finished:  # must be noticed even if no client asks any more
            raise NextStageEnded(f"ring {ring.name!r} is {'closed' if ring.closed else 'finished'}")

    def _answer_dead_letter(self, batch: _core.Batch) -> None:
        """Tell the client of a record that too many engines died over it."""
        record = batch.records[0]
        text = dead_letters.answer(batch.ring.name, int(record["tag"]), int(record["failures"]))
        answered = 0
        for requests in self._pool.hold(batch):
            answered += requests.refuse(_core.FAILED, text, 0, requests.rows)
        batch.ring._log_dead_letter(record, answered > 0)
