"""What a worker process does: take an item, preprocess it, write the result into a slot.

It may not know TensorFlow, and not the predictor: it gets its function and its rings over a
channel. The rings are

    tasks      items to do, one a slot, tagged; a task is released when its row was published
    rows       the samples, in the model's fields, with the tag of their item
    failures   for a row whose tag has FAILED set: what went wrong, published before the row

A worker that dies loses nothing: the kernel drops its record locks, its claim is freed and its task
becomes READY for another worker. `deliveries` counts that, so an item that kills workers is given up.
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
from .answers import LoadingFailed, ProbeAnswer, Ready, packed, packed_failure
from .channel import Channel, ChannelClosed
from .failures import Failure as Failure
from .failures import raised, traceback_text
from .identity import WorkerInfo, become
from .item_board import ItemBoard
from .item_timeout import EndingRing, ItemTimer
from .items import read_item
from .orders import MARK, PROBE_TAG, Open, Probe, takes_info
from .plain_data import NotPlain
from .sample_spec import choose_layout, row_as_wanted, taken_of
from .samples import Sample, Unfit, sample_of
from .slot_filler import SlotFiller

FAILED = 1 << 63
"""In a row's tag: the row holds nothing; the failures ring says why."""

FIRST = 1 << 47
"""In a task's and a row's tag: the first item of a call, which decides what a row is. If other rings are to be made for
it, the failure tells what it came out as."""

MOST_DELIVERIES = 2
FAILURE_BYTES = 16384
_LEAST_TEXT = 500
"""Characters of a failure's text that are told in any case."""


class _Worker:
    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._orders: queue.SimpleQueue[tuple[Any, list[int]]] = queue.SimpleQueue()
        self._left_over: list[tuple[Any, list[int]]] = []
        setup, descriptors = channel.receive()
        threading.Thread(target=self._listen, daemon=True).start()
        self._fills_slot: bool = setup.fills_slot
        self._copies_messages = False
        self._timer: ItemTimer | None = None
        become(setup.info)
        if setup.item_timeout is not None:
            self._timer = ItemTimer(ItemBoard(descriptors[1], setup.info.count), setup.info.number, setup.item_timeout)
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
            self._say_and_end(what, error)
        return function  # type: ignore[no-any-return]

    def _listen(self) -> None:
        """Receive orders; end the process when the predictor is gone, whatever it is doing."""
        try:
            while True:
                self._orders.put(self._channel.receive())
        except ChannelClosed:
            os._exit(0)
        except BaseException as error:
            self._say_and_end("order", error)

    def _say_and_end(self, what: str, error: BaseException) -> None:
        """End the process because of what would go wrong in the next one as well."""
        with contextlib.suppress(ChannelClosed):
            self._channel.send(LoadingFailed(what, traceback_text(error)))
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        os._exit(1)

    def run(self) -> None:
        while True:
            order, descriptors = self._left_over.pop() if self._left_over else self._orders.get()
            if isinstance(order, Probe):
                self._answer(order, descriptors)
            else:
                self._work(order, descriptors)

    def _answer(self, order: Probe, descriptors: list[int]) -> None:
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
            self._channel.send(ProbeAnswer(order.number, result))
        except NotPlain as reason:  # a nest that cannot travel
            self._channel.send(ProbeAnswer(order.number, Failure("unfit", str(reason))))

    def _has_other_orders(self) -> bool:
        """Answer probes while there is nothing to do; tell whether there is an order to leave these rings for."""
        while not self._orders.empty():
            order, descriptors = self._orders.get()
            if not isinstance(order, Probe):
                self._left_over.append((order, descriptors))
                return True
            self._answer(order, descriptors)
        return False

    def _probe(self, message: np.ndarray[Any, Any]) -> Sample | Failure:
        try:
            return sample_of(self._function(read_item(message)))
        except BaseException as error:
            return failure_of(error)

    def _work(self, order: Open, descriptors: list[int]) -> None:
        rings: list[Any] = []
        *left, spill_descriptor = descriptors
        try:
            try:
                for name in ("tasks", "rows", "failures"):
                    rings.append(Ring.attach_descriptor(left.pop(0), name))  # it takes it over, whatever comes of it
            except RingClosed:
                raise  # this order was overtaken by another
            except (OSError, MemoryError, RingFeedError) as error:  # the one in our place could not attach, either
                self._say_and_end("rings", error)
            tasks, rows, failures = rings
            if self._timer is not None:
                rows, failures = EndingRing(rows, self._timer), EndingRing(failures, self._timer)
            writer = _Writer(rows, failures, order, spill_descriptor)
            do: Callable[[int, Any, Any], None] = writer.fill if self._fills_slot else writer.write
            if self._timer is not None:
                writer.begin, do = self._timer.begin, self._timer.ending(do)  # it begins once it has its slot
            while True:
                # One at a time: what else this worker held would wait for it, and be blamed for its death.
                with tasks.take(1, while_waiting=self._has_other_orders) as task:
                    writer.claim()
                    tag, deliveries = task.only_record()
                    if deliveries == 1 or not self._refuse(writer, tag, deliveries):
                        message = task["message"][0]
                        do(tag, self._function, message.copy() if self._copies_messages else message)
                        del message
                if not task.release():
                    # An exception that is kept keeps the frames below the function's, and the message in them.
                    self._copies_messages = True
                    gc.collect()
        except (RingClosed, RingFinished, RingEmpty):
            pass  # the predictor ended this run; the next order says what is next
        finally:
            for ring in rings:
                ring.close()
            for descriptor in (*left, spill_descriptor):
                os.close(descriptor)

    def _refuse(self, writer: _Writer, tag: int, deliveries: int) -> bool:
        """Fail an item that ended workers before, if it is not to be tried again."""
        if self._timer is not None and self._timer.board.was_given_up(tag):
            writer.fail(tag, self._timer.failure)
            self._timer.board.forget(tag)
        elif deliveries > MOST_DELIVERIES:
            writer.fail(tag, Failure("crashed", ""))
        else:
            return False
        return True


