"""What a slot of the predictor's ring holds: chosen from what the model takes and the first sample.

A spec here is a nest, as the model nests its inputs, of (shape without the batch axis, dtype); None in a
shape is an axis that the model leaves free. It may not know TensorFlow.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .record_spec import Field, RecordSpec, as_dtype
from .worker_main import Sample


def choose_spec(asked: Any, sample: Sample | None) -> tuple[Any, RecordSpec]:
    """Choose the fields of a row.

    Parameters
    ----------
    asked : nest of (shape, dtype), or None
        What the model takes, if it says so.
    sample : Sample or None
        What the first item came out as; None for a function that fills the slot itself.

    Returns
    -------
    template : nest of int
        The number of the field in the place of each input.
    spec : RecordSpec
        The fields, named by their numbers.

    Raises
    ------
    ValueError
        The sample is not what the model takes; or there is no sample, and the model leaves shapes open.
    """
    asked_template, asked_leaves = (None, []) if asked is None else spec_leaves(asked)
    if sample is None:
        return asked_template, _fields_of_model(asked_leaves)
    leaves = [
        (shape, _storage_dtype(dtype, asked_leaves[position][1] if position < len(asked_leaves) else None))
        for position, (shape, dtype) in enumerate(sample.leaves)
    ]
    if len(asked_leaves) == len(leaves):
        for position, ((shape, _), (wanted, _)) in enumerate(zip(leaves, asked_leaves, strict=True)):
            _check_shape(position, shape, wanted)
    elif asked_leaves:
        raise ValueError(
            f"the model has {len(asked_leaves)} inputs; preprocess returned {len(leaves)} arrays for the first item."
        )
    return sample.template, RecordSpec.of(
        Field(str(position), tuple(shape), dtype) for position, (shape, dtype) in enumerate(leaves)
    )


def spec_leaves(specs: Any) -> tuple[Any, list[tuple[tuple[int | None, ...], str]]]:
    """Take a nest of (shape, dtype) apart; a (shape, dtype) is a leaf."""
    leaves: list[tuple[tuple[int | None, ...], str]] = []

    def walk(nest: Any) -> Any:
        if _is_spec(nest):
            leaves.append((tuple(nest[0]), nest[1]))
            return len(leaves) - 1
        if isinstance(nest, dict):
            return {key: walk(value) for key, value in nest.items()}
        if isinstance(nest, (list, tuple)):
            return type(nest)(walk(value) for value in nest)
        raise TypeError(f"sample_spec: {nest!r} is no (shape, dtype), as in ((224, 224, 3), 'uint8').")

    return walk(specs), leaves


def _is_spec(nest: Any) -> bool:
    if not isinstance(nest, (list, tuple)) or len(nest) != 2 or not isinstance(nest[0], (list, tuple)):
        return False
    return all(length is None or isinstance(length, (int, np.integer)) for length in nest[0]) and not isinstance(
        nest[1], (list, dict, tuple)
    )


def _fields_of_model(leaves: list[tuple[tuple[int | None, ...], str]]) -> RecordSpec:
    if not leaves or any(length is None for shape, _ in leaves for length in shape):
        said = "does not say its inputs" if not leaves else f"leaves them open: {', '.join(str(s) for s, _ in leaves)}"
        raise ValueError(
            "preprocess(item, out) needs the slot's shape beforehand, and the model " + said + ". "
            "Pass sample_spec=, as in ((224, 224, 3), 'uint8')."
        )
    return RecordSpec.of(
        Field(str(position), tuple(int(length or 0) for length in shape), as_dtype(dtype))
        for position, (shape, dtype) in enumerate(leaves)
    )


def _storage_dtype(dtype: str, asked: str | None) -> np.dtype[Any]:
    """Keep the sample's dtype; but float64, which NumPy makes unasked, becomes what the model takes."""
    if dtype == "float64" and asked is not None and as_dtype(asked).kind in "fV":
        return as_dtype(asked)
    return as_dtype(dtype)


def _check_shape(position: int, shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> None:
    differs = len(shape) == len(wanted) and any(
        length is not None and length != given for given, length in zip(shape, wanted, strict=True)
    )
    if differs or not math.prod(shape):
        raise ValueError(
            f"input {position} of the model takes samples of shape {wanted}; preprocess returned {shape} for the first "
            "item. Resize in preprocess, or change the model's input."
        )
