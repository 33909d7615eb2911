"""A Predictor that is closed during a call: by another thread, a callback, the model, a signal handler."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from predict_runs import Run, copy_rows, running
from preprocessing import row_of_four

import ringfeed
from ringfeed.errors import RingClosed, RingFeedError
from ringfeed.workers.channel import Channel, ChannelClosed
from ringfeed.workers.item_timeout import ItemWatchdog
from ringfeed.workers.items import SpillFile
from ringfeed.workers.pool import WorkerPool
from support import in_thread, wait_until, wait_until_waited

COUNT, BATCH = 40, 4
SAID = r"this Predictor was closed during the call.*make a new one"


def start_of(item: np.ndarray) -> np.ndarray:
    return item[:4].astype(np.float32)


def sends() -> bool:
    return any(thread.name == "ringfeed-item-sender" for thread in threading.enumerate())


def open_rings() -> list[str]:
    """Return the memory files of this process that are rings of predictors, or belong to them."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return sorted(target for target in found if "memfd:" in target)


# ---- between batches ---------------------------------------------------------------------------------


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
                closed.wait()  # the item is read, but not yet sent, when the call ends
            return np.full(item_bytes, index, np.uint8)

    def model(rows: Any, template: Any) -> Any:
        if next(calls) == 3:
            with in_thread(run.close):
                pass
            closed.set()
            wait_until(lambda: not sends())
        return copy_rows(rows, template)

    calls = itertools.count(1)
    items = map(Items().__getitem__, range(COUNT)) if is_iterator else Items()
    with running(start_of, workers=1, model=model, batch_size=BATCH) as run:
        try:
            with pytest.raises(RingClosed, match=SAID):
                run(items, batch_size=BATCH, linger=linger)
        finally:
            closed.set()


def test_a_call_that_is_closed_by_a_signal_while_it_waits_for_rows_raises() -> None:
    def send_when_it_waits() -> None:
        wait_until(lambda: run.loop.rows)
        wait_until_waited(run.loop.rows, "take")
        os.kill(os.getpid(), signal.SIGTERM)

    with running(never_after_three, workers=1, batch_size=BATCH) as run:
        before = signal.signal(signal.SIGTERM, lambda *_: run.close())
        try:
            with in_thread(send_when_it_waits), pytest.raises(RingClosed, match=SAID):
                run(range(COUNT), batch_size=BATCH)
        finally:
            signal.signal(signal.SIGTERM, before)


def never_after_three(item: int) -> np.ndarray:
    while item >= 3:
        time.sleep(3600)
    return row_of_four(item)


class Ended(list[Any]):
    """Items from a ring of the user, which is closed while they are read."""

    def __getitem__(self, index: Any) -> Any:
        if index == 20:
            raise RingClosed("the user's own ring is closed.")
        return super().__getitem__(index)


def test_items_that_end_with_an_error_of_a_ring_do_not_end_the_call_silently() -> None:
    with running(row_of_four, workers=1, batch_size=BATCH) as run, pytest.raises(RingClosed, match="the user's own"):
        run(Ended(range(COUNT)), batch_size=BATCH)


@pytest.mark.parametrize("way", ["predict", "stream"])
def test_a_call_without_workers_that_is_closed_between_its_items_raises(way: str) -> None:
    def items() -> Iterator[int]:
        for number in range(COUNT):
            if number == COUNT // 2:
                predictor.close()
            yield number

    with (
        ringfeed.Predictor(lambda x: x, row_of_four, workers=0, batch_size=BATCH) as predictor,
        pytest.raises(RingClosed, match=SAID),
    ):
        list(getattr(predictor, way)(items()))


# ---- at the first item -------------------------------------------------------------------------------


@contextlib.contextmanager
def closing(close_in: str, on_error: str) -> Iterator[tuple[ringfeed.Predictor, list[Any]]]:
    """Yield a predictor that is closed by its model's first call, or by its callback at the start of a call."""
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


@pytest.mark.parametrize("calls_before", [0, 1])
@pytest.mark.parametrize("on_error", ["raise", "skip", "return"])
def test_a_call_that_is_closed_before_its_rings_are_open_raises(on_error: str, calls_before: int) -> None:
    before = open_rings()
    with closing("callback", on_error) as (predictor, callbacks):
        for _ in range(calls_before):
            assert len(predictor.predict(range(10), verbose=0)) == 10
        with pytest.raises(RingClosed, match=SAID):
            predictor.predict(range(10), verbose=0, callbacks=callbacks)
        assert predictor.worker_process_ids == []
    assert open_rings() == before


# ---- at any step -------------------------------------------------------------------------------------

TRACED = tuple(
    f"ringfeed/workers/{name}.py"
    for name in (
        "predict_loop",
        "predict_rings",
        "first_item",
        "row_receiver",
        "pool",
        "worker_process",
        "channel",
        "items",
        "item_sender",
        "item_timeout",
    )
)


