"""The element of a feed: the fields and tags of a batch as tensors over the ring's memory, in the user's nest.

This file may not know how a feed waits for records, nor the datasets of `tf.data`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import tensorflow as tf

from ...nest import map_leaves
from .zero_copy import as_tensor

if TYPE_CHECKING:
    from ..._core import Batch
    from ...record_spec import Field, RecordSpec

TAGS = "ringfeed.tf.TAGS"
"""Stands in a structure for a field's name: the 64-bit tags of the records, of shape [rows] and dtype uint64."""


def cut_padding(rows: Any, shape: Sequence[int]) -> Any:
    """Cut the padding behind each sample, on the device where this operation runs.

    Parameters
    ----------
    rows : tf.Tensor
        Tensor of shape [rows, stride in elements]: a padded field as `dataset` yields it with ``cut=False``.
    shape : sequence of int
        Shape of one sample.

    Returns
    -------
    tf.Tensor
        A copy of shape [rows, *shape].
    """
    return tf.reshape(rows[:, : math.prod(shape)], (-1, *shape))


@dataclass(frozen=True)
class Element:
    """The structure of one element of a feed, and the fields that it holds.

    Attributes
    ----------
    structure : nest of str
        Names of fields, and `TAGS`.
    fields : dict of str to Field or None
        Each name that occurs, once, in the order of `structure`; None for the tags.
    indices : list of int or None
        The index of each of `fields` in the record; None for the tags.
    """

    structure: Any
    fields: dict[str, Field | None]
    indices: list[int | None]

    @classmethod
    def of(cls, spec: RecordSpec, structure: Any, ring_name: str) -> Element:
        """Make an element of a structure; None stands for a dict of all fields.

        Raises
        ------
        ValueError
            The structure is empty, or a leaf of it is neither a field nor `TAGS`.
        """
        fields: dict[str, Field | None] = {}

        def add_leaf(leaf: Any) -> None:
            if leaf != TAGS and (not isinstance(leaf, str) or leaf not in spec):
                raise ValueError(
                    f"structure: {leaf!r} is no field of ring {ring_name!r}. Give a nest of its fields "
                    f"{', '.join(map(repr, spec))}, and ringfeed.tf.TAGS for the tags."
                )
            fields[leaf] = spec.get(leaf)

        if structure is None:
            structure = {name: name for name in spec}
        map_leaves(add_leaf, structure)
        if not fields:
            raise ValueError(
                f"structure {structure!r} names no field. Name fields of ring {ring_name!r}: {', '.join(spec)}."
            )
        order = list(spec)
        return cls(structure, fields, [None if name == TAGS else order.index(name) for name in fields])

    def specs(self, rows: int | None, *, cut: bool) -> dict[str, tf.TensorSpec]:
        """Return the tensor spec of each name: in the field's shape with `cut`, else padded as in the ring's memory."""
        return {name: _tensor_spec(field, rows, cut) for name, field in self.fields.items()}

    def tensors(self, batch: Batch) -> list[Any]:
        """Return an eager tensor over the ring's own memory for each of `fields`; padded fields keep their padding."""
        return [_borrowed_tensor(batch, name, field) for name, field in self.fields.items()]

    def arrays(self, batch: Batch, *, cut: bool = False) -> list[npt.NDArray[Any]]:
        """Return an array over the ring's memory for each of `fields`; with `cut`, in the field's shape."""
        return [_array(batch, name, field, cut) for name, field in self.fields.items()]

    def zeros(self, rows: int) -> list[Any]:
        """Return tensors of the shapes that `tensors` returns, with `rows` rows of zeros."""
        return [tf.zeros((rows, *spec.shape[1:]), spec.dtype) for spec in self.specs(None, cut=False).values()]

    def pack(self, tensors: Sequence[Any], *, cut: bool) -> Any:
        """Return the nest of tensors that `tensors` returned; with `cut`, in the fields' shapes."""
        named = dict(zip(self.fields, tensors, strict=True))
        for name, field in self.fields.items():
            if cut and field is not None and field.is_padded:
                named[name] = cut_padding(named[name], field.shape)
        return self.nest(named)

    def nest(self, named: Mapping[str, Any]) -> Any:
        """Return the structure with each name replaced by its value in `named`."""
        return map_leaves(named.__getitem__, self.structure)


def _tensor_spec(field: Field | None, rows: int | None, cut: bool) -> tf.TensorSpec:
    if field is None:
        return tf.TensorSpec((rows,), tf.uint64)
    shape = field.shape if cut or not field.is_padded else (field.stride_bytes // field.dtype.itemsize,)
    return tf.TensorSpec((rows, *shape), tf.dtypes.as_dtype(field.dtype))


def _borrowed_tensor(batch: Batch, name: str, field: Field | None) -> Any:
    if field is None:
        return tf.convert_to_tensor(batch.tags)
    return tf.experimental.dlpack.from_dlpack(batch.dlpack(name, padded=field.is_padded).__dlpack__())


def _array(batch: Batch, name: str, field: Field | None, cut: bool) -> npt.NDArray[Any]:
    if field is None:
        return batch.tags
    return batch.padded(name) if field.is_padded and not cut else batch[name]


def tensors(batch: Batch, structure: Any = None) -> Any:
    """Return a batch as eager tensors over the ring's own memory.

    Release the batch as soon as you have the tensors. Its slots are recycled at the moment when the last tensor over
    them is deleted, in any thread. Only the tags and padded fields, whose samples do not fill a multiple of 64 bytes,
    are copied.

    Parameters
    ----------
    batch : Batch
        A batch that `Ring.take` returned.
    structure : nest of str, optional
        Names of fields, and `TAGS`, in dicts, lists and tuples; a single name returns a single tensor. The default is a
        dict of all fields.

    Returns
    -------
    nest of tf.Tensor
        Each tensor has shape [rows, *field shape] and the field's dtype.

    Raises
    ------
    ValueError
        `structure` names a field that the ring does not have.
    RingFeedError
        The batch was already released.

    Examples
    --------
    >>> with ring.take(max_rows=64) as batch:
    ...     images, labels = ringfeed.tf.tensors(batch, ("image", "label"))
    >>> loss = train_step(images, labels)
    >>> del images, labels  # now the slots are free
    """
    spec = batch.ring.spec
    if isinstance(structure, str) and structure in spec:  # the fast path of a hot loop
        return _tensor(batch, structure, spec[structure])
    element = Element.of(spec, structure, batch.ring.name)
    made = {name: _tensor(batch, name, field) for name, field in element.fields.items()}
    return map_leaves(made.__getitem__, element.structure)


def _tensor(batch: Batch, name: str, field: Field | None) -> Any:
    # Without a graph, NumPy cuts the padding faster than TensorFlow's operations: 64 numbers take 5 us, not 290.
    return as_tensor(batch[name]) if field is not None and field.is_padded else _borrowed_tensor(batch, name, field)
