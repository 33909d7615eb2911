"""The program of a worker process: take a task, preprocess its item, write the result into a slot.

It may not know TensorFlow, nor the predictor: its function and its rings come over a channel. The rings are

    tasks      items to do, one per slot, tagged; a task is released once its row was published
    rows       the samples, in the model's fields, with the tag of their item
    failures   for a row whose tag has `FAILED` set: the reason, published before the row

A worker that dies loses nothing: the kernel drops its record locks, its claim is freed, and its task becomes READY for
another worker. `deliveries` counts the takes of a task, so an item that kills workers is given up.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import queue
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

import cloudpickle
import numpy as np

from ..errors import RingClosed, RingEmpty, RingFeedError, RingFinished
from ..machine import memory_files
from ..ring import Ring
from .channel import Channel, ChannelClosed
from .commands import OpenRings, Probe
from .failures import Failure, traceback_text
from .identity import WORKER_MARK, WorkerInfo, become
from .item_status import ItemStatusPage
from .item_timeout import ItemTimer, TimerStoppingRing
from .items import read_item
from .messages import LoadingFailed, ProbeResult, Ready, encode_message
from .plain_data import NotPlain
from .row_writer import RowWriter, failure_of
from .samples import Sample, sample_of
from .tags import PROBE_TAG
from .user_functions import takes_info

MAX_DELIVERIES = 2
"""An item is given up after this many workers died over it."""


class _Worker:
    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._commands: queue.SimpleQueue[tuple[Any, list[int]]] = queue.SimpleQueue()
        self._postponed: list[tuple[Any, list[int]]] = []
        setup, descriptors = channel.receive()
        threading.Thread(target=self._listen, daemon=True).start()
        self._fills_slot: bool = setup.fills_slot
        self._copies_messages = False
        self._timer: ItemTimer | None = None
        become(setup.info)
        if setup.item_timeout is not None:
            page = ItemStatusPage(descriptors[1], setup.info.count)
            self._timer = ItemTimer(page, setup.info.number, setup.item_timeout)
        self._function: Callable[..., Any] = self._load(memory_files.read(descriptors[0]), setup.info)
        for descriptor in descriptors:
            os.close(descriptor)
        channel.send(Ready())

    def _load(self, code: bytearray, info: WorkerInfo) -> Callable[..., Any]:
        """Return the function, after the initializer has run."""
        what = "function"
        try:
            function, initializer = cloudpickle.loads(code)
            if initializer is not None:
                what = "initializer"
                initializer(info) if takes_info(initializer) else initializer()
        except BaseException as error:
            self._end_process(what, error)
        return function  # type: ignore[no-any-return]

    def _listen(self) -> None:
        """Receive commands; end the process at once, even during an item, when the predictor is gone."""
        try:
            while True:
                self._commands.put(self._channel.receive())
        except ChannelClosed:
            os._exit(0)
        except BaseException as error:
            self._end_process("command", error)

    def _end_process(self, what: str, error: BaseException) -> None:
        """End the process over an error that would recur in its replacement."""
        with contextlib.suppress(ChannelClosed):
            self._channel.send(LoadingFailed(what, traceback_text(error)))
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        os._exit(1)

    def run(self) -> None:
        while True:
            command, descriptors = self._postponed.pop() if self._postponed else self._commands.get()
            if isinstance(command, Probe):
                self._answer(command, descriptors)
            else:
                self._work(command, descriptors)

    # ---- probes --------------------------------------------------------------------------------------

    def _answer(self, command: Probe, descriptors: list[int]) -> None:
        try:
            message = np.frombuffer(memory_files.read(descriptors[0]), np.uint8)
        finally:
            os.close(descriptors[0])
        if self._timer is not None:
            self._timer.begin(PROBE_TAG)
        result = self._probe(message)
        if self._timer is not None:
            self._timer.end()
        try:
            self._channel.send(ProbeResult(command.number, result))
        except NotPlain as reason:  # a nest that cannot travel
            self._channel.send(ProbeResult(command.number, Failure("unfit", str(reason))))

    def _probe(self, message: np.ndarray[Any, Any]) -> Sample | Failure:
        try:
            return sample_of(self._function(read_item(message)))
        except BaseException as error:
            return failure_of(error)

    def _has_other_commands(self) -> bool:
        """Answer probes while there is no task; tell whether a command requires leaving these rings."""
        while not self._commands.empty():
            command, descriptors = self._commands.get()
            if not isinstance(command, Probe):
                self._postponed.append((command, descriptors))
                return True
            self._answer(command, descriptors)
        return False

    # ---- tasks ---------------------------------------------------------------------------------------

    def _work(self, command: OpenRings, descriptors: list[int]) -> None:
        rings: list[Any] = []
        *left, spill_descriptor = descriptors
        try:
            try:
                for name in ("tasks", "rows", "failures"):
                    rings.append(Ring.attach_descriptor(left.pop(0), name))  # it owns the descriptor from now on
            except RingClosed:
                raise  # a later command replaced these rings
            except (OSError, MemoryError, RingFeedError) as error:  # the replacement of this worker would fail, too
                self._end_process("rings", error)
            self._do_tasks(command, rings, spill_descriptor)
        except (RingClosed, RingFinished, RingEmpty):
            pass  # the predictor ended this run, and sends the next command
        finally:
            for ring in rings:
                ring.close()
            for descriptor in (*left, spill_descriptor):
                os.close(descriptor)

    def _do_tasks(self, command: OpenRings, rings: list[Any], spill_descriptor: int) -> None:
        tasks, rows, failures = rings
        if self._timer is not None:
            rows, failures = TimerStoppingRing(rows, self._timer), TimerStoppingRing(failures, self._timer)
        writer = RowWriter(rows, failures, command, spill_descriptor)
        do: Callable[[int, Any, Any], None] = writer.fill if self._fills_slot else writer.write
        if self._timer is not None:
            writer.begin, do = self._timer.begin, self._timer.ending(do)  # `begin` is called once the slot is there
        while True:
            # One at a time: further tasks of this worker would wait for it, and would be blamed for its death.
            with tasks.take(1, while_waiting=self._has_other_commands) as task:
                writer.claim()
                tag, deliveries = task.only_record()
                if deliveries == 1 or not self._give_up(writer, tag, deliveries):
                    message = task["message"][0]
                    do(tag, self._function, message.copy() if self._copies_messages else message)
                    del message
            if not task.release():
                # A kept exception keeps the frames below the function's frame, and the message in them.
                self._copies_messages = True
                gc.collect()

    def _give_up(self, writer: RowWriter, tag: int, deliveries: int) -> bool:
        """Fail an item that ended workers before, unless it is tried again."""
        if self._timer is not None and self._timer.page.has_timed_out(tag):
            writer.fail(tag, self._timer.failure)
            self._timer.page.clear_timed_out(tag)
        elif deliveries > MAX_DELIVERIES:
            writer.fail(tag, Failure("crashed", ""))
        else:
            return False
        return True


def main(descriptor: int) -> None:
    """Run the worker whose channel is the open socket `descriptor`."""
    # Ctrl-C reaches the whole process group; the predictor alone decides how to react.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.pop(WORKER_MARK, None)
    os.set_inheritable(descriptor, False)
    try:
        _Worker(Channel(socket.socket(fileno=descriptor), encode_message, pickle.loads)).run()
    except ChannelClosed:
        sys.exit(0)
