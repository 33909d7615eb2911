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

import inspect
import os
import pickle
import queue
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cloudpickle
import numpy as np

from .channel import Channel, ChannelClosed
from .errors import RingClosed, RingFinished
from .items import read_item
from .nest import put_together, take_apart
from .ring import Ring

FAILED = 1 << 63
"""In a row's tag: the row holds nothing; the failures ring says why."""

MOST_DELIVERIES = 2
FAILURE_BYTES = 16384


@dataclass(frozen=True)
class Setup:
    """What a worker gets first."""

    function: bytes  # by cloudpickle
    fills_slot: bool


@dataclass(frozen=True)
class Probe:
    """Order: preprocess one item and say what came out."""

    message: bytes  # of an item, as in a task


@dataclass(frozen=True)
class Open:
    """Order: work on these rings; their descriptors (tasks, rows, failures, spill file) come with it."""

    template: Any  # nest of field numbers


@dataclass(frozen=True)
class Ready:
    """Answer: the function is loaded."""


@dataclass(frozen=True)
class Sample:
    """Answer to a probe: the result's nest and each leaf's (shape, dtype name)."""

    template: Any
    leaves: list[tuple[tuple[int, ...], str]]


@dataclass(frozen=True)
class Failure:
    """Answer: something was raised; `while_loading` the function or else over an item."""

    kind: str  # "raised" or "crashed"
    text: str
    while_loading: bool = False


