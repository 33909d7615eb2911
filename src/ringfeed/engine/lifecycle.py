"""The lifecycle of an engine: its one state, and the methods that start, drain and stop it.

It may not know what an engine is made of, nor how its threads serve.
"""

from __future__ import annotations

import abc
import contextlib
import enum
import logging
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from ..arguments import check_timeout
from ..client.reply_pool import ReplyPool
from ..errors import ProducerFailed, RingFeedError
from ..ring import Ring
from ..terminations import Terminations
from .registration import ServiceRegistration
from .replica import Replica
from .shutdown import INTERRUPT_SECONDS, end_process_with, exit_with_status, hung_error, stop_at_exit, stop_within

if TYPE_CHECKING:
    from typing_extensions import Self

_log = logging.getLogger("ringfeed.engine")


class EngineState(enum.IntEnum):
    """The state of an engine. It only grows: an engine never returns to an earlier state."""

    NEW = 0
    """Made, not started."""
    STARTING = 1
    """The model warms up."""
    SERVING = 2
    DRAINING = 3
    """Answers the requests that wait, then ends."""
    STOPPING = 4
    """Finishes the batches under way, then ends."""
    HUNG = 5
    """Was to stop, but the model has not returned in time."""
    ENDED = 6
    """All threads have ended; the replies are still open."""
    STOPPED = 7


class Lifecycle:
    """The current state of an engine. Its threads read it between batches, and while they wait for one.

    Attributes
    ----------
    state : EngineState
    terminations : Terminations or None
        Hears of the end, while `Engine.run` waits for it.
    """

    def __init__(self) -> None:
        self.state = EngineState.NEW
        self.terminations: Terminations | None = None
        self._lock = threading.RLock()  # a signal handler may stop the engine amid a change

    def advance(self, state: EngineState) -> None:
        """Enter a state, unless the engine is in a later one already."""
        with self._lock:
            self.state = max(self.state, state)

    def begin(self, ring_name: str) -> None:
        """Enter STARTING; RingFeedError if the engine was started or stopped before."""
        with self._lock:
            if self.state is not EngineState.NEW:
                raise RingFeedError(f"engine of ring {ring_name!r} was started or stopped before. Make a new one.")
            self.state = EngineState.STARTING

    def drain(self) -> None:
        """Enter DRAINING, if the engine was started."""
        with self._lock:
            if self.state is not EngineState.NEW:
                self.advance(EngineState.DRAINING)

    def stop(self) -> None:
        """Enter STOPPING; an engine that has no threads yet is STOPPED at once."""
        with self._lock:
            self.advance(EngineState.STOPPED if self.state <= EngineState.STARTING else EngineState.STOPPING)

    def end(self) -> None:
        """Enter ENDED; the last thread calls this."""
        self.advance(EngineState.ENDED)
        if self.terminations is not None:
            self.terminations.end()

    @property
    def is_draining(self) -> bool:
        """Whether threads end as soon as nothing waits."""
        return self.state is EngineState.DRAINING

    @property
    def must_stop(self) -> bool:
        """Whether threads end after the batch under way."""
        return self.state >= EngineState.STOPPING


class _Threads(Protocol):
    """The serving threads, as the lifecycle uses them; see `ServingThreads`."""

    threads: list[threading.Thread]
    failed: BaseException | None
    producer_failed: ProducerFailed | None

    def start(self) -> None: ...

    def join(self, seconds: float | None) -> bool: ...

    def close(self) -> None: ...

    @property
    def are_running(self) -> bool: ...


