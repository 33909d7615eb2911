"""What a client has open: a ring, the reply cells of its engines, and who collects the answers.

It may not know in which form a user asks. A session is never changed: when the ring or its cells were replaced, the
client begins another one.
"""

from __future__ import annotations

import math
import os
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import numpy.typing as npt

from .._core import Reply
from ..arguments import check_int
from ..errors import EngineDied, RecordMismatch, RingClosed, RingFull, RingNotFound
from ..ring import Ring
from .collector import Collector
from .reply_pool import ReplyPool
from .results import RowsAnswer, too_late

_LIFE_SECONDS = 0.05

_Made = TypeVar("_Made")


class Session:
    """A ring and its reply cells, open for asking.

    Parameters
    ----------
    ring : Ring
    pool : ReplyPool
    patient : bool
        Wait also while no engine lives.

    Attributes
    ----------
    ring, pool
    in_doubt : bool
        An engine died: before the next request, look whether ring or cells were replaced.
    """

    def __init__(self, ring: Ring, pool: ReplyPool, patient: bool) -> None:
        self.ring = ring
        self.pool = pool
        self.in_doubt = False
        self._patient = patient
        self._fields = list(ring.spec.values())
        self._collectors: dict[int, Collector] = {}

    @property
    def collector(self) -> Collector:
        """Who collects the answers in this process: a forked child has none of its parent's threads and requests."""
        return of_process(self._collectors, lambda: Collector(self.pool, self._patient))

    # -- what is asked -----------------------------------------------------------------------------

    def record_of(self, inputs: Any) -> tuple[Any, int | None]:
        """Return the record; of arrays with an axis of rows a list of them, and how many rows there are."""
        first = self._fields[0]
        record = self._mapping_of(inputs)
        if getattr(record.get(first.name), "ndim", None) != len(first.shape) + 1:
            return record, None
        return self.rows_of(record)

    def rows_of(self, inputs: Any) -> tuple[list[npt.NDArray[Any]], int]:
        """Return rows as one array for each field, and how many there are.

        Parameters
        ----------
        inputs : mapping of str to array_like, sequence of mappings, or array_like
            Rows of each field, or of each row its fields; of a ring with one field, rows of that.

        Raises
        ------
        RecordMismatch
            They are no rows of the ring's record.
        """
        record = self._mapping_of(self._columns_of(inputs) if is_list_of_mappings(inputs) else inputs)
        if set(record) != {field.name for field in self._fields}:
            self.ring._wrong_fields(record)
        arrays = [self.ring._rows_of(field.name, record[field.name]) for field in self._fields]
        counts = {len(array) for array in arrays}
        if len(counts) > 1:
            told = ", ".join(f"{field.name} {len(array)}" for field, array in zip(self._fields, arrays, strict=True))
            raise RecordMismatch(
                f"ring {self.ring.name!r}: the fields have different numbers of rows: {told}. Give one row of each "
                "field for each request."
            )
        (rows,) = counts
        if rows == 0:
            raise RecordMismatch(f"ring {self.ring.name!r}: 0 rows were given; give at least one.")
        return arrays, rows

    def _mapping_of(self, inputs: Any) -> Mapping[str, Any]:
        if isinstance(inputs, Mapping):
            return inputs
        if len(self._fields) != 1:
            raise RecordMismatch(
                f"ring {self.ring.name!r} has the fields {', '.join(self.ring.spec)}: give a dict of them, not "
                f"{type(inputs).__name__}."
            )
        return {self._fields[0].name: inputs}

    def _columns_of(self, rows: Sequence[Any]) -> dict[str, list[Any]]:
        """Return for each field its values in all rows, given for each row its fields."""
        names = {field.name for field in self._fields}
        for number, row in enumerate(rows):
            if not isinstance(row, Mapping) or set(row) != names:
                given = f"the fields {', '.join(map(str, row))}" if isinstance(row, Mapping) else type(row).__name__
                raise RecordMismatch(
                    f"ring {self.ring.name!r}: row {number} is {given}; the ring holds {', '.join(self.ring.spec)}. "
                    "Give each of them once in each row."
                )
        return {name: [row[name] for row in rows] for name in names}

    def _level(self, priority: int) -> Ring:
        levels = self.ring.levels
        if type(priority) is not int or not 0 <= priority < len(levels):  # called for each request
            advice = "Create the ring with more priorities to have more."
            priority = check_int(priority, f"ring {self.ring.name!r}: priority", 0, len(levels) - 1, advice=advice)
        return levels[priority]

    # -- asking ------------------------------------------------------------------------------------

    def ask(self, record: Any, priority: int, tag: int, until: int, timeout: float | None, *, told: bool) -> Reply:
        """Ask for one record; arguments as for `ReplyPool.ask`."""
        ring = self._level(priority)
        rejects = self.pool.settings.rejects
        self._wait_for_room(ring, _left(until, timeout), rejects)
        wait = 0.0 if rejects else _left(until, timeout)
        return self.pool.ask(ring, record, tag, until, wait, told, self._patient)

    def ask_rows(
        self,
        arrays: list[npt.NDArray[Any]],
        start: int,
        stop: int,
        priority: int,
        tag: int,
        until: int,
        timeout: float | None,
        *,
        told: bool,
    ) -> Reply:
        """Ask for rows from `start` on, as many as there is room for, and at least one."""
        ring = self._level(priority)
        # Of rows that were asked for together the first are rejected, or all of them come in.
        rejects = self.pool.settings.rejects and start == 0
        room = self._wait_for_room(ring, _left(until, timeout), rejects)
        most = max(min(ring.slots // 2, self.pool.cells.slots // 4, room), 1)
        stop = min(stop, start + most)
        wait = 0.0 if rejects else _left(until, timeout)
        return self.pool.ask_rows(ring, arrays, start, stop, tag, until, wait, told, self._patient)

    def answers_to_rows(
        self,
        arrays: list[npt.NDArray[Any]],
        rows: int,
        priority: int,
        tag: int,
        until: int,
        timeout: float | None,
    ) -> Any:
        """Ask for rows and wait for their answers in this thread alone; return the answers as arrays (rows, ...)."""
        answer, under_way, asked = RowsAnswer(rows), deque[tuple[int, Reply]](), 0
        try:
            while asked < rows or under_way:
                if asked < rows:
                    try:  # where answers are to come, those make room
                        wait = 0.0 if under_way else timeout
                        reply = self.ask_rows(arrays, asked, rows, priority, tag, until, wait, told=False)
                        under_way.append((asked, reply))
                        asked += reply.rows
                        continue
                    except RingFull:
                        if not under_way:
                            raise
                first, reply = under_way[0]
                if not reply.wait(until, self._patient):
                    raise too_late(reply)
                answer.store(first, reply)
                reply.withdraw()
                under_way.popleft()
        finally:
            for _, reply in under_way:
                reply.withdraw()
        return answer.arrays

    def _wait_for_room(self, ring: Ring, timeout: float | None, rejects: bool) -> int:
        """Hold to `max_queue_size`. Clients that ask at the same moment may pass it by as many as they are.

        Returns for how many there is room.
        """
        most = self.pool.settings.max_queue_size
        if not most:
            return ring.slots
        now = looked = time.monotonic()
        until = math.inf if timeout is None else now + timeout
        while (waiting := ring.ready) >= most:
            if rejects or now >= until:
                raise RingFull(
                    f"ring {ring.name!r}: {waiting} requests wait, and max_queue_size is {most}; the model is slower "
                    "than its clients. Ask again later, or add engines."
                )
            if now - looked >= _LIFE_SECONDS:
                looked = now
                ring.recover()
                self.check_for_life()
            key = self.pool.prepare_for_room()
            if ring.ready >= most:
                self.pool.sleep_for_room(key, min(until - now, _LIFE_SECONDS))
            now = time.monotonic()
        return most - waiting

    def check_for_life(self) -> None:
        """Raise `EngineDied` where no engine is left that would make room."""
        if self.pool.has_died(self._patient):
            raise EngineDied(
                f"ring {self.ring.name!r}: there is no room for the request, and no engine lives that could make some. "
                "Start one and ask again, or make the client with if_engine_dies='wait'."
            )

    def doubt_if_it_dies(self, future: Future[Any]) -> None:
        """Be in doubt when a future ends with `EngineDied`. Who keeps the future keeps no memory of this session."""
        itself = weakref.ref(self)

        def note(done: Future[Any]) -> None:
            session = itself()
            if session is not None and not done.cancelled() and isinstance(done.exception(), EngineDied):
                session.in_doubt = True

        future.add_done_callback(note)

    # -- its end -----------------------------------------------------------------------------------

    def successor(self, reopen: bool) -> Session | None:
        """Return the session in which what was replaced is open; None where nothing was.

        Parameters
        ----------
        reopen : bool
            Open the ring that someone created in place of one that was closed, too.
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
        return Session(ring, pool, self._patient)

    def end(self, reason: BaseException) -> None:
        """Fail what is under way. Threads that wait for an answer of their own find out by themselves."""
        collector = self._collectors.get(os.getpid())
        if collector is not None:
            collector.stop(reason)

    def close(self, with_ring: bool) -> None:
        """Close what is open."""
        self.pool.close()
        if with_ring:
            self.ring.close()


def of_process(made: dict[int, _Made], make: Callable[[], _Made]) -> _Made:
    """Return what this process has made. Threads that ask at once get the same, and none waits for another."""
    pid = os.getpid()
    found = made.get(pid)
    if found is None:
        found = made.setdefault(pid, make())  # one operation
        for other in list(made):
            if other != pid:
                made.pop(other, None)
    return found


def is_list_of_mappings(inputs: Any) -> bool:
    """Tell whether these are rows as JSON has them, each with its fields."""
    return isinstance(inputs, (list, tuple)) and len(inputs) > 0 and isinstance(inputs[0], Mapping)


def _left(until_ns: int, timeout: float | None) -> float | None:
    """Return how much of a timeout is left: one request waits for several things, one after the other."""
    if not timeout:
        return timeout
    return min(max((until_ns - time.monotonic_ns()) / 1e9, 0.0), timeout)
