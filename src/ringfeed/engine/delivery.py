"""Where the outputs of rows go: into reply cells, or into the ring of the next stage.

It may not know how a batch is run, nor TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy.typing as npt

from .._core import Claim, Requests
from ..errors import RingClosed, RingFinished, RingFull
from ..ring import Ring
from ..tf.models.output_spec import OutputSpec

_LOOK_SECONDS = 0.05


class Stopped(Exception):
    """The engine is told to stop, and cannot deliver what it has."""


class NextStageEnded(Stopped):
    """The ring of the next stage was closed or finished: nothing can be delivered any more."""


class Sink(Protocol):
    """Where the outputs of rows go: into reply cells, or into the ring of the next stage."""

    def deliver(self, requests: Requests, outputs: list[npt.NDArray[Any]], start: int, stop: int) -> None:
        """Deliver the outputs of rows `start` to `stop`."""
        ...

    def check(self, outputs: OutputSpec, model_name: str) -> None:
        """Raise ValueError where a model's outputs do not fit. It is asked once, before the first delivery."""
        ...


class Answers:
    """The sink of an engine that answers: each row's outputs go into the cell of its request."""

    def deliver(self, requests: Requests, outputs: list[npt.NDArray[Any]], start: int, stop: int) -> None:
        """Write them, and wake who waits."""
        requests.answer(outputs, start, stop)

    def check(self, outputs: OutputSpec, model_name: str) -> None:
        """Do nothing: the cells are made for the outputs."""


class Forward:
    """The sink of a stage: outputs go into the slots of the next stage's ring, with the requests that they belong to.

    An output goes into the field of its name. One output goes into the only field, and outputs that the model has no
    names for go into the fields in their order.

    Parameters
    ----------
    ring : Ring
        Of the next stage.
    should_end : callable
        Asked while the next ring is full.
    """

    def __init__(self, ring: Ring, should_end: Callable[[], bool]) -> None:
        self._ring = ring
        self._targets: list[tuple[str, int]] = []
        self._should_end = should_end

    def deliver(self, requests: Requests, outputs: list[npt.NDArray[Any]], start: int, stop: int) -> None:
        """Write them, and hand the requests on."""
        done = start
        while done < stop:
            claim = self._claim(stop - done)
            try:
                offset = done - start
                for name, number in self._targets:  # of the field's own shape and dtype: see `OutputSpec.mismatch`
                    claim[name] = outputs[number][offset : offset + claim.rows]
                rows = claim.rows
                requests.hand_on(claim, done)
            finally:
                claim.discard()
            done += rows

    def check(self, outputs: OutputSpec, model_name: str) -> None:
        """Find the field for each output; raise where the ring of the next stage is not for these outputs."""
        fields, made = self._ring.spec, outputs.fields
        names = list(made)
        if set(names) != set(fields) and len(names) == len(fields) and (len(names) == 1 or outputs.unnamed):
            names = list(fields)
        self._targets = [(name, number) for number, name in enumerate(names)]
        pairs = [(fields.get(name), made_field) for name, made_field in zip(names, made.values(), strict=True)]
        if len(names) != len(fields) or any(
            field is None or (field.shape, field.dtype) != (made_field.shape, made_field.dtype)
            for field, made_field in pairs
        ):
            raise ValueError(
                f"model {model_name!r} returns {made!r}, and ring {self._ring.name!r} of the next stage holds "
                f"{fields!r}. Create that ring for these outputs."
            )

    def _claim(self, rows: int) -> Claim:
        while True:
            try:
                return self._ring.claim(rows, timeout=_LOOK_SECONDS)
            except RingFull:
                if self._should_end():
                    raise Stopped from None
            except (RingClosed, RingFinished) as error:
                raise NextStageEnded(str(error)) from None
