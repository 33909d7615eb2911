"""Items through workers through the ring into the model, batch by batch.

It owns the rings of a predictor and runs one call at a time: a feeder lays items into the task
rings, workers write samples into the rows ring, this thread takes batches and calls the model. It
may not know what the caller makes of the results (predictor.py), nor how the model is called.

Tags: bit 63 says that the row failed, 15 bits name the call, one bit says that the item is the first of
its call, 47 bits name the item. So what an abandoned call left behind is told from what is wanted.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from operator import is_not
from typing import Any

import numpy as np
import numpy.typing as npt

from ..ctrl_c import LostInterrupts
from ..errors import ItemError, NoSpace, RingClosed, RingEmpty
from ..machine.memory_limits import available_bytes
from ..progress import Progress
from ..ring import Ring, close_quietly
from ..ring_options import MAX_PARTICIPANTS, MAX_SLOTS
from ..stall import RingStall
from .answers import unpacked_failure
from .failures import Failure
from .item_order import ItemOrder
from .item_sender import NOT_IN_FLIGHT, Feeder
from .items import EncodedItem, SpillFile
from .layout_trials import LayoutTrials, copied
from .main import FAILED, FAILURE_BYTES, FIRST
from .model_calls import Chunk, CommonError, ModelCalls, let_go
from .orders import Open
from .plain_data import NotPlain
from .pool import WorkerPool, closed_during_call, preprocess_error
from .sample_spec import Wanted, choose_layout, fields_spec
from .samples import RowLayout, Sample, Unfit
from .source import Source

_CALL_SHIFT = 48
_INDEX_MASK = FIRST - 1
_CALLS = 1 << 15

_SLICE_SECONDS = 0.05
_SHARE_OF_MEMORY = 0.25
"""Of the memory that is left, what the ring of rows takes at most where nobody says how many slots it has."""
_LEAST_MESSAGE_BYTES = 4096
_MOST_MESSAGE_BYTES = 1 << 18
_LEAST_TASKS_PER_WORKER, _MOST_TASKS_PER_WORKER = 8, 64
_TASK_BYTES_PER_WORKER = 1 << 18
_MOST_LAYOUTS_OF_AN_ITEM = 3  # preprocess may return other shapes for it each time
_LEAST_TEXTS, _MOST_TEXTS = 64, 1024
_STALL_REMEDY = (
    "What this process holds, the model or a callback keeps: have it keep copies (tf.identity, `.copy()`). What "
    "workers claim, preprocess may keep: have it keep `out.copy()` in place of `out`. Or give the Predictor more "
    "slots=."
)
_PLACES_BESIDE_WORKERS = 64
_USUAL_ROWS = 256
"""Of batches up to here the ring of rows holds two, however short memory is."""


@dataclass(frozen=True)
class _First:
    """What came of the first item of a call: the model takes what it came out as, and its row waits to be run."""

    is_taken: bool
    is_kept: bool
    failures: list[ItemError]


class Pipeline:
    """The rings of a predictor, and one call after the other through them.

    Parameters
    ----------
    pool : WorkerPool
    call_model : callable
        ``call_model(rows, template)`` returns the model's outputs for rows, as `ModelCalls` describes it; `template` is
        that of the `RowLayout`.
    wanted : Wanted
        What the model takes, by which the `RowLayout` of each call is chosen.
    batch_size : int
    slots : int or None
        Of the rows ring; never less than two batches and two for each worker.
    one_part_per_worker : bool
        Does each worker have a task ring of its own?
    trials : LayoutTrials, optional
        Whether the model takes what the first item of a call came out as; by default it does.
    call_apart : callable, optional
        In place of `call_model` where the batches of a call without `linger` are not in the items' order.
    """

    def __init__(
        self,
        pool: WorkerPool,
        call_model: Callable[[Any, Any], Any],
        wanted: Wanted,
        batch_size: int,
        slots: int | None,
        one_part_per_worker: bool,
        trials: LayoutTrials | None = None,
        call_apart: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        self._pool = pool
        self._call_model = call_model
        self._call_apart = call_model if call_apart is None else call_apart
        self._wanted = wanted
        self._trials = LayoutTrials(lambda *_: None, wanted, raises=True) if trials is None else trials
        self._batch_size = batch_size
        self._slots = slots
        self._parts = len(pool) if one_part_per_worker else 1
        self._is_in_order = self._parts == 1
        self._call = 0
        self._layout: RowLayout | None = None
        self._message_bytes = _LEAST_MESSAGE_BYTES
        self._tasks: list[Ring] = []
        self._rows: Ring | None = None
        self._failures: Ring | None = None
        self._spill: SpillFile | None = None
        self._are_open = False
        self._is_closed = False
        self._most_batch = 0  # the ring of rows was made for batches of so many
        self._is_endless = False  # the number of items is not known
        self._stall = RingStall("", "", "")
        self._failure_texts: dict[int, Failure] = {}

    @property
    def rows(self) -> Ring | None:
        """The ring of samples, once the first item has told its shape."""
        return self._rows if self._are_open else None

    def run(
        self,
        source: Source,
        *,
        batch_size: int,
        linger: float | None,
        window: int | None,
        progress: Progress,
    ) -> Generator[Chunk, int | None, None]:
        """Run the items of a source through the model.

        Parameters
        ----------
        linger : float or None
            Seconds that a row waits for others to fill the batch; None waits for a full batch (or
            the last rows).
        window : int or None
            Most items read and not yet slid by; see `Feeder`.

        Yields
        ------
        Chunk
            Each item of the source in exactly one chunk; `send` it the number of items to slide the
            window by.

        Raises
        ------
        RingClosed
            The pipeline was closed before the last item was done.
        """
        try:
            yield from self._run(source, batch_size, linger, window, progress)
        except RingClosed as error:
            if self._is_closed:
                let_go(error)  # its frames may look at a batch, which would keep the ring's memory
            self._require_open()  # which ring it is says nothing to the user
            raise

    def _run(
        self, source: Source, batch_size: int, linger: float | None, window: int | None, progress: Progress
    ) -> Generator[Chunk, int | None, None]:
        self._call = (self._call + 1) % _CALLS
        self._failure_texts.clear()
        self._is_endless = source.count is None
        if source.count is not None:
            batch_size = min(batch_size, max(source.count, 1))
        self._trials.begin()
        order = ItemOrder() if linger is None and self._is_in_order else None
        is_apart = linger is None and order is None
        call = self._model_of_rows_apart if is_apart else self._model_of_rows
        calls = ModelCalls(call, batch_size, gathers=linger is None, order=order)
        error: Exception | None = None
        try:
            done = yield from self._first_item(source, batch_size, calls, progress)
        except CommonError as common:
            error = common.error
        if error is not None:  # raised out here, it keeps its own cause and context
            raise error
        if self._layout is None:  # nothing came of any item
            return
        _, spill = self._rows_for(batch_size)
        entered = batch_size - calls.room  # the first item's row, which slides the window when it is yielded
        if order is not None:
            window, entered = self._most_under_way(batch_size), 0
        feeder = Feeder(source.parts(done), self._tasks, spill, self._call << _CALL_SHIFT, window, entered)
        try:
            feeder.start()
            to_come = -1 << 60 if source.count is None else source.count - len(done)
            yield from self._batches(feeder, calls, order, to_come, linger, progress)
        finally:
            feeder.stop()

    def _model_of_rows(self, rows: Any) -> Any:
        assert self._layout is not None
        return self._call_model(rows, self._layout.template)

    def _model_of_rows_apart(self, rows: Any) -> Any:
        assert self._layout is not None
        return self._call_apart(rows, self._layout.template)

    # ---- the first item ------------------------------------------------------------------------------

    def _first_item(
        self, source: Source, batch_size: int, calls: ModelCalls, progress: Progress
    ) -> Generator[Chunk, int | None, set[int]]:
        """Learn from the first item that comes out well what a row is. Returns the items that are done.

        Each call learns it anew: its pictures may have another size, or its numbers another dtype.
        """
        done: set[int] = set()
        if self._pool.fills_slot:
            self._open(choose_layout(self._wanted, None), batch_size)
        if self._pool.fills_slot or (self._layout is not None and self._wanted.settles_all):
            self._rows_for(batch_size)
            return done
        rows = min(batch_size, source.count or _USUAL_ROWS)
        for index, item in source.first_items():
            try:
                first = self._first_row(index, item, batch_size, calls, rows)
            except ItemError as failure:
                first = _First(False, False, [failure])
            if first.is_taken and not first.is_kept:
                source.pushed_back.append((index, item))
            else:
                done.add(index)
                progress.advance(1)
            failures = [*self._trials.released(), *first.failures] if first.is_taken else first.failures
            if failures:
                yield Chunk.of_failures(failures)
            if first.is_taken:
                return done
            yield from calls.leave_out([index])
        self._trials.end()
        if self._layout is not None:
            self._rows_for(batch_size)
        return done

    def _first_row(self, index: int, item: Any, batch_size: int, calls: ModelCalls, rows: int) -> _First:
        """Let a worker preprocess an item, make the rings for what it came out as, and ask the model whether it fits.

        Raises
        ------
        ItemError
            Nothing came out, or nothing that the model takes.
        """
        for _ in range(_MOST_LAYOUTS_OF_AN_ITEM):
            outcome = self._try_first(index, item, batch_size, calls, rows)
            if isinstance(outcome, _First):
                return outcome
            self._learn(outcome, index, item, batch_size)
            if self._layout is None or not self._trials.is_needed(self._layout):
                break
        return _First(True, False, [])

    def _try_first(self, index: int, item: Any, batch_size: int, calls: ModelCalls, rows: int) -> Sample | _First:
        """Let a worker preprocess an item. Returns what came out, where that does not fit the rings there are.

        Raises
        ------
        ItemError
            Nothing came out.
        """
        if self._layout is None:
            return self._pool.probe(index, item)
        _, spill = self._rows_for(batch_size)
        tag = self._call << _CALL_SHIFT | FIRST
        feeder = Feeder([iter([(index, item)])], self._tasks[:1], spill, tag)
        try:
            feeder.start()
            return self._outcome_of_first(feeder, calls, rows)
        finally:
            feeder.stop()

    def _outcome_of_first(self, feeder: Feeder, calls: ModelCalls, rows: int) -> Sample | _First:
        assert self._rows is not None
        assert self._layout is not None
        interrupts = LostInterrupts()
        while True:
            for refusal in feeder.unsendable():
                raise refusal
            if feeder.error is not None:
                self._require_open()
                raise feeder.error
            try:
                batch = self._rows.take(1, timeout=_SLICE_SECONDS)
            except RingEmpty:
                interrupts.check()
                self._look_for_a_stall(self._rows)
                self._mend()
                continue
            tags = batch.tags
            said, good, items, indices = self._sort_rows(feeder, tags)
            interrupts.check()
            if not said and not good.any():  # of an abandoned call
                batch.release()
                continue
            for row, failure in said.items():
                batch.release()
                if failure.sample is not None:
                    return failure.sample
                raise preprocess_error(failure, int(indices[row]), items[row], self._pool.last_death)
            failures: list[ItemError] = []
            outputs = None
            if self._trials.is_needed(self._layout):
                arrays = copied(batch)
                try:
                    is_taken, failures = self._trials.failures_of(self._layout, arrays, int(indices[0]), items[0], rows)
                except Exception as error:
                    batch.release()
                    raise CommonError(error) from None  # an error of rows, which is one of items, is not this item's
                if not is_taken:
                    batch.release()
                    return _First(False, False, failures)
                outputs = self._trials.outputs
            calls.keep(batch, indices, items, good)
            calls.remember(int(indices[0]), outputs)
            return _First(True, True, failures)

    def _learn(self, sample: Sample, index: int, item: Any, batch_size: int) -> None:
        """Make the rings for what an item came out as.

        Raises
        ------
        ItemError
            It is nothing that the model takes.
        """
        try:
            layout = choose_layout(self._wanted, sample)
        except Unfit as error:
            raise preprocess_error(Failure("unfit", str(error)), index, item, self._pool.last_death) from None
        if self._layout is None:
            needed = 2 * EncodedItem(item).message_bytes
            self._message_bytes = min(max(needed, _LEAST_MESSAGE_BYTES), _MOST_MESSAGE_BYTES)
        self._open(layout, batch_size)

    # ---- the others ----------------------------------------------------------------------------------

    def _batches(
        self,
        feeder: Feeder,
        calls: ModelCalls,
        order: ItemOrder | None,
        to_come: int,
        linger: float | None,
        progress: Progress,
    ) -> Generator[Chunk, int | None, None]:
        assert self._rows is not None
        rows, interrupts = self._rows, LostInterrupts()
        slid = 0 if order is None else order.frontier

        def yielded(chunks: Iterable[Chunk]) -> Generator[Chunk, int | None, None]:
            for chunk in chunks:
                interrupts.check()
                count = (yield chunk) or 0
                if order is None:
                    feeder.slide(count)
                interrupts.forget()

        if not calls.gathers or calls.room <= 0:  # the first item waits for no others
            yield from yielded(calls.rest())
        while True:
            fed_all = feeder.fed_all  # before the count: what is fed in between keeps us here
            missing = feeder.in_flight
            refused = feeder.unsendable()
            if feeder.error is not None:
                self._require_open()
                raise feeder.error
            if refused:
                progress.advance(len(refused))
                to_come -= len(refused)
                yield from yielded([Chunk.of_failures(refused)])
                yield from yielded(calls.leave_out([failure.index for failure in refused]))
            elif fed_all and not missing:
                break
            if order is not None and order.frontier > slid:
                feeder.slide(order.frontier - slid)
                slid = order.frontier
            most = min(calls.room, max(rows.slots // 2, 1))  # a batch may be larger than the ring
            expected = to_come if to_come >= 0 else missing if fed_all else most
            least = 1 if linger is not None or calls.waits_for_a_turn else max(1, min(most, expected))
            try:
                batch = rows.take(most, min_rows=least, timeout=_SLICE_SECONDS, linger=linger or 0.0)
            except RingEmpty:
                interrupts.check()
                self._look_for_a_stall(rows)
                self._read_failures()  # workers that wait for room there keep the batch from being full
                self._mend()
                continue
            said, good, items, indices = self._sort_rows(feeder, batch.tags)
            count = len(said) + int(good.sum())
            to_come -= count
            progress.advance(count)
            failures = [
                preprocess_error(failure, int(indices[row]), items[row], self._pool.last_death)
                for row, failure in said.items()
            ]
            without = [failure.index for failure in failures]
            yield from yielded(calls.add(batch, indices, items, good, without))
            if failures:
                yield from yielded([Chunk.of_failures(failures)])
            interrupts.check()
            progress.show_ring(rows.stats, len(self._pool))
            self._mend()
        yield from yielded(calls.rest())

    def _sort_rows(
        self, feeder: Feeder, tags: npt.NDArray[np.uint64]
    ) -> tuple[dict[int, Failure], npt.NDArray[np.bool_], list[Any], npt.NDArray[np.int64]]:
        """Find what the rows of a batch are.

        Returns
        -------
        said : dict of int to Failure
            What is said of the rows that failed.
        good : array of bool
            Which rows are samples that are wanted.
        items : list
            Of each row that is one of these.
        indices : array of int64
        """
        indices = (tags & np.uint64(_INDEX_MASK)).astype(np.int64)
        if ((tags >> np.uint64(_CALL_SHIFT)) == self._call).all():
            items = feeder.done(indices.tolist())
            return {}, _in_flight(items), items, indices
        failed = (tags & np.uint64(FAILED)) != 0
        plain = tags & np.uint64(FAILED - 1)
        wanted = (plain >> np.uint64(_CALL_SHIFT)) == self._call
        # What was said of rows that nobody wants any more is taken, too: unread, it would fill the failures
        # ring, and workers would wait there for ever.
        said = {row: self._failure(int(plain[row])) for row in np.flatnonzero(failed).tolist()}
        items = [NOT_IN_FLIGHT] * len(tags)
        for row, item in zip(np.flatnonzero(wanted).tolist(), feeder.done(indices[wanted].tolist()), strict=True):
            items[row] = item
        wanted = _in_flight(items)
        return {row: text for row, text in said.items() if wanted[row]}, wanted & ~failed, items, indices

    def _failure(self, tag: int) -> Failure:
        """Return what a worker said of a row that failed; it said so before it published the row."""
        if tag not in self._failure_texts:
            self._read_failures()
        return self._failure_texts.pop(tag, Failure("raised", "(the worker died before it could say why)"))

    def _read_failures(self) -> None:
        """Take what workers have said."""
        assert self._failures is not None
        while True:
            try:
                batch = self._failures.take(self._failures.slots, timeout=0)
            except RingEmpty:
                return
            with batch:
                for text_tag, body in zip(batch.tags.tolist(), batch["failure"], strict=True):
                    length = int(body[:8].view(np.uint64)[0])
                    self._failure_texts[text_tag] = _failure_in(body[8 : 8 + length])
                del body

    def _look_for_a_stall(self, rows: Ring) -> None:
        """Take note of a slice in which no row came: none may come where all slots are held, some by this process.

        Workers hold at most two each, the one in work and one that preprocess kept, which does not fill the ring.
        """
        now = rows.stats()
        held = now["free"] + now["ready"] == 0
        holdings = rows._holdings() if held else []
        ours = any(holding.ours for holding in holdings)
        moves = now["published"] + now["taken_total"] + now["released"]
        self._stall.look(holdings if ours else None, moves)

    def _mend(self) -> None:
        """Replace dead workers and give back what they held."""
        self._require_open()
        if self._pool.mend():
            for ring in (*self._tasks, self._rows, self._failures):
                if ring is not None:
                    ring.recover()

    # ---- rings ---------------------------------------------------------------------------------------

    def _open(self, layout: RowLayout, batch_size: int) -> None:
        """Let the workers write rows of this layout."""
        if layout != self._layout:
            self._close_rings()
            self._layout = layout
        self._rows_for(batch_size)

    def _rows_for(self, batch_size: int) -> tuple[Ring, SpillFile]:
        """Return the rows ring and the spill file, made (anew) when there is none that is for such batches."""
        assert self._layout is not None
        self._require_open()
        rows, spill = self._rows, self._spill
        if self._are_open and rows is not None and spill is not None and self._most_batch >= batch_size:
            return rows, spill
        self._close_rings()
        try:
            return self._made_rings(self._layout, batch_size)
        finally:
            if self._is_closed:  # meanwhile: whoever closed may have seen only some of these
                self._close_rings()
                self._require_open()

    def _made_rings(self, layout: RowLayout, batch_size: int) -> tuple[Ring, SpillFile]:
        message = {"message": ((self._message_bytes,), "uint8")}
        depth = min(max(_TASK_BYTES_PER_WORKER // self._message_bytes, _LEAST_TASKS_PER_WORKER), _MOST_TASKS_PER_WORKER)
        depth *= max(len(self._pool) // self._parts, 1)
        self._rows = self._rows_ring(batch_size)
        self._most_batch = max(batch_size, (self._rows.slots - 2 * len(self._pool)) // 2)
        self._stall = RingStall(
            self._rows.name, "the model's side of a Predictor", f"{self._rows.slots} slots", _STALL_REMEDY
        )
        # As many as a batch at least: workers that waited here would keep a batch from being full.
        texts = min(max(_LEAST_TEXTS, self._rows.slots // 2), _MOST_TEXTS)
        self._failures = _nameless("failures", {"failure": ((FAILURE_BYTES,), "uint8")}, texts, len(self._pool))
        sharing = -(-len(self._pool) // self._parts)
        self._tasks = [_nameless(f"tasks-{part}", message, depth, sharing) for part in range(self._parts)]
        self._spill = SpillFile()
        order = Open(layout, self._wanted)
        self._pool.open(order, self._tasks, self._rows, self._failures, self._spill.descriptor)
        self._are_open = True  # a signal handler that raised before this leaves workers that know nothing of them
        return self._rows, self._spill

    def _rows_ring(self, batch_size: int) -> Ring:
        """Make the ring of rows: four batches and two slots for each worker, where memory is short two batches instead.

        A worker has a slot in work, and holds another one where preprocess has kept it (slot_filler.py): with fewer
        slots, workers would wait for each other's, and where all are kept, for ever. Functions that get no slot keep
        none, so where there is no room at all for theirs, workers wait. Batches so large that two are more than a ring
        may hold, or, where it is not known that so many rows will come, more than the ring's share of memory, are put
        together beside it.

        Raises
        ------
        NoSpace
            There is no memory for two batches.
        """
        assert self._layout is not None
        spec, workers = fields_spec(self._layout), len(self._pool)
        fitting = int(available_bytes() * _SHARE_OF_MEMORY) // spec.record_bytes
        fewest = min(2 * batch_size, MAX_SLOTS)
        if self._is_endless:
            fewest = min(fewest, max(fitting, 2 * _USUAL_ROWS))
        least = min(fewest + 2 * workers, MAX_SLOTS)
        ample = max(min(4 * max(batch_size, self._batch_size) + 2 * workers, fitting, MAX_SLOTS), least)
        counts = [ample, least] if self._slots is None else [max(self._slots, least)]
        if self._slots is None and not self._pool.fills_slot:
            counts.append(fewest)
        for count in counts[:-1]:
            with contextlib.suppress(NoSpace):
                return _nameless("rows", spec, count, workers)
        try:
            return _nameless("rows", spec, counts[-1], workers)
        except NoSpace as error:
            raise NoSpace(f"batch_size={batch_size}: {error} Or give a smaller batch_size.") from None

    def _most_under_way(self, batch_size: int) -> int:
        """Return how many items may be fed and not settled: as many as the rings and the workers hold.

        Rows that come before their turn are kept, so where memory is short there are fewer.
        """
        assert self._rows is not None
        capacity = sum(ring.slots for ring in self._tasks) + len(self._pool) + self._rows.slots
        fitting = int(available_bytes() * _SHARE_OF_MEMORY) // self._rows.spec.record_bytes
        return min(capacity, max(fitting, 2 * batch_size + len(self._pool)))

    def _close_rings(self) -> None:
        self._are_open = False
        for ring in (*self._tasks, self._rows, self._failures):
            if ring is not None:
                close_quietly(ring)
        if self._spill is not None:
            self._spill.close()

    def close(self) -> None:
        """Close the rings, for good: a call under way raises `RingClosed`."""
        self._is_closed = True
        self._close_rings()

    def _require_open(self) -> None:
        if self._is_closed:
            raise closed_during_call() from None


def _in_flight(items: list[Any]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Tell which items count: each does once. One whose worker died after its row was published is tried again."""
    return np.fromiter(map(is_not, items, itertools.repeat(NOT_IN_FLIGHT)), bool, len(items))


def _nameless(what: str, fields: Any, slots: int, workers: int) -> Ring:
    """Make a ring without a name: workers get its descriptor, and nothing is left behind, whatever happens.

    It has places for all workers and as many that replace them, before those of the dead are free again.
    """
    name = f"predict-{os.getpid()}-{os.urandom(4).hex()}.{what}"
    places = min(2 * workers + _PLACES_BESIDE_WORKERS, MAX_PARTICIPANTS)
    # Without a limit of deliveries: workers give items up by themselves.
    return Ring.create_nameless(fields, slots, name=name, participants=places, max_deliveries=None)


def _failure_in(body: Any) -> Failure:
    try:
        return unpacked_failure(body.tobytes())
    except NotPlain as error:
        return Failure("raised", f"(what the worker said of it cannot be read: {error})")
