"""A model on one device, as an engine runs it: a batch of requests in, their answers out.

It may not know which batches come, when, or from which ring. A batch is read in the ring's own memory. Its slots are
released when its answers are written: so an engine that is killed at whatever moment loses nothing, for what was not
answered is delivered again.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from .. import _core
from .._core import Batch, Claim, Requests
from ..errors import RecordMismatch, RingClosed, RingFinished, RingFull
from ..record_spec import RecordSpec
from ..ring import Ring
from .direct_call import direct_call
from .elements import Element
from .handover import as_tensor
from .model_forms import ModelForm
from .output_spec import OutputSpec, as_arrays
from .tracing import BatchTracer

_log = logging.getLogger("ringfeed.engine")
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

    def check(self, outputs: RecordSpec, model_name: str) -> None:
        """Raise ValueError where a model's outputs do not fit."""
        ...


class Answers:
    """The sink of an engine that answers: each row's outputs go into the cell of its request."""

    def deliver(self, requests: Requests, outputs: list[npt.NDArray[Any]], start: int, stop: int) -> None:
        """Write them, and wake who waits."""
        requests.answer(outputs, start, stop)

    def check(self, outputs: RecordSpec, model_name: str) -> None:
        """Do nothing: the cells are made for the outputs."""


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

    def check(self, outputs: RecordSpec, model_name: str) -> None:
        """Raise where the ring of the next stage is not for these outputs."""
        if list(outputs.values()) != list(self._ring.spec.values()):
            raise ValueError(
                f"model {model_name!r} returns {outputs!r}, and ring {self._ring.name!r} of the next stage holds "
                f"{self._ring.spec!r}. Create that ring for these outputs."
            )

    def _claim(self, rows: int) -> Claim:
        while True:
            try:
                return self._ring.claim(rows, timeout=_LOOK_SECONDS)
            except RingFull:
                if self._should_end():
                    raise Stopped from None
            except (RingClosed, RingFinished) as error:
                raise Stopped(str(error)) from None


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
    asked_here : bool
        Clients put their requests into the ring that batches come from; not so for a later stage.

    Attributes
    ----------
    ceiling : Ceiling
    failed : int
        Rows that were answered with an error.
    batch_sizes : dict of int to int
        How many batches had so many rows.
    waiting_since : int or None
        CLOCK_MONOTONIC nanoseconds, while it waits for a batch.
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
        *,
        asked_here: bool = True,
    ) -> None:
        self.device = device
        self._asked_here = asked_here
        self._answers = isinstance(sink, Answers)
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
        self._call: Callable[..., list[Any]] = direct_call(self._concrete)
        self._idle_since = time.monotonic_ns()
        self.waiting_since: int | None = None

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
        try:
            self._call(*self._element.nothing(rows))
        except Exception as error:  # what no documentation promises: the function's own call does as well
            _log.info("model %r is called the slower way: %s", self.form.name, error)
            self._call = lambda *tensors: tf.nest.flatten(self._concrete(*tensors))
        names = getattr(self.form.keras_model, "output_names", None)
        return OutputSpec.of(self.run_on_nothing(1), rows, self.form.name, names)

    def waits_from_now(self) -> None:
        """Say that what comes now is waiting for a batch."""
        self._idle_since = self.waiting_since = time.monotonic_ns()

    # -- in service --------------------------------------------------------------------------------

    def serve(self, requests: Requests) -> None:
        """Run a batch, answer its requests, release it.

        A batch that the device has too little memory for is halved and run again, down to single rows. One that fails
        otherwise is halved, too, until the error belongs to single rows: it reaches exactly those.
        """
        parts = [_Part(0, requests.rows)]
        self.waiting_since = None
        try:
            self._meter.begin(requests, self._idle_since, self._asked_here)
            while parts:
                part = parts.pop()
                if part.rows > self.ceiling.rows:
                    parts += part.halves(part.alone)
                    continue
                error = self._serve_part(requests, part)
                if error is not None:
                    parts += self._after_failure(requests, part, error)
        except Stopped:
            requests.give_back()
            raise
        except BaseException as error:
            requests.refuse_rest(_core.FAILED, f"the engine failed: {text_of(error)}")
            raise
        finally:
            requests.batch.release()
            self._idle_since = self.waiting_since = time.monotonic_ns()

    def _serve_part(self, requests: Requests, part: _Part) -> Exception | None:
        rows, size = part.rows, self._padded_size(part.rows)
        began = time.monotonic_ns()
        try:
            inputs = self._inputs(requests.batch, part, size)
            ready = time.monotonic_ns()
            with self._tracer.batch(rows, self.device):
                outputs = as_arrays(self._call(*inputs))
            ran = time.monotonic_ns()
            del inputs
            for output in outputs:
                if output.shape[:1] != (size,):
                    raise RecordMismatch(f"the model returned {output.dtype.name}{list(output.shape)} for {size} rows.")
            if self._answers:
                self._meter.answered(requests, part.start, part.stop)
            self._sink.deliver(requests, outputs, part.start, part.stop)
        except Stopped:
            raise
        except Exception as error:
            return _without_frames(error)
        self._meter.add(_core.COPY, ready - began)
        self._meter.add(_core.COMPUTE, ran - ready)
        self._meter.add(_core.REPLY, time.monotonic_ns() - ran)
        self.batch_sizes[rows] = self.batch_sizes.get(rows, 0) + 1
        return None

    def _inputs(self, batch: Batch, part: _Part, size: int) -> list[Any]:
        """Return tensors over the ring's memory: of the rows, or of more, where the model wants more."""
        if part.alone and size > part.rows:
            return [as_tensor(_repeated(array, part, size)) for array in self._element.arrays(batch)]
        if part.start == 0 and size == len(batch):
            return self._element.hand_over(batch)
        return [
            as_tensor(_window_of(batch.tags, part, size) if field is None else batch.window(name, part.start, size))
            for name, field in self._element.fields.items()
        ]

    def _after_failure(self, requests: Requests, part: _Part, error: Exception) -> list[_Part]:
        """Return what is to be run again."""
        no_memory = isinstance(error, tf.errors.ResourceExhaustedError)
        if no_memory:
            self.ceiling.lower(self._padded_size(part.rows))
        if part.rows > 1:
            return part.halves(part.alone or not no_memory)
        if not part.alone and not no_memory and self._padded_size(1) > 1:  # perhaps over what lies beside
            return [_Part(part.start, part.stop, alone=True)]
        self.failed += 1
        self._when_failed(error, 1)
        requests.refuse(_core.FAILED, text_of(error), part.start, part.stop)
        return []


@dataclass(frozen=True)
class _Part:
    """Rows of a batch; `alone`: the model is to see no others with them."""

    start: int
    stop: int
    alone: bool = False

    @property
    def rows(self) -> int:
        return self.stop - self.start

    def halves(self, alone: bool) -> list[_Part]:
        middle = (self.start + self.stop) // 2
        return [_Part(middle, self.stop, alone), _Part(self.start, middle, alone)]


def _window_of(tags: npt.NDArray[Any], part: _Part, size: int) -> npt.NDArray[Any]:
    """Return the tags of a part, and zeros behind the batch's last."""
    window = np.zeros(size, tags.dtype)
    there = tags[part.start : part.start + size]
    window[: len(there)] = there
    return window


def _repeated(array: npt.NDArray[Any], part: _Part, size: int) -> npt.NDArray[Any]:
    """Return the rows of a part, the last of them as often as it needs."""
    return array[np.minimum(np.arange(part.start, part.start + size), part.stop - 1)]


def _without_frames(error: Exception) -> Exception:
    """Return an error that does not keep what stood in the frames it came through: tensors, and so slots."""
    each: BaseException | None = error
    while each is not None:
        each.__traceback__ = None
        each = each.__cause__ or each.__context__
    return error


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
