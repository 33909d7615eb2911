"""What a client has open: a ring, the reply cells of its engines, and who collects the answers.

It may not know in which form a user asks. A session is never changed: when the ring or its cells were replaced, the
client begins another one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ._core import Reply
from .collector import Collector
from .errors import EngineDied, RecordMismatch, RingClosed, RingFull, RingNotFound
from .replies import ReplyPool
from .ring import Ring

_ROOM_POLL_SECONDS = 0.0005
_LIFE_SECONDS = 0.05


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
    collector : Collector
    in_doubt : bool
        An engine died: before the next request, look whether ring or cells were replaced.
    """

    def __init__(self, ring: Ring, pool: ReplyPool, patient: bool) -> None:
        self.ring = ring
        self.pool = pool
        self.in_doubt = False
        self._patient = patient
        self._fields = list(ring.spec.values())
        self.renew_collector()

    def renew_collector(self) -> None:
        """Begin with nothing under way: a forked child has none of its parent's threads and requests."""
        self.collector = Collector(self.pool, self._patient)

    # -- what is asked -----------------------------------------------------------------------------

    def record_of(self, inputs: Any) -> tuple[Any, int | None]:
        """Return the record; of rows a list of arrays, and how many there are."""
        first = self._fields[0]
        if not isinstance(inputs, Mapping):
            if len(self._fields) != 1:
                raise RecordMismatch(
                    f"ring {self.ring.name!r} has the fields {', '.join(self.ring.spec)}: give a dict of them, not "
                    f"{type(inputs).__name__}."
                )
            inputs = {first.name: inputs}
        if getattr(inputs.get(first.name), "ndim", None) != len(first.shape) + 1:
            return inputs, None
        return self._rows_of(inputs)

    def _rows_of(self, inputs: Mapping[str, Any]) -> tuple[list[npt.NDArray[Any]], int]:
        if set(inputs) != {field.name for field in self._fields}:
            raise RecordMismatch(
                f"ring {self.ring.name!r}: the inputs have the fields {', '.join(map(str, inputs))}; the ring holds "
                f"{', '.join(self.ring.spec)}. Give each of them once."
            )
        arrays = [np.asarray(inputs[field.name]) for field in self._fields]
        rows = len(arrays[0])
        for array, field in zip(arrays, self._fields, strict=True):
            if array.shape != (rows, *field.shape) or array.dtype != field.dtype:
                raise RecordMismatch(
                    f"ring {self.ring.name!r}, field {field.name!r}: {array.dtype.name}{list(array.shape)} are no "
                    f"{rows} rows of {field}. Convert, or reshape them."
                )
        if rows == 0:
            raise RecordMismatch(f"ring {self.ring.name!r}: 0 rows were given; give at least one.")
        return arrays, rows

    def _level(self, priority: int) -> Ring:
        levels = self.ring.levels
        if not isinstance(priority, int) or not 0 <= priority < len(levels):
            kind = ValueError if isinstance(priority, int) else TypeError
            raise kind(
                f"ring {self.ring.name!r}: priority {priority!r}: it has 0 (first) to {len(levels) - 1}. Create it "
                "with more priorities."
            )
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
    ) -> Reply:
        """Ask for rows from `start` on, as many as there is room for, and at least one."""
        ring = self._level(priority)
        # Of rows that were asked for together the first are rejected, or all of them come in.
        rejects = self.pool.settings.rejects and start == 0
        room = self._wait_for_room(ring, _left(until, timeout), rejects)
        most = max(min(ring.slots // 2, self.pool.cells.slots // 4, room), 1)
        stop = min(stop, start + most)
        wait = 0.0 if rejects else _left(until, timeout)
        return self.pool.ask_rows(ring, arrays, start, stop, tag, until, wait, True, self._patient)

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
                if self.pool.has_died(self._patient):
                    raise EngineDied(f"ring {ring.name!r}: {waiting} requests wait, and no engine lives. Start one.")
            time.sleep(_ROOM_POLL_SECONDS)
            now = time.monotonic()
        return most - waiting

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
                ring = Ring.attach(self.ring.name)
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
        self.collector.stop(reason)

    def close(self, with_ring: bool) -> None:
        """Close what is open."""
        self.pool.close()
        if with_ring:
            self.ring.close()


def _left(until_ns: int, timeout: float | None) -> float | None:
    """Return how much of a timeout is left: one request waits for several things, one after the other."""
    if not timeout:
        return timeout
    return min(max((until_ns - time.monotonic_ns()) / 1e9, 0.0), timeout)
