"""What a record is: named fields, each of one shape and one dtype.

It may not know of shared memory, rings or TensorFlow.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

ALIGNMENT_BYTES = 64
"""Every sample starts on this boundary: TensorFlow takes foreign memory without a copy only from there."""

MAX_RANK = 32
MAX_FIELDS = 64
MAX_NAME_BYTES = 63

FieldsLike: TypeAlias = "Mapping[str, tuple[Any, npt.DTypeLike]] | RecordSpec"

# Codes of `rf_dtype` in csrc/include/ringfeed.h.
_DTYPE_CODES = {
    "bool": 1,
    "int8": 2,
    "int16": 3,
    "int32": 4,
    "int64": 5,
    "uint8": 6,
    "uint16": 7,
    "uint32": 8,
    "uint64": 9,
    "float16": 10,
    "float32": 11,
    "float64": 12,
    "complex64": 13,
    "bfloat16": 14,
}
_DTYPE_NAMES = {code: name for name, code in _DTYPE_CODES.items()}


def as_dtype(dtype: npt.DTypeLike | str) -> np.dtype[Any]:
    """Return the NumPy dtype, also for ``"bfloat16"`` (from ml_dtypes).

    Parameters
    ----------
    dtype : dtype-like
        A NumPy dtype, a Python or NumPy scalar type, a name, or a framework's dtype with a
        ``name`` or ``as_numpy_dtype`` (TensorFlow).

    Returns
    -------
    numpy.dtype
        In native byte order.

    Raises
    ------
    TypeError
        The dtype is not one that a ring can hold.
    """
    dtype = getattr(dtype, "as_numpy_dtype", dtype)
    if isinstance(dtype, str) and dtype == "bfloat16":
        # Imported only where it is asked for: it costs every producer 10 ms.
        import ml_dtypes

        dtype = ml_dtypes.bfloat16
    result = np.dtype(dtype)
    if result.name not in _DTYPE_CODES:
        raise TypeError(f"dtype {result.name!r} can not be held in a ring; use one of {', '.join(_DTYPE_CODES)}.")
    return result.newbyteorder("=") if not result.isnative else result


@dataclass(frozen=True)
class Field:
    """One field of a record.

    Attributes
    ----------
    name : str
        At most 63 bytes in UTF-8.
    shape : tuple of int
        Of one sample, without the batch axis; every length is at least 1.
    dtype : numpy.dtype
        One of bool, (u)int8 to 64, float16, float32, float64, complex64, bfloat16.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample, without padding."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def stride_bytes(self) -> int:
        """Bytes from one slot to the next: `sample_bytes` rounded up to 64."""
        return -(-self.sample_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES

    @property
    def is_padded(self) -> bool:
        """Does padding follow each sample, so that a batch is not one dense array?"""
        return self.stride_bytes != self.sample_bytes

    @property
    def dtype_code(self) -> int:
        """The dtype's number in the segment's header."""
        return _DTYPE_CODES[self.dtype.name]

    def __str__(self) -> str:
        return f"{self.name!r}: {self.dtype.name}{list(self.shape)}"


def dtype_from_code(code: int) -> np.dtype[Any]:
    """Return the dtype of a number in a segment's header."""
    return as_dtype(_DTYPE_NAMES[code])


def _parse_field(name: Any, description: Any) -> Field:
    if not isinstance(name, str) or not name or "\0" in name or len(name.encode()) > MAX_NAME_BYTES:
        raise ValueError(f"field name {name!r}: must be a string of 1 to {MAX_NAME_BYTES} bytes.")
    try:
        shape, dtype = description
    except (TypeError, ValueError):
        raise ValueError(f"field {name!r}: {description!r} is not a pair (shape, dtype), as in ((224, 224, 3), 'uint8').") from None
    lengths = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
    if len(lengths) > MAX_RANK:
        raise ValueError(f"field {name!r}: {len(lengths)} dimensions; at most {MAX_RANK} are held.")
    for length in lengths:
        if not isinstance(length, (int, np.integer)) or length < 1:
            raise ValueError(
                f"field {name!r}: shape {lengths!r} is not fixed; every length must be a whole number of at least 1."
            )
    try:
        return Field(name, tuple(int(length) for length in lengths), as_dtype(dtype))
    except TypeError as error:
        raise TypeError(f"field {name!r}: {error}") from None


class RecordSpec(Mapping[str, Field]):
    """The fields of a record, in order.

    Parameters
    ----------
    fields : mapping of str to (shape, dtype), or RecordSpec
        As in ``{"image": ((224, 224, 3), "uint8"), "label": ((), "int64")}``.

    Raises
    ------
    ValueError, TypeError
        A name, shape or dtype that a ring can not hold; the message names the field.
    """

    def __init__(self, fields: FieldsLike) -> None:
        if isinstance(fields, RecordSpec):
            self._fields: dict[str, Field] = dict(fields._fields)
            return
        if not isinstance(fields, Mapping):
            raise TypeError(f"fields must be a mapping of names to (shape, dtype), not {type(fields).__name__}.")
        self._fields = {name: _parse_field(name, description) for name, description in fields.items()}
        if not 1 <= len(self._fields) <= MAX_FIELDS:
            raise ValueError(f"a record has 1 to {MAX_FIELDS} fields; {len(self._fields)} were given.")

    @classmethod
    def of(cls, fields: Iterable[Field]) -> RecordSpec:
        """Make a spec of ready fields."""
        return cls({field.name: (field.shape, field.dtype) for field in fields})

    def __getitem__(self, name: str) -> Field:
        return self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RecordSpec) and list(self._fields.values()) == list(other._fields.values())

    def __hash__(self) -> int:
        return hash(tuple(self._fields.values()))

    def __repr__(self) -> str:
        return f"RecordSpec({', '.join(map(str, self._fields.values()))})"

    @property
    def record_bytes(self) -> int:
        """Bytes that one record occupies in the fields' regions."""
        return sum(field.stride_bytes for field in self._fields.values())


_RING_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


def segment_name(ring_name: str) -> str:
    """Return the name of the POSIX shared-memory object of a ring.

    Raises
    ------
    ValueError
        The name has characters that do not fit everywhere a name goes.
    """
    if not isinstance(ring_name, str) or not _RING_NAME.fullmatch(ring_name):
        raise ValueError(
            f"ring name {ring_name!r}: use 1 to 200 letters, digits, dots, hyphens and underscores, "
            "starting with a letter or digit."
        )
    return f"/ringfeed.{ring_name}"
