"""The rows that a model is tested on before it serves: zeros, or the samples that the user gives as `warm_up`.

This file may not know how a model runs or how records are taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ...record_spec import Field
from ..tensors.elements import TAGS, Element
from ..tensors.zero_copy import as_tensor


class WarmUpRows:
    """Batches of any number of rows, in the format of `Element.tensors`.

    Parameters
    ----------
    element : Element
        The fields that the model takes.
    warm_up : nest of arrays of shape (rows, ...), optional
        A mapping of the record's fields, or a nest in the structure of the model's inputs. Its rows are repeated to
        fill a batch. By default all rows are zeros.

    Attributes
    ----------
    element : Element
        The fields that the model takes.
    samples : list of numpy.ndarray, or None
        The samples of each field in the element's order, in the field's shape and dtype; None without `warm_up`.

    Raises
    ------
    ValueError
        `warm_up` does not fit the record; the message says where.
    """

    def __init__(self, element: Element, warm_up: Any = None) -> None:
        self.element = element
        self.samples = None if warm_up is None else _samples(element, warm_up)

    def tensors(self, rows: int) -> list[Any]:
        """Return a tensor of `rows` rows for each field; padded fields keep their padding."""
        if self.samples is None:
            return self.element.zeros(rows)
        chosen = np.arange(rows) % len(self.samples[0])
        return [as_tensor(array) for array in self.arrays(chosen)]

    def arrays(self, chosen: npt.NDArray[np.intp]) -> list[npt.NDArray[Any]]:
        """Return the chosen rows of the samples as arrays; padded fields keep their padding."""
        assert self.samples is not None
        fields = self.element.fields.values()
        return [_uncut(array[chosen], field) for array, field in zip(self.samples, fields, strict=True)]

    def explain(self, error: Exception, model_name: str) -> ValueError:
        """Return the error to raise for a model that failed on these rows."""
        what = f"{type(error).__name__}: {getattr(error, 'message', None) or error}"
        if self.samples is not None:
            return ValueError(f"model {model_name!r} fails on the rows of warm_up: {what}")
        return ValueError(
            f"model {model_name!r} fails on rows of zeros, on which it is tested before it serves. If it needs other "
            "values, give rows as warm_up=, a nest of arrays of shape (rows, ...), named as the record's fields or "
            f"nested as the model's inputs. The error was: {what}"
        )


def _uncut(array: npt.NDArray[Any], field: Field | None) -> npt.NDArray[Any]:
    if field is None or not field.is_padded:
        return array
    flat = array.reshape(len(array), -1)
    padded = np.zeros((len(array), field.stride_bytes // field.dtype.itemsize), field.dtype)
    padded[:, : flat.shape[1]] = flat
    return padded


def _samples(element: Element, warm_up: Any) -> list[npt.NDArray[Any]]:
    given = _by_field(element, warm_up)
    arrays = {name: _array(name, value, element.fields[name]) for name, value in given.items() if name != TAGS}
    lengths = {name: len(array) for name, array in arrays.items()}
    if not lengths or len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise ValueError(f"warm_up has {lengths} rows: give the same number of rows for each field, at least 1.")
    rows = next(iter(lengths.values()))
    return [arrays[name] if name in arrays else np.zeros(rows, np.uint64) for name in element.fields]


def _by_field(element: Element, warm_up: Any) -> dict[str, Any]:
    """Return the value that is given for each field, without the tags."""
    names = [name for name in element.fields if name != TAGS]
    if isinstance(warm_up, Mapping):
        if set(names) <= set(warm_up):
            return {name: warm_up[name] for name in names}
        if len(warm_up) == len(names) == 1:
            return {names[0]: next(iter(warm_up.values()))}
    if isinstance(element.structure, str) and isinstance(warm_up, tuple) and len(warm_up) == 1:
        return {names[0]: warm_up[0]}
    found: dict[str, Any] = {}
    if not _match(element.structure, warm_up, found):
        raise ValueError(
            f"warm_up {_described(warm_up)}: give a dict of the fields {', '.join(map(repr, names))}, or a nest like "
            f"{element.structure!r}; each an array of shape (rows, ...)."
        )
    return found


def _match(structure: Any, given: Any, found: dict[str, Any]) -> bool:
    """Put the given value of each field into `found`; return whether every field has a value."""
    if isinstance(structure, Mapping):
        named = {key: part for key, part in structure.items() if part != TAGS}
        if not isinstance(given, Mapping) or not set(named) <= set(given):
            return False
        return all(_match(part, given[key], found) for key, part in named.items())
    if isinstance(structure, (list, tuple)):
        parts = list(structure)
        if not isinstance(given, (list, tuple)):
            return False
        if len(given) != len(parts):
            parts = [part for part in parts if part != TAGS]
        return len(given) == len(parts) and all(map(_match, parts, given, [found] * len(parts)))
    found[structure] = given
    return not isinstance(given, Mapping)


def _described(warm_up: Any) -> str:
    if isinstance(warm_up, Mapping):
        return f"has the keys {', '.join(map(repr, warm_up))}"
    return f"is a {type(warm_up).__name__}" + (f" of {len(warm_up)}" if isinstance(warm_up, (list, tuple)) else "")


def _array(name: str, value: Any, field: Field | None) -> npt.NDArray[Any]:
    """Return samples in a field's dtype; raise ValueError if the cast would change a value."""
    assert field is not None
    try:
        array = np.asarray(value.numpy() if isinstance(value, tf.Tensor) else value)
    except Exception as error:  # the rows have several lengths, or the object raises an error of its own
        raise ValueError(
            f"warm_up for field {name!r} is not an array: {type(error).__name__}: {error}. Give rows of one shape."
        ) from error
    if array.shape[1:] != field.shape or array.ndim != len(field.shape) + 1:
        raise ValueError(
            f"warm_up for field {name!r} has shape {list(array.shape)}: give rows of shape {list(field.shape)}, that "
            f"is {['rows', *field.shape]}."
        )
    if array.dtype == field.dtype:
        return array
    try:
        with np.errstate(all="ignore"):
            cast = array.astype(field.dtype)
        both_float = array.dtype.kind in "fV" and field.dtype.kind in "fV"
        fits = bool((np.isfinite(cast) == np.isfinite(array)).all() if both_float else (cast == array).all())
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(
            f"warm_up for field {name!r} has dtype {array.dtype}, with values that {field.dtype} cannot hold. Give "
            f"{field.dtype}."
        )
    return np.ascontiguousarray(cast)
