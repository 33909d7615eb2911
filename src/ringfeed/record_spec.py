"""The specification of a record: named fields, each with one shape and one dtype.

It may not know of shared memory, rings or TensorFlow.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .arguments import as_int

SEGMENT_PREFIX = "ringfeed."
"""The prefix of the name of every shared-memory object of RingFeed."""

ALIGNMENT_BYTES = 64
"""The alignment of every sample: TensorFlow uses foreign memory without a copy only if it is aligned to 64 bytes."""

MAX_RANK = 31
"""A batch has one more axis, and NumPy before 2.0 supports 32 axes."""
MAX_FIELDS = 64
MAX_NAME_BYTES = 63
MAX_SAMPLE_BYTES = 2**62

FieldsLike: TypeAlias = "Mapping[str, tuple[Any, npt.DTypeLike]] | RecordSpec"

# Codes of `rf_dtype` in csrc/include/rf_types.h.
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
    """Return the NumPy dtype of a dtype-like, including ``"bfloat16"`` (from ml_dtypes).

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
        A ring cannot hold this dtype.
    """
    given = dtype
    dtype = getattr(dtype, "as_numpy_dtype", dtype)
    if isinstance(dtype, str) and dtype == "bfloat16":
        # Imported on demand: the import takes 10 ms, which most producers need not spend.
        import ml_dtypes

        dtype = ml_dtypes.bfloat16
    try:
        result = None if dtype is None else np.dtype(dtype)  # NumPy takes None for float64
    except (TypeError, ValueError, SyntaxError):
        result = None
    if result is None or result.name not in _DTYPE_CODES:
        raise TypeError(f"dtype {_short(given)} cannot be held in a ring; use one of {', '.join(_DTYPE_CODES)}.")
    return result.newbyteorder("=") if not result.isnative else result


@dataclass(frozen=True)
class Field:
    """One field of a record.

    Attributes
    ----------
    name : str
        At most 63 bytes in UTF-8.
    shape : tuple of int
        The shape of one sample, without the batch axis; every length is at least 1.
    dtype : numpy.dtype
        One of bool, (u)int8 to 64, float16, float32, float64, complex64, bfloat16.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @functools.cached_property
    def sample_bytes(self) -> int:
        """The size of one sample in bytes, without padding."""
        return math.prod(self.shape) * self.dtype.itemsize

    @functools.cached_property
    def stride_bytes(self) -> int:
        """The distance between two samples in bytes: `sample_bytes` rounded up to a multiple of 64."""
        return -(-self.sample_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES

    @functools.cached_property
    def is_padded(self) -> bool:
        """Whether padding follows each sample, so that a batch is no contiguous array."""
        return self.stride_bytes != self.sample_bytes

    @property
    def dtype_code(self) -> int:
        """The number of the dtype in the segment's header."""
        return _DTYPE_CODES[self.dtype.name]

    def __str__(self) -> str:
        return f"{self.name!r}: {self.dtype.name}{list(self.shape)}"


def dtype_from_code(code: int) -> np.dtype[Any]:
    """Return the dtype for a number in a segment's header."""
    return as_dtype(_DTYPE_NAMES[code])


def _short(value: object) -> str:
    """Return at most 80 characters of a value's text, for a message."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _parse_field(name: Any, description: Any) -> Field:
    try:
        fits = isinstance(name, str) and 1 <= len(name.encode()) <= MAX_NAME_BYTES and "\0" not in name
    except UnicodeEncodeError:
        fits = False
    if not fits:
        raise ValueError(f"field name {_short(name)}: use a string of 1 to {MAX_NAME_BYTES} bytes in UTF-8.")
    if not isinstance(description, Sequence) or isinstance(description, str) or len(description) != 2:
        raise ValueError(
            f"field {name!r}: {_short(description)} is not a pair (shape, dtype), as in ((224, 224, 3), 'uint8')."
        )
    shape, dtype = description
    try:
        return Field(name, _parse_shape(shape), as_dtype(dtype))
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"field {name!r}: {error}") from None


def _parse_shape(shape: Any) -> tuple[int, ...]:
    try:
        lengths = [as_int(length) or 0 for length in ((shape,) if as_int(shape) is not None else tuple(shape))]
    except TypeError:
        lengths = [0]
    if any(length < 1 for length in lengths):
        raise ValueError(
            f"shape {_short(shape)} is not fixed; give the shape of one sample, without the batch axis, "
            "where every length is an integer, 1 or more."
        )
    if len(lengths) > MAX_RANK:
        raise ValueError(f"{len(lengths)} dimensions; at most {MAX_RANK} are supported.")
    if math.prod(lengths) > MAX_SAMPLE_BYTES:
        raise ValueError(f"shape {_short(shape)}: one sample may have at most {MAX_SAMPLE_BYTES} bytes.")
    return tuple(lengths)


class RecordSpec(Mapping[str, Field]):
    """The fields of a record, in order.

    Parameters
    ----------
    fields : mapping of str to (shape, dtype), or RecordSpec
        As in ``{"image": ((224, 224, 3), "uint8"), "label": ((), "int64")}``.

    Raises
    ------
    ValueError, TypeError
        A ring cannot hold a name, shape or dtype; the message names the field.
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
        """Make a spec from `Field` objects."""
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
        """The size of one record in the regions of its fields, in bytes."""
        return sum(field.stride_bytes for field in self._fields.values())


_RING_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
# A name with the suffix of a reply pool or of a lower level. With the prefix it is still a valid file name.
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,245}")


def is_segment_label(text: str) -> bool:
    """Return whether a ring, its reply pool or one of its levels can have this name."""
    return _LABEL.fullmatch(text) is not None


def segment_name(ring_name: str) -> str:
    """Return the name of the POSIX shared-memory object of a ring.

    Raises
    ------
    ValueError
        The name has characters that are not allowed, or is too long.
    """
    if not isinstance(ring_name, str) or not _RING_NAME.fullmatch(ring_name):
        raise ValueError(
            f"ring name {_short(ring_name)}: use 1 to 200 letters, digits, dots, hyphens and underscores, "
            "starting with a letter or digit."
        )
    return f"/{SEGMENT_PREFIX}{ring_name}"
