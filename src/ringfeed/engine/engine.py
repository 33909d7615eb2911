"""The engine: takes batches of requests from a ring, runs the model, and answers the requests.

It may not know how a client makes a request, how a batch is chosen (batching.py) or run (replica.py).
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .. import _core
from ..client.reply_pool import ReplyPool
from ..ring import Ring
from ..tf.models.devices import grow_memory
from ..tf.models.output_spec import OutputSpec
from ..tf.models.record_inputs import structure_for
from ..tf.models.warm_up_rows import WarmUpRows
from ..tf.tensors.elements import Element
from ..tf.tensors.structure import lists_to_tuples
from .auto_batch import AutoBatch
from .batching import Batching, BatchPolicy
from .delivery import Delivery, ReplyDelivery
from .error_messages import ErrorMessages
from .lifecycle import EngineLifecycle
from .metrics import EngineStats
from .model_digest import model_digest
from .options import BatchingOptions, PlacementOptions, ReplyOptions, check_ring
from .prometheus import EngineCollector
from .registration import ServiceRegistration
from .replica import Replica, ReplicaSettings
from .serving_threads import ServingThreads
from .tracing import BatchTracer
from .tuning import Measurements
from .warm_up import common_output_spec, refuse_row_mixing_if_padded, try_batch_sizes

if TYPE_CHECKING:
    pass

_log = logging.getLogger("ringfeed.engine")


class Engine(EngineLifecycle):
    """Serves a model: takes requests from a ring as batches, and answers them.

    An engine runs in any process, in the background (`start`, or as a context manager) or in the foreground (`run`).
    Several engines on one ring share the work: a free one takes the next batch. Records that were put without a client
    are run, too, and get no answer.

    Parameters
    ----------
    ring : Ring
        Owned or attached. It must still have its name, because clients find the engine by it. The engine takes the
        ring's `levels` in their order; a batch is of one priority.
    model : keras.Model, path, SavedModel folder, tf.function or callable; or a list of one for each device
        It takes a whole batch and returns one row for each row. A path is that of a ``.keras`` or ``.h5`` file. Of a
        SavedModel the engine takes ``serve`` (written by ``model.export``), else the object itself if it is callable,
        else the signature ``serving_default``. A function with several required arguments gets the inputs one by one.
        A function that TensorFlow cannot trace runs eagerly, with a warning.
    batch_size : int or "auto"
        Most rows in a batch, 32 by default. "auto" measures the model when the engine starts. It takes the smallest
        size within 5 % of the best throughput or, with `latency_target`, the largest size that keeps it. "auto" is
        experimental.
    linger : float
        Seconds that the first record of a batch waits for others, 0.002 by default.
    allowed_batch_sizes, preferred_batch_sizes : sequence of int, optional
        As for `Batching`. Padding costs nothing: the model sees the slots behind the batch, and the outputs for them
        are dropped.
    policy : BatchPolicy, optional
        Decides which batches are taken, and when, in place of the four options above.
    max_queue_size : int, optional
        Most requests that wait in the ring; by default as many as the ring has slots. Clients that ask at the same
        moment may exceed it, each by one request.
    when_full : "block" or "reject"
        Whether a client then waits, up to its timeout, or gets `RingFull` at once.
    devices : str or sequence of str, optional
        Such as ["GPU:0", "GPU:1"]: a replica on each, in a thread of its own. By default the first GPU, else the CPU.
        Experimental for a Keras model on several devices: RingFeed copies it with private parts of Keras.
    strategy : tf.distribute.Strategy, optional
        Split each batch over the strategy's replicas, instead of `devices`. The model is made under its scope.
    precision : str, optional
        "mixed_float16", "bfloat16" or "int8": serve a smaller, faster copy of a Keras model. Experimental: RingFeed
        makes the copy with private parts of Keras.
    samples : nest of arrays, optional
        Inputs as the model takes them. The change by `precision` is measured on them and logged before serving, and
        `precision_report` holds it.
    jit_compile : bool
        Compile the model with XLA. With `allowed_batch_sizes` every one of them is compiled before serving.
    structure : nest of str, optional
        What the model is given: a nest of fields, and of `ringfeed.tf.TAGS`. A tuple or list means inputs, never
        ``(x, y)``. By default the fields that have the names of the model's inputs (of Keras inputs, TensorSpecs,
        signatures or Python arguments), as `ringfeed.tf.fuse` decides.
    allow_row_mixing : bool
        Pad batches without first checking that the model does not mix rows.
    reply_cells : int, optional
        Most requests under way at a time, of all clients; by default twice the ring's slots.
    participants : int
        Most engines and clients at a time.
    latency_target : float, optional
        Seconds that the model may take for a batch, for ``batch_size="auto"``.
    remember : bool, str or path
        Remember the measurements of "auto", per model, record and device, and do not measure again. They are kept in
        this folder, or in the user's cache.
    pin_memory : bool, optional
        Page-lock the ring for copies to a GPU, as `Ring.pin` does; by default if a device is a GPU. The ring's `memory`
        says if the driver refused.
    signature, tags
        Which signature of a SavedModel, and which graph, by its tags. By default the only graph, else that of the tag
        "serve".
    warm_up : nest of arrays of shape (rows, ...), optional
        Rows on which the model is tried before it serves, named as the record's fields or nested as the model's inputs.
        By default they are zeros, on which some models cannot run. They are repeated to fill a batch. If batches are
        padded, give two rows that differ, or more: they show whether the model mixes rows.
    same_model : bool
        Refuse to serve beside an engine of another model: engines on one ring share its requests. Models differ if
        their names, inputs, outputs or weights differ. Weights are those of a Keras model; else the variables that are
        read and not changed, and the arrays and numbers that a function was made with, but not tables. With False both
        engines may answer.
    error_detail : "full" or "short"
        What clients are told when the model raises. "full" is the error's text, up to 1,000 characters, which may show
        internals of the model. "short" is its type and a number; the log of this process has the text under it.

    Attributes
    ----------
    meter : Meter
        Histograms of all phases.
    precision_report : PrecisionReport or None
    measurements : Measurements or None
        The measurements of "auto".
    state : EngineState

    Raises
    ------
    ValueError, TypeError
        An option does not fit the ring, the model or the machine; the message says what would.
    RingNotFound, NoSpace, LayoutMismatch
        From `start`: the ring has no name, there is no memory for the replies, another engine answers differently.

    Examples
    --------
    >>> with ringfeed.Engine(ring, model, batch_size=64):
    ...     scores = ringfeed.Client("cams").predict({"image": pixels})
    """

    next_ring: Ring | None = None
    _first_ring: Ring | None = None

    def __init__(
        self,
        ring: Ring,
        model: Any,
        batch_size: int | str | None = None,
        *,
        linger: float | None = None,
        allowed_batch_sizes: Sequence[int] | None = None,
        preferred_batch_sizes: Sequence[int] | None = None,
        policy: BatchPolicy | None = None,
        max_queue_size: int | None = None,
        when_full: str = "block",
        devices: str | Sequence[str] | None = None,
        strategy: Any = None,
        precision: str | None = None,
        samples: Any = None,
        jit_compile: bool = False,
        structure: Any = None,
        allow_row_mixing: bool = False,
        reply_cells: int | None = None,
        participants: int = 512,
        latency_target: float | None = None,
        remember: Any = False,
        pin_memory: bool | None = None,
        signature: str | None = None,
        tags: str | Sequence[str] | None = None,
        warm_up: Any = None,
        same_model: bool = True,
        error_detail: str = "full",
    ) -> None:
        super().__init__()
        check_ring(ring)
        self.ring = ring
        self._replies = ReplyOptions.of(
            ring, reply_cells, participants, max_queue_size, when_full, error_detail, same_model
        )
        self._placement = PlacementOptions(
            devices, strategy, precision, samples, jit_compile, signature, tags, pin_memory
        )
        self._batching = BatchingOptions(
            batch_size,
            linger,
            allowed_batch_sizes,
            preferred_batch_sizes,
            policy,
            allow_row_mixing,
            latency_target,
            remember,
        )
        self._load(model, structure, warm_up)

    # -- Making ------------------------------------------------------------------------------------

    def _load(self, model: Any, structure: Any, warm_up: Any) -> None:
        """Place the model on its devices, and make a replica for each."""
        messages = ErrorMessages(self.ring.name, self._replies.error_detail)
        grow_memory()
        placed, self.precision_report = self._placement.place(model)
        if self.precision_report is not None:
            _log.info("ring %r: precision %s: %s", self.ring.name, self._placement.precision, self.precision_report)
        first = placed[0][1]
        self.name = first.name
        if structure is None:
            structure = structure_for(self.ring.spec, first, self.ring.name)
        self._warm_up_rows = WarmUpRows(Element.of(self.ring.spec, lists_to_tuples(structure), self.ring.name), warm_up)
        self.policy = self._batching.policy_for(self.ring)
        self._auto = self._batching.auto_batch(
            self._placement.cache_key(first if isinstance(model, (list, tuple)) else model)
        )
        self.measurements: Measurements | None = None
        self.meter = _core.Meter()
        self._delivery = self._make_delivery()
        self._failures_logged = 0
        settings = self._replica_settings(messages)
        self._replicas = [Replica(adapted, device, settings) for device, adapted in placed]
        self._pins = self._placement.pins_memory([device for device, _ in placed])
        self._started = 0.0

    def _make_delivery(self) -> Delivery:
        return ReplyDelivery()

    def _replica_settings(self, messages: ErrorMessages) -> ReplicaSettings:
        return ReplicaSettings(
            self._warm_up_rows,
            lambda rows: self.policy.padded_size(rows),  # the policy changes when the batch size is measured
            self.policy.batch_size,
            self.meter,
            BatchTracer(self.ring.name, self.name),
            self._delivery,
            messages,
            self._log_failure,
            is_first_stage=self._first_ring is None or self._first_ring is self.ring,
        )

    # -- Starting ----------------------------------------------------------------------------------

    def _open(self) -> ServingThreads:
        outputs = self._prepare_model()
        first = self._replicas[0]
        inputs = self._warm_up_rows.element.specs(None, cut=False)
        digest = model_digest(first.adapted, outputs, inputs, first.concrete)
        self._delivery.check(outputs, self.name)
        self._pool = self._open_pool(outputs)
        self._registration = ServiceRegistration(
            self.ring, self.next_ring, self._pool, self.name, digest, self._replies.same_model
        )
        self._registration.register()  # at once: another engine may replace a pool without a registered engine
        if self._pins:  # before batches are taken
            self._pinned = [level for level in self.ring.levels if level.pin()]
        self._started = time.monotonic()
        return ServingThreads(
            self.ring,
            self.next_ring,
            self._pool,
            self.policy,
            self._replicas,
            self._lifecycle,
            self._registration,
        )

    def _prepare_model(self) -> OutputSpec:
        outputs = common_output_spec(self._replicas)
        if not self._batching.allow_row_mixing:
            refuse_row_mixing_if_padded(self._replicas[0], self.policy, self._warm_up_rows)
        if self._auto is not None:
            self._choose_batch_size(self._auto)
        sizes = self._batching.trial_sizes(self.policy, self._placement.jit_compile)
        try_batch_sizes(self._replicas, sizes, self.ring.name)
        return outputs

    def _choose_batch_size(self, auto: AutoBatch) -> None:
        self.measurements, chosen = auto.choose(
            self._replicas[0],
            self._warm_up_rows.element,
            self.policy.batch_size,
            self._batching.allowed_batch_sizes,
        )
        if isinstance(self.policy, Batching):
            self.policy = self.policy.limited_to(chosen)
        for replica in self._replicas:
            replica.memory_limit.cap(chosen)
        _log.info("ring %r: batch_size=%d of (%s)", self.ring.name, chosen, self.measurements)

    def _open_pool(self, outputs: OutputSpec) -> ReplyPool:
        settings = dataclasses.replace(self._replies.settings, single_output=outputs.single_output)
        return ReplyPool.make(
            self._first_ring or self.ring, outputs.fields, self._replies.cells, self._replies.participants, settings
        )

    # -- Observing ---------------------------------------------------------------------------------

    def stats(self) -> EngineStats:
        """Return what the engine did since it was started; ``print(engine.stats())`` shows it as text."""
        return EngineStats.of(
            self.ring,
            self.name,
            self.meter,
            self._replicas,
            uptime_seconds=time.monotonic() - self._started if self._started else 0.0,
            expired=0 if self._pool is None else self._pool.expired,
            withdrawn=0 if self._pool is None else self._pool.withdrawn,
        )

    def register_metrics(self, registry: Any = None) -> EngineCollector:
        """Show the numbers of the engine to Prometheus.

        Parameters
        ----------
        registry : prometheus_client.CollectorRegistry, optional
            By default prometheus-client's own, which ``prometheus_client.start_http_server(port)`` serves.

        Raises
        ------
        ModuleNotFoundError
            The package prometheus-client is not installed: ``pip install ringfeed[metrics]``.
        """
        from prometheus_client import REGISTRY

        return EngineCollector.show(self, REGISTRY if registry is None else registry)

    def _log_start(self) -> None:
        devices = ", ".join(replica.device for replica in self._replicas)
        _log.info("ring %r: serving model %r on %s, %s", self.ring.name, self.name, devices, self.policy)

    def _log_failure(self, error: Exception, rows: int) -> None:
        self._failures_logged += 1
        if self._failures_logged & (self._failures_logged - 1) == 0:  # the 1st, 2nd, 4th, 8th ...
            _log.warning(
                "ring %r: %d row answered with an error (%d so far): %s",
                self.ring.name,
                rows,
                self._failures_logged,
                error,
            )

    def __repr__(self) -> str:
        return f"<Engine of model {self.name!r} on ring {self.ring.name!r}, {self.state.name.lower()}>"
