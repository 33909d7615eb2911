"""Items through workers through the ring into the model, batch by batch.

It owns the rings of a predictor and runs one call at a time: a feeder lays items into the task
rings, workers write samples into the rows ring, this thread takes batches and calls the model. It
may not know what the caller makes of the results (predictor.py), nor how the model is called.

Tags: bit 63 says that the row failed, 15 bits name the call, 48 bits the item, so that what an
abandoned call left behind is told from what is wanted.
"""

from __future__ import annotations

import itertools
import os
import pickle
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import is_not
from typing import Any

import numpy as np

from .ctrl_c import LostInterrupts
from .errors import ItemError, RingEmpty
from .feeder import NOT_IN_FLIGHT, Feeder, contiguous_parts, stratified_parts
from .items import EncodedItem, SpillFile
from .nest import map_leaves
from .progress import Progress
from .record_spec import RecordSpec
from .ring import Ring, close_quietly
from .worker_main import FAILED, FAILURE_BYTES, Failure, Sample
from .workers import WorkerPool, preprocess_error

_CALL_SHIFT = 48
_INDEX_MASK = (1 << _CALL_SHIFT) - 1
_CALLS = 1 << 15

_SLICE_SECONDS = 0.05
_LEAST_MESSAGE_BYTES = 4096
_MOST_MESSAGE_BYTES = 1 << 18
_LEAST_TASKS_PER_WORKER, _MOST_TASKS_PER_WORKER = 8, 64
_TASK_BYTES_PER_WORKER = 1 << 18


@dataclass
class Chunk:
    """What one batch brought."""

    indices: np.ndarray[Any, np.dtype[np.int64]]
    """Items of the rows of `outputs`, shape (rows,)."""
    outputs: Any = None
    """Nest of arrays (rows, ...), as the model nests them; None when there are no rows."""
    failures: Sequence[ItemError] = ()


class Source:
    """The items of a call, and how they are shared out.

    Parameters
    ----------
    items : sequence or iterable
    partition : {"dynamic", "contiguous", "stratified"}
    labels : sequence, optional
        For "stratified": the stratum of each item.
    parts : int
        Number of shares when the partition is not dynamic.

    Raises
    ------
    TypeError, ValueError
        The partition needs a sequence, or as many labels as items.
    """

    def __init__(self, items: Any, partition: str, labels: Any, parts: int) -> None:
        self.count: int | None = len(items) if _is_sequence(items) else None
        self._items = items
        self._shares: list[list[int]] | None = None
        if partition != "dynamic":
            if self.count is None:
                raise TypeError(f"partition {partition!r} needs a sequence of items; an iterator has no length.")
            if partition == "contiguous":
                self._shares = contiguous_parts(self.count, parts)
            else:
                if labels is None or len(labels) != self.count:
                    given = "none were given" if labels is None else f"{len(labels)} were given"
                    raise ValueError(
                        f"partition 'stratified' needs a label for each of the {self.count} items; {given}."
                    )
                self._shares = stratified_parts(labels, parts)
        self._stream = iter(items) if self.count is None else iter(())
        self._numbers = itertools.count()
        self.pushed_back: list[tuple[int, Any]] = []

    def first_items(self) -> Iterator[tuple[int, Any]]:
        """Iterate the items in order from the first; an iterator's are used up unless pushed back."""
        if self.count is not None:
            return ((index, self._items[index]) for index in range(self.count))
        return zip(self._numbers, self._stream, strict=False)

    def parts(self, skip: set[int]) -> list[Iterator[tuple[int, Any]]]:
        """Return each share as an iterator of (index, item), without the indices in `skip`."""
        if self._shares is not None:
            return [self._picked(share, skip) for share in self._shares]
        if self.count is not None:
            return [self._picked(range(self.count), skip)]
        return [itertools.chain(self.pushed_back, zip(self._numbers, self._stream, strict=False))]

    def _picked(self, indices: Iterable[int], skip: set[int]) -> Iterator[tuple[int, Any]]:
        return ((index, self._items[index]) for index in indices if index not in skip)


def _is_sequence(items: Any) -> bool:
    return hasattr(items, "__len__") and hasattr(items, "__getitem__") and not isinstance(items, (dict, set))


