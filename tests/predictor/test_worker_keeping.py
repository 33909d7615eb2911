"""Functions that keep what they were given: items, `out`, and what hangs on exceptions."""

from __future__ import annotations

import collections
import re
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from predict_runs import Run, running

from ringfeed import stall
from ringfeed.nest import unflatten
from ringfeed.workers.sample_spec import InputSpec
from support import in_thread, wait_until

COUNT = 400
"""More items than the ring of rows and the task rings hold."""


class Stop(Exception):
    pass


def pictures(count: int = COUNT, shape: tuple[int, ...] = (40, 40)) -> list[np.ndarray]:
    return [np.full(shape, n, np.float32) for n in range(count)]


# ---- functions that keep items ------------------------------------------------------------------------


def last_frames() -> Callable[[np.ndarray], np.ndarray]:
    frames: collections.deque[np.ndarray] = collections.deque(maxlen=32)

    def with_history(frame: np.ndarray) -> np.ndarray:
        frames.append(frame)
        assert all((kept == kept.flat[0]).all() for kept in frames), "a frame has changed"
        return np.array([frame.flat[0], len(frames) <= 32], np.float32)

    return with_history


def memo() -> Callable[[np.ndarray], np.ndarray]:
    known: dict[float, tuple[np.ndarray, memoryview]] = {}

    def from_memo(item: np.ndarray) -> np.ndarray:
        known[float(item.flat[0])] = item, memoryview(item)
        assert all((array == key).all() for key, (array, _) in list(known.items())[:5])
        return np.array([item.flat[0], 1], np.float32)

    return from_memo


def circle() -> Callable[[np.ndarray], np.ndarray]:
    import gc

    gc.disable()

    def raises_inside(item: np.ndarray) -> np.ndarray:
        try:
            raise Stop
        except Stop as error:
            held = error  # a reference cycle of the exception, its frame, and the item in the frame
            assert held is not None
        return np.array([item.flat[0], 1], np.float32)

    return raises_inside


def dict_items() -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    kept: list[Any] = []

    def keeps_a_part(item: dict[str, np.ndarray]) -> np.ndarray:
        kept.append(item["a"][3:5])
        return np.array([item["a"].flat[0], 1], np.float32)

    return keeps_a_part


@pytest.mark.parametrize("shape", [(40, 40), (8,), (300, 300)], ids=["in the slot", "small", "in the spill file"])
@pytest.mark.parametrize("make", [last_frames, memo, circle])
def test_a_function_that_keeps_its_items_gets_all_of_them_and_they_stay_unchanged(make, shape) -> None:
    with running(make()) as run:
        results, failures = run(pictures(COUNT if shape != (300, 300) else 60, shape))
    assert not failures
    assert all(row.tolist() == [index, 1] for index, row in results.items())


def test_a_part_of_an_item_that_is_kept_keeps_no_slot() -> None:
    items = [{"a": picture, "b": str(n)} for n, picture in enumerate(pictures())]
    with running(dict_items()) as run:
        results, failures = run(items)
        # The row of the last item arrives a moment before its task slot is released.
        wait_until(lambda: run.loop._rings.tasks[0].stats()["taken"] == 0)
    assert not failures
    assert {index: row[0] for index, row in results.items()} == {n: n for n in range(COUNT)}


# ---- functions that keep `out` ----------------------------------------------------------------------------


@contextmanager
def filling(function: Callable[..., Any], fields: Any = None, template: Any = 0, **options: Any) -> Iterator[Run]:
    specs = unflatten(template, list((fields or {"0": ((1024,), "float32")}).values()))
    with running(function, spec=InputSpec(specs, is_binding=True), **options) as run:
        yield run


def keeps_out() -> Callable[..., None]:
    kept: list[np.ndarray] = []

    def write(item: int, out: np.ndarray) -> None:
        out[...] = item
        kept.append(out)
        assert all((array == array[0]).all() for array in kept[-70:])
        assert len({float(array[0]) for array in kept}) == len(kept)

    return write


def keeps_a_view() -> Callable[..., None]:
    kept: list[np.ndarray] = []

    def write(item: int, out: np.ndarray) -> None:
        out[...] = item
        kept.append(out[10:20][::2])
        assert len({float(array[0]) for array in kept}) == len(kept)

    return write


def keeps_a_memoryview() -> Callable[..., None]:
    kept: list[memoryview] = []

    def write(item: int, out: np.ndarray) -> None:
        out[...] = item
        kept.append(memoryview(out))

    return write


def keeps_late() -> Callable[..., None]:
    kept: list[np.ndarray] = []

    def write(item: int, out: np.ndarray) -> None:
        out[...] = item
        if item > 20:
            kept.append(out.reshape(32, 32)[1])

    return write


def keeps_late_and_writes() -> Callable[..., None]:
    """Begin to keep samples after slots have been lent, and write into the kept samples at each item."""
    kept: list[np.ndarray] = []

    def write(item: int, out: np.ndarray) -> None:
        for old in kept:
            old[...] = -1
        out[...] = item
        if item > 20 and item % 7 == 0:
            kept.append(out)

    return write


def writes_late() -> Callable[..., None]:
    """Write into the last sample again while the model may read it."""
    kept: list[np.ndarray] = []

    def write(item: int, out: np.ndarray) -> None:
        for old in kept:
            old[...] = -1
        out[...] = item
        kept[:] = [out[:]]

    return write


def keeps_in_a_circle() -> Callable[..., None]:
    def write(item: int, out: np.ndarray) -> None:
        out[...] = item
        try:
            raise Stop
        except Stop as error:
            held = error
            assert held is not None

    return write


