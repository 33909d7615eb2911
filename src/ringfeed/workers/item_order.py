"""Which items of a call are settled: their rows came, or it is known that none will come.

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
        The first item that is not settled: the rows of all before it are known.
    """

    def __init__(self) -> None:
        self.frontier = 0
        self._behind: set[int] = set()

    def is_next(self, indices: Indices) -> bool:
        """Tell whether items follow the settled ones, without a gap and in their order."""
        first = self.frontier
        return not self._behind and bool((indices == np.arange(first, first + len(indices))).all())

    def settle(self, indices: Indices) -> None:
        """Take note of items, in any order."""
        if self.is_next(indices):
            self.frontier += len(indices)
            return
        self._behind.update(indices.tolist())
        while self.frontier in self._behind:
            self._behind.remove(self.frontier)
            self.frontier += 1