class Pipeline:
    """The rings of a predictor, and one call after the other through them.

    Parameters
    ----------
    pool : WorkerPool
    call_model : callable
        ``call_model(batch, template)`` returns the model's outputs for a batch of rows, as a nest of
        arrays (rows, ...) of their own memory.
    choose_spec : callable
        ``choose_spec(sample)`` returns the template and the `RecordSpec` of the rows from the first
        sample (None for a function that fills the slot itself).
    batch_size : int
    slots : int or None
        Of the rows ring.
    one_part_per_worker : bool
        Does each worker have a task ring of its own?
    """

    def __init__(
        self,
        pool: WorkerPool,
        call_model: Callable[[Any, Any], Any],
        choose_spec: Callable[[Sample | None], tuple[Any, RecordSpec]],
        batch_size: int,
        slots: int | None,
        one_part_per_worker: bool,
    ) -> None:
        self._pool = pool
        self._call_model = call_model
        self._choose_spec = choose_spec
        self._batch_size = batch_size
        self._slots = slots
        self._parts = len(pool) if one_part_per_worker else 1
        self._call = 0
        self._template: Any = None
        self._spec: RecordSpec | None = None
        self._message_bytes = _LEAST_MESSAGE_BYTES
        self._tasks: list[Ring] = []
        self._rows: Ring | None = None
        self._failures: Ring | None = None
        self._spill: SpillFile | None = None
        self._failure_texts: dict[int, Failure] = {}

    @property
    def rows(self) -> Ring | None:
        """The ring of samples, once the first item has told its shape."""
        return self._rows

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
            Most items between the first not yet slid and the last fed; see `Feeder`.

        Yields
        ------
        Chunk
            Each item of the source in exactly one chunk; `send` it the number of items to slide the
            window by.
        """
        skip: set[int] = set()
        if self._spec is None:
            failures = self._learn_spec(source)
            skip = {failure.index for failure in failures}
            if failures:
                yield Chunk(np.empty(0, np.int64), failures=failures)
            if self._spec is None:
                return
        rows, spill = self._open_rings(batch_size)
        self._call = (self._call + 1) % _CALLS
        self._failure_texts.clear()
        feeder = Feeder(source.parts(skip), self._tasks, spill, self._call << _CALL_SHIFT, window)
        try:
            to_come = -1 << 60 if source.count is None else source.count - len(skip)
            yield from self._batches(feeder, rows, to_come, batch_size, linger, progress)
        finally:
            feeder.stop()

    def _batches(
        self, feeder: Feeder, rows: Ring, to_come: int, batch_size: int, linger: float | None, progress: Progress
    ) -> Generator[Chunk, int | None, None]:
        interrupts = LostInterrupts()
        while True:
            fed_all = feeder.fed_all  # before the count: what is fed in between keeps us here
            missing = feeder.in_flight
            refused = feeder.unsendable()
            if feeder.error is not None:
                raise feeder.error
            if refused:
                progress.advance(len(refused))
                to_come -= len(refused)
                feeder.slide((yield Chunk(np.empty(0, np.int64), failures=refused)) or 0)
                interrupts.forget()
            elif fed_all and not missing:
                return
            expected = to_come if to_come >= 0 else missing if fed_all else batch_size
            least = 1 if linger is not None else max(1, min(batch_size, expected))
            try:
                batch = rows.take(batch_size, min_rows=least, timeout=_SLICE_SECONDS, linger=linger or 0.0)
            except RingEmpty:
                interrupts.check()
                self._mend()
                continue
            chunk = self._digest(feeder, batch)
            interrupts.check()
            count = len(chunk.indices) + len(chunk.failures)
            to_come -= count
            progress.advance(count)
            progress.show_ring(rows.stats, len(self._pool))
            feeder.slide((yield chunk) or 0)
            interrupts.forget()
            self._mend()

    def _digest(self, feeder: Feeder, batch: Any) -> Chunk:
        """Run the model on a batch and sort its rows into results, failures and leftovers."""
        with batch:
            tags = batch.tags
            is_result = (tags >> np.uint64(_CALL_SHIFT)) == self._call  # in a row that failed, FAILED is there, too
            outputs = self._call_model(batch, self._template) if is_result.any() else None
        indices = (tags & np.uint64(_INDEX_MASK)).astype(np.int64)
        failures: list[ItemError] = []
        if is_result.all():
            wanted = _in_flight(feeder.done(indices.tolist()))
        else:
            wanted, failures = self._sort_out(feeder, tags, indices)
        if wanted.all():
            return Chunk(indices, outputs, failures)
        if outputs is not None:
            outputs = map_leaves(lambda leaf: leaf[wanted], outputs)
        return Chunk(indices[wanted], outputs if wanted.any() else None, failures)

    def _sort_out(
        self, feeder: Feeder, tags: np.ndarray[Any, Any], indices: np.ndarray[Any, Any]
    ) -> tuple[np.ndarray[Any, Any], list[ItemError]]:
        """Find what is a result among rows that are not all, and what failed."""
        failed = (tags & np.uint64(FAILED)) != 0
        plain = tags & np.uint64(FAILED - 1)
        wanted = (plain >> np.uint64(_CALL_SHIFT)) == self._call
        # What was said of rows that nobody wants any more is taken, too: unread, it would fill the failures
        # ring, and workers would wait there for ever.
        said = {row: self._failure(int(plain[row])) for row in np.flatnonzero(failed).tolist()}
        failures: list[ItemError] = []
        rows = np.flatnonzero(wanted)
        items = feeder.done(indices[rows].tolist())
        wanted[rows] = _in_flight(items)
        for row, item in zip(rows.tolist(), items, strict=True):
            if wanted[row] and row in said:
                failures.append(preprocess_error(said[row], int(indices[row]), item, self._pool.last_death))
        return wanted & ~failed, failures

    def _failure(self, tag: int) -> Failure:
        """Return what a worker said of a row that failed; it said so before it published the row."""
        assert self._failures is not None
        while tag not in self._failure_texts:
            try:
                batch = self._failures.take(self._failures.slots, timeout=0)
            except RingEmpty:
                return Failure("raised", "(the worker died before it could say why)")
            with batch:
                for text_tag, body in zip(batch.tags.tolist(), batch["failure"], strict=True):
                    length = int(body[:8].view(np.uint64)[0])
                    self._failure_texts[text_tag] = pickle.loads(body[8 : 8 + length])
                del body
        return self._failure_texts.pop(tag)

    def _mend(self) -> None:
        """Replace dead workers and give back what they held."""
        if self._pool.mend():
            for ring in (*self._tasks, self._rows, self._failures):
                if ring is not None:
                    ring.recover()

    # ---- rings ---------------------------------------------------------------------------------------

    def _learn_spec(self, source: Source) -> list[ItemError]:
        """Find out what a row is from the first item that can be preprocessed; return what failed before."""
        failures: list[ItemError] = []
        if self._pool.fills_slot:
            self._template, self._spec = self._choose_spec(None)
            return failures
        for index, item in source.first_items():
            try:
                sample = self._pool.probe(index, item)
            except ItemError as failure:
                failures.append(failure)
                continue
            self._template, self._spec = self._choose_spec(sample)
            needed = 2 * EncodedItem(item).message_bytes
            self._message_bytes = min(max(needed, _LEAST_MESSAGE_BYTES), _MOST_MESSAGE_BYTES)
            source.pushed_back.append((index, item))
            break
        return failures

    def _open_rings(self, batch_size: int) -> tuple[Ring, SpillFile]:
        """Return the rows ring and the spill file, made (anew) when there is none that holds two such batches."""
        assert self._spec is not None
        if self._rows is not None and self._spill is not None and self._rows.slots >= 2 * batch_size:
            return self._rows, self._spill
        self._close_rings()
        slots = self._slots or 4 * max(batch_size, self._batch_size)
        base = f"predict-{os.getpid()}-{os.urandom(4).hex()}"
        message = {"message": ((self._message_bytes,), "uint8")}
        depth = min(max(_TASK_BYTES_PER_WORKER // self._message_bytes, _LEAST_TASKS_PER_WORKER), _MOST_TASKS_PER_WORKER)
        depth *= max(len(self._pool) // self._parts, 1)
        self._rows = _nameless(Ring.create(f"{base}.rows", self._spec, max(slots, 2 * batch_size)))
        self._failures = _nameless(Ring.create(f"{base}.failures", {"failure": ((FAILURE_BYTES,), "uint8")}, 64))
        self._tasks = [_nameless(Ring.create(f"{base}.tasks-{part}", message, depth)) for part in range(self._parts)]
        self._spill = SpillFile()
        self._pool.open(self._template, self._tasks, self._rows, self._failures, self._spill.descriptor)
        return self._rows, self._spill

    def _close_rings(self) -> None:
        for ring in (*self._tasks, self._rows, self._failures):
            if ring is not None:
                close_quietly(ring)
        if self._spill is not None:
            self._spill.close()
        self._tasks, self._rows, self._failures, self._spill = [], None, None, None

    def close(self) -> None:
        """Close the rings."""
        self._close_rings()


def _in_flight(items: list[Any]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Tell which items count: each does once. One whose worker died after its row was published is tried again."""
    return np.fromiter(map(is_not, items, itertools.repeat(NOT_IN_FLIGHT)), bool, len(items))


def _nameless(ring: Ring) -> Ring:
    """Remove the ring's name: workers get its descriptor, and nothing is left behind, whatever happens."""
    ring.unlink()
    return ring


def require_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise a clear error unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} {value!r}: choose one of {', '.join(map(repr, choices))}.")
