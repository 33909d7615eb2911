"""The engine of one stage of a model: it takes from one ring and hands its requests on to the ring of the next stage.

It may not know the other stages; `Pipeline` joins them within a process.
"""

from __future__ import annotations

from typing import Any

from ..client.reply_pool import ReplyPool
from ..ring import Ring
from ..tf.models.output_spec import OutputSpec
from .delivery import Delivery, NextRingDelivery
from .engine import Engine

_LAST_STAGE_SECONDS = 60.0


class StageEngine(Engine):
    """Serves one stage of a model that is cut into several, each in a process of its own or in one `Pipeline`.

    Parameters
    ----------
    ring : Ring
        The ring that this stage takes from.
    model : keras.Model, path, SavedModel folder, tf.function or callable; or a list of one for each device
        This stage of the model.
    batch_size : int or "auto"
        As for `Engine`.
    next_ring : Ring, optional
        The ring of the next stage: the outputs go into it, with their requests. The last stage has none: it answers.
    first_ring : Ring, optional
        The ring of the first stage, into which clients put their requests. The first stage itself needs none.
    **options
        Further options of `Engine`.

    Attributes
    ----------
    next_ring : Ring or None

    Raises
    ------
    ValueError, TypeError
        As for `Engine`. A ring that drops what dead takers had taken (``redeliver=False``) is refused.
    RingNotFound
        From `start`: the last stage has not started within 60 seconds. It makes the replies.

    Examples
    --------
    In one process, and in another:

    >>> ringfeed.StageEngine(ring, stage_1, next_ring=ring_2).start()
    >>> ringfeed.StageEngine(ring_2, stage_2, first_ring=ring).start()
    """

    def __init__(
        self,
        ring: Ring,
        model: Any,
        batch_size: int | str | None = None,
        *,
        next_ring: Ring | None = None,
        first_ring: Ring | None = None,
        **options: Any,
    ) -> None:
        self.next_ring = next_ring
        self._first_ring = first_ring
        if next_ring is not None or first_ring not in (None, ring):
            for each in (ring, first_ring):
                _check_redelivery(each)
        super().__init__(ring, model, batch_size, **options)

    def _make_delivery(self) -> Delivery:
        if self.next_ring is None:
            return super()._make_delivery()
        return NextRingDelivery(self.next_ring, lambda: self._lifecycle.must_stop)

    def _open_pool(self, outputs: OutputSpec) -> ReplyPool:
        if self.next_ring is None:
            return super()._open_pool(outputs)
        return ReplyPool.wait_for(self._first_ring or self.ring, _LAST_STAGE_SECONDS)


def _check_redelivery(ring: Ring | None) -> None:
    if isinstance(ring, Ring) and not ring.redelivers:
        raise ValueError(
            f"ring {ring.name!r} drops what dead takers had taken (redeliver=False), so its requests cannot be handed "
            "on. Create it with redeliver=True."
        )
