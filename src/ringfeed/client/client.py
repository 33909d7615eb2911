"""The client: sends requests into a ring and returns their answers.

It may not know TensorFlow, the engine's work, nor the reply cells. A request goes one way: inputs.py makes a record of
the inputs, session.py sends it and, for `predict`, waits at its reply cell. Futures and coroutines go through
submission.py, and one thread collects their answers (collector.py).
"""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import Future
from types import TracebackType
from typing import Any

from ..arguments import check_bool, check_choice, check_int
from ..errors import EngineDied, RingClosed, RingFeedError, RingFull
from ..ring import Ring
from .asyncio_bridge import await_answer
from .inputs import record_or_rows, rows_of
from .on_demand_thread import ThreadRefused
from .reply_pool import ReplyPool
from .request import RequestOptions
from .session import Session, of_this_process
from .submission import InFlightLimit, Submission, Submitter


class _ProcessState:
    """The state of a client in one process. A forked child starts without the pending requests of its parent."""

    def __init__(self, name: str, max_in_flight: int) -> None:
        self.in_flight = InFlightLimit(max_in_flight)
        self.lock = threading.RLock()  # reentrant: a signal handler that interrupts the holder may use the client
        self.submitters: dict[int, Submitter] = {}  # by priority, so that urgent requests wait for no others
        self._name = name

    def submitter(self, priority: int) -> Submitter:
        return self.submitters.get(priority) or self.submitters.setdefault(priority, Submitter(self._name))


