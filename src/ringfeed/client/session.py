"""The ring and the reply cells that a client has open, and the requests that it makes in them.

It may not know which form of the inputs a user gives (inputs.py), nor futures. A session never changes: after the ring
or its cells were replaced, the client opens another session.
"""

from __future__ import annotations

import math
import os
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import numpy.typing as npt

from .._core import Reply
from ..arguments import check_int
from ..errors import EngineDied, RingClosed, RingFull, RingNotFound
from ..ring import Ring
from .collector import Collector
from .reply_pool import ReplyPool
from .request import RequestOptions
from .results import RowsAnswer, answer_of, deadline_exceeded

_LIVENESS_SECONDS = 0.05
"""How often a request that waits for room checks whether an engine is alive."""

_Object = TypeVar("_Object")


class Session:
    """A ring and its reply cells, open for requests.

    Parameters
    ----------
    ring : Ring
    pool : ReplyPool
    wait_for_engine : bool
        Keep waiting while no engine is alive.

    Attributes
    ----------
    ring, pool
    is_suspect : bool
        An engine died: the next request checks first whether the ring or its cells were replaced.
    """

    def __init__(self, ring: Ring, pool: ReplyPool, wait_for_engine: bool) -> None:
        self.ring = ring
        self.pool = pool
        self.is_suspect = False
        self._wait_for_engine = wait_for_engine
        self._collectors: dict[int, Collector] = {}

    @property
    def collector(self) -> Collector:
        """The collector of this process: a forked child has none of its parent's threads and requests."""
        return of_this_process(self._collectors, lambda: Collector(self.pool, self._wait_for_engine))

    # -- requests of the caller's thread -----------------------------------------------------------

    def predict(self, record: Any, options: RequestOptions, copy: bool) -> Any:
        """Request one record and wait for its answer in this thread, which sleeps at the reply cell."""
        reply = None
        try:
            reply = self.send(record, options, options.timeout, notify=False)
            if not reply.wait(options.deadline_ns, self._wait_for_engine):
                raise deadline_exceeded(reply)
            return answer_of(reply, copy=copy)
        except EngineDied:
            self.is_suspect = True
            raise
        finally:
            if reply is not None:
                reply.withdraw()  # explicitly: an error that a caller keeps would keep this frame and the cell

    def predict_rows(self, arrays: list[npt.NDArray[Any]], rows: int, options: RequestOptions) -> Any:
        """Request rows and wait for their answers in this thread; return arrays of shape (rows, *shape)."""
        answer, under_way, sent = RowsAnswer(rows), deque[tuple[int, Reply]](), 0
        try:
            while sent < rows or under_way:
                if sent < rows:
                    try:  # answers that are under way make room, so do not wait for it
                        wait = 0.0 if under_way else options.timeout
                        reply = self.send_rows(arrays, sent, rows, options, wait, notify=False)
                        under_way.append((sent, reply))
                        sent += reply.rows
                        continue
                    except RingFull:
                        if not under_way:
                            raise
                first, reply = under_way[0]
                if not reply.wait(options.deadline_ns, self._wait_for_engine):
                    raise deadline_exceeded(reply)
                answer.store(first, reply)
                reply.withdraw()
                under_way.popleft()
        except EngineDied:
            self.is_suspect = True
            raise
        finally:
            for _, reply in under_way:
                reply.withdraw()
        return answer.arrays

    # -- sending -----------------------------------------------------------------------------------

    def send(self, record: Any, options: RequestOptions, timeout: float | None, *, notify: bool) -> Reply:
        """Put the request for one record into the ring.

        Parameters
        ----------
        record : mapping of str to array_like
        options : RequestOptions
        timeout : float or None
            Seconds to wait for room.
        notify : bool
            Whether the answer wakes the client's collector. Otherwise a thread waits at the cell.
        """
        ring = self._level(options.priority)
        rejects = self.pool.settings.rejects
        self._wait_for_room(ring, options.seconds_left(timeout), rejects)
        wait = 0.0 if rejects else options.seconds_left(timeout)
        return self.pool.ask(ring, record, options.tag, options.deadline_ns, wait, notify, self._wait_for_engine)

    def send_rows(
        self,
        arrays: list[npt.NDArray[Any]],
        start: int,
        stop: int,
        options: RequestOptions,
        timeout: float | None,
        *,
        notify: bool,
    ) -> Reply:
        """Put requests for the rows from `start` on into the ring: as many as there is room for, and at least one."""
        ring = self._level(options.priority)
        # The rows of one call are rejected together or not at all, so only the first are checked.
        rejects = self.pool.settings.rejects and start == 0
        room = self._wait_for_room(ring, options.seconds_left(timeout), rejects)
        most = max(min(ring.slots // 2, self.pool.cells.slots // 4, room), 1)
        stop = min(stop, start + most)
        wait = 0.0 if rejects else options.seconds_left(timeout)
        return self.pool.ask_rows(
            ring, arrays, start, stop, options.tag, options.deadline_ns, wait, notify, self._wait_for_engine
        )

    def _level(self, priority: int) -> Ring:
        levels = self.ring.levels
        if type(priority) is not int or not 0 <= priority < len(levels):  # called for each request
            advice = "Create the ring with more priorities to have more."
            priority = check_int(priority, f"ring {self.ring.name!r}: priority", 0, len(levels) - 1, advice=advice)
        return levels[priority]

    def _wait_for_room(self, ring: Ring, timeout: float | None, rejects: bool) -> int:
        """Wait until fewer than `max_queue_size` requests are queued; return for how many there is room.

        Clients that send at the same moment can exceed the limit by their number.
        """
        limit = self.pool.settings.max_queue_size
        if not limit:
            return ring.slots
        now = checked = time.monotonic()
        deadline = math.inf if timeout is None else now + timeout
        while (queued := ring.ready) >= limit:
            if rejects or now >= deadline:
                raise RingFull(
                    f"ring {ring.name!r}: {queued} requests wait, and max_queue_size is {limit}; the model is slower "
                    "than its clients. Ask again later, or add engines.",
                    resource="max_queue_size",
                )
            if now - checked >= _LIVENESS_SECONDS:
                checked = now
                ring.recover()
                self.check_engine()
            key = self.pool.prepare_for_room()
            if ring.ready >= limit:
                self.pool.sleep_for_room(key, min(deadline - now, _LIVENESS_SECONDS))
            now = time.monotonic()
        return limit - queued

    # -- the engine's life -------------------------------------------------------------------------

    def check_engine(self) -> None:
        """Raise `EngineDied` if no engine is alive that would make room."""
        if self.pool.no_engine_left(self._wait_for_engine):
            raise EngineDied(
                f"ring {self.ring.name!r}: there is no room for the request, and no engine is alive to make some. "
                "Start one and ask again, or make the client with if_engine_dies='wait'."
            )

    def suspect_if_engine_dies(self, future: Future[Any]) -> None:
        """Set `is_suspect` if the future ends with `EngineDied`. The future does not keep this session alive."""
        reference = weakref.ref(self)

        def check(done: Future[Any]) -> None:
            session = reference()
            if session is not None and not done.cancelled() and isinstance(done.exception(), EngineDied):
                session.is_suspect = True

        future.add_done_callback(check)

    # -- replacement and end -----------------------------------------------------------------------

    def successor(self, reopen: bool) -> Session | None:
        """Return a session on the ring and the cells that replaced those of this session; None if none did.

        Parameters
        ----------
        reopen : bool
            If the ring was closed, attach to the ring that a process created in its place.
        """
        ring = self.ring
        if reopen and self.pool.ring_is_gone():
            try:
                ring = Ring.attach(self.ring.name, group=self.ring.group)
            except (RingNotFound, RingClosed):
                return None
        elif self.pool.is_current():
            return None
        pool = ReplyPool.join(ring)
        if pool is None or ring.spec != self.ring.spec or len(ring.levels) != len(self.ring.levels):
            if ring is not self.ring:
                ring.close()
            return None
        return Session(ring, pool, self._wait_for_engine)

    def end(self, reason: BaseException) -> None:
        """Fail the futures that are pending. A thread that waits for its own answer notices the end by itself."""
        collector = self._collectors.get(os.getpid())
        if collector is not None:
            collector.stop(reason)

    def close(self, with_ring: bool) -> None:
        """Close the reply cells, and the ring if `with_ring`."""
        self.pool.close()
        if with_ring:
            self.ring.close()


def of_this_process(objects: dict[int, _Object], make: Callable[[], _Object]) -> _Object:
    """Return this process's object. Concurrent threads get the same object, and no thread waits for another."""
    pid = os.getpid()
    found = objects.get(pid)
    if found is None:
        found = objects.setdefault(pid, make())  # one operation
        for other in list(objects):
            if other != pid:
                objects.pop(other, None)
    return found
