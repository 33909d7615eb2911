"""The settled items of a call: an item is settled when its row came, or when it is known that none will come.

It may not know rows, workers or models.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


class ItemOrder:
    """The settled items of a call, whose items are numbered from 0.

    Attributes
    ----------
    frontier : int
        The first item that is not settled; all items before it are settled.
    """

    def __init__(self) -> None:
        self.frontier = 0
        self._beyond: set[int] = set()

    def is_next(self, indices: Indices) -> bool:
        """Tell whether items follow the settled items in order and without a gap."""
        first = self.frontier
        return not self._beyond and bool((indices == np.arange(first, first + len(indices))).all())

    def settle(self, indices: Indices) -> None:
        """Mark items as settled, in any order."""
        if self.is_next(indices):
            self.frontier += len(indices)
            return
        self._beyond.update(indices.tolist())
        while self.frontier in self._beyond:
            self._beyond.remove(self.frontier)
            self.frontier += 1
