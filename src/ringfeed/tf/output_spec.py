"""What a model returns, as the fields of a reply: names, shapes of one row, dtypes.

It may not know of rings or replies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ..record_spec import RecordSpec, as_dtype


@dataclass(frozen=True)
class OutputSpec:
    """The outputs of a model.

    Attributes
    ----------
    fields : RecordSpec
        Of one row, by the names that the model gives them.
    bare : bool
        The model returns one tensor alone.
    """

    fields: RecordSpec
    bare: bool

    @classmethod
    def of(cls, outputs: Any, rows: int, model_name: str, keras_names: Sequence[str] | None = None) -> OutputSpec:
        """Learn it from what the model returned for `rows` rows.

        Parameters
        ----------
        outputs : nest of tf.Tensor
        rows : int
        model_name : str
            For messages.
        keras_names : sequence of str, optional
            How a Keras model names its outputs.

        Raises
        ------
        ValueError
            An output is not a dense tensor with an axis of rows, or has elements that a reply can not hold.
        """
        leaves = tf.nest.flatten(outputs)
        if not leaves:
            raise ValueError(f"model {model_name!r} returns nothing; an answer is made of rows.")
        names = _names(outputs, leaves, keras_names)
        if len(set(names)) != len(names):
            raise ValueError(f"model {model_name!r}: several outputs have one name, of {names}. Rename some.")
        fields = {}
        for name, leaf in zip(names, leaves, strict=True):
            what = f"model {model_name!r}: output {name!r}"
            if not isinstance(leaf, tf.Tensor):
                raise ValueError(f"{what} is a {type(leaf).__name__}; a reply holds dense tensors. Make it one.")
            if leaf.shape.rank == 0 or leaf.shape[0] != rows:
                raise ValueError(
                    f"{what} has shape {tuple(leaf.shape)} for {rows} rows; an answer is made of rows. Return one row "
                    "for each row of the inputs."
                )
            if 0 in leaf.shape[1:]:
                raise ValueError(f"{what} has shape {tuple(leaf.shape)}: it is empty. Leave it out.")
            try:
                fields[name] = (tuple(leaf.shape[1:]), as_dtype(leaf.dtype.as_numpy_dtype))
            except TypeError as error:
                raise ValueError(f"{what}: {error}") from None
        return cls(RecordSpec(fields), not tf.nest.is_nested(outputs))


def _names(outputs: Any, leaves: Sequence[Any], keras_names: Sequence[str] | None) -> list[str]:
    # A layer that is used twice gives two outputs of one name.
    if isinstance(outputs, dict) or not keras_names or len(set(keras_names)) != len(leaves):
        if not tf.nest.is_nested(outputs):
            return ["output"]
        paths = _paths(outputs, "")
        return ["/".join(filter(None, path.split("/"))) for path in paths]
    return list(keras_names)


def _paths(nest: Any, prefix: str) -> list[str]:
    """Return a name for each leaf, in the order in which `tf.nest` flattens."""
    if isinstance(nest, dict):
        return [path for key in sorted(nest) for path in _paths(nest[key], f"{prefix}/{key}")]
    if hasattr(nest, "_fields"):
        return [path for key in nest._fields for path in _paths(getattr(nest, key), f"{prefix}/{key}")]
    if isinstance(nest, (list, tuple)):
        stem = f"{prefix}/" if prefix else "output_"
        return [path for i, part in enumerate(nest) for path in _paths(part, f"{stem}{i}")]
    return [prefix]


def as_arrays(outputs: Sequence[Any]) -> list[npt.NDArray[Any]]:
    """Return tensors as arrays over their own memory, to be copied from at once."""
    return [_view(output) for output in outputs]


def _view(tensor: Any) -> npt.NDArray[Any]:
    try:
        return np.asarray(memoryview(tensor))
    except (TypeError, ValueError):  # bfloat16 has no buffer format
        return np.asarray(tensor.numpy())