@pytest.mark.parametrize(
    "make",
    [
        keeps_out,
        keeps_a_view,
        keeps_a_memoryview,
        keeps_late,
        keeps_late_and_writes,
        writes_late,
        keeps_in_a_circle,
    ],
)
@pytest.mark.parametrize(("batch_size", "slots"), [(16, None), (1, 4)], ids=["some slots", "few slots"])
def test_a_function_that_keeps_out_blocks_nothing_and_spoils_no_row(make, batch_size, slots) -> None:
    with filling(make(), batch_size=batch_size, slots=slots) as run:
        results, failures = run(range(COUNT), batch_size=batch_size)
    assert not failures
    assert {index: set(row.tolist()) for index, row in results.items()} == {n: {n} for n in range(COUNT)}


PICTURE = {"0": ((64, 64, 3), "float32")}
"""Fill whole pages, so that rings have exactly the requested number of slots."""


def meet(folder: Path, item: int, workers: int) -> None:
    """Wait until every other worker has taken an item, so that each worker gets one of as many items."""
    (folder / str(item)).touch()
    first = item // workers * workers
    wait_until(lambda: all((folder / str(other)).exists() for other in range(first, first + workers)))


@pytest.mark.parametrize("slots", [None, 1])
def test_more_workers_than_rows_of_a_batch_may_all_begin_to_keep_out(tmp_path, slots) -> None:
    """Each worker keeps the slot in which it began to keep `out`. The ring has extra slots for that."""
    kept: list[np.ndarray] = []

    def write(item: int, out: np.ndarray) -> None:
        out[...] = item
        if item < 18:
            meet(tmp_path, item, 6)
        if item >= 12:
            kept.append(out)

    with filling(write, PICTURE, workers=6, batch_size=1, slots=slots) as run:
        results, failures = run(range(60), batch_size=1)
    assert not failures
    assert {index: set(row.flat) for index, row in results.items()} == {n: {n} for n in range(60)}


def test_all_workers_are_at_work_at_once_though_batches_are_smaller(tmp_path) -> None:
    def write(item: int, out: np.ndarray) -> None:
        meet(tmp_path, item, 8)
        out[...] = item

    with filling(write, PICTURE, workers=8, batch_size=1) as run:
        results, failures = run(range(16), batch_size=1)
    assert not failures
    assert {index: set(row.flat) for index, row in results.items()} == {n: {n} for n in range(16)}


def test_a_model_that_keeps_all_slots_left_by_the_workers_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        stall, "STALL_SECONDS", 1.5
    )  # the warning comes only once, so it must come when no slot moves any more
    monkeypatch.setattr(stall, "GARBAGE_SECONDS", 0.0)
    kept_there: list[np.ndarray] = []
    kept_here: list[np.ndarray] = []

    def write(item: int, out: np.ndarray) -> None:
        out[...] = item
        if item > 0:
            kept_there.append(out)

    def model(batch: Any, template: Any) -> np.ndarray:
        kept_here.append(batch["0"])
        return np.array(batch["0"])

    # One worker sends its rows in order. So the model gets them in their slots; there are six slots.
    with filling(write, workers=1, batch_size=1, model=model) as run, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")

        # Other warnings are possible, for example about leftovers of an earlier test.
        def texts() -> list[str]:
            return [str(warning.message) for warning in said if issubclass(warning.category, stall.StalledRingWarning)]

        with in_thread(run, range(100), batch_size=1) as call:
            wait_until(lambda: texts() or call.done())
            kept_here.clear()
            while not call.done():
                time.sleep(0.001)
                kept_here.clear()
    assert len(call.result()[0]) == 100
    text = texts()[0]
    # The worker keeps one slot or none: the first sample that it kept may be the first item's, which has no slot.
    held = re.search("([56]) by batches, arrays or views of this process(, (1) by claims of other processes)?", text)
    assert held is not None, text
    assert int(held[1]) + int(held[3] or 0) == 6
    assert "`out.copy()`" in text


def test_failed_items_whose_exceptions_keep_out_block_nothing() -> None:
    kept = []

    def write(item: int, out: np.ndarray) -> None:
        out[...] = item
        try:
            if item % 3 == 0:
                raise Stop(item)
        except Stop as error:
            kept.append(error)
            raise

    with filling(write) as run:
        results, failures = run(range(COUNT))
    assert sorted(failure.index for failure in failures) == list(range(0, COUNT, 3))
    assert all((row == index).all() for index, row in results.items())


def test_out_is_zero_for_each_item_in_the_ring_and_beside_it() -> None:
    kept = []

    def writes_a_part(item: int, out: dict[str, np.ndarray]) -> None:
        assert not out["a"].any()
        assert not out["b"].any()
        assert out["a"].ctypes.data % 64 == out["b"].ctypes.data % 64 == 0
        if item > 2 * COUNT:
            kept.append(out["b"])
        out["a"][: item % 7] = item
        if item % 2:
            out["b"][...] = item

    fields = {"0": ((9,), "float32"), "1": ((), "int64")}
    with filling(writes_a_part, fields, {"a": 0, "b": 1}, model=lambda batch, template: np.array(batch["0"])) as run:
        results, failures = run(range(3 * COUNT))
    assert not failures
    for index, row in results.items():
        assert row.tolist() == [index] * (index % 7) + [0] * (9 - index % 7)


def test_out_is_the_slot_itself_if_the_function_does_not_keep_it() -> None:
    def address(item: int, out: np.ndarray) -> None:
        out[0] = out.ctypes.data

    with filling(address, {"0": ((512,), "int64")}, workers=1) as run:
        results, failures = run(range(COUNT))
        assert run.loop.rows is not None
        slots = run.loop.rows.slots
    assert not failures
    addresses = [int(row[0]) for index, row in sorted(results.items())]
    assert len(set(addresses[1:])) <= slots
    assert all(a % 64 == 0 for a in addresses)
