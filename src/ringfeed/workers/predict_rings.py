"""The rings of a predictor, and the order in which they are made, replaced and closed.

    tasks      one ring, or one per worker: items on their way to workers
    rows       samples on their way to the model
    failures   reasons for rows that hold no sample
    spill      a memory file, for items larger than a task

It may not know items, the model, or what a call does.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

from ..errors import NoSpace
from ..machine.memory_limits import available_bytes
from ..ring import Ring, close_quietly
from ..ring_options import MAX_PARTICIPANTS, MAX_SLOTS
from ..stall import RingStall
from .commands import OpenRings
from .failure_record import FAILURE_BYTES
from .item_errors import closed_during_call
from .items import EncodedItem, SpillFile
from .pool import WorkerPool
from .row_layout import fields_spec
from .sample_spec import InputSpec
from .samples import RowLayout

USUAL_ROWS = 256
"""The ring of rows holds two batches of up to this size, however short memory is."""

_SHARE_OF_MEMORY = 0.25
"""The part of available memory that the ring of rows may take if the user gives no slot count."""
_MIN_MESSAGE_BYTES = 4096
_MAX_MESSAGE_BYTES = 1 << 18
_MIN_TASKS_PER_WORKER, _MAX_TASKS_PER_WORKER = 8, 64
_TASK_BYTES_PER_WORKER = 1 << 18
_MIN_FAILURE_SLOTS, _MAX_FAILURE_SLOTS = 64, 1024
_PLACES_BESIDE_WORKERS = 64
_STALL_REMEDY = (
    "Slots held by this process are kept by the model or a callback: let them keep copies (tf.identity, `.copy()`). "
    "Slots claimed by workers may be kept by preprocess: let it keep `out.copy()` instead of `out`. Or give the "
    "Predictor more slots=."
)


class PredictRings:
    """The rings between a predictor and its workers, for rows of one layout and batches of one size.

    Parameters
    ----------
    pool : WorkerPool
        Its workers attach to the rings.
    spec : InputSpec
        What the model takes; workers choose the layout of a first item by it.
    batch_size : int
        The usual size of a batch.
    slots : int or None
        Slots of the ring of rows; never fewer than two batches and two for each worker.
    task_rings : int
        1, or the number of workers.

    Attributes
    ----------
    layout : RowLayout or None
        Of the rows; None before the first item.
    rows, failures : Ring or None
    tasks : list of Ring
    is_open : bool
        The rings are made, and every worker was told to attach.
    is_closed : bool
        `close` was called.
    stall : RingStall
        Of the ring of rows.
    """

    def __init__(self, pool: WorkerPool, spec: InputSpec, batch_size: int, slots: int | None, task_rings: int) -> None:
        self._pool = pool
        self._spec = spec
        self._batch_size = batch_size
        self._slots = slots
        self._task_rings = task_rings
        self._message_bytes = _MIN_MESSAGE_BYTES
        self._max_batch = 0  # rows of the largest batch that the ring of rows was made for
        self._is_endless = False
        self._spill: SpillFile | None = None
        self.layout: RowLayout | None = None
        self.tasks: list[Ring] = []
        self.rows: Ring | None = None
        self.failures: Ring | None = None
        self.is_open = False
        self.is_closed = False
        self.stall = RingStall("", "", "")

    def begin_call(self, is_endless: bool) -> None:
        """Note whether the number of items of a new call is unknown."""
        self._is_endless = is_endless

    def use_layout(self, layout: RowLayout, batch_size: int) -> None:
        """Let the workers write rows of this layout."""
        if layout != self.layout:
            self._close_rings()
            self.layout = layout
        self.require(batch_size)

    def size_messages(self, item: Any) -> None:
        """Choose the size of a task by the first item of the predictor."""
        needed = 2 * EncodedItem(item).message_bytes
        self._message_bytes = min(max(needed, _MIN_MESSAGE_BYTES), _MAX_MESSAGE_BYTES)

    def require(self, batch_size: int) -> tuple[Ring, SpillFile]:
        """Return the ring of rows and the spill file. New rings are made unless the present ones suit such batches.

        Raises
        ------
        NoSpace
            There is no memory for two batches.
        RingClosed
            `close` was called.
        """
        assert self.layout is not None
        self.require_not_closed()
        rows, spill = self.rows, self._spill
        if self.is_open and rows is not None and spill is not None and self._max_batch >= batch_size:
            return rows, spill
        self._close_rings()
        try:
            return self._make(self.layout, batch_size)
        finally:
            if self.is_closed:  # `close` ran meanwhile, and may have seen only some of these rings
                self._close_rings()
                self.require_not_closed()

    def _make(self, layout: RowLayout, batch_size: int) -> tuple[Ring, SpillFile]:
        workers = len(self._pool)
        message = {"message": ((self._message_bytes,), "uint8")}
        depth = min(max(_TASK_BYTES_PER_WORKER // self._message_bytes, _MIN_TASKS_PER_WORKER), _MAX_TASKS_PER_WORKER)
        depth *= max(workers // self._task_rings, 1)
        self.rows = self._rows_ring(layout, batch_size)
        self._max_batch = max(batch_size, (self.rows.slots - 2 * workers) // 2)
        self.stall = RingStall(
            self.rows.name, "the model's side of a Predictor", f"{self.rows.slots} slots", _STALL_REMEDY
        )
        # At least as many as a batch: a worker that waits here keeps a batch from being full.
        failure_slots = min(max(_MIN_FAILURE_SLOTS, self.rows.slots // 2), _MAX_FAILURE_SLOTS)
        self.failures = nameless_ring("failures", {"failure": ((FAILURE_BYTES,), "uint8")}, failure_slots, workers)
        sharing = -(-workers // self._task_rings)
        self.tasks = [nameless_ring(f"tasks-{share}", message, depth, sharing) for share in range(self._task_rings)]
        self._spill = SpillFile()
        command = OpenRings(layout, self._spec)
        self._pool.open(command, self.tasks, self.rows, self.failures, self._spill.descriptor)
        self.is_open = True  # last: if a signal handler raised before, the workers do not know these rings
        return self.rows, self._spill

    def _rows_ring(self, layout: RowLayout, batch_size: int) -> Ring:
        """Make the ring of rows: four batches and two slots for each worker, or two batches if memory is short.

        A worker has one slot in work, and holds another one if preprocess has kept it (slot_filler.py). With fewer
        slots, workers would wait for each other's slots; if preprocess keeps all of them, they would wait for ever.
        A function that gets no slot keeps none, so if there is no room for two slots each, its workers wait.

        A batch is put together beside the ring if two batches exceed the limit of a ring. So is a batch of a call with
        an unknown number of items if two batches exceed the ring's share of memory.

        Raises
        ------
        NoSpace
            There is no memory for two batches.
        """
        fields, workers = fields_spec(layout), len(self._pool)
        fitting = int(available_bytes() * _SHARE_OF_MEMORY) // fields.record_bytes
        two_batches = min(2 * batch_size, MAX_SLOTS)
        if self._is_endless:
            two_batches = min(two_batches, max(fitting, 2 * USUAL_ROWS))
        lowest = min(two_batches + 2 * workers, MAX_SLOTS)
        ample = max(min(4 * max(batch_size, self._batch_size) + 2 * workers, fitting, MAX_SLOTS), lowest)
        counts = [ample, lowest] if self._slots is None else [max(self._slots, lowest)]
        if self._slots is None and not self._pool.fills_slot:
            counts.append(two_batches)
        for count in counts[:-1]:
            with contextlib.suppress(NoSpace):
                return nameless_ring("rows", fields, count, workers)
        try:
            return nameless_ring("rows", fields, counts[-1], workers)
        except NoSpace as error:
            raise NoSpace(f"batch_size={batch_size}: {error} Or give a smaller batch_size.") from None

    def max_items_under_way(self, batch_size: int) -> int:
        """Return how many items may be sent and not settled: as many as the rings and the workers hold.

        Rows that come before their turn are kept in memory, so there are fewer items if memory is short.
        """
        assert self.rows is not None
        capacity = sum(ring.slots for ring in self.tasks) + len(self._pool) + self.rows.slots
        fitting = int(available_bytes() * _SHARE_OF_MEMORY) // self.rows.spec.record_bytes
        return min(capacity, max(fitting, 2 * batch_size + len(self._pool)))

    def look_for_stall(self) -> None:
        """Note a time slice without rows. If all slots are held, and this process holds some, no row can come.

        A worker holds at most two slots, one in work and one that preprocess kept, which does not fill the ring.
        """
        assert self.rows is not None
        now = self.rows.stats()
        is_full = now["free"] + now["ready"] == 0
        holdings = self.rows._holdings() if is_full else []
        holds_some = any(holding.ours for holding in holdings)
        moves = now["published"] + now["taken_total"] + now["released"]
        self.stall.look(holdings if holds_some else None, moves)

    def replace_dead_workers(self) -> None:
        """Replace dead workers, and recover the slots that they held."""
        self.require_not_closed()
        if self._pool.replace_dead():
            for ring in self._all():
                ring.recover()

    def _all(self) -> list[Ring]:
        return [ring for ring in (*self.tasks, self.rows, self.failures) if ring is not None]

    def _close_rings(self) -> None:
        self.is_open = False
        for ring in self._all():
            close_quietly(ring)
        if self._spill is not None:
            self._spill.close()

    def close(self) -> None:
        """Close the rings for good: a call under way raises `RingClosed`."""
        self.is_closed = True
        self._close_rings()

    def require_not_closed(self) -> None:
        """Raise `RingClosed` once `close` was called."""
        if self.is_closed:
            raise closed_during_call() from None


def nameless_ring(what: str, fields: Any, slots: int, workers: int) -> Ring:
    """Make a ring without a name: workers get its descriptor, and nothing remains, however the process ends.

    It has places for all workers, and for as many replacements that attach before the places of the dead are free.
    """
    name = f"predict-{os.getpid()}-{os.urandom(4).hex()}.{what}"
    places = min(2 * workers + _PLACES_BESIDE_WORKERS, MAX_PARTICIPANTS)
    # Without a limit of deliveries: workers give up an item by themselves.
    return Ring.create_nameless(fields, slots, name=name, participants=places, max_deliveries=None)