class Client:
    """Sends requests to the engines that serve a ring, from any process, thread or event loop.

    Parameters
    ----------
    ring : str or Ring
        The ring's name, or the ring.
    timeout : float, optional
        Seconds to wait for the ring and its engine. None waits without limit.
    max_in_flight : int
        The most futures and coroutines of this client that are in flight; `submit` waits above it. (All clients of a
        ring together have as many requests in flight as its engine has `reply_cells`.)
    if_engine_dies : "fail" or "wait"
        What requests do when no engine is alive any more: raise `EngineDied` within 100 ms, or wait until an engine
        serves the ring again and answers.
    copy : bool
        Whether answers are arrays with memory of their own, or views of the reply cells. A view keeps its cell in use
        as long as it exists, and cells are few. Answers to rows always have memory of their own.
    group : str or int, optional
        For a ring that is given by name, the group with which it is shared, as for `Ring.attach`.

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
        self._max_in_flight = check_int(max_in_flight, "max_in_flight", 1)
        if not isinstance(ring, (str, Ring)):
            raise TypeError(f"ring {ring!r:.80}: give a ring's name, or a ringfeed.Ring.")
        self.name = ring if isinstance(ring, str) else ring.name
        self._copy = check_bool(copy, "copy")
        self._owns_ring = isinstance(ring, str)
        self._closed = False
        options = RequestOptions.of(timeout)
        opened = Ring.attach(ring, timeout=options.timeout, group=group) if isinstance(ring, str) else ring
        try:
            seconds_left = max(options.deadline_ns - time.monotonic_ns(), 0) / 1e9
            self._session = Session(opened, ReplyPool.wait_for(opened, seconds_left), if_engine_dies == "wait")
        except BaseException:
            if self._owns_ring:
                opened.close()
            raise
        self._states: dict[int, _ProcessState] = {}

    # -- requests ----------------------------------------------------------------------------------

    def predict(
        self,
        inputs: Any,
        *,
        timeout: float | None = None,
        priority: int = 0,
        tag: int = 0,
        copy: bool | None = None,
    ) -> Any:
        """Send a request and wait for its answer.

        Parameters
        ----------
        inputs : dict of str to array_like, or array_like
            One sample for each field of the ring, with the field's shape and dtype. Or arrays with a leading axis of
            rows; then each row is a request of its own. For a ring with one field, the value of that field is enough.
            Lists are always one sample; for rows in lists, as in JSON, use `predict_rows`.
        timeout : float, optional
            Seconds until the request expires: then the model does not start on it. None sets no limit.
        priority : int
            0 is the most urgent. It must be less than the ring's `priorities`.
        tag : int
            64 bits that travel with the request.
        copy : bool, optional
            As for `Client`.

        Returns
        -------
        numpy.ndarray, or dict of str to numpy.ndarray
            The model's outputs for the sample, without the axis of rows (for rows: with it). One array if the model
            returns one tensor, else a dict by the names of the model's outputs.

        Raises
        ------
        RecordMismatch
            The inputs do not fit the ring; no request was sent.
        ModelError
            The model raised an exception for this request; the message contains its text.
        DeadlineExceeded
            There was no answer within `timeout`.
        EngineDied
            No engine is alive that could answer.
        RingFull
            No slot or reply cell became free within `timeout`. Or `max_queue_size` requests wait, and the engine
            rejects more.
        RingClosed, RingFinished
            The ring accepts no more requests.
        """
        options, session = RequestOptions.of(timeout, priority, tag), self._open_session()
        record, rows = record_or_rows(session.ring, inputs)
        if rows is None:
            return session.predict(record, options, self._copy if copy is None else copy)
        return self._predict_rows(session, record, rows, options)

    def predict_rows(self, inputs: Any, *, timeout: float | None = None, priority: int = 0, tag: int = 0) -> Any:
        """Send requests for rows and wait for their answers. The first axis is always that of rows, even for one row.

        Parameters
        ----------
        inputs : dict of str to array_like, sequence of dict, or array_like
            The rows of each field, as arrays or lists of shape (rows, *shape) and of the field's dtype in any byte
            order. Or, for each row, a dict of its fields. For a ring with one field, its rows are enough. Python
            numbers are accepted if they keep their value, as by `Ring.put`. Each row is a request of its own.
        timeout, priority, tag
            As for `predict`.

        Returns
        -------
        numpy.ndarray, or dict of str to numpy.ndarray
            As of `predict`, with the shape (rows, *shape) and memory of their own.

        Raises
        ------
        RecordMismatch
            The inputs are no rows of the ring's record, or there are none; no request was sent.
        ModelError, DeadlineExceeded, EngineDied, RingFull, RingClosed, RingFinished
            As for `predict`, for the first row without an answer.
        """
        options, session = RequestOptions.of(timeout, priority, tag), self._open_session()
        arrays, rows = rows_of(session.ring, inputs)
        return self._predict_rows(session, arrays, rows, options)

    def _predict_rows(self, session: Session, arrays: Any, rows: int, options: RequestOptions) -> Any:
        if session.collector.is_current_thread:
            raise RingFeedError(
                f"ring {self.name!r}: predict of rows in a future's callback would wait for the thread that it is in. "
                "Use submit there."
            )
        try:
            future = self._submission(session, arrays, rows, options, True).send_all()
        except ThreadRefused:  # before anything was sent
            return session.predict_rows(arrays, rows, options)
        try:
            return future.take_result()
        finally:
            future.cancel()

    def submit(
        self,
        inputs: Any,
        *,
        timeout: float | None = None,
        priority: int = 0,
        tag: int = 0,
        copy: bool | None = None,
    ) -> Future[Any]:
        """Send a request and return a future of its answer.

        It waits only while `max_in_flight` requests are in flight or the ring is full. Cancelling the future withdraws
        the request: a model that has not started on the request never sees it.

        Parameters
        ----------
        inputs, timeout, priority, tag, copy
            As for `predict`.

        Returns
        -------
        concurrent.futures.Future
            Its result or exception is that of `predict`.

        Raises
        ------
        RecordMismatch, RingFull, RingClosed, RingFinished
            As for `predict`, if the request could not be sent.
        """
        options, session = RequestOptions.of(timeout, priority, tag), self._open_session()
        record, rows = record_or_rows(session.ring, inputs)
        return self._submission(session, record, rows, options, copy).send_all()

    def submit_rows(self, inputs: Any, *, timeout: float | None = None, priority: int = 0, tag: int = 0) -> Future[Any]:
        """Send requests for rows and return a future of their answers: `submit` with the inputs of `predict_rows`."""
        options, session = RequestOptions.of(timeout, priority, tag), self._open_session()
        arrays, rows = rows_of(session.ring, inputs)
        return self._submission(session, arrays, rows, options, True).send_all()

    async def apredict(
        self,
        inputs: Any,
        *,
        timeout: float | None = None,
        priority: int = 0,
        tag: int = 0,
        copy: bool | None = None,
    ) -> Any:
        """Send a request and await its answer; cancelling the task withdraws the request.

        Parameters, result and errors are those of `predict`. It never blocks the event loop: if sending has to wait for
        room, a thread does that.
        """
        options, session = RequestOptions.of(timeout, priority, tag), self._open_session()
        record, rows = record_or_rows(session.ring, inputs)
        submission = self._submission(session, record, rows, options, copy)
        if rows is not None:
            return await self._submit_in_thread(submission, priority)
        try:
            submission.send_some(0.0)
        except RingFull as error:
            if options.timeout == 0 or submission.is_rejected_when_full:
                submission.abandon(error)
                raise
            return await self._submit_in_thread(submission, priority)
        except BaseException as error:
            submission.abandon(error)
            raise
        return await await_answer(submission.future)

    async def apredict_rows(self, inputs: Any, *, timeout: float | None = None, priority: int = 0, tag: int = 0) -> Any:
        """Send requests for rows and await their answers: `apredict` with the inputs of `predict_rows`."""
        options, session = RequestOptions.of(timeout, priority, tag), self._open_session()
        arrays, rows = rows_of(session.ring, inputs)
        return await self._submit_in_thread(self._submission(session, arrays, rows, options, True), priority)

    async def _submit_in_thread(self, submission: Submission, priority: int) -> Any:
        """Let a thread send the requests, since it may have to wait for room; rows wait possibly several times."""
        try:
            self._state.submitter(priority).add(submission)
        except BaseException as error:
            submission.abandon(error)
            raise
        return await await_answer(submission.future)

    def _submission(
        self, session: Session, record: Any, rows: int | None, options: RequestOptions, copy: bool | None
    ) -> Submission:
        copies = self._copy if copy is None else copy
        submission = Submission(session, self._state.in_flight, record, rows, options, copies)
        session.suspect_if_engine_dies(submission.future)
        return submission

    # -- the session -------------------------------------------------------------------------------

    def _open_session(self) -> Session:
        """Return the session to send requests in; open another one if the ring or its cells were replaced."""
        if self._closed:
            raise RingClosed(f"ring {self.name!r}: this client was closed. Make a new one.")
        session = self._session
        if not session.is_suspect and not session.ring.closed:
            return session
        new = None
        with self._state.lock:
            if self._session is session:
                new = session.successor(self._owns_ring)
                if new is not None and self._session is session:
                    self._session = new
            self._session.is_suspect = False
            current = self._session
        if new is None:
            return current
        if new is not current:  # a signal handler opened one meanwhile
            new.close(with_ring=new.ring is not session.ring)
            return current
        # Without the lock: this waits for the collector's thread, which may be about to take the lock.
        session.end(EngineDied(f"ring {self.name!r}: its engine died, and another one replaced it. Ask again."))
        return current

    @property
    def _state(self) -> _ProcessState:
        return of_this_process(self._states, lambda: _ProcessState(self.name, self._max_in_flight))

    # -- closing -----------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the client; pending requests fail with `RingClosed`. It may be called twice."""
        if self._closed:
            return
        self._closed = True
        reason = RingClosed(f"ring {self.name!r}: this client was closed. Make a new one.")
        try:
            state = self._states.get(os.getpid())
            for submitter in list(state.submitters.values()) if state is not None else ():
                submitter.stop(reason)
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
