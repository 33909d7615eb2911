"""The client: requests into a ring, answers out of its reply cells.

It may not know TensorFlow, nor what the engine does with a request, nor how one is put (session.py). A thread that
waits for one answer sleeps at its cell; answers to futures and coroutines are collected by one thread for all
(collector.py).
"""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import Future
from types import TracebackType
from typing import Any

from ..arguments import check_bool, check_choice, check_int, check_timeout
from ..errors import EngineDied, RingClosed, RingFeedError, RingFull
from ..ring import Ring
from .awaiting import result_of
from .own_thread import ThreadRefused
from .pending import FOREVER_NS
from .reply_pool import ReplyPool
from .results import answer_of, too_late
from .session import Session, of_process
from .submission import Asker, Asking, InFlight


class _State:
    """What a client has in one process; a forked child begins with nothing under way."""

    def __init__(self, name: str, max_in_flight: int) -> None:
        self.in_flight = InFlight(max_in_flight)
        self.lock = threading.RLock()  # a signal handler may ask while its holder is interrupted
        self.askers: dict[int, Asker] = {}  # of each priority: what is urgent waits for nobody else's room
        self._name = name

    def asker(self, priority: int) -> Asker:
        return self.askers.get(priority) or self.askers.setdefault(priority, Asker(self._name))


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
    group : str or int, optional
        Of a ring that is given by name: the group with which it is shared, as for `Ring.attach`.

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
        group: str | int | None = None,
    ) -> None:
        check_choice(if_engine_dies, "if_engine_dies", ("fail", "wait"))
        most = check_int(max_in_flight, "max_in_flight", 1)
        if not isinstance(ring, (str, Ring)):
            raise TypeError(f"ring {ring!r:.80}: give a ring's name, or a ringfeed.Ring.")
        self.name = ring if isinstance(ring, str) else ring.name
        self._patient = if_engine_dies == "wait"
        self._copy = check_bool(copy, "copy")
        self._max_in_flight = most
        self._owns_ring = isinstance(ring, str)
        self._closed = False
        timeout, until = _time_for(timeout)
        opened = Ring.attach(ring, timeout=timeout, group=group) if isinstance(ring, str) else ring
        try:
            left = max(until - time.monotonic_ns(), 0) / 1e9
            self._session = Session(opened, ReplyPool.wait_for(opened, left), self._patient)
        except BaseException:
            if self._owns_ring:
                opened.close()
            raise
        self._states: dict[int, _State] = {}

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
            of which is a request of its own. Of a ring with one field, that field alone will do. Lists are one sample:
            for rows in lists, as JSON has them, there is `predict_rows`.
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
        (timeout, until), session = _time_for(timeout), self._open_session()
        record, rows = session.record_of(inputs)
        if rows is not None:
            return self._result_of_rows(session, record, rows, until, timeout, priority, tag)
        reply = None
        try:
            reply = session.ask(record, priority, tag, until, timeout, told=False)
            if not reply.wait(until, self._patient):
                raise too_late(reply)
            return answer_of(reply, copy=self._copy if copy is None else copy)
        except EngineDied:
            session.in_doubt = True
            raise
        finally:
            if reply is not None:
                reply.withdraw()  # also where an error keeps this frame

    def predict_rows(self, inputs: Any, *, timeout: float | None = None, priority: int = 0, tag: int = 0) -> Any:
        """Ask for rows, and wait for their answers. What is a row is never guessed: the first axis, even of one row.

        Parameters
        ----------
        inputs : dict of str to array_like, sequence of dict, or array_like
            Rows of each field, as arrays or lists: of shape (rows, *shape) and the field's dtype, in either byte order;
            or for each row a dict of its fields. Of a ring with one field, its rows alone will do. Numbers of Python's
            are taken where they stay what they are, as by `Ring.put`. Each row is a request of its own.
        timeout, priority, tag
            As for `predict`.

        Returns
        -------
        numpy.ndarray, or dict of str to numpy.ndarray
            As of `predict`, of shape (rows, *shape) and of their own memory.

        Raises
        ------
        RecordMismatch
            The inputs are no rows of the ring's record, or none; nothing was asked.
        ModelError, DeadlineExceeded, EngineDied, RingFull, RingClosed, RingFinished
            As for `predict`, of the first row that has no answer.
        """
        (timeout, until), session = _time_for(timeout), self._open_session()
        arrays, rows = session.rows_of(inputs)
        return self._result_of_rows(session, arrays, rows, until, timeout, priority, tag)

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
        (timeout, until), session = _time_for(timeout), self._open_session()
        record, rows = session.record_of(inputs)
        return self._asking(session, record, rows, until, timeout, priority, tag, copy).ask_all()

    def submit_rows(self, inputs: Any, *, timeout: float | None = None, priority: int = 0, tag: int = 0) -> Future[Any]:
        """Ask for rows, and return a future of their answers: `submit` with the arguments of `predict_rows`."""
        (timeout, until), session = _time_for(timeout), self._open_session()
        arrays, rows = session.rows_of(inputs)
        return self._asking(session, arrays, rows, until, timeout, priority, tag, True).ask_all()

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
        (timeout, until), session = _time_for(timeout), self._open_session()
        record, rows = session.record_of(inputs)
        asking = self._asking(session, record, rows, until, timeout, priority, tag, copy)
        if rows is not None:
            return await self._await_room(asking, priority)
        try:
            asking.step(0.0)
        except RingFull as error:
            if timeout == 0 or asking.is_rejected_when_full:
                asking.end(error)
                raise
            return await self._await_room(asking, priority)
        except BaseException as error:
            asking.end(error)
            raise
        return await result_of(asking.future)

    async def apredict_rows(self, inputs: Any, *, timeout: float | None = None, priority: int = 0, tag: int = 0) -> Any:
        """Ask for rows, and await their answers: `apredict` with the arguments of `predict_rows`."""
        (timeout, until), session = _time_for(timeout), self._open_session()
        arrays, rows = session.rows_of(inputs)
        asking = self._asking(session, arrays, rows, until, timeout, priority, tag, True)
        return await self._await_room(asking, priority)

    async def _await_room(self, asking: Asking, priority: int) -> Any:
        """Let a thread of the client's own ask: it may have to wait for room, of rows also half way."""
        try:
            self._state.asker(priority).add(asking)
        except BaseException as error:
            asking.end(error)
            raise
        return await result_of(asking.future)

    def _asking(
        self,
        session: Session,
        record: Any,
        rows: int | None,
        until: int,
        timeout: float | None,
        priority: int,
        tag: int,
        copy: bool | None,
    ) -> Asking:
        copies = self._copy if copy is None else copy
        asking = Asking(session, self._state.in_flight, record, rows, priority, tag, until, timeout, copies)
        session.doubt_if_it_dies(asking.future)
        return asking

    def _result_of_rows(
        self, session: Session, record: Any, rows: int, until: int, timeout: float | None, priority: int, tag: int
    ) -> Any:
        if session.collector.is_calling:
            raise RingFeedError(
                f"ring {self.name!r}: predict of rows in a future's callback would wait for the thread that it is in. "
                "Use submit there."
            )
        try:
            future = self._asking(session, record, rows, until, timeout, priority, tag, True).ask_all()
        except ThreadRefused:  # nothing was asked yet
            try:
                return session.answers_to_rows(record, rows, priority, tag, until, timeout)
            except EngineDied:
                session.in_doubt = True
                raise
        try:
            return future.result_for_good()
        finally:
            future.cancel()

    # -- what it asks in ---------------------------------------------------------------------------

    def _open_session(self) -> Session:
        if self._closed:
            raise RingClosed(f"ring {self.name!r}: this client was closed. Make a new one.")
        session = self._session
        if not session.in_doubt and not session.ring.closed:
            return session
        new = None
        with self._state.lock:
            if self._session is session:
                new = session.successor(self._owns_ring)
                if new is not None and self._session is session:
                    self._session = new
            self._session.in_doubt = False
            current = self._session
        if new is None:
            return current
        if new is not current:  # a signal handler was faster
            new.close(with_ring=new.ring is not session.ring)
            return current
        # Not under the lock: it waits for a thread that may be on its way here.
        session.end(EngineDied(f"ring {self.name!r}: its engine died, and another one began anew. Ask again."))
        return current

    @property
    def _state(self) -> _State:
        return of_process(self._states, lambda: _State(self.name, self._max_in_flight))

    # -- its end -----------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the client; what is under way fails with `RingClosed`. Closing it twice does no harm."""
        if self._closed:
            return
        self._closed = True
        reason = RingClosed(f"ring {self.name!r}: this client was closed. Make a new one.")
        try:
            state = self._states.get(os.getpid())
            for asker in list(state.askers.values()) if state is not None else ():
                asker.stop(reason)
            self._session.end(reason)
        finally:
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


def _time_for(timeout: Any) -> tuple[float | None, int]:
    """Return a timeout, checked, and when its time is over."""
    wait = check_timeout(timeout, "timeout")
    until = min(time.monotonic_ns() + int(wait * 1e9), FOREVER_NS) if wait < 9e9 else FOREVER_NS
    return None if until == FOREVER_NS else wait, until
