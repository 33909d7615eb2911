"""The client: requests into a ring, answers out of its reply cells.

It may not know TensorFlow, nor what the engine does with a request. A thread that waits for one answer sleeps at its
cell; answers to futures and coroutines are collected by one thread for all (collector.py).
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from ._core import Reply
from .answers import answer_of
from .collector import Collector, Pending
from .errors import DeadlineExceeded, EngineDied, RecordMismatch, RingClosed, RingFull, RingNotFound
from .replies import ReplyPool
from .ring import Ring

_FOREVER_NS = 2**63 - 1
_ROOM_POLL_SECONDS = 0.0005


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
        if max_in_flight < 1:
            raise ValueError(f"max_in_flight={max_in_flight!r}: give a whole number of at least 1.")
        self._patient = if_engine_dies == "wait"
        self._copy = copy
        self._owns_ring = isinstance(ring, str)
        self.name = ring if isinstance(ring, str) else ring.name
        self._closed = False
        self._in_flight = threading.BoundedSemaphore(max_in_flight)
        self._lock = threading.Lock()
        until = math.inf if timeout is None else time.monotonic() + timeout
        self._ring = Ring.attach(ring, timeout=timeout) if isinstance(ring, str) else ring
        try:
            self._join(until)
        except BaseException:
            if self._owns_ring:
                self._ring.close()
            raise

    def _join(self, until: float) -> None:
        """Open the pool of replies, which the first engine makes."""
        while (pool := ReplyPool.join(self._ring)) is None:
            if time.monotonic() >= until:
                raise RingNotFound(
                    f"ring {self.name!r} is there, but no engine has served it yet. Start one: "
                    "ringfeed.Engine(ring, model).start(); or pass a longer timeout."
                )
            time.sleep(0.002)
        self._pool = pool
        self._process = os.getpid()
        self._collector = Collector(pool, self._patient)
        self._fields = list(self._ring.spec.values())

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
        until = _until_ns(timeout)
        record, rows = self._record(inputs)
        if rows is not None:
            return self._result_of_rows(record, rows, until, timeout, priority, tag)
        reply = self._ask(record, priority, tag, until, timeout, told=False)
        try:
            answered = reply.wait(until, self._patient)
        except EngineDied:
            self._look_for_another_engine()
            raise
        if not answered:
            raise _too_late(reply)
        answer = answer_of(reply, copy=self._copy if copy is None else copy)
        reply.withdraw()
        return answer

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
        record, rows = self._record(inputs)
        return self._submit(record, rows, _until_ns(timeout), timeout, priority, tag, copy)

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
        until = _until_ns(timeout)
        record, rows = self._record(inputs)
        try:
            if rows is not None:
                raise RingFull  # rows may have to wait half way
            future = self._submit(record, None, until, 0.0, priority, tag, copy)
        except RingFull:
            if rows is None and (timeout == 0 or self._pool.settings.rejects):
                raise
            asked = record, rows, until, timeout, priority, tag, copy
            future = await asyncio.get_running_loop().run_in_executor(None, self._submit, *asked)
        return await asyncio.wrap_future(future)

    def _submit(
        self,
        record: Any,
        rows: int | None,
        until: int,
        timeout: float | None,
        priority: int,
        tag: int,
        copy: bool | None,
    ) -> Future[Any]:
        if not self._in_flight.acquire(timeout=timeout):
            raise RingFull(f"ring {self.name!r}: max_in_flight requests of this client are under way. Wait for some.")
        pending = Pending(rows, until, self._copy if copy is None else copy)
        pending.future.add_done_callback(lambda _: self._in_flight.release())
        try:
            collector = self._collector_now()
            if rows is None:
                pending.add(0, self._ask(record, priority, tag, until, timeout, told=True))
                collector.follow(pending)
                return pending.future
            collector.follow(pending)  # from now on: cells that are answered are emptied for those that wait
            start = 0
            while start < rows and not pending.future.done():
                reply = self._ask_rows(record, start, rows, priority, tag, until, timeout)
                pending.add(start, reply)
                start += reply.rows
        except BaseException as error:
            if rows is not None:
                self._pool.wake()
            pending.fail(error)
            pending.future.exception()
            raise
        return pending.future

    def _result_of_rows(
        self, record: Any, rows: int, until: int, timeout: float | None, priority: int, tag: int
    ) -> Any:
        future = self._submit(record, rows, until, timeout, priority, tag, True)
        try:
            return future.result()
        except EngineDied:
            self._look_for_another_engine()
            raise
        finally:
            future.cancel()

    # -- the pieces --------------------------------------------------------------------------------

    def _record(self, inputs: Any) -> tuple[Any, int | None]:
        """Return the record; of rows a list of arrays, and how many there are."""
        first = self._fields[0]
        if not isinstance(inputs, Mapping):
            if len(self._fields) != 1:
                raise RecordMismatch(
                    f"ring {self.name!r} has the fields {', '.join(self._ring.spec)}: give a dict of them, not "
                    f"{type(inputs).__name__}."
                )
            inputs = {first.name: inputs}
        if getattr(inputs.get(first.name), "ndim", None) != len(first.shape) + 1:
            return inputs, None
        return self._rows(inputs)

    def _rows(self, inputs: Mapping[str, Any]) -> tuple[list[npt.NDArray[Any]], int]:
        if set(inputs) != {field.name for field in self._fields}:
            raise RecordMismatch(
                f"ring {self.name!r}: the inputs have the fields {', '.join(map(str, inputs))}; the ring holds "
                f"{', '.join(self._ring.spec)}. Give each of them once."
            )
        arrays = [np.asarray(inputs[field.name]) for field in self._fields]
        rows = len(arrays[0])
        for array, field in zip(arrays, self._fields, strict=True):
            if array.shape != (rows, *field.shape) or array.dtype != field.dtype:
                raise RecordMismatch(
                    f"ring {self.name!r}, field {field.name!r}: {array.dtype.name}{list(array.shape)} are no {rows} "
                    f"rows of {field}. Convert, or reshape them."
                )
        if rows == 0:
            raise RecordMismatch(f"ring {self.name!r}: 0 rows were given; give at least one.")
        return arrays, rows

    def _level(self, priority: int) -> Ring:
        if self._closed:
            raise RingClosed(f"ring {self.name!r}: this client was closed. Make a new one.")
        levels = self._ring.levels
        if not 0 <= priority < len(levels):
            raise ValueError(
                f"ring {self.name!r}: priority {priority!r}: it has 0 (first) to {len(levels) - 1}. Create it with "
                "more priorities."
            )
        return levels[priority]

    def _ask(self, record: Any, priority: int, tag: int, until: int, timeout: float | None, *, told: bool) -> Reply:
        ring = self._level(priority)
        self._wait_for_room(ring, timeout)
        try:
            return self._pool.ask(ring, record, tag, until, timeout, told)
        except RingClosed:
            if not self._reopen():
                raise
        return self._pool.ask(self._level(priority), record, tag, until, timeout, told)

    def _ask_rows(
        self,
        arrays: list[npt.NDArray[Any]],
        start: int,
        stop: int,
        priority: int,
        tag: int,
        until: int,
        timeout: float | None,
    ) -> Reply:
        ring = self._level(priority)
        self._wait_for_room(ring, timeout)
        most = max(min(ring.slots // 2, self._pool.cells.slots // 4), 1)
        return self._pool.ask_rows(ring, arrays, start, min(stop, start + most), tag, until, timeout, True)

    def _wait_for_room(self, ring: Ring, timeout: float | None) -> None:
        """Hold to `max_queue_size`. Clients that ask at the same moment may pass it by as many as they are."""
        settings = self._pool.settings
        if not settings.max_queue_size:
            return
        until = math.inf if timeout is None else time.monotonic() + timeout
        while (waiting := ring.ready) >= settings.max_queue_size:
            if settings.rejects or time.monotonic() >= until:
                raise RingFull(
                    f"ring {ring.name!r}: {waiting} requests wait, and max_queue_size is {settings.max_queue_size}; "
                    "the model is slower than its clients. Ask again later, or add engines."
                )
            if not self._patient and not self._pool.engines():
                raise EngineDied(f"ring {ring.name!r}: {waiting} requests wait, and no engine lives. Start one.")
            time.sleep(_ROOM_POLL_SECONDS)

    def _collector_now(self) -> Collector:
        if self._process != os.getpid():  # a forked child has none of its parent's threads
            self._process = os.getpid()
            self._collector = Collector(self._pool, self._patient)
        return self._collector

    def _look_for_another_engine(self) -> None:
        """After an engine's death: another one may have made a pool anew."""
        with self._lock:
            if self._pool.is_current(self._ring):
                return
            pool = ReplyPool.join(self._ring)
            if pool is not None:
                self._pool = pool
                self._collector = Collector(pool, self._patient)

    def _reopen(self) -> bool:
        """Open the ring that someone created in place of one that was closed. Returns whether there is one."""
        with self._lock:
            if not self._owns_ring or self._closed or not self._ring.closed:
                return False
            try:
                ring = Ring.attach(self.name)
                pool = ReplyPool.join(ring)
            except (RingNotFound, RingClosed):
                return False
            if pool is None or ring.spec != self._ring.spec:
                ring.close()
                return False
            self._ring.close()
            self._ring, self._pool = ring, pool
            self._collector = Collector(pool, self._patient)
            return True

    # -- its end -----------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the client; what is under way fails with `RingClosed`. Closing it twice does no harm."""
        if self._closed:
            return
        self._closed = True
        if self._process == os.getpid():
            self._collector.stop()
        self._pool.close()
        if self._owns_ring:
            self._ring.close()

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
