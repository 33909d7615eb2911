"""The inputs of a request as one record of the ring, or as rows of records.

It may not know how a request is sent or answered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt

from ..errors import RecordMismatch
from ..ring import Ring


def record_or_rows(ring: Ring, inputs: Any) -> tuple[Any, int | None]:
    """Return one record and None; or arrays of rows and their number, if the first field has an axis of rows."""
    name, field = next(iter(ring.spec.items()))
    record = _mapping_of(ring, inputs)
    if getattr(record.get(name), "ndim", None) != len(field.shape) + 1:
        return record, None
    return rows_of(ring, record)


def rows_of(ring: Ring, inputs: Any) -> tuple[list[npt.NDArray[Any]], int]:
    """Return rows as one array for each field, and the number of rows.

    Parameters
    ----------
    ring : Ring
    inputs : mapping of str to array_like, sequence of mappings, or array_like
        Rows of each field; or for each row a mapping of its fields; or, for a ring with one field, its rows.

    Raises
    ------
    RecordMismatch
        The inputs are no rows of the ring's record.
    """
    record = _mapping_of(ring, _columns_of(ring, inputs) if is_list_of_mappings(inputs) else inputs)
    if set(record) != set(ring.spec):
        ring._wrong_fields(record)
    arrays = [ring._rows_of(name, record[name]) for name in ring.spec]
    counts = {len(array) for array in arrays}
    if len(counts) > 1:
        given = ", ".join(f"{name} {len(array)}" for name, array in zip(ring.spec, arrays, strict=True))
        raise RecordMismatch(
            f"ring {ring.name!r}: the fields have different numbers of rows: {given}. Give one row of each field for "
            "each request."
        )
    (rows,) = counts
    if rows == 0:
        raise RecordMismatch(f"ring {ring.name!r}: 0 rows were given; give at least one.")
    return arrays, rows


def is_list_of_mappings(inputs: Any) -> bool:
    """Return whether these are rows in the form of JSON: a list with a mapping of fields for each row."""
    return isinstance(inputs, (list, tuple)) and len(inputs) > 0 and isinstance(inputs[0], Mapping)


def _mapping_of(ring: Ring, inputs: Any) -> Mapping[str, Any]:
    if isinstance(inputs, Mapping):
        return inputs
    if len(ring.spec) != 1:
        raise RecordMismatch(
            f"ring {ring.name!r} has the fields {', '.join(ring.spec)}: give a dict of them, not "
            f"{type(inputs).__name__}."
        )
    return {next(iter(ring.spec)): inputs}


def _columns_of(ring: Ring, rows: Sequence[Any]) -> dict[str, list[Any]]:
    """Return the values of each field in all rows, given a mapping of fields for each row."""
    names = set(ring.spec)
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping) or set(row) != names:
            given = f"the fields {', '.join(map(str, row))}" if isinstance(row, Mapping) else type(row).__name__
            raise RecordMismatch(
                f"ring {ring.name!r}: row {number} is {given}; the ring holds {', '.join(ring.spec)}. Give each of "
                "them once in each row."
            )
    return {name: [row[name] for row in rows] for name in names}
