"""What an engine is asked to be, checked.

It may not know how an engine serves.
"""

from __future__ import annotations

from typing import Any

from ..arguments import check_choice, check_int
from ..client.reply_pool import PoolSettings
from ..ring import Ring

_WHEN_FULL = ("block", "reject")
_MOST_QUEUED = 2**32 - 1


def check_rings(ring: Any, output: Any, answers_for: Any) -> None:
    """Raise where a ring is none, or drops what a stage has to hand on."""
    if not isinstance(ring, Ring):
        raise TypeError(f"ring {ring!r:.80}: give a ringfeed.Ring. Ring.attach(name) opens one that exists.")
    for each in (ring, answers_for or ring) if output is not None or answers_for not in (None, ring) else ():
        if not each.redelivers:
            raise ValueError(
                f"ring {each.name!r} drops what dead takers had (redeliver=False): its requests can not be handed "
                "on. Create it with redeliver=True."
            )


def pool_sizes(ring: Ring, reply_cells: Any, participants: Any) -> tuple[int, int]:
    """Return how many reply cells and participants the replies have room for."""
    cells = 2 * ring.slots if reply_cells is None else check_int(reply_cells, "reply_cells", 1)
    return cells, check_int(participants, "participants", 2)


def pool_settings(bare: bool, max_queue_size: Any, when_full: Any) -> PoolSettings:
    """Return what clients are to know of the engine."""
    check_choice(when_full, "when_full", _WHEN_FULL)
    queue = 0 if max_queue_size is None else check_int(max_queue_size, "max_queue_size", 1)
    return PoolSettings(bare, min(queue, _MOST_QUEUED), when_full == "reject")