class _Writer:
    """Brings items through the function into slots."""

    begin: Callable[[int], None] | None = None
    """Called with the tag before an item is read, if that is asked for."""

    def __init__(self, rows: Ring, failures: Ring, order: Open, spill_descriptor: int) -> None:
        self._rows = rows
        self._failures = failures
        self._layout = order.layout
        self._wanted = order.wanted
        self._spill_descriptor = spill_descriptor
        self._names = list(rows.spec)
        self._only = order.layout.fields[0]
        self._is_one_array = order.layout.picked == 0
        self._filler = SlotFiller(rows, order.layout.template)
        self._slot: Any = None

    def claim(self) -> None:
        """Claim the slot of the next item, as soon as that was taken.

        So slots lie in the order of their items, nearly always, and batches need no copy to be so, too.
        """
        self._slot = self._rows.claim()

    def write(self, tag: int, function: Callable[..., Any], message: Any) -> None:
        """Call ``function(item)`` and copy what it returns into the slot."""
        failure: Failure | None = None
        leaves = None
        slot, self._slot = self._slot, None
        if self.begin is not None:
            self.begin(tag)
        try:
            result = function(read_item(message, self._spill_descriptor))
            if tag & FIRST:
                failure = self._unlike(result)
            if failure is None and not self._is_the_row(result):
                leaves = row_as_wanted(result, self._layout, self._wanted)
        except BaseException as error:  # also SystemExit: the item would be lost with the worker
            failure = failure_of(error)
        if failure is not None:
            self._say(tag, failure)
            tag |= FAILED
        elif leaves is None:
            slot[self._only.name] = result
        else:
            for name, leaf in zip(self._names, leaves, strict=True):
                slot[name][...] = leaf  # of the field's shape, and its numbers stay what they are
        slot.tag = tag
        slot.publish()

    def _unlike(self, result: Any) -> Failure | None:
        """Return what the first item of a call came out as, where other rings are to be made for it."""
        sample = sample_of(result)
        layout = choose_layout(self._wanted, sample)
        return None if layout == self._layout else Failure("unlike", "", sample=taken_of(sample, layout))

    def fill(self, tag: int, function: Callable[..., Any], message: Any) -> None:
        """Call ``function(item, out)`` with zeros in `out`, over the slot itself if the function lets go of it."""
        slot, self._slot = self._slot, None
        failure = self._filler.fill(
            slot, tag, lambda out: function(read_item(message, self._spill_descriptor), out), self.begin
        )
        if failure is not None:
            self.fail(tag, failure)

    def fail(self, tag: int, failure: Failure) -> None:
        """Say why, then publish a row that holds nothing, so that the predictor counts the item."""
        self._say(tag, failure)
        slot, self._slot = self._slot or self._rows.claim(), None
        slot.tag = tag | FAILED
        slot.publish()

    def _say(self, tag: int, failure: Failure) -> None:
        body = _packed(failure)
        with self._failures.claim() as slot:
            target = slot["failure"]
            target[:8] = np.array([len(body)], np.uint64).view(np.uint8)
            target[8 : 8 + len(body)] = np.frombuffer(body, np.uint8)
            slot.tag = tag

    def _is_the_row(self, result: Any) -> bool:
        """Tell, quickly, whether a result can be copied byte by byte."""
        return (
            self._is_one_array
            and type(result) is np.ndarray
            and result.shape == self._only.shape
            and result.dtype == self._only.dtype
            and result.flags.c_contiguous
        )


def _packed(failure: Failure) -> bytes:
    """Return a failure as bytes, cut to what the failures ring holds."""
    room = FAILURE_BYTES - 8
    try:
        body = packed_failure(failure)
        if len(body) > room and failure.sample is not None:
            raise NotPlain("preprocess returned more than can be told; return fewer and shorter-named arrays.")
    except NotPlain as reason:
        failure = Failure("unfit", str(reason))
        body = packed_failure(failure)
    # The text is cut first: the end of a traceback says what went wrong, and the exception is not to be had without
    # its recipe.
    for recipe in (failure.recipe, None):
        text = failure.text
        while len(body) > room:
            body = packed_failure(Failure(failure.kind, text, failure.exception_type, recipe))
            if len(text) <= _LEAST_TEXT:
                break
            text = "..." + text[len(text) // 4 + 4 :]
    return body


def failure_of(error: BaseException) -> Failure:
    """Return what is said of an exception that came of an item."""
    # By its type: `isinstance` asks the exception for its class, and that may raise.
    return Failure("unfit", str(error)) if issubclass(type(error), Unfit) else raised(error)


def main(descriptor: int) -> None:
    """Be a worker whose channel is the open socket `descriptor`."""
    # Ctrl-C reaches the whole process group; the predictor decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.pop(MARK, None)
    os.set_inheritable(descriptor, False)
    try:
        _Worker(Channel(socket.socket(fileno=descriptor), packed, pickle.loads)).run()
    except ChannelClosed:
        sys.exit(0)
