"""The threads of an engine: each takes batches for its replica, and has them answered.

It may not know how an engine is made, started from outside or shown, nor how a batch is run (replica.py).
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .. import _core, dead_letters
from ..client.reply_pool import ReplyPool
from ..errors import ProducerFailed, RingClosed, RingEmpty, RingFeedError, RingFinished
from ..ring import Ring
from ..terminations import hear_within
from .batching import BatchPolicy
from .delivery import NextStageEnded, Stopped
from .replica import Replica
from .unlinked_names import LostNames

_RECOVERY_SECONDS = 0.2
_MOST_FAILURES = 16
_REST_SLICE_SECONDS = 0.05
_log = logging.getLogger("ringfeed.engine")


class Orphaned(RingFeedError):
    """The replies of this engine are not those of its ring any more."""


@dataclass
class Orders:
    """What an engine was told. A thread looks between batches, and while it waits for one."""

    stopping: bool = False
    draining: bool = False


class Presence:
    """Whether the engine says to clients that it serves.

    Parameters
    ----------
    ring : Ring
        That it takes from.
    pool : ReplyPool
    serve : callable
        Says so.
    """

    def __init__(self, ring: Ring, pool: ReplyPool, serve: Callable[[], None]) -> None:
        self._ring = ring
        self._pool = pool
        self._serve = serve
        self._lock = threading.Lock()
        self._is_away = False

    def leave(self) -> bool:
        """Leave service, unless nobody else serves. Returns whether others do."""
        with self._lock:
            if not self._is_away and self._pool.peers(self._ring):
                self._pool.serve(None)
                self._is_away = True
            return self._stay_away()

    def _stay_away(self) -> bool:
        if self._is_away and not self._pool.peers(self._ring):
            self._serve()
            self._is_away = False
        return self._is_away

    def look(self) -> bool:
        """Come back where nobody else serves any more. Returns whether it is away."""
        with self._lock:
            return self._stay_away()

    def come_back(self) -> None:
        """Serve again."""
        if not self._is_away:
            return
        with self._lock:
            if self._is_away:
                self._serve()
                self._is_away = False


class ServingThreads:
    """Serves with replicas, each in a thread of its own.

    Parameters
    ----------
    ring : Ring
    pool : ReplyPool
    policy : BatchPolicy
    replicas : sequence of Replica
    orders : Orders
    presence : Presence
    next_ring : Ring or None
        Requests are handed on to it: there they are still answered when this engine takes no more.
    when_ended : callable
        Called by the last thread.

    Attributes
    ----------
    threads : list of threading.Thread
    failed : BaseException or None
        Why a thread ended that should not have.
    producer_failed : ProducerFailed or None
    """

    def __init__(
        self,
        ring: Ring,
        pool: ReplyPool,
        policy: BatchPolicy,
        replicas: Sequence[Replica],
        orders: Orders,
        presence: Presence,
        next_ring: Ring | None,
        when_ended: Callable[[], None],
    ) -> None:
        self._ring, self._pool, self._policy, self._replicas = ring, pool, policy, replicas
        self._orders, self._presence, self._next_ring, self._when_ended = orders, presence, next_ring, when_ended
        self.failed: BaseException | None = None
        self.producer_failed: ProducerFailed | None = None
        self._lock = threading.Lock()
        self._serving = len(replicas)
        self._recovered = 0.0
        self._lost_names = LostNames(ring, pool)
        # A thread's own join is not enough: one that an exception interrupts takes the thread for ended (bpo-45274).
        self._ends = [threading.Event() for _ in replicas]
        self.threads = [
            threading.Thread(
                target=self._run, args=(replica, end), name=f"ringfeed-engine-{ring.name}-{number}", daemon=True
            )
            for number, (replica, end) in enumerate(zip(replicas, self._ends, strict=True))
        ]

    def start(self) -> None:
        """Start them; those that run end again where one cannot be started."""
        started: list[threading.Thread] = []
        for level in self._ring.levels:
            level._handle_dead_letters(self._answer_dead_letter)
        try:
            for thread in self.threads:
                thread.start()
                started.append(thread)
        except BaseException:
            self._orders.stopping = True
            self.threads = started
            self.join(None)
            self.close()
            raise

    def join(self, seconds: float | None) -> bool:
        """Wait until all have ended; false where one has not within so many seconds."""
        until = None if seconds is None else time.monotonic() + seconds
        for thread, end in zip(self.threads, self._ends, strict=False):
            if thread is threading.current_thread():  # a model may stop its own engine
                continue
            if not hear_within(None if until is None else max(until - time.monotonic(), 0.0), end.wait):
                return False
            thread.join()
        return True

    def close(self) -> None:
        """Leave dead letters to others, when all have ended; twice does no harm."""
        for level in self._ring.levels:
            level._handle_dead_letters_no_more(self._answer_dead_letter)

    @property
    def are_running(self) -> bool:
        """Whether one of them has not ended."""
        return not all(end.is_set() for _, end in zip(self.threads, self._ends, strict=False))

    # -- one thread --------------------------------------------------------------------------------

    def _run(self, replica: Replica, end: threading.Event) -> None:
        try:
            self._serve(replica)
        finally:
            end.set()

    def _serve(self, replica: Replica) -> None:
        replica.waits_from_now()
        try:
            failures = 0
            while not self._orders.stopping and failures < _MOST_FAILURES:
                if replica.health.is_ill and not self._rest(replica):
                    continue
                more, failed = self._serve_once(replica)
                if not more:
                    return
                failures = failures + 1 if failed else 0
            if failures >= _MOST_FAILURES:
                raise RingFeedError(f"{failures} batches in a row could not be served; the log has the reasons.")
        except BaseException as error:
            self.failed = error
            _log.exception("ring %r: the thread that serves %s ends", self._ring.name, replica.device)
        finally:
            replica.waiting_since = None
            with self._lock:
                self._serving -= 1
                last = self._serving == 0
            # Clients must not wait for someone who is not there any more; but those behind a stage have its requests.
            if last and (self._next_ring is None or self.failed):
                with contextlib.suppress(RingClosed):
                    self._pool.serve(None)
            if last:
                self._when_ended()

    def _rest(self, replica: Replica) -> bool:
        """Leave the work to others for a while: the replica fails everything. Returns whether to go on."""
        well = [each for each in self._replicas if not each.health.is_ill]
        others_work = bool(well) or self._presence.leave()
        seconds = replica.health.rest_seconds
        if not others_work or seconds <= 0:
            return True
        if self._orders.draining:
            return True  # who knows whether others take what waits
        threading.Event().wait(min(seconds, _REST_SLICE_SECONDS))
        return False

    def _serve_once(self, replica: Replica) -> tuple[bool, bool]:
        """Serve a batch. Returns whether more are to come, and whether it failed."""
        try:
            self._serve_batch(replica)
        except RingEmpty:
            return not self._orders.draining, False
        except NextStageEnded as error:
            raise RingFeedError(f"the ring of the next stage takes no more: {error}") from None
        except (RingFinished, RingClosed, Stopped):
            return False, False
        except ProducerFailed as error:  # behind the last record: all that was asked has its answer
            self._note_failed_producer(error)
            return False, False
        except Orphaned:
            raise
        except Exception:
            _log.exception("ring %r: a batch could not be served", self._ring.name)
            return True, True
        return True, False

    def _serve_batch(self, replica: Replica) -> None:
        # In a function of its own: nothing of a batch is kept while the next is waited for.
        held = self._pool.hold(self._take(replica))
        try:
            for requests in held:
                replica.serve(requests)
        except Stopped:
            for requests in held:
                if not requests.batch.released:
                    requests.give_back()
                    requests.batch.release()
            raise
        finally:
            for requests in held:  # that none is lost when something fails that should not
                requests.refuse_rest(_core.FAILED, "the engine failed before it came to the request")
        if not replica.health.is_ill:
            self._presence.come_back()
        self._look_after_the_dead()

    def _take(self, replica: Replica) -> _core.Batch:
        most = 1 if replica.health.is_ill else replica.ceiling.allowed
        try:
            return self._policy.take(self._ring, most, self._should_end)
        except RingEmpty:
            if not self._orders.draining or self._orders.stopping:
                raise
            # What waited for a larger batch, or for a command.
            return self._ring.take_urgent(min(self._policy.batch_size, most), timeout=0)

    def _should_end(self) -> bool:
        """Look around while a replica waits."""
        self._look_after_the_dead()
        return self._orders.stopping or self._orders.draining

    def _look_after_the_dead(self) -> None:
        """Take back, now and then, the cells of clients that died."""
        now = time.monotonic()
        if now - self._recovered >= _RECOVERY_SECONDS:
            self._recovered = now
            self._pool.cells.recover()
            self._presence.look()
            if not self._orders.stopping:
                self._lost_names.look()
            if self._pool.was_replaced():
                raise Orphaned(
                    f"ring {self._ring.name!r}: another engine has made the replies anew, for other outputs or "
                    "settings; this one can answer nobody any more."
                )
            ahead = self._next_ring
            if ahead is not None and not ahead.closed:
                ahead._look()  # whether its owner lives: where nobody waits there, nobody else looks
            if ahead is not None and (ahead.closed or ahead.finished):  # also where nobody asks any more
                raise NextStageEnded(f"ring {ahead.name!r} is {'closed' if ahead.closed else 'finished'}")

    def _answer_dead_letter(self, batch: _core.Batch) -> None:
        """Tell the client of a record over which too many engines died."""
        record = batch.records[0]
        text = dead_letters.answer(batch.ring.name, int(record["tag"]), int(record["failures"]))
        answered = 0
        for requests in self._pool.hold(batch):
            answered += requests.refuse(_core.FAILED, text, 0, requests.rows)
        batch.ring._log_dead_letter(record, answered > 0)

    def _note_failed_producer(self, error: ProducerFailed) -> None:
        with self._lock:
            first, self.producer_failed = self.producer_failed is None, error
        if first:
            _log.error("%s", error)
