"""The engine: takes batches of requests from a ring, runs the model, answers.

It may not know how a request was made, how a batch is chosen (batching.py) or run (replica.py).
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .. import _core
from ..client.reply_pool import ReplyPool
from ..errors import LayoutMismatch, RingFeedError
from ..ring import Ring
from ..tf.models.adapt_model import AdaptedModel
from ..tf.models.devices import grow_memory
from ..tf.models.output_spec import OutputSpec
from ..tf.models.placement import place_model
from ..tf.models.record_inputs import structure_for
from ..tf.models.warm_up_rows import WarmUpRows
from ..tf.tensors.elements import Element
from ..tf.tensors.structure import lists_to_tuples
from . import tuning
from .auto_batch import AutoBatch
from .batching import Batching, BatchPolicy, policy_for
from .delivery import Answers, Forward, Sink
from .error_messages import ErrorTexts
from .lifecycle import EngineLife
from .metrics import EngineCollector, EngineStats
from .model_digest import identity_of
from .options import check_rings, pool_settings, pool_sizes
from .replica import Replica
from .serving_threads import Orders, Presence, ServingThreads
from .shutdown import stop_at_exit
from .tracing import BatchTracer
from .warm_up import outputs_of, refuse_mixing_where_padded, try_sizes

if TYPE_CHECKING:
    from ..tf.models.precision import PrecisionReport

_LAST_STAGE_SECONDS = 60.0
_log = logging.getLogger("ringfeed.engine")


class Engine(EngineLife):
    """Serves a model: takes requests from a ring as batches, and answers them.

    It runs in any process, in the background (`start`, or as a context manager) or in the foreground (`run`). Several
    engines on one ring share the work: whoever is free takes the next batch. Records that were put without a client
    are run, too, and want no answer.

    Parameters
    ----------
    ring : Ring
        Owned or attached. It must have its name still: clients find the engine by it. Its `levels` are taken in their
        order: a batch is of one priority.
    model : keras.Model, path, SavedModel folder, tf.function or callable; or a list of one for each device
        It takes a whole batch and returns one row for each row. A path is that of a ``.keras`` or ``.h5`` file. Of a
        SavedModel the engine takes ``serve`` (written by ``model.export``), else the object itself where it is
        callable, else the signature ``serving_default``. A function with several required arguments gets the inputs
        one by one. A function that TensorFlow cannot trace runs eagerly, with a warning.
    batch_size : int or "auto"
        Most rows in a batch, 32 by default. "auto" measures the model when the engine
        starts and takes the smallest size within 5 % of the best throughput or, with `latency_target`, the largest
        that keeps it; this is experimental.
    linger : float
        Seconds that the first record of a batch waits for others, 0.002 by default.
    allowed_batch_sizes, preferred_batch_sizes : sequence of int, optional
        As for `Batching`. Padding costs nothing: the model is shown the slots behind the batch, and what it returns for
        them is dropped.
    policy : BatchPolicy, optional
        In place of all of these: which batches are taken, and when.
    max_queue_size : int, optional
        Most requests that wait in the ring; by default as many as it has slots. Clients that ask at the same moment may
        pass it by as many as they are.
    when_full : "block" or "reject"
        Whether a client waits then, as long as its timeout, or gets `RingFull` at once.
    devices : str or sequence of str, optional
        Such as ["GPU:0", "GPU:1"]: a replica on each, in a thread of its own. By default the first GPU, else the CPU.
        Experimental for a Keras model on several devices: RingFeed copies it with private parts of Keras.
    strategy : tf.distribute.Strategy, optional
        Split each batch over the strategy's replicas, instead of `devices`; the model is made under its scope.
    precision : str, optional
        "mixed_float16", "bfloat16" or "int8": serve a smaller, faster copy of a Keras model. Experimental: RingFeed
        makes the copy with private parts of Keras.
    samples : nest of arrays, optional
        Inputs as the model takes them, on which the change by `precision` is measured and logged before serving;
        then `precision_report` holds it.
    jit_compile : bool
        Compile the model with XLA. With `allowed_batch_sizes` all of them are compiled before serving.
    structure : nest of str, optional
        What the model is given: a nest of fields, and of `ringfeed.tf.TAGS`. A tuple or list means inputs, never
        ``(x, y)``. By default the fields that have the names of the model's inputs (of Keras inputs, TensorSpecs,
        signatures or Python arguments), as `ringfeed.tf.fuse` decides.
    allow_row_mixing : bool
        Do not ask whether the model mixes rows before padding batches.
    reply_cells : int, optional
        Most requests under way at a time, of all clients; by default twice the ring's slots.
    participants : int
        Most engines and clients at a time.
    latency_target : float, optional
        Seconds that the model may take for a batch, for ``batch_size="auto"``.
    remember : bool, str or path
        Remember what "auto" measured, per model, record and device, in a folder (by default in the user's cache), and
        do not measure again.
    pin_memory : bool, optional
        Page-lock the ring for copies to a GPU, as `Ring.pin` does; by default where a device is one. A refusal
        stands in the ring's `memory`.
    signature, tags
        Which signature of a SavedModel, and which graph, by its tags. By default the only graph, else that
        of the tag "serve".
    warm_up : nest of arrays of shape (rows, ...), optional
        Rows on which the model is tried before it serves, named as the record's fields or nested as the model's inputs;
        by default rows of zeros, which some models cannot be run on. They are repeated as often as a batch takes. Where
        batches are padded, give two that differ, or more: it is then found out on them whether the model mixes rows.
    same_model : bool
        Engines on one ring share its requests, so they are of one model: an engine whose model's name, inputs, outputs
        or weights differ from those of one that serves already is refused. Weights are a Keras model's; else variables
        that are read and not changed, and the arrays and numbers that a function was made with; not tables. False says
        that both may answer.
    error_detail : "full" or "short"
        What clients are told when the model raises: its text, up to 1,000 characters, which may show its internals; or
        the exception's type and a number under which the log of this process has the text.
    output : Ring, optional
        Of the next stage: this engine is one of several, as `Pipeline` makes them. What the model returns goes into
        that ring, with the requests.
    answers_for : Ring, optional
        Of a later stage: the ring into which clients put their requests.

    Attributes
    ----------
    meter : Meter
        Histograms of all stages.
    precision_report : PrecisionReport or None
    measurements : Measurements or None
        What "auto" measured.

    Raises
    ------
    ValueError, TypeError
        Something does not fit the ring, the model or the machine; the message says what would.
    RingNotFound, NoSpace, LayoutMismatch
        From `start`: the ring has no name, there is no memory for the replies, another engine answers differently.

    Examples
    --------
    >>> with ringfeed.Engine(ring, model, batch_size=64):
    ...     scores = ringfeed.Client("cams").predict({"image": pixels})
    """

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
        output: Ring | None = None,
        answers_for: Ring | None = None,
    ) -> None:
        check_rings(ring, output, answers_for)
        self.ring = ring
        self.name = "?"
        self.meter = _core.Meter()
        self._orders = Orders()
        self.precision_report: PrecisionReport | None = None
        self.measurements: tuning.Measurements | None = None
        self.output = output
        self._answers_for = answers_for or ring
        self._same_model = same_model
        texts = ErrorTexts(ring.name, error_detail)
        self._pool_sizes = pool_sizes(ring, reply_cells, participants)
        self._settings = pool_settings(False, max_queue_size, when_full)
        self._sink: Sink = Answers() if output is None else Forward(output, lambda: self._orders.stopping)
        grow_memory()
        saved = {"signature": signature, "tags": tags}
        adapted_models, self.precision_report = place_model(
            model, devices, strategy, precision, samples, jit_compile, saved
        )
        if self.precision_report is not None:
            _log.info("ring %r: precision %s: %s", ring.name, precision, self.precision_report)
        self.name = adapted_models[0][1].name
        if structure is None:
            structure = structure_for(ring.spec, adapted_models[0][1], ring.name)
        self._warm_up_rows = WarmUpRows(Element.of(ring.spec, lists_to_tuples(structure), ring.name), warm_up)
        self.policy = policy_for(ring, policy, batch_size, linger, allowed_batch_sizes, preferred_batch_sizes)
        key = {
            "model": adapted_models[0][1] if isinstance(model, (list, tuple)) else model,
            "precision": precision,
            "jit_compile": jit_compile,
            **({} if signature is None and tags is None else saved),
        }
        latency_target = tuning.check_latency_target(latency_target)
        self._auto = AutoBatch(latency_target, remember, key) if batch_size == "auto" else None
        self._compile_all = bool(jit_compile and allowed_batch_sizes)
        self._sizes = allowed_batch_sizes
        self._allow_row_mixing = allow_row_mixing
        tracer = BatchTracer(ring.name, self.name)
        self._replicas = [self._replica(adapted, device, tracer, texts) for device, adapted in adapted_models]
        extended = getattr(strategy, "extended", None)
        places = [*(device for device, _ in adapted_models), *getattr(extended, "worker_devices", ())]
        on_gpu = any("GPU" in place for place in places)
        self._pins = on_gpu if pin_memory is None else bool(pin_memory)
        self._pinned: list[Ring] = []
        self._pool: ReplyPool | None = None
        self._started = 0.0
        self._failures_logged = 0

    # -- what it is made of ------------------------------------------------------------------------

    def _replica(self, adapted: AdaptedModel, device: str, tracer: BatchTracer, texts: ErrorTexts) -> Replica:
        return Replica(
            adapted,
            device,
            self._warm_up_rows,
            lambda rows: self.policy.padded_size(rows),
            self.policy.batch_size,
            self.meter,
            tracer,
            self._sink,
            self._note_failure,
            texts,
            asked_here=self._answers_for is self.ring,
        )

    # -- starting ----------------------------------------------------------------------------------

    def start(self) -> Engine:
        """Warm the model up, and serve in the background.

        Returns
        -------
        Engine
            Itself.
        """
        if self._serving is not None or self._orders.stopping:
            raise RingFeedError(f"engine of ring {self.ring.name!r} was started or stopped before. Make a new one.")
        try:
            outputs = self._prepare()
            self._open_pool(outputs)
            assert self._pool is not None
            presence = Presence(self.ring, self._pool, self._serve)
            self._serve()  # at once: nobody is to take the pool for one that nobody serves
            if self._pins:  # before batches are taken
                self._pinned = [level for level in self.ring.levels if level.pin()]
            self._serving = ServingThreads(
                self.ring,
                self._pool,
                self.policy,
                self._replicas,
                self._orders,
                presence,
                self.output,
                self._when_ended,
            )
            self._started = time.monotonic()
            self._serving.start()
        except BaseException:
            self._close()  # clients must not take it for one that serves
            raise
        stop_at_exit(self)
        devices = ", ".join(replica.device for replica in self._replicas)
        _log.info("ring %r: serving model %r on %s, %s", self.ring.name, self.name, devices, self.policy)
        return self

    def _prepare(self) -> OutputSpec:
        outputs = outputs_of(self._replicas)
        if not self._allow_row_mixing:
            refuse_mixing_where_padded(self._replicas[0], self.policy, self._warm_up_rows)
        if self._auto is not None:
            self._choose_batch_size(self._replicas[0], self._auto)
        every_size = self._sizes if self._compile_all and self._sizes else None
        try_sizes(self._replicas, every_size or (1, self.policy.batch_size), self.ring.name)
        specs = self._warm_up_rows.element.specs(None, cut=False)
        self._identity = identity_of(self._replicas[0].adapted, outputs, specs, self._replicas[0].concrete)
        return outputs

    def _open_pool(self, outputs: OutputSpec) -> None:
        if self.output is not None:
            self._sink.check(outputs, self.name)
            self._pool = ReplyPool.wait_for(self._answers_for, _LAST_STAGE_SECONDS)
        else:
            settings = dataclasses.replace(self._settings, bare=outputs.bare)
            self._pool = ReplyPool.make(self._answers_for, outputs.fields, *self._pool_sizes, settings)

    def _serve(self) -> None:
        """Say to clients that this engine serves."""
        assert self._pool is not None
        other = self._pool.serve(
            self.ring, self.output, model=self._identity, name=self.name, same_model=self._same_model
        )
        if other is not None:
            name, pid = other
            raise LayoutMismatch(
                f"ring {self.ring.name!r}: an engine of model {name!r} (pid {pid}) serves it, and this one is of model "
                f"{self.name!r}: names, inputs, outputs or weights differ, and clients would get answers of both at "
                "random. Stop that engine first, serve this model from a ring of its own, or pass same_model=False."
            )

    def _when_ended(self) -> None:
        if self._terminations is not None:
            self._terminations.end()

    def _choose_batch_size(self, replica: Replica, auto: AutoBatch) -> None:
        self.measurements, chosen = auto.choose(
            replica, self._warm_up_rows.element, self.policy.batch_size, self._sizes
        )
        if isinstance(self.policy, Batching):
            self.policy = self.policy.limited_to(chosen)
        for each in self._replicas:
            each.ceiling.limit(chosen)
        _log.info("ring %r: batch_size=%d of (%s)", self.ring.name, chosen, self.measurements)

    def _note_failure(self, error: Exception, rows: int) -> None:
        self._failures_logged += 1
        if self._failures_logged & (self._failures_logged - 1) == 0:  # the 1st, 2nd, 4th, 8th ...
            _log.warning(
                "ring %r: %d row answered with an error (%d so far): %s",
                self.ring.name,
                rows,
                self._failures_logged,
                error,
            )

    # -- seeing what happens -----------------------------------------------------------------------

    def stats(self) -> EngineStats:
        """Return what it did since it was started; ``print(engine.stats())`` shows it as text."""
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
        """Show its numbers to Prometheus.

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

    def __repr__(self) -> str:
        state = "running" if self.running else "stopped" if self._orders.stopping else "not started"
        return f"<Engine of model {self.name!r} on ring {self.ring.name!r}, {state}>"
