"""One call of a predictor: items go through workers and rings into the model, and come back as chunks.

An `ItemSender` puts items into the task rings, workers write samples into the ring of rows, a `RowReceiver` takes them,
and `ModelCalls` gives them to the model, in the thread of the caller. It may not know what the caller makes of the
results, nor how the model is called.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import ItemError, RingClosed
from ..ring import Ring
from .first_item import FirstItem
from .item_order import ItemOrder
from .item_sender import ItemSender
from .item_source import ItemSource
from .layout_trials import LayoutTrials
from .model_calls import Chunk, CommonError, ModelCalls, clear_frames
from .pool import WorkerPool
from .predict_rings import PredictRings
from .row_receiver import ReceivedRows, RowReceiver
from .sample_spec import InputSpec
from .tags import CALL_SHIFT, CALLS

_ENDLESS = -1 << 60
"""In place of the number of rows to come, if that is unknown."""


class PredictLoop:
    """Runs one call after the other through the same workers and rings.

    Parameters
    ----------
    pool : WorkerPool
    call_model : callable
        ``call_model(rows, template)`` returns the model's outputs for rows, as `ModelCalls` describes it; `template` is
        the template of the `RowLayout`.
    spec : InputSpec
        What the model takes; it decides the `RowLayout` of each call.
    batch_size : int
        The usual size of a batch.
    slots : int or None
        Slots of the ring of rows; never fewer than two batches and two for each worker.
    has_shares : bool
        Each worker has a task ring of its own.
    trials : LayoutTrials, optional
        Asks the model whether it takes the sample of a first item; by default it does.
    call_apart : callable, optional
        Replaces `call_model` if the batches of a call without `linger` are not in the order of the items.
    """

    def __init__(
        self,
        pool: WorkerPool,
        call_model: Callable[[Any, Any], Any],
        spec: InputSpec,
        batch_size: int,
        slots: int | None,
        has_shares: bool,
        trials: LayoutTrials | None = None,
        call_apart: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        self._pool = pool
        self._call_model = call_model
        self._call_apart = call_model if call_apart is None else call_apart
        self._spec = spec
        self._trials = LayoutTrials(lambda *_: None, spec, raises=True) if trials is None else trials
        task_rings = len(pool) if has_shares else 1
        self._is_in_order = task_rings == 1
        self._rings = PredictRings(pool, spec, batch_size, slots, task_rings)
        self._call = 0

    @property
    def rows(self) -> Ring | None:
        """The ring of samples, once the shape of the first sample is known."""
        return self._rings.rows if self._rings.is_open else None

    def run(
        self, source: ItemSource, *, batch_size: int, linger: float | None, window: int | None
    ) -> Generator[Chunk, int | None, None]:
        """Run the items of a source through the model.

        Parameters
        ----------
        source : ItemSource
        batch_size : int
            Most rows of one model call.
        linger : float or None
            Seconds that a row waits for others to fill the batch; None waits for a full batch (or
            the last rows).
        window : int or None
            The most items read and not yet passed; see `ItemSender`.

        Yields
        ------
        Chunk
            Each item of the source is in exactly one chunk; `send` it the number of items by which the window advances.

        Raises
        ------
        RingClosed
            The loop was closed before the last item was done.
        """
        try:
            yield from self._run(source, batch_size, linger, window)
        except RingClosed as error:
            if self._rings.is_closed:
                clear_frames(error)  # its frames may refer to a batch, which would keep the ring's memory
            self._rings.require_not_closed()  # this error names no ring, which the user does not know
            raise

    def _run(
        self, source: ItemSource, batch_size: int, linger: float | None, window: int | None
    ) -> Generator[Chunk, int | None, None]:
        self._call = (self._call + 1) % CALLS
        self._rings.begin_call(is_endless=source.count is None)
        if source.count is not None:
            batch_size = min(batch_size, max(source.count, 1))
        self._trials.begin()
        order = ItemOrder() if linger is None and self._is_in_order else None
        is_apart = linger is None and order is None
        calls = ModelCalls(self._model(is_apart), batch_size, gathers=linger is None, order=order)
        receiver = RowReceiver(self._rings, self._pool, self._call)
        first = FirstItem(self._pool, self._rings, self._spec, self._trials, receiver, calls, self._call, batch_size)
        error: Exception | None = None
        try:
            done = yield from first.find(source)
        except CommonError as common:
            error = common.error
        if error is not None:  # raised outside of the handler, it keeps its own cause and context
            raise error
        if self._rings.layout is None:  # no item had a sample
            return
        _, spill = self._rings.require(batch_size)
        entered = batch_size - calls.room  # the first item's row passes the window when it is yielded
        if order is not None:
            window, entered = self._rings.max_items_under_way(batch_size), 0
        sender = ItemSender(source.shares(done), self._rings.tasks, spill, self._call << CALL_SHIFT, window, entered)
        to_come = _ENDLESS if source.count is None else source.count - len(done)
        try:
            sender.start()
            yield from _Rows(self._rings, sender, receiver, calls, order, linger, to_come).chunks()
        finally:
            sender.stop()

    def _model(self, is_apart: bool) -> Callable[[Any], Any]:
        """Return the model as a function of rows of the present layout."""
        call = self._call_apart if is_apart else self._call_model

        def call_model(rows: Any) -> Any:
            assert self._rings.layout is not None
            return call(rows, self._rings.layout.template)

        return call_model

    def close(self) -> None:
        """Close the rings for good: a call under way raises `RingClosed`."""
        self._rings.close()


@dataclass
class _Rows:
    """The rows of one call behind its first item.

    Attributes
    ----------
    rings : PredictRings
    sender : ItemSender
    receiver : RowReceiver
    calls : ModelCalls
    order : ItemOrder or None
        None if rows go to the model as they come.
    linger : float or None
    to_come : int
        Number of rows still to come; negative if it is unknown.
    """

    rings: PredictRings
    sender: ItemSender
    receiver: RowReceiver
    calls: ModelCalls
    order: ItemOrder | None
    linger: float | None
    to_come: int

    def chunks(self) -> Generator[Chunk, int | None, None]:
        """Yield the chunks of the call until all items are done."""
        sender, calls = self.sender, self.calls
        passed = 0 if self.order is None else self.order.frontier
        self.receiver.watch_interrupts()
        if not calls.gathers or calls.room <= 0:  # the first item waits for no others
            yield from self._pass(calls.rest())
        while True:
            has_sent_all = sender.has_sent_all  # before the count: an item sent in between keeps the loop going
            missing = sender.in_flight
            refused = sender.take_unsendable()
            if sender.error is not None:
                self.rings.require_not_closed()
                raise sender.error
            if refused:
                self.to_come -= len(refused)
                yield from self._pass(self._without_row(refused))
            elif has_sent_all and not missing:
                break
            if self.order is not None and self.order.frontier > passed:
                sender.advance_window(self.order.frontier - passed)
                passed = self.order.frontier
            most, least = self._batch_bounds(has_sent_all, missing)
            received = self.receiver.receive(sender, most, least, self.linger or 0.0)
            if received is not None:
                yield from self._pass(self._with_rows(received))
                self.receiver.interrupts.check()
                self.rings.replace_dead_workers()
        yield from self._pass(calls.rest())

    def _batch_bounds(self, has_sent_all: bool, missing: int) -> tuple[int, int]:
        """Return the most and the least rows of the next batch."""
        assert self.rings.rows is not None
        most = min(self.calls.room, max(self.rings.rows.slots // 2, 1))  # a batch may be larger than the ring
        if self.linger is not None or self.calls.waits_for_a_turn:
            return most, 1
        expected = self.to_come if self.to_come >= 0 else missing if has_sent_all else most
        return most, max(1, min(most, expected))

    def _without_row(self, refused: list[Any]) -> Iterator[Chunk]:
        yield Chunk.of_failures(refused)
        yield from self.calls.leave_out([failure.index for failure in refused])

    def _with_rows(self, received: ReceivedRows) -> Iterator[Chunk]:
        self.to_come -= received.count
        failures: list[ItemError] = received.errors()
        without = [failure.index for failure in failures]
        yield from self.calls.add(received.batch, received.indices, received.items, received.good, without)
        if failures:
            yield Chunk.of_failures(failures)

    def _pass(self, chunks: Iterable[Chunk]) -> Generator[Chunk, int | None, None]:
        """Yield chunks, and advance the window by the numbers that come back."""
        for chunk in chunks:
            self.receiver.interrupts.check()
            count = (yield chunk) or 0
            if self.order is None:
                self.sender.advance_window(count)
            self.receiver.interrupts.forget()
