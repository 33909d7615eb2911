"""Refuse a model that mixes rows when batches are composed of the workers' shares instead of consecutive items.

This file may not know rings or workers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...errors import ModelError
from ...workers.model_calls import CommonError
from .row_mixing import why_parts_differ


class RowMixingGuard:
    """Calls a model, and refuses it if it mixes rows: its results would differ from those of Keras.

    Parameters
    ----------
    call_model, try_model : callable
        ``call_model(rows, template)`` returns the model's outputs. `try_model` does the same, but returns None if the
        model may not be run an additional time. A model that runs eagerly is run again: it is unknown whether it has
        state, and results of mixed rows must not be returned.
    partition : str
        The user's option that made the shares, for the message.
    """

    def __init__(self, call_model: Callable[..., Any], try_model: Callable[..., Any], partition: str) -> None:
        self._call_model = call_model
        self._try_model = try_model
        self._partition = partition
        self._is_known = False

    def __call__(self, rows: Any, template: Any) -> Any:
        """Return the model's outputs.

        Raises
        ------
        CommonError
            The model mixes rows.
        """
        outputs = self._call_model(rows, template)
        if self._is_known:
            return outputs
        arrays = {name: np.array(rows[name]) for name in rows}
        if len(next(iter(arrays.values()))) > 1:
            reason = why_parts_differ(lambda part: self._try_model(part, template), arrays, outputs)
            if reason is not None:
                raise CommonError(
                    ModelError(
                        f"partition={self._partition!r}: each worker has its own items, so a batch does not have the "
                        f"rows that it has in Keras, and the model mixes rows: {reason}. Use partition='dynamic'."
                    )
                )
            self._is_known = True
        return outputs
