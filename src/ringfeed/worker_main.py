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
    """Order: work on these rings; their descriptors (tasks, rows, failures) come with it."""

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
    """Does the function take ``(item, out)`` rather than ``(item)``?

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
        except Exception:
            return Failure("raised", traceback.format_exc())

    def _work(self, order: Open, descriptors: list[int]) -> None:
        rings = []
        try:
            for name, descriptor in zip(("tasks", "rows", "failures"), descriptors, strict=True):
                rings.append(Ring.attach_descriptor(descriptor, name))
            tasks, rows, failures = rings
            for batch in tasks.batches(1):
                record = batch.records[0]
                work = _Task(int(record["tag"]), rows, failures, order.template)
                if record["deliveries"] > MOST_DELIVERIES:
                    work.fail(Failure("crashed", ""))
                elif self._fills_slot:
                    work.fill(self._function, batch["message"][0])
                else:
                    work.write(self._function, batch["message"][0])
        except (RingClosed, RingFinished):
            pass  # the predictor ended this run; the next order says what is next
        finally:
            for ring in rings:
                ring.close()


class _Task:
    """One item on its way through the function into a slot."""

    def __init__(self, tag: int, rows: Ring, failures: Ring, template: Any) -> None:
        self._tag = tag
        self._rows = rows
        self._failures = failures
        self._template = template
        self._names = list(rows.spec)

    def write(self, function: Callable[..., Any], message: Any) -> None:
        """Call ``function(item)`` and copy what it returns into a slot."""
        try:
            leaves = self._check(function(read_item(message)))
        except Exception:
            self.fail(Failure("raised", traceback.format_exc()))
            return
        with self._rows.claim() as slot:
            for name, leaf in zip(self._names, leaves, strict=True):
                slot[name] = leaf
            slot.tag = self._tag

    def fill(self, function: Callable[..., Any], message: Any) -> None:
        """Call ``function(item, out)`` with `out` over the slot itself."""
        slot = self._rows.claim()
        try:
            out = put_together(self._template, [slot[name] for name in self._names])
            function(read_item(message), out)
        except Exception:
            slot.discard()
            self.fail(Failure("raised", traceback.format_exc()))
            return
        del out
        slot.tag = self._tag
        slot.publish()

    def fail(self, failure: Failure) -> None:
        """Say why, then publish a row that holds nothing, so that the predictor counts the item."""
        kind, text = failure.kind, failure.text
        body = pickle.dumps(Failure(kind, text))
        while len(body) > FAILURE_BYTES - 8:
            text = "..." + text[len(text) // 4 + 4 :]  # the end of a traceback says what went wrong
            body = pickle.dumps(Failure(kind, text))
        with self._failures.claim() as slot:
            text_bytes = slot["failure"]
            text_bytes[:8] = np.array([len(body)], np.uint64).view(np.uint8)
            text_bytes[8 : 8 + len(body)] = np.frombuffer(body, np.uint8)
            slot.tag = self._tag
        with self._rows.claim() as slot:
            for name in self._names:
                slot[name] = 0
            slot.tag = self._tag | FAILED

    def _check(self, result: Any) -> list[Any]:
        template, leaves = take_apart(result)
        if template != self._template:
            raise ValueError(
                f"preprocess returned {_describe(template)}, for the first item it returned {_describe(self._template)}; "
                "every item needs the same structure."
            )
        spec = self._rows.spec
        for position, (name, leaf) in enumerate(zip(self._names, leaves, strict=True)):
            array = np.asarray(leaf)
            leaves[position] = array
            field = spec[name]
            which = f"result {position} of preprocess" if len(leaves) > 1 else "preprocess"
            if array.shape != field.shape:
                raise ValueError(
                    f"{which} returned shape {array.shape}, the slots hold {field.shape} (as the first item); "
                    "resize or pad every item to one shape."
                )
            if not np.can_cast(array.dtype, field.dtype, "same_kind"):
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
