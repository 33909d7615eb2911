"""``batch_size="auto"``: a replica's best batch size, measured or remembered.

It may not know of rings or requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..tf.tensors.elements import Element
from . import tuning
from . import tuning_cache as tuning_memory
from .replica import Replica


@dataclass(frozen=True)
class AutoBatch:
    """How to choose.

    Attributes
    ----------
    latency_target : float or None
        Seconds that a batch may take.
    remember : bool, str or path
        Whether, or in which folder, measurements are remembered.
    model : dict
        What tells the model from others, and how it is compiled.
    """

    latency_target: float | None
    remember: Any
    model: dict[str, Any]

    def choose(
        self, replica: Replica, element: Element, most: int, sizes: Sequence[int] | None
    ) -> tuple[tuning.Measurements, int]:
        """Return what was measured, or remembered, and the size chosen from it.

        Parameters
        ----------
        replica : Replica
        element : Element
            What the model is given.
        most : int
            The largest size to try.
        sizes : sequence of int, optional
            Try these alone.
        """
        folder = None if self.remember in (True, False) else self.remember
        key = self._key(replica, element, most, sizes) if self.remember else ""
        measured = tuning_memory.recall(key, folder) if self.remember else None
        if measured is None:
            measured = tuning.measure(replica.run_on_nothing, sorted(sizes) if sizes else tuning.sizes_up_to(most))
            if self.remember:
                tuning_memory.remember(key, measured, folder)
        return measured, tuning.choose(measured, self.latency_target)

    def _key(self, replica: Replica, element: Element, most: int, sizes: Sequence[int] | None) -> str:
        inputs = list(element.specs(None, cut=True).values())
        options = {name: value for name, value in self.model.items() if name != "model"}
        return tuning_memory.key_of(self.model["model"], inputs, replica.device, largest=most, sizes=sizes, **options)
