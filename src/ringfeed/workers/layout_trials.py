"""Does the model take samples like the first one? It is asked with that row, before all others are made like it.

It may not know workers, rings or how the model is called.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ItemError
from .model_calls import CommonError, model_error
from .sample_spec import Wanted, spec_leaves
from .samples import RowLayout

_MOST_TRIES = 100
_MOST_HELD = 1000
_MOST_KNOWN = 64

Arrays = dict[str, npt.NDArray[Any]]


class LayoutTrials:
    """Finds out, for a model that leaves shapes open, whether it takes the samples of a layout.

    A layout that the model refuses is the fault of the item that it was learned from, as long as the model takes
    another one. A model that has taken none so far may be broken: then its error is raised as it is.

    Parameters
    ----------
    try_model : callable
        ``try_model(row, template, rows)`` runs the model on one row, and on `rows` times that row if it needs several.
        It returns the outputs for that row by itself, or None where the model was not run on it so. It raises
        `CommonError` where the model takes no samples of this layout, and anything else where it raised over this very
        row.
    wanted : Wanted
        Where it says all shapes, only samples of another structure are tried.
    raises : bool
        The error of a model that has taken nothing so far is raised at its first refusal.

    Attributes
    ----------
    outputs : nest of arrays, or None
        What the last trial returned for its row by itself.
    tried : RowLayout or None
        The last that the model did not refuse, whatever it raised over the row.
    """

    def __init__(self, try_model: Callable[[Arrays, Any, int], Any], wanted: Wanted, raises: bool) -> None:
        self._try_model = try_model
        self._leaves_open = not wanted.says_all_shapes
        self._structure = None if self._leaves_open else spec_leaves(wanted.specs)[0]
        self._raises = raises
        self._taken: list[RowLayout] = []
        self.begin()

    def begin(self) -> None:
        """Begin another call of the Predictor: what was refused is tried anew."""
        self._refused: list[tuple[RowLayout, Exception]] = []
        self._held: list[ItemError] = []
        self._tries = 0
        self.outputs: Any = None
        self.tried: RowLayout | None = None

    def is_needed(self, layout: RowLayout) -> bool:
        """Tell whether it is not known that the model takes samples of this layout."""
        is_open = self._leaves_open or layout.template != self._structure
        return is_open and layout not in self._taken

    def failures_of(
        self, layout: RowLayout, row: Arrays, index: int, item: Any, rows: int
    ) -> tuple[bool, list[ItemError]]:
        """Try a layout on the row of an item.

        Parameters
        ----------
        row : dict of arrays
            Each of shape (1, ...).
        rows : int
            Of the batches to come.

        Returns
        -------
        is_taken : bool
            Samples of this layout can go to the model.
        failures : list of ItemError
            To be told now.

        Raises
        ------
        Exception
            The model's own, where it has taken nothing, and is not to be tried on more items.
        """
        self.outputs = None
        error = next((known for refused, known in self._refused if refused == layout), None)
        if error is None:
            self._tries += 1
            try:
                self.outputs = self._try_model(row, layout.template, rows)
            except CommonError as common:
                error = common.error
                self._refused.append((layout, error))
            except Exception as raised:
                self.tried = layout
                # So many rows in turn: from now on they fail by the batch.
                is_assumed = self._tries >= _MOST_TRIES
                return is_assumed, self.released() if is_assumed else [_failure(raised, index, item)]
            else:
                self.tried = layout
                self._taken = [*self._taken[1 - _MOST_KNOWN :], layout]
                return True, self.released()
        if self._taken:
            return False, [_failure(error, index, item)]
        if self._raises or self._tries >= _MOST_TRIES or len(self._held) >= _MOST_HELD:
            raise error
        self._held.append(_failure(error, index, item))
        return False, []

    def released(self) -> list[ItemError]:
        """Return the errors that were held back until the model took something."""
        held, self._held = self._held, []
        return held

    def end(self) -> None:
        """Say that there are no more items.

        Raises
        ------
        Exception
            The model's own, where it took none of them, and none before.
        """
        if self._held:
            raise self._refused[0][1]


def _failure(error: Exception, index: int, item: Any) -> ItemError:
    traceback.clear_frames(error.__traceback__)  # they look at the row
    return model_error(error, index, item)


def copied(batch: Any) -> Arrays:
    """Return the rows of a batch in memory of their own."""
    return {name: np.array(batch[name]) for name in batch}
