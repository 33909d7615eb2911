"""A model on one device: runs a batch of requests, has their answers delivered, and releases the slots.

It may not know which batches come, when, or from which ring. The model reads a batch in the ring's own memory. The
slots are released only after the answers are written. So an engine that is killed at any moment loses no request: those
without an answer are delivered again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
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
from .circuit_breaker import CircuitBreaker
from .delivery import Delivery, DeliveryStopped, ReplyDelivery
from .error_messages import ErrorMessages
from .failure_isolation import FailureIsolation, RowRange
from .memory_limit import MemoryLimit
from .model_call_lock import ModelCallLock
from .tracing import BatchTracer

_log = logging.getLogger("ringfeed.engine")
_MODEL_CALLS = ModelCallLock()  # all engines of this process share it


@dataclass(frozen=True)
class ReplicaSettings:
    """What all replicas of an engine share.

    Attributes
    ----------
    warm_up_rows : WarmUpRows
        The rows on which the model is tried before it serves; its `element` says what the model is given of a record.
    padded_size : callable
        From a number of rows to the number that the model is given.
    max_rows : int
        Most rows of a batch.
    meter : Meter
    tracer : BatchTracer
    delivery : Delivery
    messages : ErrorMessages
    on_failure : callable
        Called with an exception and the number of rows that it is the answer to.
    is_first_stage : bool
        Whether clients put their requests into the ring that batches come from; not so for a later stage.
    """

    warm_up_rows: WarmUpRows
    padded_size: Callable[[int], int]
    max_rows: int
    meter: _core.Meter
    tracer: BatchTracer
    delivery: Delivery
    messages: ErrorMessages
    on_failure: Callable[[Exception, int], None]
    is_first_stage: bool


class Replica:
    """A model on a device.

    Parameters
    ----------
    adapted : AdaptedModel
        Its step places itself on the device.
    device : str
        Named in traces and messages.
    settings : ReplicaSettings

    Attributes
    ----------
    memory_limit : MemoryLimit
    breaker : CircuitBreaker
    call_under_way : tuple of (int, float), or None
        While the model runs: its rows, and since when by `time.monotonic`.
    batch_sizes : dict of int to int
        Number of rows -> number of batches with so many rows.
    concrete : tf.types.experimental.ConcreteFunction
        The function that runs for each batch.
    waiting_since : int or None
        CLOCK_MONOTONIC nanoseconds, while it waits for a batch.
    """

    def __init__(self, adapted: AdaptedModel, device: str, settings: ReplicaSettings) -> None:
        self.adapted = adapted  # owns the model's variables
        self.device = device
        self._warm_up_rows, self._element = settings.warm_up_rows, settings.warm_up_rows.element
        self._padded_size = settings.padded_size
        self._meter, self._tracer, self._messages = settings.meter, settings.tracer, settings.messages
        self._delivery = settings.delivery
        self._answers = isinstance(settings.delivery, ReplyDelivery)
        self._is_first_stage = settings.is_first_stage
        self.memory_limit = MemoryLimit(settings.max_rows)
        self.breaker = CircuitBreaker()
        self._isolation = FailureIsolation(
            self._serve_part, settings.padded_size, self.memory_limit, settings.messages, settings.on_failure
        )
        self.call_under_way: tuple[int, float] | None = None
        self.batch_sizes: dict[int, int] = {}
        self.concrete = self._trace()
        self._call: Callable[..., list[Any]] = direct_call(self.concrete)
        self._outputs: OutputSpec | None = None
        self._idle_since = time.monotonic_ns()
        self.waiting_since: int | None = None

    @property
    def failed_rows(self) -> int:
        """Rows that were answered with an error."""
        return self._isolation.failed_rows

    def _trace(self) -> Any:
        element, call = self._element, model_call(self.adapted.step, self._element)

        def function(*given: Any) -> Any:
            outputs = call(*given)
            with tf.device("/CPU:0"):  # with a GPU the copy goes into TensorFlow's pinned memory
                return tf.nest.map_structure(as_output, outputs)

        specs = list(element.specs(None, cut=False).values())
        traced = tf.function(function, input_signature=specs, autograph=False)
        return traced.get_concrete_function()

    # -- Before it serves --------------------------------------------------------------------------

    def run_warm_up(self, rows: int) -> Any:
        """Run the model on made-up rows, padded as `rows` records would be. Returns its outputs.

        Raises
        ------
        ValueError
            The model fails on them, or its outputs differ in kind from those for another number of rows.
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
        """Learn what the model returns; every batch is held to it. This warms the model up, too.

        Raises
        ------
        ValueError
            The outputs are not rows of fixed shapes.
        """
        rows = self._padded_size(1)
        names = getattr(self.adapted.keras_model, "output_names", None)
        self._outputs = OutputSpec.of(self.run_warm_up(1), rows, self.adapted.name, names)
        try:
            self._call(*self._warm_up_rows.tensors(rows))
        except Exception as error:  # the direct call is undocumented; the function's own call always works
            _log.info("model %r: the direct call fails, so the slower one is used: %s", self.adapted.name, error)
            self._call = lambda *tensors: tf.nest.flatten(self.concrete(*tensors))
        return self._outputs

    # -- In service --------------------------------------------------------------------------------

    def begin_wait(self) -> None:
        """Count the time from now on as waiting for a batch."""
        self._idle_since = self.waiting_since = time.monotonic_ns()

    def serve(self, requests: Requests) -> None:
        """Run a batch, have its requests answered, and release its slots.

        A batch that fails, or that is too large for the device, runs again in smaller parts (`FailureIsolation`).
        """
        # A row that was delivered before may have killed its engine: the model is shown no slots beside it.
        batch = RowRange(0, requests.rows, isolated=requests.batch.failures > 0)
        self.waiting_since = None
        failed_before = self.failed_rows
        try:
            self._meter.begin(requests, self._idle_since, self._is_first_stage)
            limit = self.memory_limit.next_rows
            failure = self._serve_part(requests, batch) if batch.rows <= limit else None
            if failure is not None or batch.rows > limit:
                self._isolation.serve(requests, batch, limit, failure)
            if self.failed_rows != failed_before or self.breaker.has_failed:
                self._record_health(self.failed_rows - failed_before < requests.rows, requests.rows)
        except DeliveryStopped:
            requests.give_back()
            raise
        except BaseException as error:
            requests.refuse_rest(_core.FAILED, f"the engine failed: {self._messages.for_clients(error)}")
            raise
        finally:
            self.call_under_way = None
            requests.batch.release()
            self.begin_wait()

    def _serve_part(self, requests: Requests, part: RowRange) -> Exception | None:
        """Run rows of a batch and deliver their outputs. Returns the error if that fails."""
        rows, size = part.rows, self._padded_size(part.rows)
        began = time.monotonic_ns()
        try:
            inputs = self._inputs(requests.batch, part, size)
            ready = time.monotonic_ns()
            self.call_under_way = rows, time.monotonic()
            with self._tracer.batch(rows, self.device), _call_lock_for(requests.batch):
                outputs = as_arrays(self._call(*inputs))
            ran = time.monotonic_ns()
            self.call_under_way = None
            del inputs
            assert self._outputs is not None
            if (reason := self._outputs.mismatch(outputs, size)) is not None:
                raise RecordMismatch(reason)
            if self._answers:
                self._meter.answered(requests, part.start, part.stop)
            self._delivery.deliver(requests, outputs, part.start, part.stop)
        except DeliveryStopped:
            raise
        except Exception as error:
            return _without_frames(error)
        self.memory_limit.record_fit(size)
        self._meter.add(_core.COPY, ready - began)
        self._meter.add(_core.COMPUTE, ran - ready)
        self._meter.add(_core.REPLY, time.monotonic_ns() - ran)
        self.batch_sizes[rows] = self.batch_sizes.get(rows, 0) + 1
        return None

    def _inputs(self, batch: Batch, part: RowRange, size: int) -> list[Any]:
        """Return tensors over the ring's memory, of `size` rows: of the part, then of the slots behind it."""
        if part.isolated and size > part.rows:
            return [as_tensor(_repeated(array, part, size)) for array in self._element.arrays(batch)]
        if part.start == 0 and size == len(batch):
            return self._element.tensors(batch)
        return [
            as_tensor(_padded_tags(batch.tags, part, size) if field is None else batch.window(name, part.start, size))
            for name, field in self._element.fields.items()
        ]

    def _record_health(self, works: bool, rows: int) -> None:
        if works:
            if self.breaker.record_success():
                _log.warning("%s: model %r answers again", self.device, self.adapted.name)
        elif self.breaker.record_failure(rows):
            _log.error(
                "%s: model %r fails every request. It leaves requests to other engines, if there are any, and tries "
                "single ones.",
                self.device,
                self.adapted.name,
            )


