"""The engine: takes batches of requests from a ring, runs the model, answers.

It may not know how a request was made, how a batch is chosen (batching.py) or run (replica.py).
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import threading
import time
import weakref
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .. import _core
from ..batching import Batching, BatchPolicy, either, policy_for
from ..errors import RingClosed, RingEmpty, RingFeedError, RingFinished
from ..metrics import EngineCollector, EngineStats
from ..replies import PoolSettings, ReplyPool
from ..ring import Ring
from . import tuning
from .auto_batch import AutoBatch
from .devices import grow_memory
from .elements import Element
from .fused import default_structure, refuse_mixed_rows
from .model_forms import ModelForm
from .placement import placed
from .replica import Answers, Forward, Replica, Sink, Stopped
from .structure import lists_to_tuples
from .taking import whole
from .tracing import BatchTracer

if TYPE_CHECKING:
    from .precision import PrecisionReport

_RECOVERY_SECONDS = 0.2
_MOST_FAILURES = 16
_LAST_STAGE_SECONDS = 60.0
_WHEN_FULL = ("block", "reject")
_MOST_QUEUED = 2**32 - 1
_log = logging.getLogger("ringfeed.engine")


class _Orphaned(RingFeedError):
    """The replies of this engine are not those of its ring any more."""


class Engine:
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
        As for `ringfeed.tf.model.ModelRunner`. It is given whole batches and returns one row for each row.
    batch_size : int or "auto"
        Most rows in a batch, 32 by default; also called `max_batch_size`. "auto" measures the model when the engine
        starts and takes the smallest size within 5 % of the best throughput or, with `latency_target`, the largest
        that keeps it.
    linger : float
        Seconds that the first record of a batch waits for others, 0.002 by default; also called `batch_timeout`.
    max_batch_size, batch_timeout
        TensorFlow Serving's words for `batch_size` and `linger`.
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
    strategy : tf.distribute.Strategy, optional
        Split each batch over the strategy's replicas, instead of `devices`; the model is made under its scope.
    precision : str, optional
        "mixed_float16", "bfloat16" or "int8": serve a smaller, faster copy of a Keras model.
    samples : nest of arrays, optional
        Inputs as the model takes them, on which the change by `precision` is measured and logged before serving;
        then `precision_report` holds it.
    jit_compile : bool
        Compile the model with XLA. With `allowed_batch_sizes` all of them are compiled before serving.
    structure : nest of str, optional
        What the model is given, as for `ringfeed.tf.dataset`. By default the record's only field; of several, a dict
        of those that the model names as its inputs, or of all.
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
        linger: float | None = None,
        *,
        max_batch_size: int | None = None,
        batch_timeout: float | None = None,
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
        output: Ring | None = None,
        answers_for: Ring | None = None,
    ) -> None:
        if not isinstance(ring, Ring):
            raise TypeError(f"ring {ring!r:.80}: give a ringfeed.Ring. Ring.attach(name) opens one that exists.")
        if when_full not in _WHEN_FULL:
            raise ValueError(f'when_full={when_full!r}: give "block" or "reject".')
        self.ring = ring
        self.name = "?"
        self.meter = _core.Meter()
        self._threads: list[threading.Thread] = []
        self._stopping = self._draining = False
        self._failed: BaseException | None = None
        self.precision_report: PrecisionReport | None = None
        self.measurements: tuning.Measurements | None = None
        self.output = output
        self._answers_for = answers_for or ring
        for each in (ring, self._answers_for) if output is not None or answers_for not in (None, ring) else ():
            if not each.redelivers:
                raise ValueError(
                    f"ring {each.name!r} drops what dead takers had (redeliver=False): its requests can not be handed "
                    "on. Create it with redeliver=True."
                )
        self._sink: Sink = Answers() if output is None else Forward(output, lambda: self._stopping)
        grow_memory()
        forms, self.precision_report = placed(model, devices, strategy, precision, samples, jit_compile)
        if self.precision_report is not None:
            _log.info("ring %r: precision %s: %s", ring.name, precision, self.precision_report)
        self.name = forms[0][1].name
        structure = default_structure(ring.spec, forms[0][1]) if structure is None else lists_to_tuples(structure)
        self._element = Element.of(ring.spec, structure, ring.name)
        size = either("batch_size", batch_size, "max_batch_size", max_batch_size)
        wait = either("linger", linger, "batch_timeout", batch_timeout)
        self.policy = policy_for(ring, policy, size, wait, allowed_batch_sizes, preferred_batch_sizes)
        key = {
            "model": forms[0][1] if isinstance(model, (list, tuple)) else model,
            "precision": precision,
            "jit_compile": jit_compile,
        }
        self._auto = AutoBatch(latency_target, remember, key) if size == "auto" else None
        self._compile_all = bool(jit_compile and allowed_batch_sizes)
        self._sizes = allowed_batch_sizes
        self._allow_row_mixing = allow_row_mixing
        cells = 2 * ring.slots if reply_cells is None else whole("reply_cells", reply_cells, 1)
        self._pool_options = cells, whole("participants", participants, 2)
        queue = 0 if max_queue_size is None else whole("max_queue_size", max_queue_size, 1)
        self._settings = min(queue, _MOST_QUEUED), when_full == "reject"
        tracer = BatchTracer(ring.name, self.name)
        self._replicas = [self._replica(form, device, tracer) for device, form in forms]
        extended = getattr(strategy, "extended", None)
        places = [*(device for device, _ in forms), *getattr(extended, "worker_devices", ())]
        on_gpu = any("GPU" in place for place in places)
        self._pins = on_gpu if pin_memory is None else bool(pin_memory)
        self._pinned: list[Ring] = []
        self._pool: ReplyPool | None = None
        self._started = 0.0
        self._serving = 0
        self._lock = threading.Lock()
        self._failures_logged = 0
        self._recovered = 0.0

    # -- what it is made of ------------------------------------------------------------------------

    def _replica(self, form: ModelForm, device: str, tracer: BatchTracer) -> Replica:
        return Replica(
            form,
            device,
            self._element,
            lambda rows: self.policy.padded_size(rows),
            self.policy.max_batch_size,
            self.meter,
            tracer,
            self._sink,
            self._note_failure,
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
        if self._threads or self._stopping:
            raise RingFeedError(f"engine of ring {self.ring.name!r} was started or stopped before. Make a new one.")
        self._prepare()
        if self._pins:  # before batches are taken
            self._pinned = [level for level in self.ring.levels if level.pin()]
        self._started = time.monotonic()
        for number, replica in enumerate(self._replicas):
            name = f"ringfeed-engine-{self.ring.name}-{number}"
            self._threads.append(threading.Thread(target=self._serve, args=(replica,), name=name, daemon=True))
        assert self._pool is not None
        self._serving = len(self._threads)
        for thread in self._threads:
            thread.start()
        atexit.register(_stop_at_exit, weakref.ref(self))  # TensorFlow does not survive its threads' end
        devices = ", ".join(replica.device for replica in self._replicas)
        _log.info("ring %r: serving model %r on %s, %s", self.ring.name, self.name, devices, self.policy)
        return self

    def _prepare(self) -> None:
        first = self._replicas[0]
        self._refuse_mixed_rows()
        if self._auto is not None:
            self._choose_batch_size(first, self._auto)
        outputs = first.output_spec()
        for replica in self._replicas[1:]:
            if (other := replica.output_spec()) != outputs:
                raise ValueError(
                    f"{first.device} and {replica.device}: the models return {outputs.fields!r} and {other.fields!r}; "
                    "those of one engine return the same."
                )
        for replica in self._replicas:
            for rows in self._sizes if self._compile_all and self._sizes else (1, self.policy.max_batch_size):
                self._warm_up(replica, rows)
        if self.output is not None:
            self._sink.check(outputs.fields, self.name)
            self._pool = ReplyPool.wait_for(self._answers_for, _LAST_STAGE_SECONDS)
        else:
            settings = PoolSettings(outputs.bare, *self._settings)
            self._pool = ReplyPool.make(self._answers_for, outputs.fields, *self._pool_options, settings)
        self._pool.serve(self.ring)  # at once: nobody is to take the pool for one that nobody serves

    def _warm_up(self, replica: Replica, rows: int) -> None:
        import tensorflow as tf

        try:
            replica.run_on_nothing(rows)
        except tf.errors.ResourceExhaustedError:
            replica.ceiling.lower(rows)
            _log.warning("ring %r: %s has no memory for %d rows", self.ring.name, replica.device, rows)

    def _refuse_mixed_rows(self) -> None:
        most = self.policy.max_batch_size
        padded = max(
            (size for rows in range(1, most + 1) if (size := self.policy.padded_size(rows)) != rows), default=0
        )
        if padded and not self._allow_row_mixing:
            refuse_mixed_rows(
                self._replicas[0].form, self._replicas[0].form.step, self._element, padded, "allowed_batch_sizes"
            )

    def _choose_batch_size(self, replica: Replica, auto: AutoBatch) -> None:
        self.measurements, chosen = auto.choose(replica, self._element, self.policy.max_batch_size, self._sizes)
        if isinstance(self.policy, Batching):
            self.policy = self.policy.limited_to(chosen)
        for each in self._replicas:
            each.ceiling.rows = min(each.ceiling.rows, chosen)
        _log.info("ring %r: batch_size=%d of (%s)", self.ring.name, chosen, self.measurements)

    # -- serving -----------------------------------------------------------------------------------

    def _serve(self, replica: Replica) -> None:
        pool = self._pool
        assert pool is not None
        replica.waits_from_now()
        try:
            failures = 0
            while not self._stopping and failures < _MOST_FAILURES:
                more, failed = self._serve_once(replica, pool)
                if not more:
                    return
                failures = failures + 1 if failed else 0
            if failures >= _MOST_FAILURES:
                raise RingFeedError(f"{failures} batches in a row could not be served; the log has the reasons.")
        except BaseException as error:
            self._failed = error
            _log.exception("ring %r: the thread that serves %s ends", self.ring.name, replica.device)
        finally:
            replica.waiting_since = None
            with self._lock:
                self._serving -= 1
                last = self._serving == 0
            # Clients must not wait for someone who is not there any more; but those behind a stage have its requests.
            if last and (self.output is None or self._failed):
                with contextlib.suppress(RingClosed):
                    pool.serve(None)

    def _serve_once(self, replica: Replica, pool: ReplyPool) -> tuple[bool, bool]:
        """Serve a batch. Returns whether more are to come, and whether it failed."""
        try:
            self._serve_batch(replica, pool)
        except RingEmpty:
            return not self._draining, False
        except (RingFinished, RingClosed, Stopped):
            return False, False
        except _Orphaned:
            raise
        except Exception:
            _log.exception("ring %r: a batch could not be served", self.ring.name)
            return True, True
        return True, False

    def _serve_batch(self, replica: Replica, pool: ReplyPool) -> None:
        # In a function of its own: nothing of a batch is kept while the next is waited for.
        held = pool.hold(self._take(replica.ceiling.rows))
        try:
            for requests in held:
                replica.serve(requests)
        except Stopped:
            for requests in held:
                if not requests.batch.released:
                    requests.give_back()
                    requests.batch.release()
            raise
        finally:
            for requests in held:  # that none is lost when something fails that should not
                requests.refuse_rest(_core.FAILED, "the engine failed before it came to the request")
        self._look_after_the_dead(pool)

    def _take(self, ceiling: int) -> _core.Batch:
        try:
            return self.policy.take(self.ring, ceiling, self._should_end)
        except RingEmpty:
            if not self._draining or self._stopping:
                raise
            # What waited for a larger batch, or for a command.
            return self.ring.take_urgent(min(self.policy.max_batch_size, ceiling), timeout=0)

    def _should_end(self) -> bool:
        """Look around while a replica waits."""
        if self._pool is not None:
            self._look_after_the_dead(self._pool)
        return self._stopping or self._draining

    def _look_after_the_dead(self, pool: ReplyPool) -> None:
        """Take back, now and then, the cells of clients that died."""
        now = time.monotonic()
        if now - self._recovered >= _RECOVERY_SECONDS:
            self._recovered = now
            pool.cells.recover()
            if pool.was_replaced():
                raise _Orphaned(
                    f"ring {self.ring.name!r}: another engine has made the replies anew, for other outputs or "
                    "settings; this one can answer nobody any more."
                )

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

    # -- ending ------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve in the foreground, until the ring is finished or closed, or Ctrl-C ends it.

        Raises
        ------
        KeyboardInterrupt
            After the batch under way was answered.
        RingFeedError
            It can not serve any more; the message says why.
        """
        self.start()
        try:
            self.wait()
        finally:
            self.stop()
        if self._failed is not None:
            raise RingFeedError(f"ring {self.ring.name!r}: the engine ended: {self._failed}") from self._failed

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it serves no more: because the ring was finished, or it was drained or stopped.

        Returns
        -------
        bool
            False when `timeout` seconds were over before.
        """
        until = None if timeout is None else time.monotonic() + timeout
        for thread in self._threads:
            thread.join(None if until is None else max(until - time.monotonic(), 0.0))
        return not any(thread.is_alive() for thread in self._threads)

    def drain(self, timeout: float | None = None) -> bool:
        """Answer what waits in the ring, then stop.

        It ends when nothing waits: clients that go on asking keep it at work. `Ring.finish` ends those, too.

        Returns
        -------
        bool
            False when `timeout` seconds were over before; it goes on draining.
        """
        drained = self.finish_serving(timeout)
        if drained:
            self.stop()
        return drained

    def finish_serving(self, timeout: float | None = None) -> bool:
        """Answer what waits in the ring, and take no more; of a stage: the stages behind may still be at it.

        Returns
        -------
        bool
            False when `timeout` seconds were over before; it goes on.
        """
        self._draining = True
        return self.wait(timeout)

    def stop(self) -> None:
        """Answer the batches under way, then stop. Doing it twice does no harm.

        What waits in the ring is left to other engines. Where there is none, clients get `EngineDied` within 100 ms.
        """
        self._stopping = True
        for thread in self._threads:
            if thread is not threading.current_thread():  # a model may stop its own engine
                thread.join()
        if self._pool is not None and not self._pool.cells.closed:
            self._pool.serve(None)
            self._pool.close()
            for level in self._pinned:
                level.unpin()
            _log.info("ring %r: stopped: %s", self.ring.name, self.stats().advice)

    def __enter__(self) -> Engine:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    # -- seeing what happens -----------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether it takes batches."""
        return any(thread.is_alive() for thread in self._threads)

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
        state = "running" if self.running else "stopped" if self._stopping else "not started"
        return f"<Engine of model {self.name!r} on ring {self.ring.name!r}, {state}>"


def _stop_at_exit(reference: weakref.ref[Engine]) -> None:
    engine = reference()
    if engine is not None:
        engine.stop()
