"""What a model returns for no rows at all: empty arrays of the shapes that its outputs have.

It may not know why there are none.
"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import tensorflow as tf

from ..models.runner import ModelRunner
from ..tensors.structure import pack_inputs


def empty_outputs(runner: ModelRunner, inputs: Any) -> Any:
    """Return the outputs of a model for no rows, without running it.

    Parameters
    ----------
    runner : ModelRunner
    inputs : nest of tf.TensorSpec, or None
        Of a batch, axis 0 free; None where nobody knows.

    Returns
    -------
    nest of numpy.ndarray
        Each of shape (0, ...), with 0 for an axis whose length depends on the inputs. One array of shape (0,) and dtype
        float32 where the model does not say what it returns.
    """
    if inputs is not None:
        with contextlib.suppress(Exception):  # a model that cannot be traced does not say
            function = tf.function(runner.adapted.step, autograph=False)
            outputs = function.get_concrete_function(pack_inputs(inputs)).structured_outputs
            return tf.nest.map_structure(_empty, outputs)
    return np.empty((0,), np.float32)


def _empty(output: Any) -> Any:
    if output is None:
        return None
    if output.shape.rank is None:
        return np.empty((0,), output.dtype.as_numpy_dtype)
    return np.empty((0, *(length or 0 for length in output.shape[1:])), output.dtype.as_numpy_dtype)
