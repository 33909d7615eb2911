"""Items through `preprocess` into the model, all in this process: for a debugger, or where no process can be started.

It replaces `PredictLoop` without workers and rings; the kinds of items and the treatment of failures are the same. It
may not know how the model is called.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any

import numpy as np

from ..errors import ItemError, PreprocessError, SampleMismatch
from ..nest import unflatten
from .failures import traceback_text, type_name
from .identity import WorkerInfo, working_as
from .item_errors import closed_during_call, shorten
from .item_source import ItemSource
from .layout_trials import LayoutTrials
from .model_calls import Chunk, ModelCalls
from .row_layout import choose_layout, row_for_layout
from .sample_spec import InputSpec
from .samples import RowLayout, Unfit, sample_of
from .slot_filler import RETURNED_ARRAY, returns_other_array


class InProcessLoop:
    """Runs `preprocess` and the model in turn.

    Parameters
    ----------
    function : callable
    fills_slot : bool
        It takes ``(item, out)``.
    call_model, spec, trials
        As in `PredictLoop`.
    info : WorkerInfo
        `worker_info` returns it within `function`.
    """

    rows = None

    def __init__(
        self,
        function: Callable[..., Any],
        fills_slot: bool,
        call_model: Callable[[Any, Any], Any],
        spec: InputSpec,
        trials: LayoutTrials,
        info: WorkerInfo,
    ) -> None:
        self._function = function
        self._fills_slot = fills_slot
        self._call_model = call_model
        self._spec = spec
        self._trials = trials
        self._info = info
        self._is_closed = False

    def run(
        self, source: ItemSource, *, batch_size: int, linger: float | None, window: int | None
    ) -> Generator[Chunk, int | None, None]:
        """Run the items of a source through the model; parameters and result as for `PredictLoop.run`.

        `window` has no effect: an item is read when it is its turn. With a `linger` each item has a call of its own,
        because the next item may depend on its result.
        """
        layout = choose_layout(self._spec, None) if self._fills_slot else None
        rows = batch_size if linger is None else 1
        calls = ModelCalls(lambda rows: self._call_model(rows, _known(layout).template), rows, gathers=True)
        is_taken = self._fills_slot
        self._trials.begin()
        for index, item in _items(source):
            if self._is_closed:
                raise closed_during_call()
            try:
                layout, leaves = self._preprocess(layout, index, item)
            except ItemError as failure:
                yield Chunk.of_failures([failure])
                continue
            arrays = {field.name: leaf[np.newaxis] for field, leaf in zip(layout.fields, leaves, strict=True)}
            failures: list[ItemError] = []
            if not is_taken:
                is_taken, failures = self._try_first(layout, arrays, index, item, min(rows, source.count or rows))
                calls.remember(index, self._trials.outputs)
            if failures:
                yield Chunk.of_failures(failures)
            if is_taken:
                yield from calls.add_row(arrays, index, item)
            else:
                layout = None
        self._trials.end()
        yield from calls.rest()

    def _try_first(
        self, layout: RowLayout, arrays: dict[str, Any], index: int, item: Any, rows: int
    ) -> tuple[bool, list[ItemError]]:
        if self._trials.is_needed(layout):
            return self._trials.try_row(layout, arrays, index, item, rows)
        return True, self._trials.take_held()

    def _preprocess(self, layout: RowLayout | None, index: int, item: Any) -> tuple[RowLayout, list[Any]]:
        leaves = [np.zeros(field.shape, field.dtype) for field in _known(layout).fields] if self._fills_slot else []
        try:
            with working_as(self._info):
                if self._fills_slot:
                    result = self._function(item, unflatten(_known(layout).template, leaves))
                else:
                    result = self._function(item)
        except (Exception, SystemExit) as error:
            named = f"item {index} ({shorten(item)}): preprocess raised\n{traceback_text(error).rstrip()}"
            raise PreprocessError(named, index, item, type_name(type(error))) from error
        try:
            if self._fills_slot:
                if returns_other_array(result, leaves):
                    raise Unfit(RETURNED_ARRAY)
                return _known(layout), [leaf.copy() for leaf in leaves]  # the function may keep its `out`
            if layout is None:
                layout = choose_layout(self._spec, sample_of(result))
            return layout, [
                np.array(leaf, field.dtype)  # a copy: the function may reuse the array that it returned
                for leaf, field in zip(row_for_layout(result, layout, self._spec), layout.fields, strict=True)
            ]
        except Unfit as unfit:
            raise SampleMismatch(f"item {index} ({shorten(item)}): {unfit}", index, item) from None

    def close(self) -> None:
        """End a call under way at its next item."""
        self._is_closed = True


def _known(layout: RowLayout | None) -> RowLayout:
    assert layout is not None
    return layout


def _items(source: ItemSource) -> Iterator[tuple[int, Any]]:
    (share,) = source.shares(set())
    return share
