"""A Predictor that is closed during a call: by another thread, a callback, the model, a signal handler."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from preprocessing import row_of_four

import ringfeed
from pipelines import copy_rows, running
from ringfeed.errors import RingClosed
from support import in_thread, wait_until

COUNT, BATCH = 40, 4
SAID = r"this Predictor was closed during the call.*make a new one"


def start_of(item: np.ndarray) -> np.ndarray:
    return item[:4].astype(np.float32)


def feeds() -> bool:
    return any(thread.name == "ringfeed-feeder" for thread in threading.enumerate())


def open_rings() -> list[str]:
    """Return the memory files of this process that are rings of predictors, or belong to them."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return sorted(target for target in found if "memfd:" in target)


# ---- amid the batches --------------------------------------------------------------------------------


@pytest.mark.parametrize("linger", [None, 0.0], ids=["predict", "stream"])
@pytest.mark.parametrize("is_iterator", [False, True], ids=["sequence", "iterator"])
@pytest.mark.parametrize("item_bytes", [64, 2_000_000], ids=["small", "large"])
def test_a_call_that_is_closed_while_an_item_is_read_raises(
    item_bytes: int, is_iterator: bool, linger: float | None
) -> None:
    closed = threading.Event()

    class Items:
        def __len__(self) -> int:
            return COUNT

        def __getitem__(self, index: int) -> np.ndarray:
            if index >= 20:
                closed.wait()  # read, and not yet fed, when the end comes
            return np.full(item_bytes, index, np.uint8)

    def model(rows: Any, template: Any) -> Any:
        if next(calls) == 3:
            with in_thread(run.close):
                pass
            closed.set()
            wait_until(lambda: not feeds())
        return copy_rows(rows, template)

    calls = itertools.count(1)
    items = map(Items().__getitem__, range(COUNT)) if is_iterator else Items()
    with running(start_of, workers=1, model=model, batch_size=BATCH) as run:
        try:
            with pytest.raises(RingClosed, match=SAID):
                run(items, batch_size=BATCH, linger=linger)
        finally:
            closed.set()


class Ended(list[Any]):
    """Items of a ring of the user's, which is closed while they are read."""

    def __getitem__(self, index: Any) -> Any:
        if index == 20:
            raise RingClosed("the user's own ring is closed.")
        return super().__getitem__(index)


def test_items_that_end_with_an_error_of_a_ring_do_not_end_the_call_without_a_word() -> None:
    with running(row_of_four, workers=1, batch_size=BATCH) as run, pytest.raises(RingClosed, match="the user's own"):
        run(Ended(range(COUNT)), batch_size=BATCH)


# ---- at the first item -------------------------------------------------------------------------------


@contextlib.contextmanager
def closing(close_in: str, on_error: str) -> Iterator[tuple[ringfeed.Predictor, list[Any]]]:
    """Yield a predictor whose model closes it when it is called first, or whose callback does when a call begins."""
    keras = pytest.importorskip("keras")

    def model(x: Any) -> Any:
        if close_in == "model" and armed:
            predictor.close()
        return np.asarray(x) * 2

    class Closes(keras.callbacks.Callback):
        def on_predict_begin(self, logs: Any = None) -> None:
            if close_in == "callback" and armed:
                predictor.close()

    armed: list[bool] = [True]
    predictor = ringfeed.Predictor(model, row_of_four, workers=1, batch_size=BATCH, on_error=on_error)
    with predictor:
        yield predictor, [Closes()]


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")
@pytest.mark.parametrize("on_error", ["raise", "skip", "return"])
@pytest.mark.parametrize("how", ["predict", "stream"])
def test_a_call_that_is_closed_while_the_first_item_is_tried_raises(how: str, on_error: str) -> None:
    with closing("model", on_error) as (predictor, _), pytest.raises(RingClosed, match=SAID):
        predictor.predict(range(10), verbose=0) if how == "predict" else list(predictor.stream(range(10)))
