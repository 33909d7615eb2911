"""A model whose batches are put together from shares: rows that are not beside each other among the items.

It may not know rings or workers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...errors import ModelError
from ...workers.model_calls import CommonError
from .row_mixing import why_parts_differ


class RowMixingGuard:
    """Calls a model, and refuses it where it is seen to mix rows: its numbers would not be those of Keras.

    Parameters
    ----------
    call_model, try_model : callable
        ``call_model(rows, template)`` as `Pipeline` calls it; `try_model` returns None where the model may not be run
        once more than needed. One that runs eagerly is run: nobody knows whether it keeps a state, and numbers that mix
        rows must not pass.
    partition : str
        How the shares were made.
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
                        f"partition={self._partition!r}: each worker has items of its own, so a batch does not have "
                        f"the rows that it has in Keras, and the model mixes rows: {reason}. Use partition='dynamic'."
                    )
                )
            self._is_known = True
        return outputs
