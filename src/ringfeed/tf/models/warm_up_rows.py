"""Rows that a model is tried on before it serves: of zeros, or of samples that the user gives.

It may not know how a model runs, nor how records are taken.
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
    """As many rows as are asked for, as `Element.hand_over` hands out those of a batch.

    Parameters
    ----------
    element : Element
    warm_up : nest of arrays of shape (rows, ...), optional
        A mapping of the record's fields, or a nest in the structure of the model's inputs. Its rows are repeated as
        often as it takes. By default all rows are zeros.

    Attributes
    ----------
    element : Element
    samples : list of numpy.ndarray, or None
        Of each field in the element's order, in the field's shape and dtype; None without `warm_up`.

    Raises
    ------
    ValueError
        `warm_up` does not fit the record; the message says where.
    """

    def __init__(self, element: Element, warm_up: Any = None) -> None:
        self.element = element
        self.samples = None if warm_up is None else _samples(element, warm_up)

    def tensors(self, rows: int) -> list[Any]:
        """Return a tensor for each field, padded fields uncut."""
        if self.samples is None:
            return self.element.zeros(rows)
        chosen = np.arange(rows) % len(self.samples[0])
        return [as_tensor(array) for array in self.arrays(chosen)]

    def arrays(self, chosen: npt.NDArray[np.intp]) -> list[npt.NDArray[Any]]:
        """Return the chosen rows of the samples as arrays, padded fields uncut."""
        assert self.samples is not None
        fields = self.element.fields.values()
        return [_uncut(array[chosen], field) for array, field in zip(self.samples, fields, strict=True)]

    def explain(self, error: Exception, model_name: str) -> ValueError:
        """Return what to say of a model that failed on these rows."""
        what = f"{type(error).__name__}: {getattr(error, 'message', None) or error}"
        if self.samples is not None:
            return ValueError(f"model {model_name!r} fails on the rows of warm_up: {what}")
        return ValueError(
            f"model {model_name!r} fails on rows of zeros, on which it is tried before it serves. If it needs others, "
            "give some as warm_up=, a nest of arrays of shape (rows, ...), named as the record's fields or nested as "
            f"the model's inputs. It said: {what}"
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
        raise ValueError(f"warm_up has {lengths} rows: give 1 row or more, of each field as many.")
    rows = next(iter(lengths.values()))
    return [arrays[name] if name in arrays else np.zeros(rows, np.uint64) for name in element.fields]


def _by_field(element: Element, warm_up: Any) -> dict[str, Any]:
    """Return what is given for each field, but the tags."""
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
    """Put into `found` what is given in the place of each field; return whether all have something."""
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
    """Return samples in a field's dtype, as far as they stay what they are."""
    assert field is not None
    try:
        array = np.asarray(value.numpy() if isinstance(value, tf.Tensor) else value)
    except Exception as error:  # rows of several lengths, or an object that raises whatever it likes
        raise ValueError(
            f"warm_up for field {name!r} is no array: {type(error).__name__}: {error}. Give rows of one shape."
        ) from error
    if array.shape[1:] != field.shape or array.ndim != len(field.shape) + 1:
        raise ValueError(
            f"warm_up for field {name!r} is of shape {list(array.shape)}: give rows of {list(field.shape)}, that is "
            f"{['rows', *field.shape]}."
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
        raise ValueError(f"warm_up for field {name!r} is {array.dtype}, which {field.dtype} does not hold unchanged.")
    return np.ascontiguousarray(cast)
