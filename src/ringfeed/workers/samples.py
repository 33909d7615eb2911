"""The result of `preprocess` for an item, brought into the fields of a row: the same numbers, or an error.

It may not know workers, rings or TensorFlow. NumPy's own assignment is not used here: it broadcasts, and casts integers
modulo the range of the target.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..nest import flatten
from ..record_spec import MAX_FIELDS, Field, as_dtype
from ..torch_arrays import array_from_torch, is_torch_tensor

DROPPED = -1
"""In `RowLayout.picked`, in place of an array or nest that the model does not take."""

_LOSSY_FOR_NUMPY_SAFE = {("int64", "float64"), ("uint64", "float64"), ("int64", "complex128"), ("uint64", "complex128")}
"""Casts that NumPy calls safe although they round large integers."""


class Unfit(ValueError):
    """The result of `preprocess` is no sample, or does not fit the slots; the message names a result that would."""


@dataclass(frozen=True)
class Sample:
    """The structure of the result of `preprocess` for one item.

    Attributes
    ----------
    template : nest of int
        The result's structure, with the number of each leaf.
    leaves : list of ((shape, dtype name) or str)
        One entry per leaf. A text stands for a leaf that no slot can hold, and gives the reason; the model may not take
        that leaf.
    """

    template: Any
    leaves: list[tuple[tuple[int, ...], str] | str]


@dataclass(frozen=True)
class RowLayout:
    """The fields of a row, and how a result becomes a row.

    Attributes
    ----------
    template : nest of int
        The structure that the model gets: the number of the field in place of each input.
    picked : nest of int
        The structure that `preprocess` returns: the number of the field in place of each array. `DROPPED` stands for a
        part that the model does not take; mappings omit that part.
    fields : tuple of Field
        In the order of their numbers.
    rounds : tuple of bool
        For each field: floats of another width are rounded to the field's dtype, because the model or the user gives
        that dtype. Other fields take only numbers that stay the same.
    """

    template: Any
    picked: Any
    fields: tuple[Field, ...]
    rounds: tuple[bool, ...]


def sample_of(result: Any) -> Sample:
    """Return the structure of a result.

    Raises
    ------
    Unfit
        It is empty, or has more arrays than a record has fields and no names by which the model could take a few.
    """
    template, leaves = flatten(result)
    if not leaves:
        raise Unfit(f"preprocess returned an empty {type(result).__name__}; return an array, or a nest of arrays.")
    if len(leaves) > MAX_FIELDS:
        if not isinstance(result, Mapping) and not hasattr(result, "_fields"):  # by names, the model may take a few
            raise Unfit(_too_many(result, len(leaves)))
        template, leaves = flatten(_without_long_lists(result, is_outermost=True))
    return Sample(template, [_described(leaf, _which(position, len(leaves))) for position, leaf in enumerate(leaves)])


@dataclass(frozen=True)
class _LongList:
    """Stands for a list or tuple of more arrays than a record has fields; a model takes all of a list or nothing."""

    text: str


def _without_long_lists(nest: Any, is_outermost: bool = False) -> Any:
    """Return a nest with a leaf in place of each list that no model could take: its description may be large."""
    if isinstance(nest, Mapping):
        return {key: _without_long_lists(part) for key, part in nest.items()}
    if not isinstance(nest, (list, tuple)):
        return nest
    if not is_outermost and (count := _leaves_outside_of_mappings(nest)) > MAX_FIELDS:
        return _LongList(_too_many(nest, count))
    parts = map(_without_long_lists, nest)
    return type(nest)(*parts) if hasattr(nest, "_fields") else type(nest)(parts)


def _leaves_outside_of_mappings(nest: Any) -> int:
    if isinstance(nest, (list, tuple)):
        return sum(map(_leaves_outside_of_mappings, nest))
    return int(not isinstance(nest, Mapping))


def _too_many(nest: Any, count: int) -> str:
    return (
        f"preprocess returned {_describe(nest)} with {count} arrays or numbers in it; a sample has at most "
        f"{MAX_FIELDS}. Make an array of a list of numbers: numpy.asarray(...)."
    )


def _described(leaf: Any, which: str) -> tuple[tuple[int, ...], str] | str:
    if isinstance(leaf, _LongList):
        return leaf.text
    try:
        array = _array(leaf, which)
    except Unfit as unfit:
        return str(unfit)
    return array.shape, array.dtype.name


def has_structure(result: Any, layout: RowLayout) -> bool:
    """Tell whether a result has an array at each place that a layout picks."""
    return _collect(layout.picked, result, {})


def row_of(result: Any, layout: RowLayout) -> list[np.ndarray[Any, Any]]:
    """Return the arrays of a result, one for each field, of its shape and dtype.

    Raises
    ------
    Unfit
        The result has another structure, shape, or numbers that the fields cannot hold.
    """
    found: dict[int, Any] = {}
    if not _collect(layout.picked, result, found):
        raise Unfit(
            f"preprocess returned {_describe(result)}, and of the first item the model takes "
            f"{_describe(layout.picked)}; every item needs the same structure."
        )
    count = len(layout.fields)
    return [
        _fit(_array(found[number], _which(number, count)), field, _which(number, count), layout.rounds[number])
        for number, field in enumerate(layout.fields)
    ]


def _collect(picked: Any, result: Any, found: dict[int, Any]) -> bool:
    """Find the array at the place of each number; False if the structures differ."""
    if isinstance(picked, dict):
        if not isinstance(result, Mapping):
            return False
        needed = {key: part for key, part in picked.items() if _holds_fields(part)}
        return needed.keys() <= result.keys() and all(
            _collect(part, result[key], found) for key, part in needed.items()
        )
    if isinstance(picked, (list, tuple)):
        if isinstance(result, list) != isinstance(picked, list) or not isinstance(result, (list, tuple)):
            return False
        fields = [getattr(nest, "_fields", None) for nest in (picked, result)]
        if None not in fields and fields[0] != fields[1]:
            return False  # named tuples whose parts are in another order
        return len(result) == len(picked) and all(map(_collect, picked, result, [found] * len(picked)))
    if isinstance(result, (list, tuple, Mapping)):
        return bool(picked == DROPPED)
    found[picked] = result
    return True


def _holds_fields(picked: Any) -> bool:
    return any(number != DROPPED for number in flatten(picked)[1])


def _which(position: int, count: int) -> str:
    return f"result {position} of preprocess" if count > 1 else "preprocess"


def _array(leaf: Any, which: str) -> np.ndarray[Any, Any]:
    """Return a leaf as an array of a dtype that a slot can hold."""
    if leaf is None:
        raise Unfit(
            f"{which} returned None; return an array of numbers. If an item cannot be read, raise an exception: "
            "on_error= decides how it is treated."
        )
    if isinstance(leaf, np.ma.MaskedArray) and np.ma.is_masked(leaf):
        raise Unfit(
            f"{which} returned an array with masked numbers, which a slot cannot mark; fill them: array.filled(0)."
        )
    try:
        array = array_from_torch(leaf) if is_torch_tensor(leaf) else np.asarray(leaf)
    except Exception as error:
        raise Unfit(f"{which} returned a {type(leaf).__name__} that cannot become an array: {error}") from None
    kind = array.dtype.kind
    if kind == "O":
        raise Unfit(
            f"{which} returned Python objects ({type(leaf).__name__}, as an array of dtype object); return an array of "
            "numbers whose rows all have one length."
        )
    if kind in "SU":
        raise Unfit(f"{which} returned text (dtype {array.dtype.str}); return an array of numbers, such as token ids.")
    try:
        as_dtype(array.dtype)
    except TypeError as error:
        raise Unfit(f"{which}: {error} Convert it, as in array.astype('float32').") from None
    if 0 in array.shape:
        raise Unfit(f"{which} returned an array of shape {array.shape}, which is empty; return at least one number.")
    return array


def _fit(array: np.ndarray[Any, Any], field: Field, which: str, rounds: bool) -> np.ndarray[Any, Any]:
    if array.shape != field.shape:
        raise Unfit(
            f"{which} returned shape {array.shape}, the slots hold {field.shape} (as the first item); resize or pad "
            "every item to one shape."
        )
    if array.dtype == field.dtype or is_exact(array.dtype, field.dtype):
        return array
    reason = ""
    if array.dtype.kind != "c" or field.dtype.kind == "c":
        with np.errstate(all="ignore"):
            cast = array.astype(field.dtype)
        if rounds and is_float(array.dtype) and is_float(field.dtype):
            if not (np.isinf(cast) & ~np.isinf(array)).any():
                return cast
            reason = ", and the cast would make its numbers infinite"
        elif _same_numbers(array, cast):
            return cast
        else:
            reason = ", and the cast would change its numbers"
    raise Unfit(
        f"{which} returned {array.dtype.name}, the slots hold {field.dtype.name}{reason}. Convert every item to one "
        "dtype that holds all numbers, or name that dtype in sample_spec=."
    )


def is_float(dtype: np.dtype[Any]) -> bool:
    """Tell whether a dtype is a floating-point dtype; NumPy does not count bfloat16 as one."""
    return bool(dtype.kind == "f" or dtype.name == "bfloat16")


def is_exact(source: np.dtype[Any], target: np.dtype[Any]) -> bool:
    """Tell whether `target` holds every number of `source` exactly."""
    if (source.name, target.name) in _LOSSY_FOR_NUMPY_SAFE:
        return False
    return bool(np.can_cast(source, target, "safe"))


def _same_numbers(array: np.ndarray[Any, Any], cast: np.ndarray[Any, Any]) -> bool:
    """Tell whether a cast left every number the same."""
    source, target = array.dtype, cast.dtype
    with np.errstate(all="ignore"):
        same = cast.astype(source) == array
        if is_float(source) and is_float(target):
            same |= np.isnan(array) & np.isnan(cast)
        # A number beyond a bound may survive the round trip: integers wrap around, and casts of floats may saturate.
        if source.kind in "iu" and target.kind in "iu":
            same &= (cast < 0) == (array < 0)
        elif source.kind in "iu" and is_float(target):
            same &= np.isfinite(cast) & (cast < float(2 * (np.iinfo(source).max // 2 + 1)))
        elif is_float(source) and target.kind in "iu":
            bounds = float(np.iinfo(target).min), float(2 * (np.iinfo(target).max // 2 + 1))
            same &= np.isfinite(array) & (array >= bounds[0]) & (array < bounds[1])
    return bool(np.all(same))


def _describe(nest: Any) -> str:
    if isinstance(nest, (Mapping, list, tuple)) and not nest:
        return f"an empty {type(nest).__name__}"
    if isinstance(nest, Mapping):
        return f"a dict of {', '.join(map(repr, nest))}"
    if isinstance(nest, (list, tuple)):
        return f"a {type(nest).__name__} of {len(nest)}"
    return "one array"
