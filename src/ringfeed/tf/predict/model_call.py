"""The model as the predict loops call it: rows become a nest of inputs, and outputs become arrays, one row per item.

It may not know workers, items or the order of rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ..._core import Batch
from ...errors import RingFeedError
from ...nest import unflatten
from ...workers.model_calls import CommonError
from ...workers.sample_spec import InputSpec
from ..models.runner import ModelRunner, floatx_of
from ..tensors.outputs import all_to_numpy
from ..tensors.structure import is_generated, names_are_lost, pack_inputs
from ..tensors.zero_copy import PaddedRows
from .ordered_outputs import require_rows


class ModelCall:
    """Calls a model for rows of fields.

    Parameters
    ----------
    runner : ModelRunner
    """

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner

    def __call__(self, rows: Any, template: Any, *, is_trial: bool = False) -> Any:
        """Run the model on rows. A batch is read in the ring's own memory, and cut to shape inside the function.

        Parameters
        ----------
        rows : Batch, or mapping of str to array of shape (rows, ...)
        template : nest of int
            The number of the field in place of each input.
        is_trial : bool
            Only trace a model that changes a state or draws random numbers.

        Returns
        -------
        nest of arrays, or None
            The outputs; None for a model that was only traced.

        Raises
        ------
        CommonError
            The model does not take such inputs, or its outputs do not have one row for each row.
        """
        if isinstance(rows, Batch):
            leaves: list[Any] = [
                PaddedRows(rows.padded(name), field.shape) if field.is_padded else rows[name]
                for name, field in rows.ring.spec.items()
            ]
            count = len(rows)
        else:
            leaves = list(rows.values())
            count = len(leaves[0])
        try:
            call = self._runner.prepare(pack_inputs(unflatten(template, leaves)))
        except Exception as error:
            raise CommonError(error) from None
        if is_trial:
            if (refusal := self._runner.refusal_of(call)) is not None:
                raise CommonError(refusal)
            if not self._runner.may_be_tried(call):
                return None
        outputs = all_to_numpy(call())
        try:
            require_rows(outputs, count, self._runner.name)
        except RingFeedError as error:
            raise CommonError(error) from None
        return outputs

    def trial(self, rows: Any, template: Any) -> Any:
        """Run the model on rows as a trial."""
        return self(rows, template, is_trial=True)

    def try_row(self, row: Any, template: Any, rows: int) -> Any:
        """Run the model on one row as a trial; if it fails, on `rows` copies of that row, which it may need.

        Returns
        -------
        nest of arrays, or None
            The outputs for the single row, if the model was run on it.
        """
        try:
            return self.trial(row, template)
        except Exception:
            if rows == 1:
                raise
        self.trial({name: np.repeat(array, rows, 0) for name, array in row.items()}, template)
        return None


def input_spec_of(runner: ModelRunner) -> InputSpec:
    """Return what a model says of its inputs."""
    inputs = runner.adapted.inputs
    if runner.input_specs is None and runner.keras_model is None and inputs is not None:
        is_flat = all(isinstance(part, int) for part in _parts(inputs.template))
        if not inputs.specs or (is_flat and not any(map(is_generated, inputs.names))):
            return InputSpec(None, arguments=tuple(map(str, inputs.names)), options=inputs.optional)
    names = () if inputs is None else inputs.names
    return InputSpec(runner.input_specs, names, are_lost=names_are_lost(names), floatx=floatx_of(runner))


def _parts(template: Any) -> Iterable[Any]:
    if isinstance(template, dict):
        return template.values()
    return template if isinstance(template, (list, tuple)) else [template]
