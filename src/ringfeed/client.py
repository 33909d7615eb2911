"""The client: requests into a ring, answers out of its reply cells.

It may not know TensorFlow, nor what the engine does with a request, nor how one is put (session.py). A thread that
waits for one answer sleeps at its cell; answers to futures and coroutines are collected by one thread for all
(collector.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Any

from ._core import Reply
from .answers import answer_of
from .collector import Pending
from .errors import DeadlineExceeded, EngineDied, RingClosed, RingFeedError, RingFull
from .replies import ReplyPool
from .ring import Ring
from .session import Session

_FOREVER_NS = 2**63 - 1


class Client:
    """Asks the engines that serve a ring, from any process, thread or event loop.

    Parameters
    ----------
    ring : str or Ring
        The ring's name, or the ring itself.
    timeout : float, optional
        Seconds to wait until the ring and its engine are there; None waits for ever.
    max_in_flight : int
        Most futures and coroutines of this client under way at a time; `submit` then waits. (All clients of a ring
        together have as many requests under way as its engine has `reply_cells`.)
    if_engine_dies : "fail" or "wait"
        What to do when no engine lives any more: raise `EngineDied`, within 100 ms, or wait until one serves the ring
        again and answers.
    copy : bool
        Whether answers are arrays of their own memory, or views of the reply cells. A view keeps its cell until it is
        gone, and cells are few. Answers to rows are always of their own memory.

    Raises
    ------
    RingNotFound
        There is no ring of that name, or no engine has served it yet.

    Examples
    --------
    >>> with ringfeed.Client("cams") as client:
    ...     scores = client.predict({"image": pixels}, timeout=1.0)
    """

    def __init__(
        self,
        ring: str | Ring,
        *,
        timeout: float | None = 10.0,
        max_in_flight: int = 256,
        if_engine_dies: str = "fail",
        copy: bool = True,
    ) -> None:
        if if_engine_dies not in ("fail", "wait"):
            raise ValueError(f'if_engine_dies={if_engine_dies!r}: give "fail" or "wait".')
        if not isinstance(max_in_flight, int) or max_in_flight < 1:
            kind = ValueError if isinstance(max_in_flight, int) else TypeError
            raise kind(f"max_in_flight={max_in_flight!r}: give a whole number of at least 1.")
        if not isinstance(ring, (str, Ring)):
            raise TypeError(f"ring {ring!r:.80}: give a ring's name, or a ringfeed.Ring.")
        self.name = ring if isinstance(ring, str) else ring.name
        self._patient = if_engine_dies == "wait"
        self._copy = copy
        self._max_in_flight = max_in_flight
        self._owns_ring = isinstance(ring, str)
        self._closed = False
        until = _until_ns(timeout)
        opened = Ring.attach(ring, timeout=timeout) if isinstance(ring, str) else ring
        try:
            left = max(until - time.monotonic_ns(), 0) / 1e9
            self._session = Session(opened, ReplyPool.wait_for(opened, left), self._patient)
        except BaseException:
            if self._owns_ring:
                opened.close()
            raise
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._in_flight = threading.BoundedSemaphore(self._max_in_flight)

    # -- asking ------------------------------------------------------------------------------------

    def predict(
        self,
        inputs: Any,
        *,
        timeout: float | None = None,
        priority: int = 0,
        tag: int = 0,
        copy: bool | None = None,
    ) -> Any:
        """Ask, and wait for the answer.

        Parameters
        ----------
        inputs : dict of str to array_like, or array_like
            One sample per field of the ring, of its shape and dtype; or arrays with a leading axis, rows of them, each
            of which is a request of its own. Of a ring with one field, that field alone will do.
        timeout : float, optional
            Seconds until the answer is of no use any more: the model then does not begin with it. None is for ever.
        priority : int
            0 is taken first; less than the ring's `priorities`.
        tag : int
            64 bits that travel with the request.
        copy : bool, optional
            As for `Client`.

        Returns
        -------
        numpy.ndarray, or dict of str to numpy.ndarray
            What the model returns for the sample, without the axis of rows (with rows: with it). A dict, by the names
            that the model gives its outputs, unless it returns one tensor alone.

        Raises
        ------
        RecordMismatch
            The inputs do not fit the ring; nothing was asked.
        ModelError
            The model raised over this very request; the message carries its text.
        DeadlineExceeded
            There was no answer within `timeout`.
        EngineDied
            No engine lives that could answer.
        RingFull
            No slot or reply cell became free within `timeout`; or `max_queue_size` requests wait, and the engine
            rejects more.
        RingClosed, RingFinished
            The ring takes no more requests.
        """
        session, until = self._open_session(), _until_ns(timeout)
        record, rows = session.record_of(inputs)
        if rows is not None:
            return self._result_of_rows(session, record, rows, until, timeout, priority, tag)
        with self._noting_deaths(session):
            reply = session.ask(record, priority, tag, until, timeout, told=False)
            try:
                if not reply.wait(until, self._patient):
                    raise _too_late(reply)
                return answer_of(reply, copy=self._copy if copy is None else copy)
            finally:
                reply.withdraw()  # also where an error keeps this frame

    def submit(
        self,
        inputs: Any,
        *,
        timeout: float | None = None,
        priority: int = 0,
        tag: int = 0,
        copy: bool | None = None,
    ) -> Future[Any]:
        """Ask, and return a future of the answer.

        Waits only while `max_in_flight` are under way or the ring is full. Cancelling the future withdraws the
        request: a model that has not begun with it never sees it.

        Parameters
        ----------
        inputs, timeout, priority, tag, copy
            As for `predict`.

        Returns
        -------
        concurrent.futures.Future
            Its result or exception is what `predict` returns or raises.

        Raises
        ------
        RecordMismatch, RingFull, RingClosed, RingFinished
            As for `predict`, where nothing could be asked.
        """
        session, until = self._open_session(), _until_ns(timeout)
        record, rows = session.record_of(inputs)
        return self._submit(session, record, rows, until, timeout, priority, tag, copy)

    async def apredict(
        self,
        inputs: Any,
        *,
        timeout: float | None = None,
        priority: int = 0,
        tag: int = 0,
        copy: bool | None = None,
    ) -> Any:
        """Ask, and await the answer; cancelling the task withdraws the request.

        Parameters, result and errors are those of `predict`. The event loop is never blocked: where asking itself has
        to wait, a thread does that.
        """
        session, until = self._open_session(), _until_ns(timeout)
        record, rows = session.record_of(inputs)
        try:
            if rows is not None:
                raise RingFull  # rows may have to wait half way
            future = self._submit(session, record, None, until, 0.0, priority, tag, copy)
        except RingFull:
            if rows is None and (timeout == 0 or session.pool.settings.rejects):
                raise
            asked = session, record, rows, until, timeout, priority, tag, copy
            future = await _in_thread(self._submit, *asked)
        return await _result_of(future)

    def _submit(
        self,
        session: Session,
        record: Any,
        rows: int | None,
        until: int,
        timeout: float | None,
        priority: int,
        tag: int,
        copy: bool | None,
    ) -> Future[Any]:
        in_flight = self._in_flight
        # In a callback this is the thread that would have to make room.
        if not in_flight.acquire(timeout=0 if session.collector.is_calling else timeout):
            raise RingFull(
                f"ring {self.name!r}: {self._max_in_flight} requests of this client are under way, and max_in_flight "
                "is no more. Wait for some (not in a future's callback), or raise it."
            )
        pending = Pending(rows, until, self._copy if copy is None else copy)
        pending.future.add_done_callback(lambda _: in_flight.release())
        pending.future.add_done_callback(lambda future: _note_death(session, future))
        try:
            if rows is None:
                come = pending.add(0, session.ask(record, priority, tag, until, timeout, told=True))
                session.collector.follow(pending)
                if come:
                    session.collector.wake()
                return pending.future
            session.collector.follow(pending)  # from now on: cells that are answered are emptied for those that wait
            start = 0
            while start < rows and not pending.future.done():
                reply = session.ask_rows(record, start, rows, priority, tag, until, timeout)
                start += reply.rows
                if pending.add(start - reply.rows, reply):
                    session.collector.wake()
        except BaseException as error:
            pending.fail(error)
            raise
        return pending.future

    def _result_of_rows(
        self, session: Session, record: Any, rows: int, until: int, timeout: float | None, priority: int, tag: int
    ) -> Any:
        if session.collector.is_calling:
            raise RingFeedError(
                f"ring {self.name!r}: predict of rows in a future's callback would wait for the thread that it is in. "
                "Use submit there."
            )
        future = self._submit(session, record, rows, until, timeout, priority, tag, True)
        try:
            return future.result()
        finally:
            future.cancel()

    # -- what it asks in ---------------------------------------------------------------------------

    def _open_session(self) -> Session:
        if self._closed:
            raise RingClosed(f"ring {self.name!r}: this client was closed. Make a new one.")
        if self._process != os.getpid():
            self._begin()
            self._session.renew_collector()
        session = self._session
        if not session.in_doubt and not session.ring.closed:
            return session
        new = None
        with self._lock:
            if self._session is session and (new := session.successor(self._owns_ring)) is not None:
                self._session = new
            self._session.in_doubt = False
            current = self._session
        if new is not None:  # not under the lock: it waits for a thread that may be on its way here
            session.end(EngineDied(f"ring {self.name!r}: its engine died, and another one began anew. Ask again."))
        return current

    @contextlib.contextmanager
    def _noting_deaths(self, session: Session) -> Iterator[None]:
        try:
            yield
        except EngineDied:
            session.in_doubt = True
            raise

    # -- its end -----------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the client; what is under way fails with `RingClosed`. Closing it twice does no harm."""
        if self._closed:
            return
        self._closed = True
        if self._process == os.getpid():
            self._session.end(RingClosed(f"ring {self.name!r}: this client was closed. Make a new one."))
        self._session.close(self._owns_ring)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{'closed ' if self._closed else ''}Client of ring {self.name!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(f"a Client stays in its process: make one there, ringfeed.Client({self.name!r}).")


async def _in_thread(ask: Callable[..., Future[Any]], *arguments: Any) -> Future[Any]:
    """Ask in a thread. Who is cancelled meanwhile wants no answer."""
    asking = asyncio.get_running_loop().run_in_executor(None, ask, *arguments)
    try:
        return await asyncio.shield(asking)
    except asyncio.CancelledError:
        asking.add_done_callback(lambda asked: asked.cancelled() or asked.exception() or asked.result().cancel())
        raise


async def _result_of(future: Future[Any]) -> Any:
    """Await a future. Nothing but the caller keeps its result, which may be a view; `asyncio.wrap_future` would."""
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not waiter.done():
            waiter.set_result(None)

    def tell(_: Future[Any]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed
            loop.call_soon_threadsafe(wake)

    future.add_done_callback(tell)
    try:
        await waiter
    except asyncio.CancelledError:
        future.cancel()
        raise
    return future.result()


def _note_death(session: Session, future: Future[Any]) -> None:
    if not future.cancelled() and isinstance(future.exception(), EngineDied):
        session.in_doubt = True


def _until_ns(timeout: float | None) -> int:
    if timeout is None:
        return _FOREVER_NS
    if not timeout >= 0:
        raise ValueError(f"timeout {timeout!r}: give seconds, 0 or more, or None to wait for ever.")
    return min(time.monotonic_ns() + int(timeout * 1e9), _FOREVER_NS) if timeout < 9e9 else _FOREVER_NS


def _too_late(reply: Reply) -> DeadlineExceeded:
    began = "had begun with the request" if reply.started() else "had not begun with the request"
    return DeadlineExceeded(
        f"ring {reply.ring.name!r}: no answer within the timeout; the model {began}. Wait longer, send less, or add "
        "engines."
    )
