"""``batch_size="auto"``: the best batch size of a replica, measured or remembered.

It may not know of rings or requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..tf.tensors.elements import Element
from . import tuning, tuning_cache
from .replica import Replica


@dataclass(frozen=True)
class AutoBatch:
    """How to choose a batch size.

    Attributes
    ----------
    latency_target : float or None
        Seconds that a batch may take.
    remember : bool, str or path
        Whether, or in which folder, measurements are remembered.
    model : dict
        The model, and the options that change its speed.
    """

    latency_target: float | None
    remember: Any
    model: dict[str, Any]

    def choose(
        self, replica: Replica, element: Element, largest: int, sizes: Sequence[int] | None
    ) -> tuple[tuning.Measurements, int]:
        """Return the measurements, new or remembered, and the size chosen by them.

        Parameters
        ----------
        replica : Replica
        element : Element
            What the model is given.
        largest : int
            The largest size to try.
        sizes : sequence of int, optional
            Try only these.
        """
        folder = None if self.remember in (True, False) else self.remember
        key = self._key(replica, element, largest, sizes) if self.remember else ""
        measured = tuning_cache.recall(key, folder) if self.remember else None
        if measured is None:
            measured = tuning.measure(replica.run_warm_up, sorted(sizes) if sizes else tuning.sizes_up_to(largest))
            if self.remember:
                tuning_cache.remember(key, measured, folder)
        return measured, tuning.choose(measured, self.latency_target)

    def _key(self, replica: Replica, element: Element, largest: int, sizes: Sequence[int] | None) -> str:
        inputs = list(element.specs(None, cut=True).values())
        options = {name: value for name, value in self.model.items() if name != "model"}
        return tuning_cache.key_of(self.model["model"], inputs, replica.device, largest=largest, sizes=sizes, **options)
