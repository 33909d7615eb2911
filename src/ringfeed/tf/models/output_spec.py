"""Describe a model's outputs as the fields of a reply (names, shapes of one row, dtypes), and check batches of outputs.

This file may not know rings or replies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ...record_spec import Field, RecordSpec, as_dtype


@dataclass(frozen=True)
class OutputSpec:
    """The outputs of a model.

    Attributes
    ----------
    fields : RecordSpec
        The outputs of one row, by the model's names.
    single_output : bool
        The model returns a single tensor, not a nest.
    by_order : bool
        The model returns a tensor or a list, not a dict, so the position of an output identifies it.
    unnamed : bool
        The names were generated from the outputs' positions.
    """

    fields: RecordSpec
    single_output: bool
    by_order: bool = False
    unnamed: bool = False
    _wanted: list[tuple[tuple[int, ...], Any]] = field(default_factory=list, compare=False, repr=False)

    def __post_init__(self) -> None:
        self._wanted.extend((each.shape, each.dtype) for each in self.fields.values())

    @classmethod
    def of(cls, outputs: Any, rows: int, model_name: str, keras_names: Sequence[str] | None = None) -> OutputSpec:
        """Describe the outputs that the model returned for `rows` rows.

        Parameters
        ----------
        outputs : nest of tf.Tensor
            The model's outputs.
        rows : int
            Number of rows that the model was given.
        model_name : str
            The model's name, for messages.
        keras_names : sequence of str, optional
            A Keras model's names of its outputs.

        Raises
        ------
        ValueError
            An output is not a dense tensor with an axis of rows, or a reply cannot hold its dtype.
        """
        leaves = tf.nest.flatten(outputs)
        if not leaves or outputs is None:
            raise ValueError(f"model {model_name!r} returns nothing. Return one row for each row of the inputs.")
        names = _names(outputs, leaves, keras_names)
        if len(set(names)) != len(names):
            raise ValueError(f"model {model_name!r}: several outputs share a name: {names}. Rename some.")
        fields = {}
        for name, leaf in zip(names, leaves, strict=True):
            what = f"model {model_name!r}: output {name!r}"
            if not isinstance(leaf, tf.Tensor):
                raise ValueError(f"{what} is a {type(leaf).__name__}; a reply holds dense tensors. Make it dense.")
            if leaf.shape.rank == 0 or leaf.shape[0] != rows:
                raise ValueError(not_rows(what, leaf.shape, rows))
            if 0 in leaf.shape[1:]:
                raise ValueError(f"{what} has shape {tuple(leaf.shape)}: it is empty. Leave it out.")
            try:
                fields[name] = (tuple(leaf.shape[1:]), as_dtype(leaf.dtype.as_numpy_dtype))
            except TypeError as error:
                raise ValueError(f"{what}: {error}") from None
        single_output = not tf.nest.is_nested(outputs)
        by_order = single_output or (isinstance(outputs, (list, tuple)) and not hasattr(outputs, "_fields"))
        return cls(RecordSpec(fields), single_output, by_order, by_order and names == _names(outputs, leaves, None))

    def mismatch(self, outputs: Sequence[Any], rows: int) -> str | None:
        """Describe how outputs for `rows` rows differ from this spec; return None if they match.

        Parameters
        ----------
        outputs : sequence of numpy.ndarray or tf.Tensor
            The outputs, in the order of `fields`.
        rows : int
            Number of rows that the model was given.
        """
        wanted = self._wanted
        if len(outputs) != len(wanted):
            return f"the model returned {len(outputs)} outputs for {rows} rows, and {len(wanted)} before."
        for number, (shape, dtype) in enumerate(wanted):
            output = outputs[number]
            if output.shape != (rows, *shape) or output.dtype != dtype:
                return _difference(output, tuple(output.shape), list(self.fields.values())[number], rows)
        return None


def rows_of_each(outputs: Any, rows: Any, model_name: str) -> Any:
    """Return outputs unchanged, and let the graph check that each output has `rows` rows.

    Parameters
    ----------
    outputs : nest of tf.Tensor
        The model's outputs.
    rows : int or tf.Tensor
        Number of rows that the model was given.
    model_name : str
        The model's name, for messages.

    Raises
    ------
    ValueError
        While the graph is traced: an output is not dense, is a scalar, or has another fixed number of rows.
    tf.errors.InvalidArgumentError
        While the graph runs: an output has another number of rows.
    """

    def checked(output: Any) -> Any:
        what = f"model {model_name!r}: an output"
        if not isinstance(output, tf.Tensor):
            raise ValueError(
                f"{what} is a {type(output).__name__}; only dense tensors can be split into rows. Make it dense."
            )
        known = tf.get_static_value(rows)
        if output.shape.rank == 0 or (output.shape.rank and known is not None and output.shape[0] not in (None, known)):
            raise ValueError(not_rows(what, output.shape, "as many" if known is None else int(known)))
        there = tf.shape(output)[0]
        same = tf.debugging.assert_equal(there, rows, f"{what} has not one row for each row of the inputs")
        with tf.control_dependencies([same] if same is not None else []):
            return tf.identity(output)

    return tf.nest.map_structure(checked, outputs)


def not_rows(what: str, shape: Any, rows: int | str) -> str:
    """Return the message for an output whose number of rows is not that of the inputs."""
    return (
        f"{what} has shape {tuple(shape)} for {rows} rows; a reply is one row. Return one row for each row of the "
        "inputs."
    )


def _difference(output: Any, shape: tuple[int, ...], field: Field, rows: int) -> str:
    given = f"{as_dtype(output.dtype).name}{list(shape)} for {rows} rows"
    if shape[:1] != (rows,):
        return f"the model returned {given} as output {field.name!r}. Return one row for each row of the inputs."
    return (
        f"output {field.name!r} is {given}; its replies hold {field.dtype.name}{[rows, *field.shape]}, as the model "
        "returned it at the start. Return rows of one shape and dtype; for example, pad them to the largest length."
    )


def _names(outputs: Any, leaves: Sequence[Any], keras_names: Sequence[str] | None) -> list[str]:
    # A layer that is called twice gives two outputs the same name.
    if isinstance(outputs, dict) or not keras_names or len(set(keras_names)) != len(leaves):
        if not tf.nest.is_nested(outputs):
            return ["output"]
        paths = _paths(outputs, "")
        return ["/".join(filter(None, path.split("/"))) for path in paths]
    return list(keras_names)


def _paths(nest: Any, prefix: str) -> list[str]:
    """Return a name for each leaf, in the order of `tf.nest.flatten`."""
    if isinstance(nest, dict):
        return [path for key in sorted(nest) for path in _paths(nest[key], f"{prefix}/{key}")]
    if hasattr(nest, "_fields"):
        return [path for key in nest._fields for path in _paths(getattr(nest, key), f"{prefix}/{key}")]
    if isinstance(nest, (list, tuple)):
        stem = f"{prefix}/" if prefix else "output_"
        return [path for i, part in enumerate(nest) for path in _paths(part, f"{stem}{i}")]
    return [prefix]


def as_output(output: Any) -> Any:
    """Copy an output to the device of the caller's scope; None stays None, and is refused by name later."""
    return None if output is None else tf.identity(output)


def as_arrays(outputs: Sequence[Any]) -> list[npt.NDArray[Any]]:
    """Return tensors as arrays over the tensors' memory, valid until the next call."""
    return [_view(output) for output in outputs]


def _view(tensor: Any) -> npt.NDArray[Any]:
    try:
        return np.asarray(memoryview(tensor))
    except (TypeError, ValueError):  # bfloat16 has no buffer format
        return np.asarray(tensor.numpy())
