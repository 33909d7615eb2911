"""The outputs of a model for no rows: empty arrays in the shapes of its outputs.

It may not know why there are no rows.
"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import tensorflow as tf

from ...nest import map_leaves, unflatten
from ...workers.sample_spec import spec_leaves
from ...workers.samples import RowLayout
from ..models.runner import ModelRunner
from ..tensors.structure import pack_inputs


def empty_outputs(runner: ModelRunner, specs: Any, layout: RowLayout | None) -> Any:
    """Return the outputs of a model for no rows, without running it.

    Parameters
    ----------
    runner : ModelRunner
    specs : nest of (shape without the batch axis, dtype), or None
        The inputs of one row, if the model or the user gives them.
    layout : RowLayout or None
        The layout of a row that the model took, which is used if `specs` is None.

    Returns
    -------
    nest of numpy.ndarray
        Each of shape (0, ...), with 0 for an axis whose length depends on the inputs. One array of shape (0,) and dtype
        float32 if the outputs of the model are unknown.
    """
    if specs is not None:
        template, leaves = spec_leaves(specs)
    elif layout is not None:
        template, leaves = layout.template, [(field.shape, field.dtype.name) for field in layout.fields]
    else:
        return np.empty((0,), np.float32)
    inputs = unflatten(template, [tf.TensorSpec((None, *shape), dtype) for shape, dtype in leaves])
    with contextlib.suppress(Exception):  # the outputs of a model that cannot be traced are unknown
        function = tf.function(runner.adapted.step, autograph=False)
        outputs = function.get_concrete_function(pack_inputs(inputs)).structured_outputs
        return tf.nest.map_structure(_empty, outputs)
    return np.empty((0,), np.float32)


def without_rows(outputs: Any) -> Any:
    """Return the outputs of a call with none of their rows; a ragged or sparse output becomes an empty array."""
    return map_leaves(lambda output: output[:0].copy() if isinstance(output, np.ndarray) else _empty(output), outputs)


def _empty(output: Any) -> Any:
    if output is None:
        return None
    if output.shape.rank is None:
        return np.empty((0,), output.dtype.as_numpy_dtype)
    return np.empty((0, *(length or 0 for length in output.shape[1:])), output.dtype.as_numpy_dtype)
