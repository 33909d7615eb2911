"""A model on one device, as an engine runs it: a batch of requests in, their answers out.

It may not know which batches come, when, or from which ring. A batch is read in the ring's own memory. Its slots are
released when its answers are written: so an engine that is killed at whatever moment loses nothing, for what was not
answered is delivered again.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from .. import _core
from .._core import Batch, Requests
from ..errors import RecordMismatch
from ..tf.models.adapt_model import AdaptedModel
from ..tf.models.direct_call import direct_call
from ..tf.models.output_spec import OutputSpec, as_arrays, as_output
from ..tf.models.record_inputs import model_call
from ..tf.models.warm_up_rows import WarmUpRows
from ..tf.tensors.zero_copy import as_tensor
from ..workers.blame import LEAST_ROWS, are_alike, telling_rows
from .delivery import Answers, Sink, Stopped
from .error_messages import ErrorTexts
from .memory_limit import Ceiling, Health
from .model_call_lock import Alone
from .tracing import BatchTracer

_log = logging.getLogger("ringfeed.engine")
_CALLS = Alone()  # of models, by all engines of this process


class Replica:
    """A model on a device.

    Parameters
    ----------
    adapted : AdaptedModel
        Its step puts itself on the device.
    device : str
        For traces and messages.
    warm_up_rows : WarmUpRows
        What the model is tried on before it serves, and what it is given of a record.
    padded_size : callable
        From rows to the number of rows that the model is to be given.
    most_rows : int
        Of a batch.
    meter : Meter
    tracer : BatchTracer
    sink : Sink
    when_failed : callable
        Called with an exception and a number of rows.
    texts : ErrorTexts
    asked_here : bool
        Clients put their requests into the ring that batches come from; not so for a later stage.

    Attributes
    ----------
    ceiling : Ceiling
    health : Health
    runs : tuple of (int, float), or None
        While the model runs: its rows, and since when by `time.monotonic`.
    failed : int
        Rows that were answered with an error.
    batch_sizes : dict of int to int
        How many batches had so many rows.
    concrete : tf.types.experimental.ConcreteFunction
        What runs for each batch.
    waiting_since : int or None
        CLOCK_MONOTONIC nanoseconds, while it waits for a batch.
    """

    def __init__(
        self,
        adapted: AdaptedModel,
        device: str,
        warm_up_rows: WarmUpRows,
        padded_size: Callable[[int], int],
        most_rows: int,
        meter: _core.Meter,
        tracer: BatchTracer,
        sink: Sink,
        when_failed: Callable[[Exception, int], None],
        texts: ErrorTexts,
        *,
        asked_here: bool = True,
    ) -> None:
        self.device = device
        self._asked_here = asked_here
        self._answers = isinstance(sink, Answers)
        self.ceiling = Ceiling(most_rows)
        self.health = Health()
        self.runs: tuple[int, float] | None = None
        self._texts = texts
        self.failed = 0
        self.batch_sizes: dict[int, int] = {}
        self.adapted = adapted  # owns the model's variables
        self._warm_up_rows, self._element = warm_up_rows, warm_up_rows.element
        self._padded_size = padded_size
        self._meter = meter
        self._tracer = tracer
        self._sink = sink
        self._when_failed = when_failed
        self.concrete = self._trace()
        self._call: Callable[..., list[Any]] = direct_call(self.concrete)
        self._outputs: OutputSpec | None = None
        self._idle_since = time.monotonic_ns()
        self.waiting_since: int | None = None

    def _trace(self) -> Any:
        element, call = self._element, model_call(self.adapted.step, self._element)

        def function(*given: Any) -> Any:
            outputs = call(*given)
            with tf.device("/CPU:0"):  # with a GPU the copy goes into TensorFlow's pinned memory
                return tf.nest.map_structure(as_output, outputs)

        specs = list(element.specs(None, cut=False).values())
        traced = tf.function(function, input_signature=specs, autograph=False)
        return traced.get_concrete_function()

    # -- outside of service ------------------------------------------------------------------------

    def run_on_nothing(self, rows: int) -> Any:
        """Run the model on made-up rows, of the size that so many rows make. Returns its outputs.

        Raises
        ------
        ValueError
            The model fails on them, or its outputs are not what it returned for another number of rows.
        """
        size = self._padded_size(rows)
        try:
            outputs = self.concrete(*self._warm_up_rows.tensors(size))
        except tf.errors.ResourceExhaustedError:
            raise
        except tf.errors.OpError as error:
            raise self._warm_up_rows.explain(error, self.adapted.name) from error
        if self._outputs is not None:
            reason = self._outputs.mismatch(tf.nest.flatten(outputs), size)
            if reason is not None:
                raise ValueError(f"model {self.adapted.name!r}: {reason}")
        return outputs

    def output_spec(self) -> OutputSpec:
        """Learn what the model returns, which every batch is then held to. Warms it up, too.

        Raises
        ------
        ValueError
            The outputs are not rows of fixed shapes.
        """
        rows = self._padded_size(1)
        names = getattr(self.adapted.keras_model, "output_names", None)
        self._outputs = OutputSpec.of(self.run_on_nothing(1), rows, self.adapted.name, names)
        try:
            self._call(*self._warm_up_rows.tensors(rows))
        except Exception as error:  # what no documentation promises: the function's own call does as well
            _log.info("model %r is called the slower way: %s", self.adapted.name, error)
            self._call = lambda *tensors: tf.nest.flatten(self.concrete(*tensors))
        return self._outputs

    def waits_from_now(self) -> None:
        """Say that what comes now is waiting for a batch."""
        self._idle_since = self.waiting_since = time.monotonic_ns()

    # -- in service --------------------------------------------------------------------------------

    def serve(self, requests: Requests) -> None:
        """Run a batch, answer its requests, release it.

        A batch that the device has too little memory for is halved and run again, down to single rows. One that fails
        otherwise is halved, too, until the error belongs to single rows: it reaches exactly those. But where some rows,
        spread over the batch, fail alone with the same words, the error is taken for that of all of them.
        """
        # Over a row that comes alone an engine may have died: it is shown no other slots of the ring.
        parts = [_Part(0, requests.rows, alone=requests.batch.failures > 0)]
        self.waiting_since = None
        answered = looked_for_common = False
        failed_before = self.failed
        try:
            self._meter.begin(requests, self._idle_since, self._asked_here)
            allowed = self.ceiling.allowed
            while parts:
                part = parts.pop()
                if part.rows > allowed:
                    parts += part.halves(part.alone)
                    continue
                error = self._serve_part(requests, part)
                if error is None:
                    answered = True
                    continue
                if part.rows >= LEAST_ROWS and not (answered or looked_for_common) and not _is_of_memory(error):
                    looked_for_common = True
                    parts += self._unless_common(requests, part)
                else:
                    parts += self._after_failure(requests, part, error)
                allowed = min(allowed, self.ceiling.rows)
            if self.failed != failed_before or self.health.has_failed:
                self._note_health(self.failed - failed_before < requests.rows, requests.rows)
        except Stopped:
            requests.give_back()
            raise
        except BaseException as error:
            requests.refuse_rest(_core.FAILED, f"the engine failed: {self._texts.of(error)}")
            raise
        finally:
            self.runs = None
            requests.batch.release()
            self._idle_since = self.waiting_since = time.monotonic_ns()

    def _unless_common(self, requests: Requests, part: _Part) -> list[_Part]:
        """Run some rows of a part alone; return what is left to run, or nothing where all of it fails alike."""
        errors: list[Exception] = []
        tried: list[int] = []
        left: list[_Part] = []
        for row in (part.start + number for number in telling_rows(part.rows)):
            error = self._serve_part(requests, _Part(row, row + 1, alone=True))
            tried.append(row)
            if error is not None:
                errors.append(error)
            if error is None or not are_alike(errors):
                break
        is_common = len(errors) == len(tried) and are_alike(errors)
        if is_common:
            self._refuse_all(requests, part, errors[0], tried)
            return []
        for row, error in zip(tried, errors, strict=False):  # the last of `tried` may have no error
            self._refuse(requests, _Part(row, row + 1), error)
        ends = [part.start - 1, *tried, part.stop]
        for before, behind in itertools.pairwise(ends):
            if behind - before > 1:
                left.append(_Part(before + 1, behind, alone=True))
        return left[::-1]

    def _refuse(self, requests: Requests, part: _Part, error: Exception) -> None:
        """Answer rows of a part with an error."""
        self.failed += part.rows
        self._when_failed(error, part.rows)
        requests.refuse(_core.FAILED, self._texts.of(error), part.start, part.stop)

    def _refuse_all(self, requests: Requests, part: _Part, error: Exception, tried: Sequence[int]) -> None:
        """Answer all rows of a part with the error of those that were tried; tell the others that they were not."""
        self.failed += part.rows
        self._when_failed(error, part.rows)
        text = self._texts.of(error)
        guess = (  # ahead of the text, which may fill all the room
            f"the request was not run alone, but taken to fail as {len(tried)} of the {part.rows} rows of its batch "
            f"did, each run alone: {text}"
        )
        for before, row in zip([part.start - 1, *tried], [*tried, part.stop], strict=True):
            if row - before > 1:
                requests.refuse(_core.FAILED, guess, before + 1, row)
            if row < part.stop:
                requests.refuse(_core.FAILED, text, row, row + 1)

    def _note_health(self, works: bool, rows: int) -> None:
        if works:
            if self.health.worked():
                _log.warning("%s: model %r answers again", self.device, self.adapted.name)
        elif self.health.failed(rows):
            _log.error(
                "%s: model %r fails every request; it leaves them to other engines, where there are some, and tries "
                "single ones.",
                self.device,
                self.adapted.name,
            )

    def _serve_part(self, requests: Requests, part: _Part) -> Exception | None:
        rows, size = part.rows, self._padded_size(part.rows)
        began = time.monotonic_ns()
        try:
            inputs = self._inputs(requests.batch, part, size)
            ready = time.monotonic_ns()
            self.runs = rows, time.monotonic()
            with self._tracer.batch(rows, self.device), _turn_of(requests.batch):
                outputs = as_arrays(self._call(*inputs))
            ran = time.monotonic_ns()
            self.runs = None
            del inputs
            assert self._outputs is not None
            if (reason := self._outputs.mismatch(outputs, size)) is not None:
                raise RecordMismatch(reason)
            if self._answers:
                self._meter.answered(requests, part.start, part.stop)
            self._sink.deliver(requests, outputs, part.start, part.stop)
        except Stopped:
            raise
        except Exception as error:
            return _without_frames(error)
        self.ceiling.passed(size)
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
            return self._element.tensors(batch)
        return [
            as_tensor(_window_of(batch.tags, part, size) if field is None else batch.window(name, part.start, size))
            for name, field in self._element.fields.items()
        ]

    def _after_failure(self, requests: Requests, part: _Part, error: Exception) -> list[_Part]:
        """Return what is to be run again."""
        no_memory = _is_of_memory(error)
        if no_memory:
            self.ceiling.lower(self._padded_size(part.rows))
        if part.rows > 1:
            return part.halves(part.alone or not no_memory)
        if not part.alone and not no_memory and self._padded_size(1) > 1:  # perhaps over what lies beside
            return [_Part(part.start, part.stop, alone=True)]
        self._refuse(requests, part, error)
        return []


def _is_of_memory(error: Exception) -> bool:
    return isinstance(error, tf.errors.ResourceExhaustedError)


@dataclass(slots=True)
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


def _turn_of(batch: Batch) -> AbstractContextManager[None]:
    """Return what is to be around a call of the model: a row over which an engine may have died runs alone."""
    return _shown_alone(batch) if batch.failures else _CALLS


@contextmanager
def _shown_alone(batch: Batch) -> Iterator[None]:
    """Have no other call run: should the process die, it has failed over this row alone, which no other was shown."""
    with _CALLS.alone():
        batch._show(True)
        try:
            yield
        finally:
            batch._show(False)


def _without_frames(error: Exception) -> Exception:
    """Return an error that does not keep what stood in the frames it came through: tensors, and so slots."""
    each: BaseException | None = error
    while each is not None:
        each.__traceback__ = None
        each = each.__cause__ or each.__context__
    return error