def _padded_tags(tags: npt.NDArray[Any], part: RowRange, size: int) -> npt.NDArray[Any]:
    """Return `size` tags from the start of a part on; zeros follow the last tag of the batch."""
    padded = np.zeros(size, tags.dtype)
    present = tags[part.start : part.start + size]
    padded[: len(present)] = present
    return padded


def _repeated(array: npt.NDArray[Any], part: RowRange, size: int) -> npt.NDArray[Any]:
    """Return `size` rows: those of a part, then copies of its last one."""
    return array[np.minimum(np.arange(part.start, part.start + size), part.stop - 1)]


def _call_lock_for(batch: Batch) -> AbstractContextManager[None]:
    """Return the lock around a model call: exclusive if an engine may have died over this batch before."""
    return _exclusive_call(batch) if batch.failures else _MODEL_CALLS


@contextmanager
def _exclusive_call(batch: Batch) -> Iterator[None]:
    """Let no other call run: if the process dies now, this row is the cause, and no other was shown to the model."""
    with _MODEL_CALLS.exclusive():
        batch._show(True)
        try:
            yield
        finally:
            batch._show(False)


def _without_frames(error: Exception) -> Exception:
    """Return the error without its tracebacks: their frames would keep tensors alive, and so slots."""
    each: BaseException | None = error
    while each is not None:
        each.__traceback__ = None
        each = each.__cause__ or each.__context__
    return error