class EngineLifecycle(abc.ABC):
    """The part of `Engine` that starts and ends it.

    There are two ways to end: `drain` answers the requests that wait, `stop` only those under way. The end of `run`, of
    a ``with`` block and of the interpreter are one of these two with a time limit.
    """

    ring: Ring
    name: str
    _replicas: Sequence[Replica]
    _pool: ReplyPool | None = None
    _registration: ServiceRegistration | None = None
    _serving: _Threads | None = None

    def __init__(self) -> None:
        self._lifecycle = Lifecycle()
        self._pinned: list[Ring] = []

    # -- What an engine adds -----------------------------------------------------------------------

    @abc.abstractmethod
    def _open(self) -> _Threads:
        """Prepare everything; return the threads, not yet started."""

    @abc.abstractmethod
    def stats(self) -> Any:
        """Return what the engine did since it was started."""

    # -- The state -----------------------------------------------------------------------------------

    @property
    def state(self) -> EngineState:
        """Where the engine is in its life."""
        return self._lifecycle.state

    @property
    def running(self) -> bool:
        """Whether the engine serves, or is about to end."""
        return EngineState.SERVING <= self.state <= EngineState.HUNG

    @property
    def has_ended(self) -> bool:
        """Whether the engine was stopped, or has ended by itself."""
        return self.state >= EngineState.ENDED

    @property
    def _is_hung(self) -> bool:
        return self.state is EngineState.HUNG

    @property
    def _has_threads(self) -> bool:
        """Whether a thread has not ended: a model may still run."""
        return self._serving is not None and self._serving.are_running

    @property
    def _threads(self) -> list[threading.Thread]:
        return [] if self._serving is None else self._serving.threads

    @property
    def producer_failed(self) -> ProducerFailed | None:
        """The error that a producer of the ring raised, after all records before it were served."""
        return None if self._serving is None else self._serving.producer_failed

    # -- Starting ------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Warm the model up, and serve in the background.

        Returns
        -------
        Engine
            The engine itself.
        """
        self._lifecycle.begin(self.ring.name)
        try:
            self._serving = self._open()
            self._lifecycle.advance(EngineState.SERVING)
            self._serving.start()
        except BaseException:
            self._close()  # clients must not wait for this engine
            raise
        stop_at_exit(self)
        self._log_start()
        return self

    @abc.abstractmethod
    def _log_start(self) -> None: ...

    def run(self, *, grace_seconds: float = 20.0) -> None:
        """Serve in the foreground until the ring is finished or closed, or a signal ends the engine.

        On SIGTERM, which orchestrators send, the engine answers the requests that wait, then returns. This holds in the
        main thread of a program without a handler of its own for SIGTERM, also for process 1 of a container. A second
        SIGTERM ends the engine at once.

        Parameters
        ----------
        grace_seconds : float
            Seconds that answering the waiting requests may take after SIGTERM. Give less than the orchestrator waits
            until SIGKILL (in Kubernetes ``terminationGracePeriodSeconds``, 30 by default).

        Raises
        ------
        KeyboardInterrupt
            After the batch under way was answered, or five seconds.
        SystemExit
            With status 143: SIGTERM came before the engine served, or came twice, or `grace_seconds` did not suffice.
        ProducerFailed
            A producer of the ring raised (`Ring.producing`), and every record before that was served.
        RingFeedError
            The engine cannot serve any more; the message says why.
        """
        grace = check_timeout(grace_seconds, "grace_seconds")
        with Terminations() as terminations:
            self._lifecycle.terminations = terminations
            self.start()
            last_seconds, drained = min(INTERRUPT_SECONDS, grace), True
            try:
                if terminations.wait():
                    last_seconds = 0.0
                    _log.warning("ring %r: SIGTERM: answering what waits, up to %g s", self.ring.name, grace)
                    drained = self._answer_waiting(grace)
            except BaseException as error:
                terminations.is_repeated = False
                stop_within(self, last_seconds)
                end_process_with(self, error)
                raise
            if not drained:
                stop_within(self, 0.0)
                exit_with_status(self)
            self.stop()
        assert self._serving is not None
        if (failed := self._serving.failed) is not None:
            raise RingFeedError(f"ring {self.ring.name!r}: the engine ended: {failed}") from failed
        if (producer_failed := self.producer_failed) is not None:
            raise producer_failed

    # -- Ending --------------------------------------------------------------------------------------

    def wait(self, *, timeout: float | None = None) -> bool:
        """Wait until the engine has ended: the ring was finished, or the engine was drained or stopped.

        Returns
        -------
        bool
            False if it has not ended within `timeout` seconds.
        """
        return self._serving is None or self._serving.join(timeout)

    def drain(self, *, timeout: float | None = None) -> bool:
        """Answer the requests that wait in the ring, then stop.

        The engine ends when no request waits: clients that go on asking keep it at work. `Ring.finish` refuses their
        requests.

        Returns
        -------
        bool
            False if requests still wait after `timeout` seconds; the engine goes on draining.
        """
        drained = self._answer_waiting(timeout)
        if drained:
            self.stop()
        return drained

    def _answer_waiting(self, timeout: float | None) -> bool:
        """Answer the requests that wait, then end the threads, but leave the replies open: later stages need them."""
        self._lifecycle.drain()
        return self.wait(timeout=timeout)

    def stop(self, *, timeout: float | None = None) -> None:
        """Answer the batches under way, then stop. A second call does nothing.

        Requests that wait in the ring are left to other engines. If there is none, clients get `EngineDied` within
        100 ms.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait for the batches under way.

        Raises
        ------
        EngineHung
            A model has not returned in time. Clients are told nevertheless that the engine serves no more.
        """
        until = check_timeout(timeout, "timeout")
        self._lifecycle.stop()
        if self._serving is not None and not self._serving.join(None if timeout is None else until):
            self._lifecycle.advance(EngineState.HUNG)
            with contextlib.suppress(RingFeedError):
                if self._registration is not None:
                    self._registration.deregister()
            raise hung_error(self.ring.name, self.name, self._replicas, until)
        was_open = self._pool is not None and not self._pool.cells.closed
        self._close()
        if was_open:
            _log.info("ring %r: stopped: %s", self.ring.name, self.stats().advice)

    def _close(self) -> None:
        """Release everything that `_open` made; threads have ended, or were never started."""
        self._lifecycle.advance(EngineState.STOPPED)
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
        if isinstance(error, KeyboardInterrupt):  # one Ctrl-C is enough, even if the model hangs
            stop_within(self, INTERRUPT_SECONDS)
        else:
            self.stop()
