"""Run a model on test rows of a record, without a ring: learn its outputs, and whether it mixes rows.

This file may not know rings or engines.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from ...record_spec import RecordSpec
from ..tensors.elements import Element
from .adapted_model import AdaptedModel
from .output_spec import OutputSpec
from .record_inputs import model_call, structure_for
from .row_mixing import why_rows_are_mixed
from .warm_up_rows import WarmUpRows

_NAME = "of the model's inputs"


class DryRun:
    """A model and test rows of a record.

    Parameters
    ----------
    adapted : AdaptedModel
        The model.
    fields : RecordSpec
        The record's fields, with the names of the model's inputs.
    warm_up : nest of arrays of shape (rows, ...), optional
        Rows to run the model on, as for `ringfeed.Engine`.

    Raises
    ------
    ValueError
        The model does not take this record or these rows.
    """

    def __init__(self, adapted: AdaptedModel, fields: RecordSpec, warm_up: Any = None) -> None:
        self._adapted = adapted
        structure = structure_for(fields, adapted, _NAME)
        self._warm_up_rows = WarmUpRows(Element.of(fields, structure, _NAME), warm_up)
        specs = list(self._warm_up_rows.element.specs(None, cut=False).values())
        self._call = tf.function(
            model_call(adapted.step, self._warm_up_rows.element), input_signature=specs, autograph=False
        ).get_concrete_function()

    def outputs(self, *sizes: int) -> OutputSpec:
        """Run the model on batches of these sizes; return the spec of its outputs.

        Raises
        ------
        ValueError
            The model fails on these rows, or does not return rows of one shape.
        """
        known: OutputSpec | None = None
        for rows in sizes:
            try:
                outputs = self._call(*self._warm_up_rows.tensors(rows))
            except tf.errors.OpError as error:
                raise self._warm_up_rows.explain(error, self._adapted.name) from error
            if known is None:
                names = getattr(self._adapted.keras_model, "output_names", None)
                known = OutputSpec.of(outputs, rows, self._adapted.name, names)
            elif reason := known.mismatch(tf.nest.flatten(outputs), rows):
                raise ValueError(f"model {self._adapted.name!r}: {reason}")
        assert known is not None
        return known

    def why_rows_are_mixed(self, rows: int) -> str | None:
        """Describe how the model mixes the rows of a batch; return None if no mixing was observed."""
        specs = list(self._warm_up_rows.element.specs(rows, cut=False).values())
        return why_rows_are_mixed(self._call, specs, self._warm_up_rows)
