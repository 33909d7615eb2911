"""A model in stages on several devices, joined by rings, with several batches under way at a time.

It may not know how a stage runs: each is a `StageEngine`, which hands its requests on to the next stage.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import tensorflow as tf

from ..arguments import check_timeout
from ..client.client import Client
from ..errors import EngineHung, RingFeedError
from ..ring import Ring
from ..tf.models.adapt_model import AdaptedModel
from ..tf.models.devices import replicas, resolve_devices
from ..tf.models.output_spec import OutputSpec, as_arrays
from ..tf.models.record_inputs import fields_for, model_call, structure_for
from ..tf.models.warm_up_rows import WarmUpRows
from ..tf.tensors.elements import Element
from ..tf.tensors.structure import lists_to_tuples
from .metrics import EngineStats
from .shutdown import INTERRUPT_SECONDS, stop_within
from .stage import StageEngine

DEFAULT_SLOTS = 256
_MOST_STAGES = 16
_MOST_WARM_UP_ROWS = 64


@dataclass(frozen=True)
class _Stage:
    number: int
    model: Any
    adapted_models: list[AdaptedModel]
    places: Any
    batch_size: Any
    linger: Any

    @property
    def adapted(self) -> AdaptedModel:
        return self.adapted_models[0]

    def engine(
        self, source: Ring, target: Ring | None, first: Ring, structure: Any, options: dict[str, Any]
    ) -> StageEngine:
        return StageEngine(
            source,
            # The adapted models are on their devices already, but a precision applies only to the model itself.
            self.model if options.get("precision") else self.adapted_models,
            self.batch_size,
            linger=self.linger,
            devices=resolve_devices(self.places),
            next_ring=target,
            first_ring=first,
            structure=structure,
            **options,
        )


class Pipeline:
    """Serves a model that is cut into stages, each on devices of its own.

    Rings lie between the stages. Each stage takes what is ready in its ring, so all stages work at the same time, and
    their batches may differ. A stage with several devices is replicated; a free replica takes the next batch.

    Parameters
    ----------
    stages : sequence of models
        Each takes what the stage before returns: models that `split_model` makes, or any models that `Engine` takes.
    devices : sequence of (str or sequence of str), optional
        For each stage its device, or devices. By default each gets the default device.
    ring : Ring, optional
        The ring into which clients put their requests. By default the pipeline makes one, with the inputs of the first
        stage as its fields.
    batch_size : int, or sequence of int
        As for `Engine`, for every stage; or one for each stage.
    linger : float, or sequence of float
        As for `Engine`. 0 by default: the stage before delivers whole batches, and each linger delays every request.
    slots : int, optional
        Slots of the rings between stages, and of the first ring if the pipeline makes it. By default as many as `ring`
        has.
    structure : nest of str, optional
        What the first stage is given of a record, as for `Engine`. A later stage gets what the stage before returns, by
        name if its inputs have the names of these outputs. A list or tuple in which no input finds its name is given by
        position.
    signature : str or sequence of (str or None), optional
        The signature of a SavedModel in every stage; or one for each stage.
    tags : str or sequence of str, optional
        The tags of every SavedModel that is given as a folder.
    warm_up : nest of arrays of shape (rows, ...), optional
        Rows on which the first stage is tried before it serves, as for `Engine`. Each later stage is tried on the
        outputs of the stage before for them.
    options
        Further options of `Engine`, for every stage.

    Attributes
    ----------
    ring : Ring
        The ring of the first stage.
    engines : list of StageEngine
        The engines of the stages, in their order.

    Raises
    ------
    ValueError, TypeError
        The stages do not fit each other, the devices or the ring.

    Notes
    -----
    Across processes each stage is a `StageEngine` of its own.

    Examples
    --------
    >>> stages = ringfeed.split_model(model, at=["block_6_add"])
    >>> with ringfeed.Pipeline(stages, devices=["GPU:0", "GPU:1"]) as pipeline:
    ...     scores = pipeline.predict(images)
    """

    def __init__(
        self,
        stages: Sequence[Any],
        *,
        devices: Sequence[str | Sequence[str]] | None = None,
        ring: Ring | None = None,
        batch_size: int | Sequence[int] | None = None,
        linger: float | Sequence[float] = 0.0,
        slots: int | None = None,
        structure: Any = None,
        signature: str | Sequence[str | None] | None = None,
        tags: str | Sequence[str] | None = None,
        warm_up: Any = None,
        **options: Any,
    ) -> None:
        models = list(stages)
        if not 1 <= len(models) <= _MOST_STAGES:
            raise ValueError(f"{len(models)} stages: give 1 to {_MOST_STAGES} models.")
        places = _one_each("devices", devices, len(models))
        sizes = _one_each("batch_size", batch_size, len(models))
        lingers = _one_each("linger", linger, len(models))
        names = (
            [signature] * len(models) if isinstance(signature, str) else _one_each("signature", signature, len(models))
        )
        adapted_models = [
            replicas(model, place, signature=name, tags=tags if isinstance(model, (str, os.PathLike)) else None)
            for model, place, name in zip(models, places, names, strict=True)
        ]
        parts = zip(models, adapted_models, places, sizes, lingers, strict=True)
        self._stages = [_Stage(number, *each) for number, each in enumerate(parts)]
        self._rings: list[Ring] = []
        self._client: Client | None = None
        self.engines: list[StageEngine] = []
        try:
            self.ring = self._own_ring(slots) if ring is None else ring
            self._make_engines(slots or self.ring.slots, structure, warm_up, options)
        except BaseException:
            self._close_rings()
            raise

    def _own_ring(self, slots: int | None) -> Ring:
        return self._own(Ring.create(None, fields_for(self._stages[0].adapted), slots or DEFAULT_SLOTS))

    def _make_engines(self, slots: int, structure: Any, warm_up: Any, options: dict[str, Any]) -> None:
        source, by_order = self.ring, False
        for stage in self._stages:
            target = None
            try:
                if structure is None:
                    structure = structure_for(source.spec, stage.adapted, source.name, by_order=by_order)
                given = {**options, "warm_up": warm_up}
                if stage is not self._stages[-1]:
                    outputs, warm_up = _outputs_of(stage.adapted, source, structure, warm_up)
                    name, by_order = f"{self.ring.name}.stage-{stage.number + 1}", outputs.by_order
                    target = self._own(Ring.create(name, outputs.fields, slots))
                self.engines.append(stage.engine(source, target, self.ring, structure, given))
            except RingFeedError:
                raise
            except Exception as error:
                if stage.number == 0:
                    raise
                raise ValueError(
                    f"stage {stage.number} of the pipeline, model {stage.adapted.name!r}, cannot take what the stage "
                    f"before returns, {source.spec!r}: {error}"
                ) from error
            source, structure = target or source, None

    def _own(self, ring: Ring) -> Ring:
        self._rings.append(ring)
        return ring

    def start(self) -> Pipeline:
        """Start every stage, the last one first, because it makes the replies.

        Returns
        -------
        Pipeline
            The pipeline itself.
        """
        try:
            for engine in reversed(self.engines):
                engine.start()
        except BaseException:
            self.stop()
            raise
        return self

    def predict(self, inputs: Any, **options: Any) -> Any:
        """Send a request and wait for the answer; arguments, result and errors are those of `Client.predict`."""
        if self._client is None:
            self._client = Client(self.ring)
        return self._client.predict(inputs, **options)

    def drain(self, *, timeout: float | None = None) -> bool:
        """Answer the requests that wait, stage by stage, then stop.

        Returns
        -------
        bool
            False if requests still wait after `timeout` seconds; the stages go on draining.
        """
        until = None if timeout is None else time.monotonic() + timeout
        for engine in self.engines:
            if not engine._answer_waiting(None if until is None else max(until - time.monotonic(), 0.0)):
                return False
        self.stop()
        return True

    def wait(self, *, timeout: float | None = None) -> bool:
        """Wait until the first ring is finished and all its requests are answered, or the pipeline is stopped.

        Returns
        -------
        bool
            False if that has not happened within `timeout` seconds.
        """
        until = None if timeout is None else time.monotonic() + timeout
        for engine in self.engines:
            if not engine.wait(timeout=None if until is None else max(until - time.monotonic(), 0.0)):
                return False
            if engine.ring.finished and engine.next_ring is not None:
                engine.next_ring.finish()
        return True

    def stop(self, *, timeout: float | None = None) -> None:
        """Answer the batches that the last stage has under way, and stop every stage. A second call does nothing.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait for the batches under way, of all stages together.

        Raises
        ------
        EngineHung
            A model has not returned in time. The other stages are stopped nevertheless.
        """
        until = None if timeout is None else time.monotonic() + check_timeout(timeout, "timeout")
        hung: EngineHung | None = None
        if self._client is not None:
            self._client.close()
        for engine in self.engines:
            try:
                engine.stop(timeout=None if until is None else max(until - time.monotonic(), 0.0))
            except EngineHung as error:
                hung = hung or error
        if hung is not None:
            raise hung
        self._close_rings()

    def _close_rings(self) -> None:
        for ring in reversed(self._rings):
            ring.__exit__(None, None, None)
        self._rings.clear()

    def stats(self) -> list[EngineStats]:
        """Return what each stage did, in their order."""
        return [engine.stats() for engine in self.engines]

    def __enter__(self) -> Pipeline:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, KeyboardInterrupt):  # one Ctrl-C is enough, even if a model hangs
            stop_within(self, INTERRUPT_SECONDS)
        else:
            self.stop()

    def __repr__(self) -> str:
        return f"<Pipeline of {len(self.engines)} stages on ring {self.ring.name!r}>"


def _one_each(name: str, value: Any, stages: int) -> list[Any]:
    """Return one value for each stage."""
    if value is None or isinstance(value, (int, float)) or (name, value) == ("batch_size", "auto"):
        return [value] * stages
    if isinstance(value, str) or len(value) != stages:
        raise ValueError(f"{name} {value!r}: there are {stages} stages; give one for each.")
    return list(value)


def _outputs_of(adapted: AdaptedModel, ring: Ring, structure: Any, warm_up: Any) -> tuple[OutputSpec, Any]:
    """Return what a stage returns, and its outputs for the rows of `warm_up`, if there are any."""
    warm_up_rows = WarmUpRows(Element.of(ring.spec, lists_to_tuples(structure), ring.name), warm_up)
    rows = 1 if warm_up_rows.samples is None else min(len(warm_up_rows.samples[0]), _MOST_WARM_UP_ROWS)
    try:
        outputs = model_call(adapted.step, warm_up_rows.element)(*warm_up_rows.tensors(rows))
    except tf.errors.OpError as error:
        raise warm_up_rows.explain(error, adapted.name) from error
    spec = OutputSpec.of(outputs, rows, adapted.name, getattr(adapted.keras_model, "output_names", None))
    if warm_up_rows.samples is None:
        return spec, None
    return spec, dict(zip(spec.fields, as_arrays(tf.nest.flatten(outputs)), strict=True))