def fills_slot(function: Callable[..., Any]) -> bool:
    """Tell whether the function takes ``(item, out)`` rather than ``(item)``.

    It does when its second parameter has no default or is named ``out``.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return False  # a built-in without a signature takes the item
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if any(p.name == "out" and p.kind == p.KEYWORD_ONLY and p.default is p.empty for p in parameters):
        raise TypeError("preprocess takes out by keyword only; make it the second positional parameter.")
    return len(positional) >= 2 and (positional[1].name == "out" or positional[1].default is inspect.Parameter.empty)


class _Worker:
    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._orders: queue.SimpleQueue[tuple[Any, list[int]]] = queue.SimpleQueue()
        setup, _ = channel.receive()
        self._fills_slot: bool = setup.fills_slot
        try:
            self._function: Callable[..., Any] = cloudpickle.loads(setup.function)
        except BaseException:
            channel.send(Failure("raised", traceback.format_exc(), while_loading=True))
            raise SystemExit(1) from None
        channel.send(Ready())
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        """Receive orders; end the process when the predictor is gone, whatever it is doing."""
        try:
            while True:
                self._orders.put(self._channel.receive())
        except ChannelClosed:
            os._exit(0)

    def run(self) -> None:
        while True:
            order, descriptors = self._orders.get()
            if isinstance(order, Probe):
                self._channel.send(self._probe(order))
            else:
                self._work(order, descriptors)

    def _probe(self, order: Probe) -> Sample | Failure:
        try:
            item = read_item(np.frombuffer(bytearray(order.message), np.uint8))
            template, leaves = take_apart(self._function(item))
            arrays = [np.asarray(leaf) for leaf in leaves]
            return Sample(template, [(array.shape, array.dtype.name) for array in arrays])
        except BaseException:
            return Failure("raised", traceback.format_exc())

    def _work(self, order: Open, descriptors: list[int]) -> None:
        rings = []
        *of_rings, spill_descriptor = descriptors
        try:
            for name, descriptor in zip(("tasks", "rows", "failures"), of_rings, strict=True):
                rings.append(Ring.attach_descriptor(descriptor, name))
            tasks, rows, failures = rings
            writer = _Writer(rows, failures, order.template, spill_descriptor)
            do = writer.fill if self._fills_slot else writer.write
            while True:
                # One at a time: what else this worker held would wait for it, and be blamed for its death.
                with tasks.take(1) as task:
                    tag, deliveries = task.only_record()
                    if deliveries > MOST_DELIVERIES:
                        writer.fail(tag, Failure("crashed", ""))
                    else:
                        do(tag, self._function, task["message"][0])
        except (RingClosed, RingFinished):
            pass  # the predictor ended this run; the next order says what is next
        finally:
            for ring in rings:
                ring.close()
            os.close(spill_descriptor)


class _Writer:
    """Brings items through the function into slots."""

    def __init__(self, rows: Ring, failures: Ring, template: Any, spill_descriptor: int) -> None:
        self._rows = rows
        self._failures = failures
        self._template = template
        self._spill_descriptor = spill_descriptor
        self._fields = list(rows.spec.values())
        self._only = self._fields[0]
        self._is_one_array = template == 0

    def write(self, tag: int, function: Callable[..., Any], message: Any) -> None:
        """Call ``function(item)`` and copy what it returns into a slot."""
        try:
            result = function(read_item(message, self._spill_descriptor))
            leaves = None if self._is_the_row(result) else self._check(result)
        except BaseException:  # also SystemExit: the item would be lost with the worker
            self.fail(tag, Failure("raised", traceback.format_exc()))
            return
        if leaves is None:
            self._rows.put({self._only.name: result}, tag)
            return
        with self._rows.claim() as slot:
            for field, leaf in zip(self._fields, leaves, strict=True):
                slot[field.name] = leaf
            slot.tag = tag

    def fill(self, tag: int, function: Callable[..., Any], message: Any) -> None:
        """Call ``function(item, out)`` with `out` over the slot itself."""
        slot = self._rows.claim()
        try:
            out = put_together(self._template, [slot[field.name] for field in self._fields])
            function(read_item(message, self._spill_descriptor), out)
        except BaseException:
            slot.discard()
            self.fail(tag, Failure("raised", traceback.format_exc()))
            return
        del out
        slot.tag = tag
        slot.publish()

    def fail(self, tag: int, failure: Failure) -> None:
        """Say why, then publish a row that holds nothing, so that the predictor counts the item."""
        text = failure.text
        body = pickle.dumps(failure)
        while len(body) > FAILURE_BYTES - 8:
            text = "..." + text[len(text) // 4 + 4 :]  # the end of a traceback says what went wrong
            body = pickle.dumps(Failure(failure.kind, text))
        with self._failures.claim() as slot:
            target = slot["failure"]
            target[:8] = np.array([len(body)], np.uint64).view(np.uint8)
            target[8 : 8 + len(body)] = np.frombuffer(body, np.uint8)
            slot.tag = tag
        with self._rows.claim() as slot:
            for field in self._fields:
                slot[field.name] = 0
            slot.tag = tag | FAILED

    def _is_the_row(self, result: Any) -> bool:
        """Tell, quickly, whether a result can be copied byte by byte."""
        return (
            self._is_one_array
            and type(result) is np.ndarray
            and result.shape == self._only.shape
            and result.dtype == self._only.dtype
            and result.flags.c_contiguous
        )

    def _check(self, result: Any) -> list[Any]:
        """Return the arrays of a result, or say in which way it is not as the first item's."""
        if isinstance(result, np.ndarray) and self._template == 0:
            leaves: list[Any] = [result]
        else:
            template, leaves = take_apart(result)
            if template != self._template:
                raise ValueError(
                    f"preprocess returned {_describe(template)}, for the first item it returned "
                    f"{_describe(self._template)}; every item needs the same structure."
                )
        for position, field in enumerate(self._fields):
            array = leaves[position] = np.asarray(leaves[position])
            which = f"result {position} of preprocess" if len(leaves) > 1 else "preprocess"
            if array.shape != field.shape:
                raise ValueError(
                    f"{which} returned shape {array.shape}, the slots hold {field.shape} (as the first item); "
                    "resize or pad every item to one shape."
                )
            if array.dtype != field.dtype and not np.can_cast(array.dtype, field.dtype, "same_kind"):
                raise ValueError(
                    f"{which} returned {array.dtype.name}, the slots hold {field.dtype.name} (as the first item); "
                    "convert every item to one dtype."
                )
        return leaves


def _describe(template: Any) -> str:
    if isinstance(template, dict):
        return f"a dict of {', '.join(map(repr, template))}"
    if isinstance(template, (list, tuple)):
        return f"a {type(template).__name__} of {len(template)}"
    return "one array"


def main(descriptor: int) -> None:
    """Be a worker whose channel is the open socket `descriptor`."""
    # Ctrl-C reaches the whole process group; the predictor decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        _Worker(Channel(socket.socket(fileno=descriptor))).run()
    except ChannelClosed:
        sys.exit(0)
