"""The life of an engine once it serves: in the foreground or the background, drained, stopped, hung.

It may not know what an engine is made of, nor how it serves.
"""

from __future__ import annotations

import abc
import contextlib
import logging
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..arguments import check_timeout
from ..client.reply_pool import ReplyPool
from ..errors import ProducerFailed, RingFeedError
from ..ring import Ring
from ..terminations import Terminations
from .replica import Replica
from .serving_threads import Orders, ServingThreads
from .shutdown import INTERRUPT_SECONDS, ends_the_process, leave_with_status, stop_quietly, where_it_hangs

if TYPE_CHECKING:
    from typing_extensions import Self

_log = logging.getLogger("ringfeed.engine")


class EngineLife(abc.ABC):
    """What `Engine` is while it lives; it sets these attributes itself."""

    ring: Ring
    name: str
    is_hung = False
    _orders: Orders
    _serving: ServingThreads | None = None
    _terminations: Terminations | None = None
    _pool: ReplyPool | None = None
    _pinned: list[Ring]
    _replicas: Sequence[Replica]

    @abc.abstractmethod
    def start(self) -> Self:
        """Warm the model up, and serve in the background."""

    @abc.abstractmethod
    def stats(self) -> Any:
        """Return what it did since it was started."""

    @property
    def running(self) -> bool:
        """Whether it takes batches."""
        return self._serving is not None and self._serving.are_running

    @property
    def is_over(self) -> bool:
        """Whether it was stopped, or has ended by itself."""
        return not self.running and (self._serving is not None or self._orders.stopping)

    @property
    def _threads(self) -> list[threading.Thread]:
        return [] if self._serving is None else self._serving.threads

    def run(self, *, grace_seconds: float = 20.0) -> None:
        """Serve in the foreground, until the ring is finished or closed, or a signal ends it.

        On SIGTERM, as an orchestrator sends it, what waits in the ring is answered, then it returns. That is so in the
        main thread of a program that has no handler of its own for it, also as process 1 of a container. The second one
        ends it at once.

        Parameters
        ----------
        grace_seconds : float
            So long answering what waits may take behind SIGTERM. Give less than the orchestrator waits with SIGKILL (in
            Kubernetes ``terminationGracePeriodSeconds``, 30 by default).

        Raises
        ------
        KeyboardInterrupt
            After the batch under way was answered, or five seconds.
        SystemExit
            With status 143: SIGTERM came, and `grace_seconds` did not suffice, or it came again, or before it served.
        ProducerFailed
            A producer of the ring raised (`Ring.producing`), and everything before that was served.
        RingFeedError
            It can not serve any more; the message says why.
        """
        grace = check_timeout(grace_seconds, "grace_seconds")
        with Terminations() as self._terminations:
            self.start()
            last_seconds, drained = min(INTERRUPT_SECONDS, grace), True
            try:
                if self._terminations.wait():
                    last_seconds = 0.0
                    _log.warning("ring %r: SIGTERM: answering what waits, up to %g s", self.ring.name, grace)
                    drained = self.finish_serving(timeout=grace)
            except BaseException as error:
                stop_quietly(self, last_seconds)
                ends_the_process(self, error)
                raise
            if not drained:
                stop_quietly(self, 0.0)
                raise leave_with_status(self)
            self.stop()
        assert self._serving is not None
        if (failed := self._serving.failed) is not None:
            raise RingFeedError(f"ring {self.ring.name!r}: the engine ended: {failed}") from failed
        if (producer_failed := self.producer_failed) is not None:
            raise producer_failed

    @property
    def producer_failed(self) -> ProducerFailed | None:
        """What a producer of the ring raised, where one did and everything before that was served."""
        return None if self._serving is None else self._serving.producer_failed

    def wait(self, *, timeout: float | None = None) -> bool:
        """Wait until it serves no more: because the ring was finished, or it was drained or stopped.

        Returns
        -------
        bool
            False when `timeout` seconds were over before.
        """
        return self._serving is None or self._serving.join(timeout)

    def drain(self, *, timeout: float | None = None) -> bool:
        """Answer what waits in the ring, then stop.

        It ends when nothing waits: clients that go on asking keep it at work. `Ring.finish` ends those, too.

        Returns
        -------
        bool
            False when `timeout` seconds were over before; it goes on draining.
        """
        drained = self.finish_serving(timeout=timeout)
        if drained:
            self.stop()
        return drained

    def finish_serving(self, *, timeout: float | None = None) -> bool:
        """Answer what waits in the ring, and take no more; of a stage: the stages behind may still be at it.

        Returns
        -------
        bool
            False when `timeout` seconds were over before; it goes on.
        """
        self._orders.draining = True
        return self.wait(timeout=timeout)

    def stop(self, *, timeout: float | None = None) -> None:
        """Answer the batches under way, then stop. Doing it twice does no harm.

        What waits in the ring is left to other engines. Where there is none, clients get `EngineDied` within 100 ms.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait for the batches under way.

        Raises
        ------
        EngineHung
            They were over before: a model has not returned. Clients are told all the same that it serves no more.
        """
        until = check_timeout(timeout, "timeout")
        self._orders.stopping = True
        if self._serving is not None and not self._serving.join(None if timeout is None else until):
            self.is_hung = True
            with contextlib.suppress(RingFeedError):
                if self._pool is not None:
                    self._pool.serve(None)
            raise where_it_hangs(self.ring.name, self.name, self._replicas, until)
        self.is_hung = False
        if self._pool is not None and not self._pool.cells.closed:
            self._close()
            _log.info("ring %r: stopped: %s", self.ring.name, self.stats().advice)

    def _close(self) -> None:
        self._orders.stopping = True
        if self._serving is not None:
            self._serving.close()
        if self._pool is not None and not self._pool.cells.closed:
            self._pool.serve(None)
            self._pool.close()
        for level in self._pinned:
            level.unpin()
        self._pinned.clear()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, KeyboardInterrupt):  # one is enough, whatever the model does
            stop_quietly(self, INTERRUPT_SECONDS)
        else:
            self.stop()
