"""Arrays become tensors over the same memory, or over one aligned copy of it.

It may not know of models, rings or batches. TensorFlow borrows memory through DLPack without a copy when it starts on
64 bytes, holds its elements without gaps and in native byte order. Everything else is copied once
into memory of that kind, which is two to three times as fast as ``tf.constant`` (measured: 3.6
against 8.7 us for 512 bytes, 5.2 against 9.0 ms for 38 MB), and casts on the way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ...record_spec import ALIGNMENT_BYTES

# What both NumPy's and TensorFlow's DLPack know.
_BORROWED_DTYPES = frozenset(
    np.dtype(f"{kind}{size}")
    for kind, sizes in {"b": "1", "i": "1248", "u": "1248", "f": "248"}.items()
    for size in sizes
) | {np.dtype("complex64"), np.dtype("complex128")}


@dataclass(frozen=True)
class PaddedRows:
    """Rows with padding behind each, which the model's function cuts to shape on its device.

    Handed over without a copy where the dense view of such rows, which has gaps, would need one.

    Attributes
    ----------
    array : numpy.ndarray or tf.Tensor
        Of shape (rows, elements with padding); a ring's ``batch.padded(name)`` or a tensor over it.
    sample_shape : tuple of int
        Of one sample: the first ``prod(sample_shape)`` elements of each row.
    """

    array: Any
    sample_shape: tuple[int, ...]


class _Writeable:
    """Shows a read-only array as a writeable one, and keeps it alive.

    DLPack before version 1.0, which is all that TensorFlow takes, can not say "read-only", so NumPy
    refuses to export such arrays. TensorFlow does not write into memory that it borrowed.
    """

    __slots__ = ("__array_interface__", "array")

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self.array = array
        self.__array_interface__ = {**array.__array_interface__, "data": (_address(array), False)}


def _address(array: npt.NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])


def can_borrow(array: npt.NDArray[Any]) -> bool:
    """Tell whether TensorFlow can use the array's own memory.

    A start off 64 bytes is not checked by TensorFlow: it ends the process.
    """
    return (
        array.flags.c_contiguous and array.dtype.isnative and array.size > 0 and _address(array) % ALIGNMENT_BYTES == 0
    )


def aligned_copy(array: npt.NDArray[Any], dtype: npt.DTypeLike | None = None) -> npt.NDArray[Any]:
    """Copy an array to memory that TensorFlow can borrow.

    Parameters
    ----------
    array : numpy.ndarray
        Of any layout.
    dtype : dtype-like, optional
        To cast to, as ``array.astype(dtype)`` does; the array's own by default.

    Returns
    -------
    numpy.ndarray
        C-contiguous, in native byte order, starting on 64 bytes.
    """
    result = aligned_empty(array.shape, array.dtype if dtype is None else dtype)
    np.copyto(result, array, casting="unsafe")
    return result


def aligned_empty(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return an array of memory that TensorFlow can borrow, not filled; in native byte order."""
    dtype = np.dtype(dtype).newbyteorder("=")
    memory = np.empty(math.prod(shape) * dtype.itemsize + ALIGNMENT_BYTES, np.uint8)
    return np.ndarray(shape, dtype, memory, -_address(memory) % ALIGNMENT_BYTES)


def _borrow(array: npt.NDArray[Any]) -> Any:
    exported = array if array.flags.writeable else np.asarray(_Writeable(array))
    return tf.experimental.dlpack.from_dlpack(exported.__dlpack__())


def as_tensor(value: Any, dtype: npt.DTypeLike | None = None) -> Any:
    """Return an array or tensor as a tensor, over the array's own memory where TensorFlow can borrow it.

    Parameters
    ----------
    value : numpy.ndarray, tensor or composite tensor, or anything that ``numpy.asarray`` takes
        The array stays alive as long as the tensor does. Write into it only after that.
    dtype : dtype-like, optional
        Cast a NumPy array to this; tensors stay as they are.

    Returns
    -------
    tf.Tensor, or the composite tensor that was given

    Raises
    ------
    ValueError
        TensorFlow has no tensor for the array's elements.
    """
    if not isinstance(value, np.ndarray):
        if isinstance(value, tf.Variable):
            return tf.convert_to_tensor(value)
        if tf.is_tensor(value):
            return value
        value = np.asarray(value)
    wanted = value.dtype if dtype is None else np.dtype(dtype)
    if not wanted.isnative:
        wanted = wanted.newbyteorder("=")
    is_bfloat16 = wanted not in _BORROWED_DTYPES and wanted.name == "bfloat16"
    if (wanted not in _BORROWED_DTYPES and not is_bfloat16) or value.size == 0:
        return _copied_by_tensorflow(value, wanted)
    if value.dtype != wanted or not can_borrow(value):
        value = aligned_copy(value, wanted)
    try:
        if is_bfloat16:  # NumPy's DLPack does not know it; a bitcast keeps the memory
            return tf.bitcast(_borrow(value.view(np.uint16)), tf.bfloat16)
        return _borrow(value)
    except (tf.errors.OpError, BufferError, RuntimeError):  # a dtype that an older TensorFlow's DLPack lacks
        return tf.constant(value)


def _copied_by_tensorflow(array: npt.NDArray[Any], dtype: np.dtype[Any]) -> Any:
    try:
        return tf.constant(array if array.dtype == dtype else array.astype(dtype))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"an array of dtype {array.dtype} can not become a tensor ({error}); give numbers, booleans or strings."
        ) from None
