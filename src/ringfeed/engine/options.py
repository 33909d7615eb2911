"""The options of an engine, checked and grouped: the placement of its model, its batching, and its reply options.

It may not know how an engine serves. `Engine` documents each option.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..arguments import check_choice, check_int
from ..client.reply_pool import PoolSettings
from ..ring import Ring
from ..tf.models.adapt_model import AdaptedModel
from ..tf.models.placement import place_model
from .auto_batch import AutoBatch
from .batching import BatchPolicy, policy_for
from .tuning import check_latency_target

if TYPE_CHECKING:
    from ..tf.models.precision import PrecisionReport

_WHEN_FULL = ("block", "reject")
_MOST_QUEUED = 2**32 - 1


def check_ring(ring: Any) -> None:
    """Raise TypeError if `ring` is not a ring."""
    if not isinstance(ring, Ring):
        raise TypeError(f"ring {ring!r:.80}: give a ringfeed.Ring. Ring.attach(name) opens one that exists.")


@dataclass(frozen=True)
class PlacementOptions:
    """Where the model runs, in which precision, and which part of a SavedModel it is."""

    devices: str | Sequence[str] | None
    strategy: Any
    precision: str | None
    samples: Any
    jit_compile: bool
    signature: str | None
    tags: str | Sequence[str] | None
    pin_memory: bool | None

    @property
    def saved_model(self) -> dict[str, Any]:
        """The options that choose a part of a SavedModel."""
        return {"signature": self.signature, "tags": self.tags}

    def place(self, model: Any) -> tuple[list[tuple[str, AdaptedModel]], PrecisionReport | None]:
        """Return the model as (device, adapted model) for each device, and the change by its precision."""
        return place_model(
            model, self.devices, self.strategy, self.precision, self.samples, self.jit_compile, self.saved_model
        )

    def cache_key(self, model: Any) -> dict[str, Any]:
        """Return what tells this model from others when measured batch sizes are remembered."""
        is_default = self.signature is None and self.tags is None
        saved = {} if is_default else self.saved_model
        return {"model": model, "precision": self.precision, "jit_compile": self.jit_compile, **saved}

    def pins_memory(self, placed_on: Sequence[str]) -> bool:
        """Return whether the ring is page-locked: by default if one of these devices is a GPU."""
        extended = getattr(self.strategy, "extended", None)
        places = [*placed_on, *getattr(extended, "worker_devices", ())]
        on_gpu = any("GPU" in place for place in places)
        return on_gpu if self.pin_memory is None else bool(self.pin_memory)


@dataclass(frozen=True)
class BatchingOptions:
    """Which records become a batch."""

    batch_size: int | str | None
    linger: float | None
    allowed_batch_sizes: Sequence[int] | None
    preferred_batch_sizes: Sequence[int] | None
    policy: BatchPolicy | None
    allow_row_mixing: bool
    latency_target: float | None
    remember: Any

    def policy_for(self, ring: Ring) -> BatchPolicy:
        """Return the policy for a ring."""
        return policy_for(
            ring, self.policy, self.batch_size, self.linger, self.allowed_batch_sizes, self.preferred_batch_sizes
        )

    def auto_batch(self, cache_key: dict[str, Any]) -> AutoBatch | None:
        """Return how the batch size is measured; None if it is given."""
        latency_target = check_latency_target(self.latency_target)
        return AutoBatch(latency_target, self.remember, cache_key) if self.batch_size == "auto" else None

    def trial_sizes(self, policy: BatchPolicy, jit_compile: bool) -> Sequence[int]:
        """Return the batch sizes on which the model is tried: all that XLA has to compile, else the extremes."""
        every_size = self.allowed_batch_sizes if jit_compile else None
        return every_size or (1, policy.batch_size)


@dataclass(frozen=True)
class ReplyOptions:
    """What clients may ask at a time, and what they are told.

    Attributes
    ----------
    cells, participants : int
        Of the reply pool.
    settings : PoolSettings
    error_detail : "full" or "short"
    same_model : bool
    """

    cells: int
    participants: int
    settings: PoolSettings
    error_detail: str
    same_model: bool

    @classmethod
    def of(
        cls,
        ring: Ring,
        reply_cells: Any,
        participants: Any,
        max_queue_size: Any,
        when_full: Any,
        error_detail: str,
        same_model: bool,
    ) -> ReplyOptions:
        """Check the options, as `Engine` documents them."""
        check_choice(when_full, "when_full", _WHEN_FULL)
        queue = 0 if max_queue_size is None else check_int(max_queue_size, "max_queue_size", 1)
        cells = 2 * ring.slots if reply_cells is None else check_int(reply_cells, "reply_cells", 1)
        settings = PoolSettings(False, min(queue, _MOST_QUEUED), when_full == "reject")
        return cls(cells, check_int(participants, "participants", 2), settings, error_detail, same_model)
