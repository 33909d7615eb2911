"""The layout of a row, chosen from what the model takes and from the first sample; and results brought into it.

It may not know TensorFlow, rings or workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..nest import flatten, unflatten
from ..record_spec import MAX_FIELDS, Field, RecordSpec, as_dtype
from .input_matching import Match, match_arguments, match_inputs
from .sample_spec import InputSpec, SpecLeaf, spec_leaves
from .samples import DROPPED, RowLayout, Sample, Unfit, has_structure, is_exact, is_float, row_of, sample_of


def choose_layout(spec: InputSpec, sample: Sample | None) -> RowLayout:
    """Choose the fields of a row.

    Parameters
    ----------
    spec : InputSpec
    sample : Sample or None
        The sample of the first item; None for a function that fills the slot itself.

    Returns
    -------
    RowLayout
        Its fields are named by their numbers.

    Raises
    ------
    Unfit
        The model does not take the sample.
    ValueError
        There is no sample, and the model leaves shapes open.
    """
    if sample is None:
        template, leaves = (None, []) if spec.specs is None else spec_leaves(spec.specs)
        fields = _fields_of_model(leaves)
        return RowLayout(template, template, fields, tuple(is_float(field.dtype) for field in fields))
    match = match_arguments(spec, sample) if spec.specs is None else match_inputs(spec, sample)
    return _layout(match, sample, spec)


def row_for_layout(result: Any, layout: RowLayout, spec: InputSpec) -> list[np.ndarray[Any, Any]]:
    """Return the arrays of a result, one for each field, of its shape and dtype.

    The layout may come from an item of an earlier call, of another structure. That structure does not bind if the
    user's spec settles all, or if the model has one input and gives it.

    Raises
    ------
    Unfit
        The result has another structure that does not match, another shape, or numbers that the fields cannot hold.
    """
    is_settled = spec.settles_all or (spec.specs is not None and len(layout.fields) == 1)
    if is_settled and not has_structure(result, layout):
        sample = sample_of(result)
        match = match_inputs(spec, sample, when="")
        layout = replace(layout, picked=_picked(sample, match.numbers))
    return row_of(result, layout)


def fields_spec(layout: RowLayout) -> RecordSpec:
    """Return the fields of a layout as the record of a ring."""
    return RecordSpec.of(layout.fields)


def part_for_layout(sample: Sample, layout: RowLayout) -> Sample:
    """Return the part of a sample that its layout picks; the same layout is chosen for this part, which is small.

    The rest of the sample may have any number of names and lists.
    """
    leaves: list[tuple[tuple[int, ...], str] | str] = []

    def walk(picked: Any, template: Any) -> Any:
        if isinstance(picked, dict):
            return {key: walk(part, template[key]) for key, part in picked.items()}
        if isinstance(picked, (list, tuple)):
            return _like(picked, map(walk, picked, template))
        leaves.append("The model does not take this." if picked == DROPPED else sample.leaves[template])
        return len(leaves) - 1

    return Sample(walk(layout.picked, sample.template), leaves)


# ---- The part that the model takes -------------------------------------------------------------------


def _picked(sample: Sample, numbers: list[int]) -> Any:
    """Return `RowLayout.picked` if these arrays of a sample become fields, in this order.

    The rest of the sample decides nothing, and differs from item to item: mappings omit it, and a nest that the model
    does not take becomes a single `DROPPED`.
    """
    places = [DROPPED] * len(sample.leaves)
    for place, number in enumerate(numbers):
        places[number] = place
    return _without_dropped(unflatten(sample.template, places))


def _without_dropped(picked: Any) -> Any:
    if isinstance(picked, dict):
        return {key: _without_dropped(part) for key, part in picked.items() if not _is_dropped(part)}
    if isinstance(picked, (list, tuple)):
        return _like(picked, (DROPPED if _is_dropped(part) else _without_dropped(part) for part in picked))
    return picked


def _is_dropped(picked: Any) -> bool:
    leaves = flatten(picked)[1]
    return bool(leaves) and all(number == DROPPED for number in leaves)


def _like(nest: Any, parts: Iterable[Any]) -> Any:
    """Return a list or tuple of the same class, with other parts."""
    return type(nest)(*parts) if hasattr(nest, "_fields") else type(nest)(parts)


# ---- The fields --------------------------------------------------------------------------------------


def _layout(match: Match, sample: Sample, spec: InputSpec) -> RowLayout:
    fields, rounds = [], []
    picked = _picked(sample, match.numbers)
    leaves = [sample.leaves[number] for number in match.numbers]
    if len(leaves) > MAX_FIELDS:
        raise Unfit(
            f"preprocess returned {len(leaves)} arrays or numbers; a sample has at most {MAX_FIELDS}. Make an "
            "array of a list of numbers: numpy.asarray(...)."
        )
    for number, (given, wanted) in enumerate(zip(leaves, match.inputs, strict=True)):
        if isinstance(given, str):
            raise Unfit(given)
        shape, dtype = given
        if wanted is not None:
            _check_shape(number, shape, wanted[0], spec.is_binding)
        given_dtype = as_dtype(dtype)
        wanted_dtype = _floatx(given_dtype, spec) if wanted is None else as_dtype(wanted[1])
        stored, rounded = _storage(given_dtype, wanted_dtype, spec.is_binding)
        fields.append(Field(str(number), tuple(shape), stored))
        rounds.append(rounded)
    return RowLayout(match.template, picked, tuple(fields), tuple(rounds))


def _floatx(sample: np.dtype[Any], spec: InputSpec) -> np.dtype[Any] | None:
    """Return the dtype for an input whose dtype the model does not give."""
    return as_dtype(spec.floatx) if spec.floatx is not None and is_float(sample) else None


def _storage(sample: np.dtype[Any], wanted: np.dtype[Any] | None, is_binding: bool) -> tuple[np.dtype[Any], bool]:
    """Return the dtype of a field, and whether floats are rounded to it.

    A dtype that the user names is binding. Floats are stored in the dtype that the model takes, because NumPy makes
    float64 unasked. Integers keep their own dtype in two cases: the model's dtype holds all of them, so that a picture
    travels in bytes and is cast on the device; or the model casts them to floats itself. Otherwise the field has the
    model's dtype, and a worker checks that each number stays the same.
    """
    if wanted is None:
        return sample, False
    if is_binding:
        return wanted, is_float(wanted)
    if is_float(sample) and is_float(wanted):
        return wanted, True
    casts_itself = sample.kind in "biu" and (is_float(wanted) or wanted.kind == "c")
    if sample == wanted or is_exact(sample, wanted) or casts_itself:
        return sample, False
    if sample.kind == "c":
        raise Unfit(
            f"the model takes {wanted.name}; preprocess returned {sample.name} for the first item. Convert it, or "
            "change the model's input."
        )
    return wanted, False


def _fields_of_model(leaves: list[SpecLeaf]) -> tuple[Field, ...]:
    if not leaves or any(length is None for shape, _ in leaves for length in shape):
        cause = (
            "does not give its inputs" if not leaves else f"leaves axes open: {', '.join(str(s) for s, _ in leaves)}"
        )
        raise ValueError(
            f"preprocess(item, out) needs the shape of the slot before the first item, and the model {cause}. "
            "Pass sample_spec=, as in ((224, 224, 3), 'uint8')."
        )
    return tuple(
        Field(str(position), tuple(int(length or 0) for length in shape), as_dtype(dtype))
        for position, (shape, dtype) in enumerate(leaves)
    )


def _check_shape(position: int, shape: tuple[int, ...], wanted: Sequence[int | None], is_binding: bool) -> None:
    if _fits(shape, wanted):
        return
    # Keras models add a last axis of length 1, and remove one.
    if not is_binding and tuple(wanted[-1:]) == (1,) and _fits(shape, wanted[:-1]):
        return
    if not is_binding and shape[-1:] == (1,) and _fits(shape[:-1], wanted):
        return
    whose, remedy = ("sample_spec", "sample_spec=") if is_binding else ("the model", "the model's input")
    raise Unfit(
        f"input {position} of {whose} takes samples of shape {wanted}; preprocess returned {shape} for the first "
        f"item. Resize in preprocess, or change {remedy}."
    )


def _fits(shape: tuple[int, ...], wanted: Sequence[int | None]) -> bool:
    return len(shape) == len(wanted) and all(
        length in (None, given) for given, length in zip(shape, wanted, strict=True)
    )
