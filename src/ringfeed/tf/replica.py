"""A model on one device, as an engine runs it: a batch of requests in, their answers out.

It may not know which batches come, when, or from which ring. A batch is read in the ring's own memory. Its slots are
released when its answers are written: so an engine that is killed at whatever moment loses nothing, for what was not
answered is delivered again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from .. import _core
from .._core import Batch, Requests
from ..record_spec import RecordSpec
from .elements import Element
from .handover import as_tensor
from .model_forms import ModelForm
from .output_spec import OutputSpec, as_arrays

_TEXT_CHARACTERS = 1000


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


class Replica:
    """A model on a device.

    Parameters
    ----------
    form : ModelForm
        Its step puts itself on the device.
    spec : RecordSpec
        The fields of a record.
    structure : nest of str
        What the model is given.
    padded_size : callable
        From rows to the number of rows that the model is to be given.
    most_rows : int
    meter : Meter
    jit_compile : bool

    Attributes
    ----------
    name : str
        Of the model.
    ceiling : Ceiling
    failures : int
        Rows that were answered with an error.
    """

    def __init__(
        self,
        form: ModelForm,
        spec: RecordSpec,
        structure: Any,
        padded_size: Callable[[int], int],
        most_rows: int,
        meter: _core.Meter,
        *,
        jit_compile: bool = False,
        ring_name: str,
    ) -> None:
        self.name = form.name
        self.ceiling = Ceiling(most_rows)
        self.failures = 0
        self.batch_sizes: dict[int, int] = {}
        self._form = form  # owns the model's variables
        self._element = Element.of(spec, structure, ring_name)
        self._padded_size = padded_size
        self._meter = meter
        self._step = tf.function(form.step, jit_compile=True, autograph=False) if jit_compile else form.step
        self._function = self._trace()
        self._outputs: OutputSpec | None = None
        self._idle_since = time.monotonic_ns()

    def _trace(self) -> Callable[..., Any]:
        element = self._element

        def function(*given: Any) -> Any:
            outputs = self._step(element.pack(given, cut=True))
            with tf.device("/CPU:0"):  # with a GPU the copy goes into TensorFlow's pinned memory
                return tf.nest.map_structure(tf.identity, outputs)

        specs = list(element.specs(None, cut=False).values())
        concrete: Callable[..., Any] = tf.function(
            function, input_signature=specs, autograph=False
        ).get_concrete_function()
        return concrete

    # -- what it is --------------------------------------------------------------------------------

    def warm_up(self, rows: int) -> OutputSpec:
        """Run the model on zeros, of the size that so many records make, and learn what it returns."""
        rows = self._padded_size(rows)
        outputs = self._function(*self._element.nothing(rows))
        names = getattr(self._form.keras_model, "output_names", None)
        self._outputs = OutputSpec.of(outputs, rows, self.name, names)
        return self._outputs

    def idle_from_now(self) -> None:
        """Say that what comes now is waiting for a batch."""
        self._idle_since = time.monotonic_ns()

    # -- running -----------------------------------------------------------------------------------

    def serve(self, requests: Requests) -> None:
        """Run a batch, answer its requests, release it.

        A batch that the device has too little memory for is halved and run again, down to single rows. One that fails
        otherwise is halved, too, until the error belongs to single rows: it reaches exactly those.
        """
        self._meter.begin(requests, self._idle_since)
        parts = [(0, requests.rows)]
        try:
            while parts:
                start, stop = parts.pop()
                if stop - start > self.ceiling.rows:
                    parts += _halves(start, stop)
                    continue
                error = self._serve_rows(requests, start, stop)
                if error is None:
                    continue
                if isinstance(error, tf.errors.ResourceExhaustedError):
                    self.ceiling.lower(stop - start)
                if stop - start > 1:
                    parts += _halves(start, stop)
                else:
                    self.failures += 1
                    requests.refuse(_core.FAILED, text_of(error), start, stop)
        finally:
            requests.batch.release()
            self._idle_since = time.monotonic_ns()

    def _serve_rows(self, requests: Requests, start: int, stop: int) -> Exception | None:
        rows = stop - start
        began = time.monotonic_ns()
        try:
            inputs = self._inputs(requests.batch, start, rows)
            ready = time.monotonic_ns()
            outputs = self._function(*inputs)
            arrays = as_arrays(outputs)
            ran = time.monotonic_ns()
            del inputs
            self._meter.add(_core.COPY, ready - began)
            self._meter.add(_core.COMPUTE, ran - ready)
            if rows == requests.rows:
                self._meter.answered(requests)
            requests.answer(arrays, start, stop)
        except Exception as error:
            return error
        self._meter.add(_core.REPLY, time.monotonic_ns() - ran)
        self.batch_sizes[rows] = self.batch_sizes.get(rows, 0) + 1
        return None

    def _inputs(self, batch: Batch, start: int, rows: int) -> list[Any]:
        """Return tensors over the ring's memory: of the batch, or of more rows, where the model wants more."""
        size = self._padded_size(rows)
        if size == len(batch):
            return self._element.hand_over(batch)
        return [
            as_tensor(batch.tags if field is None else batch.window(name, start, size))
            for name, field in self._element.fields.items()
        ]


def _halves(start: int, stop: int) -> list[tuple[int, int]]:
    middle = (start + stop) // 2
    return [(middle, stop), (start, middle)]


def text_of(error: BaseException) -> str:
    """Return what a client is told of an error."""
    message = getattr(error, "message", None) or str(error)
    text = f"{type(error).__name__}: {message}"
    return text if len(text) <= _TEXT_CHARACTERS else f"{text[: _TEXT_CHARACTERS - 3]}..."
