"""Where an engine delivers the outputs of a batch: into reply cells, or into the ring of the next stage.

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

_CLAIM_SECONDS = 0.05


class DeliveryStopped(Exception):
    """The engine was told to stop and cannot deliver the outputs that it has."""


class NextStageEnded(DeliveryStopped):
    """The ring of the next stage was closed or finished, so no output can be delivered any more."""


class Delivery(Protocol):
    """Where the outputs of rows go."""

    def deliver(self, requests: Requests, outputs: list[npt.NDArray[Any]], start: int, stop: int) -> None:
        """Deliver the outputs of rows `start` to `stop`."""
        ...

    def check(self, outputs: OutputSpec, model_name: str) -> None:
        """Raise ValueError if a model's outputs do not fit. The engine calls it once, before the first delivery."""
        ...


class ReplyDelivery:
    """The delivery of an engine that answers: the outputs of each row go into the cell of its request."""

    def deliver(self, requests: Requests, outputs: list[npt.NDArray[Any]], start: int, stop: int) -> None:
        """Write the outputs into the cells, and wake the clients that wait for them."""
        requests.answer(outputs, start, stop)

    def check(self, outputs: OutputSpec, model_name: str) -> None:
        """Do nothing: the engine makes the cells for these outputs."""


class NextRingDelivery:
    """The delivery of a stage: outputs go into slots of the next stage's ring, together with their requests.

    An output goes into the field of its name. A single output goes into the only field. Outputs for which the model
    has no names go into the fields in their order.

    Parameters
    ----------
    ring : Ring
        The ring of the next stage.
    must_stop : callable
        Called while the next ring is full; delivery gives up if it returns true.
    """

    def __init__(self, ring: Ring, must_stop: Callable[[], bool]) -> None:
        self._ring = ring
        self._output_of_field: list[tuple[str, int]] = []
        self._must_stop = must_stop

    def deliver(self, requests: Requests, outputs: list[npt.NDArray[Any]], start: int, stop: int) -> None:
        """Write the outputs into claimed slots, and hand the requests on with them."""
        done = start
        while done < stop:
            claim = self._claim(stop - done)
            try:
                offset = done - start
                for name, number in self._output_of_field:  # `OutputSpec.mismatch` has checked shapes and dtypes
                    claim[name] = outputs[number][offset : offset + claim.rows]
                rows = claim.rows
                requests.hand_on(claim, done)
            finally:
                claim.discard()
            done += rows

    def check(self, outputs: OutputSpec, model_name: str) -> None:
        """Find the field for each output; raise ValueError if the next stage's ring is not made for these outputs."""
        fields, made = self._ring.spec, outputs.fields
        names = list(made)
        if set(names) != set(fields) and len(names) == len(fields) and (len(names) == 1 or outputs.unnamed):
            names = list(fields)
        self._output_of_field = [(name, number) for number, name in enumerate(names)]
        pairs = [(fields.get(name), made_field) for name, made_field in zip(names, made.values(), strict=True)]
        if len(names) != len(fields) or any(
            field is None or (field.shape, field.dtype) != (made_field.shape, made_field.dtype)
            for field, made_field in pairs
        ):
            raise ValueError(
                f"model {model_name!r} returns {made!r}, but ring {self._ring.name!r} of the next stage holds "
                f"{fields!r}. Create that ring for these outputs."
            )

    def _claim(self, rows: int) -> Claim:
        while True:
            try:
                return self._ring.claim(rows, timeout=_CLAIM_SECONDS)
            except RingFull:
                if self._must_stop():
                    raise DeliveryStopped from None
            except (RingClosed, RingFinished) as error:
                raise NextStageEnded(str(error)) from None
