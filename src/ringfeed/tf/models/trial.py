"""A model tried on a record that nobody has made a ring for: what it returns, and whether it mixes rows.

It may not know of rings or engines.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from ...record_spec import RecordSpec
from ..tensors.elements import Element
from .forms import ModelForm
from .made_up_rows import MadeUpRows
from .output_spec import OutputSpec
from .record_inputs import model_call, structure_for
from .row_mixing import why_rows_are_mixed

_NAME = "of the model's inputs"


class Trial:
    """A model and made-up rows of a record.

    Parameters
    ----------
    form : ModelForm
    fields : RecordSpec
        With the names of the model's inputs.
    warm_up : nest of arrays of shape (rows, ...), optional
        As for `ringfeed.Engine`.

    Raises
    ------
    ValueError
        The record or the rows are not what the model takes.
    """

    def __init__(self, form: ModelForm, fields: RecordSpec, warm_up: Any = None) -> None:
        self._form = form
        structure = structure_for(fields, form, _NAME)
        self._made_up = MadeUpRows(Element.of(fields, structure, _NAME), warm_up)
        specs = list(self._made_up.element.specs(None, cut=False).values())
        self._call = tf.function(
            model_call(form.step, self._made_up.element), input_signature=specs, autograph=False
        ).get_concrete_function()

    def outputs(self, *sizes: int) -> OutputSpec:
        """Run it on batches of these sizes; return what it returns for each row.

        Raises
        ------
        ValueError
            It fails on these rows, or does not return rows of one shape.
        """
        known: OutputSpec | None = None
        for rows in sizes:
            try:
                outputs = self._call(*self._made_up.tensors(rows))
            except tf.errors.OpError as error:
                raise self._made_up.explain(error, self._form.name) from error
            if known is None:
                names = getattr(self._form.keras_model, "output_names", None)
                known = OutputSpec.of(outputs, rows, self._form.name, names)
            elif reason := known.mismatch(tf.nest.flatten(outputs), rows):
                raise ValueError(f"model {self._form.name!r}: {reason}")
        assert known is not None
        return known

    def why_rows_are_mixed(self, rows: int) -> str | None:
        """Return how it was seen to mix the rows of a batch; None where it was not."""
        specs = list(self._made_up.element.specs(rows, cut=False).values())
        return why_rows_are_mixed(self._call, specs, self._made_up)