class AtStep:
    """Calls a function during one line of the modules of a predictor, as a signal handler in this thread would.

    Parameters
    ----------
    step : int
        The number of the line among the lines that this thread runs; a negative number for none.
    modules : tuple of str
        The ends of the modules' file names.
    """

    def __init__(self, step: int, call: Callable[[], object], modules: tuple[str, ...] = TRACED) -> None:
        self.steps = 0
        self.where = ""
        self._step = step
        self._call = call
        self._modules = modules

    def _trace(self, frame: Any, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.endswith(self._modules):
            return None
        if event == "line":
            self.steps += 1
            if self.steps == self._step:
                self.where = f"{frame.f_code.co_qualname if sys.version_info >= (3, 11) else ''}:{frame.f_lineno}"
                sys.settrace(None)
                self._call()
        return self._trace

    def __enter__(self) -> AtStep:
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)


def two_calls(run: Run) -> list[int]:
    """Return the number of results of each of two calls. Their rows differ, therefore their rings differ."""
    return [len(run(items, batch_size=BATCH)[0]) for items in ([np.ones(8)] * 6, [np.ones(200_000)] * 9)]


def itself(item: np.ndarray) -> np.ndarray:
    return item[:100]


@pytest.mark.parametrize("share", [number / 12 for number in range(12)])
def test_a_call_that_is_closed_at_any_step_raises_or_is_complete_and_leaves_nothing(share: float) -> None:
    before = open_rings()
    with running(itself, workers=1, item_timeout=60.0, batch_size=BATCH) as run, AtStep(-1, run.close) as walk:
        assert two_calls(run) == [6, 9]
    step = 1 + int(walk.steps * share)
    with running(itself, workers=1, item_timeout=60.0, batch_size=BATCH) as run, AtStep(step, run.close) as walk:
        processes = run.pool.process_ids
        outcome: Any = None
        try:
            outcome = two_calls(run)
        except RingFeedError as error:
            outcome = error.with_traceback(None)
        run.close()  # needed if this call had fewer steps than the first one
        assert outcome == [6, 9] or isinstance(outcome, RingClosed), (walk.where, outcome)
        assert run.loop.rows is None
        assert run.pool.process_ids == []
        assert not any(os.path.exists(f"/proc/{pid}") for pid in processes), walk.where
    wait_until(lambda: not sends())
    gc.collect()  # a ring in a reference cycle, which a traceback makes, is no leak
    assert open_rings() == before, walk.where


@pytest.mark.parametrize("sent", [2, 14, 20, 100], ids=["part of a head", "part of a body", "more of it", "all of it"])
def test_a_channel_that_is_closed_at_any_step_of_a_receive_raises_or_gives_the_message(sent: int) -> None:
    message = struct.pack("<QI", 50, 0) + bytes(50)
    for step in itertools.count(1):
        ours, theirs = socket.socketpair()
        channel = Channel(ours, bytes, bytes)
        with theirs:
            theirs.sendall(message[:1])
            with pytest.raises(TimeoutError):
                channel.receive(0.0)
            theirs.sendall(message[1:sent])
            with AtStep(step, channel.close) as walk, contextlib.suppress(ChannelClosed, TimeoutError):
                assert channel.receive(0.0) == (bytes(50), [])
            channel.close()
        if walk.steps < step:
            break


# ---- by a signal handler during another close --------------------------------------------------------


def closes_twice(make: Callable[[], Any]) -> None:
    """Close an object at each step of its own close. A file that gets the freed descriptor meanwhile stays open."""
    for step in itertools.count(1):
        thing = make()
        opened: list[int] = []

        def close_and_open(thing: Any = thing, opened: list[int] = opened) -> None:
            thing.close()
            opened.append(os.open(os.devnull, os.O_RDONLY))

        with AtStep(step, close_and_open) as walk:
            thing.close()
        for descriptor in opened:
            os.close(descriptor)  # raises if the other close closed it
        if not opened:
            assert walk.steps < step
            return


@pytest.mark.timeout(60)
def test_a_signal_handler_may_close_a_spill_file_during_its_close() -> None:
    closes_twice(SpillFile)


@pytest.mark.timeout(60)
def test_a_signal_handler_may_close_a_watch_of_items_during_its_close() -> None:
    closes_twice(lambda: ItemWatchdog(60.0, 1))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("doing", ["poll", "wait"])
def test_a_signal_handler_may_close_a_pool_during_the_inspection_of_a_worker(doing: str) -> None:
    for step in itertools.count(1):
        pool = WorkerPool(row_of_four, 1)
        process = pool._workers[0].process
        if doing == "wait":
            process.kill()
        with AtStep(step, pool.close, ("subprocess.py",)) as walk:
            getattr(process, doing)()
        pool.close()
        assert process.returncode is not None
        if walk.steps < step:
            break
