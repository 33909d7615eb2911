"""Asking the model whether it takes samples of a layout: it is run on the first row, before others are made like it.

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
from .sample_spec import InputSpec, spec_leaves
from .samples import RowLayout

_MAX_TRIES = 100
_MAX_HELD = 1000
_MAX_KNOWN = 64

Arrays = dict[str, npt.NDArray[Any]]


class LayoutTrials:
    """Finds out, for a model that leaves shapes open, whether it takes the samples of a layout.

    If the model refuses a layout and takes another one, the item of the refused layout fails. A model that has taken no
    layout so far may be broken: then its own error is raised.

    Parameters
    ----------
    try_model : callable
        ``try_model(row, template, rows)`` runs the model on one row, and on `rows` copies of that row if it needs
        several. It returns the outputs for the single row, or None if the model was not run on it alone. It raises
        `CommonError` if the model takes no samples of this layout, and any other exception if the model raised over
        this row.
    spec : InputSpec
        If it gives all shapes, only samples of another structure are tried.
    raises : bool
        The error of a model that has taken no layout so far is raised at its first refusal.

    Attributes
    ----------
    outputs : nest of arrays, or None
        The outputs of the last trial for its row alone.
    tried : RowLayout or None
        The last layout that the model did not refuse, even if it raised over the row.
    """

    def __init__(self, try_model: Callable[[Arrays, Any, int], Any], spec: InputSpec, raises: bool) -> None:
        self._try_model = try_model
        self._leaves_open = not spec.gives_all_shapes
        self._structure = None if self._leaves_open else spec_leaves(spec.specs)[0]
        self._raises = raises
        self._taken: list[RowLayout] = []
        self.begin()

    def begin(self) -> None:
        """Begin another call of the Predictor: refused layouts are tried again."""
        self._refused: list[tuple[RowLayout, Exception]] = []
        self._held: list[ItemError] = []
        self._tries = 0
        self.outputs: Any = None
        self.tried: RowLayout | None = None

    def is_needed(self, layout: RowLayout) -> bool:
        """Tell whether it is unknown that the model takes samples of this layout."""
        is_open = self._leaves_open or layout.template != self._structure
        return is_open and layout not in self._taken

    def try_row(self, layout: RowLayout, row: Arrays, index: int, item: Any, rows: int) -> tuple[bool, list[ItemError]]:
        """Try a layout on the row of an item.

        Parameters
        ----------
        row : dict of arrays
            Each of shape (1, ...).
        rows : int
            Rows of the batches to come.

        Returns
        -------
        is_taken : bool
            Samples of this layout can go to the model.
        failures : list of ItemError
            Failures to report now.

        Raises
        ------
        Exception
            The model's own error, if the model has taken no layout and is not to be tried on more items.
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
                # After this many failed rows in succession, the layout counts as taken: rows now fail by the batch.
                is_assumed = self._tries >= _MAX_TRIES
                return is_assumed, self.take_held() if is_assumed else [_failure(raised, index, item)]
            else:
                self.tried = layout
                self._taken = [*self._taken[1 - _MAX_KNOWN :], layout]
                return True, self.take_held()
        if self._taken:
            return False, [_failure(error, index, item)]
        if self._raises or self._tries >= _MAX_TRIES or len(self._held) >= _MAX_HELD:
            raise error
        self._held.append(_failure(error, index, item))
        return False, []

    def take_held(self) -> list[ItemError]:
        """Return, once, the errors that were held back until the model took a layout."""
        held, self._held = self._held, []
        return held

    def end(self) -> None:
        """Note that there are no more items.

        Raises
        ------
        Exception
            The model's own error, if the model took no item of this call, and no layout before.
        """
        if self._held:
            raise self._refused[0][1]


def _failure(error: Exception, index: int, item: Any) -> ItemError:
    traceback.clear_frames(error.__traceback__)  # they refer to the row
    return model_error(error, index, item)


def copied(batch: Any) -> Arrays:
    """Return the rows of a batch in memory of their own."""
    return {name: np.array(batch[name]) for name in batch}
