"""The first item of a call: its sample decides the layout of a row, and the model is asked whether it takes such rows.

Every call learns the layout anew: its pictures may have another size, or its numbers another dtype. It may not know the
items behind the first one, nor how the model is called.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from ..errors import ItemError
from .failures import Failure
from .item_errors import preprocess_error
from .item_sender import ItemSender
from .item_source import ItemSource
from .layout_trials import LayoutTrials, copied
from .model_calls import Chunk, CommonError, ModelCalls
from .pool import WorkerPool
from .predict_rings import USUAL_ROWS, PredictRings
from .row_layout import choose_layout
from .row_receiver import ReceivedRows, RowReceiver
from .sample_spec import InputSpec
from .samples import Sample, Unfit
from .tags import CALL_SHIFT, FIRST

_MAX_LAYOUTS_OF_AN_ITEM = 3  # preprocess may return other shapes for it each time


@dataclass(frozen=True)
class _Outcome:
    """What became of an item that was tried as the first.

    Attributes
    ----------
    is_taken : bool
        The model takes samples of its layout.
    is_kept : bool
        Its row waits for a call of the model; else the item is sent again.
    failures : list of ItemError
    """

    is_taken: bool
    is_kept: bool
    failures: list[ItemError]


class FirstItem:
    """Finds the first item of a call that the model takes.

    Parameters
    ----------
    pool : WorkerPool
    rings : PredictRings
        They are made for the item's layout.
    spec : InputSpec
    trials : LayoutTrials
    receiver : RowReceiver
        Of this call.
    calls : ModelCalls
        The row of the item is kept there.
    call, batch_size : int
    """

    def __init__(
        self,
        pool: WorkerPool,
        rings: PredictRings,
        spec: InputSpec,
        trials: LayoutTrials,
        receiver: RowReceiver,
        calls: ModelCalls,
        call: int,
        batch_size: int,
    ) -> None:
        self._pool = pool
        self._rings = rings
        self._spec = spec
        self._trials = trials
        self._receiver = receiver
        self._calls = calls
        self._tag = call << CALL_SHIFT | FIRST
        self._batch_size = batch_size

    def find(self, source: ItemSource) -> Generator[Chunk, int | None, set[int]]:
        """Try one item after the other until the model takes one. Returns the indices of the items that are done.

        Raises
        ------
        CommonError
            The model raised, and no single item is the cause.
        """
        done: set[int] = set()
        rings, fills_slot = self._rings, self._pool.fills_slot
        if fills_slot:
            rings.use_layout(choose_layout(self._spec, None), self._batch_size)
        if fills_slot or (rings.layout is not None and self._spec.settles_all):
            rings.require(self._batch_size)
            return done
        rows = min(self._batch_size, source.count or USUAL_ROWS)
        for index, item in source.first_items():
            try:
                outcome = self._try(index, item, rows)
            except ItemError as failure:
                outcome = _Outcome(False, False, [failure])
            if outcome.is_taken and not outcome.is_kept:
                source.pushed_back.append((index, item))
            else:
                done.add(index)
            failures = outcome.failures
            if outcome.is_taken:
                failures = [*self._trials.take_held(), *failures]
            if failures:
                yield Chunk.of_failures(failures)
            if outcome.is_taken:
                return done
            yield from self._calls.leave_out([index])
        self._trials.end()
        if rings.layout is not None:
            rings.require(self._batch_size)
        return done

    def _try(self, index: int, item: Any, rows: int) -> _Outcome:
        """Let a worker preprocess an item, make rings for its sample, and ask the model whether it takes the row.

        Raises
        ------
        ItemError
            There is no sample, or the model does not take it.
        """
        for _ in range(_MAX_LAYOUTS_OF_AN_ITEM):
            outcome = self._preprocess(index, item, rows)
            if isinstance(outcome, _Outcome):
                return outcome
            self._use_sample(outcome, index, item)
            if self._rings.layout is None or not self._trials.is_needed(self._rings.layout):
                break
        return _Outcome(True, False, [])

    def _preprocess(self, index: int, item: Any, rows: int) -> Sample | _Outcome:
        """Let a worker preprocess an item. Returns its sample if that does not fit the present rings.

        Raises
        ------
        ItemError
            There is no sample.
        """
        if self._rings.layout is None:
            return self._pool.probe(index, item)
        _, spill = self._rings.require(self._batch_size)
        sender = ItemSender([iter([(index, item)])], self._rings.tasks[:1], spill, self._tag)
        try:
            sender.start()
            return self._judge(self._wait_for_row(sender), rows)
        finally:
            sender.stop()

    def _wait_for_row(self, sender: ItemSender) -> ReceivedRows:
        self._receiver.watch_interrupts()
        while True:
            for refusal in sender.take_unsendable():
                raise refusal
            if sender.error is not None:
                self._rings.require_not_closed()
                raise sender.error
            received = self._receiver.receive(sender, 1)
            if received is None:
                continue
            self._receiver.interrupts.check()
            if received.count:
                return received
            received.batch.release()  # a row of an abandoned call

    def _judge(self, received: ReceivedRows, rows: int) -> Sample | _Outcome:
        """Decide what becomes of the row of the item, and release its batch."""
        batch, indices, items = received.batch, received.indices, received.items
        for failure in received.failures.values():
            batch.release()
            if failure.sample is not None:
                return failure.sample
            raise received.errors()[0]
        layout = self._rings.layout
        assert layout is not None
        failures: list[ItemError] = []
        outputs = None
        if self._trials.is_needed(layout):
            arrays = copied(batch)
            try:
                is_taken, failures = self._trials.try_row(layout, arrays, int(indices[0]), items[0], rows)
            except Exception as error:
                batch.release()
                raise CommonError(error) from None  # even an error of an item is not the error of this item
            if not is_taken:
                batch.release()
                return _Outcome(False, False, failures)
            outputs = self._trials.outputs
        self._calls.keep(batch, indices, items, received.good)
        self._calls.remember(int(indices[0]), outputs)
        return _Outcome(True, True, failures)

    def _use_sample(self, sample: Sample, index: int, item: Any) -> None:
        """Make the rings for the sample of an item.

        Raises
        ------
        ItemError
            The model does not take such samples.
        """
        try:
            layout = choose_layout(self._spec, sample)
        except Unfit as error:
            raise preprocess_error(Failure("unfit", str(error)), index, item, self._pool.last_death) from None
        if self._rings.layout is None:
            self._rings.size_messages(item)
        self._rings.use_layout(layout, self._batch_size)
