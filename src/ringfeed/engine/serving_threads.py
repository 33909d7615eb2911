"""The threads of an engine: each takes batches for its replica, and has their requests answered.

It may not know how an engine is made or stopped, nor how a batch is run (replica.py).
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Sequence

from .. import _core
from ..client.reply_pool import ReplyPool
from ..errors import ProducerFailed, RingClosed, RingEmpty, RingFeedError, RingFinished
from ..ring import Ring
from ..terminations import wait_in_slices
from .batching import BatchPolicy
from .delivery import DeliveryStopped, NextStageEnded
from .housekeeping import Housekeeping, RepliesReplaced
from .lifecycle import EngineState, Lifecycle
from .registration import ServiceRegistration
from .replica import Replica

_MOST_FAILURES = 16
_BACKOFF_SLICE_SECONDS = 0.05
_log = logging.getLogger("ringfeed.engine")


class ServingThreads:
    """Serves with replicas, each in a thread of its own.

    Parameters
    ----------
    ring : Ring
        The ring that batches are taken from.
    next_ring : Ring or None
        The ring that requests are handed on to; later stages answer them after this engine has ended.
    pool : ReplyPool
    policy : BatchPolicy
    replicas : sequence of Replica
    lifecycle : Lifecycle
    registration : ServiceRegistration

    Attributes
    ----------
    threads : list of threading.Thread
    failed : BaseException or None
        The error that ended a thread.
    producer_failed : ProducerFailed or None
    """

    def __init__(
        self,
        ring: Ring,
        next_ring: Ring | None,
        pool: ReplyPool,
        policy: BatchPolicy,
        replicas: Sequence[Replica],
        lifecycle: Lifecycle,
        registration: ServiceRegistration,
    ) -> None:
        self._ring, self._next_ring, self._pool, self._policy = ring, next_ring, pool, policy
        self._replicas, self._lifecycle, self._registration = replicas, lifecycle, registration
        self._housekeeping = Housekeeping(ring, next_ring, pool, registration, lifecycle)
        self.failed: BaseException | None = None
        self.producer_failed: ProducerFailed | None = None
        self._lock = threading.Lock()
        self._running = len(replicas)
        # Thread.join alone is not enough: if an exception interrupts it, it takes the thread for ended (bpo-45274).
        self._ends = [threading.Event() for _ in replicas]
        self.threads = [
            threading.Thread(
                target=self._run, args=(replica, end), name=f"ringfeed-engine-{ring.name}-{number}", daemon=True
            )
            for number, (replica, end) in enumerate(zip(replicas, self._ends, strict=True))
        ]

    # -- All threads -------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the threads; if one cannot be started, end those that run."""
        started: list[threading.Thread] = []
        self._housekeeping.begin()
        try:
            for thread in self.threads:
                thread.start()
                started.append(thread)
        except BaseException:
            self._lifecycle.advance(EngineState.STOPPING)
            self.threads = started
            self.join(None)
            self.close()
            raise

    def join(self, seconds: float | None) -> bool:
        """Wait until all threads have ended. Returns False if one has not after `seconds`."""
        until = None if seconds is None else time.monotonic() + seconds
        for thread, end in zip(self.threads, self._ends, strict=False):
            if thread is threading.current_thread():  # a model may stop its own engine
                continue
            if not wait_in_slices(None if until is None else max(until - time.monotonic(), 0.0), end.wait):
                return False
            thread.join()
        return True

    def close(self) -> None:
        """Leave dead letters to other engines, after all threads have ended. A second call does nothing."""
        self._housekeeping.end()

    @property
    def are_running(self) -> bool:
        """Whether a thread has not ended."""
        return not all(end.is_set() for _, end in zip(self.threads, self._ends, strict=False))

    # -- One thread --------------------------------------------------------------------------------

    def _run(self, replica: Replica, end: threading.Event) -> None:
        try:
            self._serve(replica)
        except BaseException as error:
            self.failed = error
            _log.exception("ring %r: the thread that serves %s ends", self._ring.name, replica.device)
        finally:
            replica.waiting_since = None
            with self._lock:
                self._running -= 1
                is_last = self._running == 0
            try:
                if is_last:
                    self._end_service()
            finally:
                end.set()

    def _end_service(self) -> None:
        # Clients must not wait for an engine that has ended. But behind a stage, later stages still have the requests.
        try:
            if self._next_ring is None or self.failed:
                with contextlib.suppress(RingClosed):
                    self._registration.deregister()
        finally:
            self._lifecycle.end()

    def _serve(self, replica: Replica) -> None:
        replica.begin_wait()
        failures = 0
        while not self._lifecycle.must_stop and failures < _MOST_FAILURES:
            if replica.breaker.is_open and not self._may_try(replica):
                continue
            goes_on, failed = self._serve_once(replica)
            if not goes_on:
                return
            failures = failures + 1 if failed else 0
        if failures >= _MOST_FAILURES:
            raise RingFeedError(f"{failures} batches in a row could not be served; the log has the reasons.")

    def _serve_once(self, replica: Replica) -> tuple[bool, bool]:
        """Serve a batch. Returns whether the thread goes on, and whether the batch failed."""
        try:
            self._serve_batch(replica)
        except RingEmpty:
            return not self._lifecycle.is_draining, False
        except NextStageEnded as error:
            raise RingFeedError(f"the ring of the next stage takes no more: {error}") from None
        except (RingFinished, RingClosed, DeliveryStopped):
            return False, False
        except ProducerFailed as error:  # raised after the last record: every request has its answer
            self._record_failed_producer(error)
            return False, False
        except RepliesReplaced:
            raise
        except Exception:
            _log.exception("ring %r: a batch could not be served", self._ring.name)
            return True, True
        return True, False

    def _serve_batch(self, replica: Replica) -> None:
        """Take a batch, hold the reply cells of its requests, have the replica answer them and release the slots.

        A function of its own, so that no reference keeps a batch while the thread waits for the next one.
        """
        held = self._pool.hold(self._take(replica))
        try:
            for requests in held:
                replica.serve(requests)
        except DeliveryStopped:
            for requests in held:
                if not requests.batch.released:
                    requests.give_back()
                    requests.batch.release()
            raise
        finally:
            for requests in held:  # after an unexpected error no client may wait in vain
                requests.refuse_rest(_core.FAILED, "the engine failed before it came to the request")
        if not replica.breaker.is_open:
            self._registration.return_to_service()
        self._housekeeping.run_if_due()

    def _take(self, replica: Replica) -> _core.Batch:
        max_rows = 1 if replica.breaker.is_open else replica.memory_limit.next_rows
        try:
            return self._policy.take(self._ring, max_rows, self._ends_wait)
        except RingEmpty:
            if not self._lifecycle.is_draining:
                raise
            # Draining takes also the records that wait for a larger batch, or for a command.
            return self._ring.take_urgent(min(self._policy.batch_size, max_rows), timeout=0)

    def _ends_wait(self) -> bool:
        """Do the housekeeping while a replica waits; return whether it is to wait no more."""
        self._housekeeping.run_if_due()
        return self._lifecycle.state > EngineState.SERVING

    def _may_try(self, replica: Replica) -> bool:
        """Return whether a replica that fails every request may try one; otherwise leave them to others for a while."""
        others_work = any(not each.breaker.is_open for each in self._replicas) or self._registration.leave_to_others()
        seconds = replica.breaker.backoff_seconds
        if not others_work or seconds <= 0:
            return True
        if self._lifecycle.is_draining:
            return True  # other engines may end before they come to the requests that wait
        threading.Event().wait(min(seconds, _BACKOFF_SLICE_SECONDS))
        return False

    def _record_failed_producer(self, error: ProducerFailed) -> None:
        with self._lock:
            is_first, self.producer_failed = self.producer_failed is None, error
        if is_first:
            _log.error("%s", error)
