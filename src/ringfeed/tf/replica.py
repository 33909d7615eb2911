"""A model on one device, as an engine runs it: a batch of requests in, their answers out.

It may not know which batches come, when, or from which ring. A batch is read in the ring's own memory. Its slots are
released when its answers are written: so an engine that is killed at whatever moment loses nothing, for what was not
answered is delivered again.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from .. import _core
from .._core import Batch, Claim, Requests
from ..errors import RingFull
from ..ring import Ring
from .direct_call import direct_call
from .elements import Element
from .handover import as_tensor
from .model_forms import ModelForm
from .output_spec import OutputSpec, as_arrays
from .tracing import BatchTracer

_TEXT_CHARACTERS = 1000
_GRAPH_ERROR = "Graph execution error:"
_WHERE = re.compile(r'Detected at node|  File "|    |\s*$')
_LOOK_SECONDS = 0.05


class Stopped(Exception):
    """The engine is told to stop, and can not deliver what it has."""


class Ceiling:
    """Most rows that a device has memory for, as far as is known; it only sinks.

    Attributes
    ----------
    rows : int
    lowered : int
        How often the device had too little memory.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.lowered = 0

    def lower(self, failed_rows: int) -> None:
        """Take note that so many rows were too many."""
        self.lowered += 1
        self.rows = max(min(self.rows, failed_rows // 2), 1)


class Sink(Protocol):
    """Where the outputs of rows go: into reply cells, or into the ring of the next stage."""

    def deliver(self, requests: Requests, outputs: list[npt.NDArray[Any]], start: int, stop: int) -> None:
        """Deliver the outputs of rows `start` to `stop`."""
        ...


class Answers:
    """The sink of an engine that answers: each row's outputs go into the cell of its request."""

    def deliver(self, requests: Requests, outputs: list[npt.NDArray[Any]], start: int, stop: int) -> None:
        """Write them, and wake who waits."""
        requests.answer(outputs, start, stop)


class Forward:
    """The sink of a stage: outputs go into the slots of the next stage's ring, with the requests that they belong to.

    Parameters
    ----------
    ring : Ring
        Of the next stage.
    should_end : callable
        Asked while the next ring is full.
    """

    def __init__(self, ring: Ring, should_end: Callable[[], bool]) -> None:
        self._ring = ring
        self._names = list(ring.spec)
        self._should_end = should_end

    def deliver(self, requests: Requests, outputs: list[npt.NDArray[Any]], start: int, stop: int) -> None:
        """Write them, and hand the requests on."""
        done = start
        while done < stop:
            claim = self._claim(stop - done)
            try:
                offset = done - start
                for name, array in zip(self._names, outputs, strict=True):
                    claim[name] = array[offset : offset + claim.rows]
                rows = claim.rows
                requests.hand_on(claim, done)
            finally:
                claim.discard()
            done += rows

    def _claim(self, rows: int) -> Claim:
        while True:
            try:
                return self._ring.claim(rows, timeout=_LOOK_SECONDS)
            except RingFull:
                if self._should_end():
                    raise Stopped from None


class Replica:
    """A model on a device.

    Parameters
    ----------
    form : ModelForm
        Its step puts itself on the device.
    device : str
        For traces and messages.
    element : Element
        What the model is given of a record.
    padded_size : callable
        From rows to the number of rows that the model is to be given.
    most_rows : int
        Of a batch.
    meter : Meter
    tracer : BatchTracer
    sink : Sink
    when_failed : callable
        Called with an exception and a number of rows.

    Attributes
    ----------
    ceiling : Ceiling
    failed : int
        Rows that were answered with an error.
    batch_sizes : dict of int to int
        How many batches had so many rows.
    """

    def __init__(
        self,
        form: ModelForm,
        device: str,
        element: Element,
        padded_size: Callable[[int], int],
        most_rows: int,
        meter: _core.Meter,
        tracer: BatchTracer,
        sink: Sink,
        when_failed: Callable[[Exception, int], None],
    ) -> None:
        self.device = device
        self.ceiling = Ceiling(most_rows)
        self.failed = 0
        self.batch_sizes: dict[int, int] = {}
        self.form = form  # owns the model's variables
        self._element = element
        self._padded_size = padded_size
        self._meter = meter
        self._tracer = tracer
        self._sink = sink
        self._when_failed = when_failed
        self._concrete = self._trace()
        self._call = direct_call(self._concrete)
        self._idle_since = time.monotonic_ns()

    def _trace(self) -> Any:
        element, step = self._element, self.form.step

        def function(*given: Any) -> Any:
            outputs = step(element.pack(given, cut=True))
            with tf.device("/CPU:0"):  # with a GPU the copy goes into TensorFlow's pinned memory
                return tf.nest.map_structure(tf.identity, outputs)

        specs = list(element.specs(None, cut=False).values())
        traced = tf.function(function, input_signature=specs, autograph=False)
        return traced.get_concrete_function()

    # -- outside of service ------------------------------------------------------------------------

    def run_on_nothing(self, rows: int) -> Any:
        """Run the model on zeros, of the size that so many rows make. Returns its outputs."""
        return self._concrete(*self._element.nothing(self._padded_size(rows)))

    def output_spec(self) -> OutputSpec:
        """Learn what the model returns. Warms it up, too.

        Raises
        ------
        ValueError
            The outputs are not rows of fixed shapes.
        """
        rows = self._padded_size(1)
        names = getattr(self.form.keras_model, "output_names", None)
        return OutputSpec.of(self.run_on_nothing(1), rows, self.form.name, names)

    def waits_from_now(self) -> None:
        """Say that what comes now is waiting for a batch."""
        self._idle_since = time.monotonic_ns()

    # -- in service --------------------------------------------------------------------------------

    def serve(self, requests: Requests) -> None:
        """Run a batch, answer its requests, release it.

        A batch that the device has too little memory for is halved and run again, down to single rows. One that fails
        otherwise is halved, too, until the error belongs to single rows: it reaches exactly those.
        """
        parts = [(0, requests.rows)]
        try:
            self._meter.begin(requests, self._idle_since)
            while parts:
                start, stop = parts.pop()
                if stop - start > self.ceiling.rows:
                    parts += _halves(start, stop)
                    continue
                error = self._serve_rows(requests, start, stop)
                if error is not None:
                    parts += self._after_failure(requests, start, stop, error)
        except Stopped:
            requests.refuse_rest(_core.STOPPED, "")
        except BaseException as error:
            requests.refuse_rest(_core.FAILED, f"the engine failed: {text_of(error)}")
            raise
        finally:
            requests.batch.release()
            self._idle_since = time.monotonic_ns()

    def _serve_rows(self, requests: Requests, start: int, stop: int) -> Exception | None:
        rows = stop - start
        began = time.monotonic_ns()
        try:
            inputs = self._inputs(requests.batch, start, rows)
            ready = time.monotonic_ns()
            with self._tracer.batch(rows, self.device):
                outputs = as_arrays(self._call(*inputs))
            ran = time.monotonic_ns()
            del inputs
            self._meter.answered(requests, start, stop)
            self._sink.deliver(requests, outputs, start, stop)
        except Stopped:
            raise
        except Exception as error:
            return _without_frames(error)
        self._meter.add(_core.COPY, ready - began)
        self._meter.add(_core.COMPUTE, ran - ready)
        self._meter.add(_core.REPLY, time.monotonic_ns() - ran)
        self.batch_sizes[rows] = self.batch_sizes.get(rows, 0) + 1
        return None

    def _inputs(self, batch: Batch, start: int, rows: int) -> list[Any]:
        """Return tensors over the ring's memory: of the batch, or of more rows, where the model wants more."""
        size = self._padded_size(rows)
        if start == 0 and size == len(batch):
            return self._element.hand_over(batch)
        return [
            as_tensor(_window_of(batch.tags, start, size) if field is None else batch.window(name, start, size))
            for name, field in self._element.fields.items()
        ]

    def _after_failure(self, requests: Requests, start: int, stop: int, error: Exception) -> list[tuple[int, int]]:
        """Return what is to be run again."""
        if isinstance(error, tf.errors.ResourceExhaustedError):
            self.ceiling.lower(stop - start)
        if stop - start > 1:
            return _halves(start, stop)
        self.failed += 1
        self._when_failed(error, stop - start)
        requests.refuse(_core.FAILED, text_of(error), start, stop)
        return []


def _without_frames(error: Exception) -> Exception:
    """Return an error that does not keep what stood in the frames it came through: tensors, and so slots."""
    each: BaseException | None = error
    while each is not None:
        each.__traceback__ = None
        each = each.__cause__ or each.__context__
    return error


def _window_of(tags: npt.NDArray[Any], start: int, size: int) -> npt.NDArray[Any]:
    """Return tags from `start` on, `size` of them; zeros behind the last."""
    window = np.zeros(size, tags.dtype)
    there = tags[start : start + size]
    window[: len(there)] = there
    return window


def _halves(start: int, stop: int) -> list[tuple[int, int]]:
    middle = (start + stop) // 2
    return [(middle, stop), (start, middle)]


def text_of(error: BaseException) -> str:
    """Return what a client is told of an error."""
    message = getattr(error, "message", None) or str(error)
    if message.startswith(_GRAPH_ERROR):  # where the model's code stands comes first there, and may fill all the room
        lines = [line for line in message.removeprefix(_GRAPH_ERROR).splitlines() if line and not _WHERE.match(line)]
        message = "\n".join(lines) or message
    text = f"{type(error).__name__}: {message}"
    if len(text) <= _TEXT_CHARACTERS:
        return text
    half = _TEXT_CHARACTERS // 2  # the error's own words may come first or last
    return f"{text[:half]} ... {text[5 - half :]}"
