"""What a feed hands out: fields and tags of a batch, as tensors over the ring's memory, in a nest of the user's.

It may not know how records are waited for, nor `tf.data`'s datasets.
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
"""In a structure, in the place of a field's name: the 64-bit tags of the records, of shape [rows], dtype uint64."""


def cut_padding(rows: Any, shape: Sequence[int]) -> Any:
    """Cut the padding behind each sample, on the device where this runs.

    Parameters
    ----------
    rows : tf.Tensor
        Of shape [rows, stride in elements]: a padded field as `dataset` hands it over with
        ``cut=False``.
    shape : sequence of int
        Of one sample.

    Returns
    -------
    tf.Tensor
        Of shape [rows, *shape]; a copy.
    """
    return tf.reshape(rows[:, : math.prod(shape)], (-1, *shape))


@dataclass(frozen=True)
class Element:
    """What one element of a feed is.

    Attributes
    ----------
    structure : nest of str
        Names of fields and `TAGS`.
    fields : dict of str to Field or None
        Each name that occurs, once, in the order of `structure`; None for the tags.
    indices : list of int or None
        The place of each of them in the record; None for the tags.
    """

    structure: Any
    fields: dict[str, Field | None]
    indices: list[int | None]

    @classmethod
    def of(cls, spec: RecordSpec, structure: Any, ring_name: str) -> Element:
        """Read a structure; None stands for a dict of all fields.

        Raises
        ------
        ValueError
            The structure is empty, or something in it is neither a field nor `TAGS`.
        """
        fields: dict[str, Field | None] = {}

        def learn(leaf: Any) -> None:
            if leaf != TAGS and (not isinstance(leaf, str) or leaf not in spec):
                raise ValueError(
                    f"structure: {leaf!r} is no field of ring {ring_name!r}. Give a nest of its fields "
                    f"{', '.join(map(repr, spec))}, and ringfeed.tf.TAGS for the tags."
                )
            fields[leaf] = spec.get(leaf)

        if structure is None:
            structure = {name: name for name in spec}
        map_leaves(learn, structure)
        if not fields:
            raise ValueError(
                f"structure {structure!r} names no field; those of ring {ring_name!r} are {', '.join(spec)}."
            )
        order = list(spec)
        return cls(structure, fields, [None if name == TAGS else order.index(name) for name in fields])

    def specs(self, rows: int | None, *, cut: bool) -> dict[str, tf.TensorSpec]:
        """Return what each name's tensor looks like: with `cut` as the field, else as it is handed over."""
        return {name: _tensor_spec(field, rows, cut) for name, field in self.fields.items()}

    def hand_over(self, batch: Batch) -> list[Any]:
        """Return an eager tensor for each of `fields`: over the ring's own memory, padded fields uncut."""
        return [_hand_over(batch, name, field) for name, field in self.fields.items()]

    def arrays(self, batch: Batch, *, cut: bool = False) -> list[npt.NDArray[Any]]:
        """Return what `hand_over` does, as arrays over the ring's memory; with `cut` in the fields' shapes."""
        return [_array(batch, name, field, cut) for name, field in self.fields.items()]

    def nothing(self, rows: int) -> list[Any]:
        """Return what `hand_over` does, for `rows` rows of zeros."""
        return [tf.zeros((rows, *spec.shape[1:]), spec.dtype) for spec in self.specs(None, cut=False).values()]

    def pack(self, tensors: Sequence[Any], *, cut: bool) -> Any:
        """Return the nest of the tensors of `hand_over`, with `cut` in the fields' shapes."""
        named = dict(zip(self.fields, tensors, strict=True))
        for name, field in self.fields.items():
            if cut and field is not None and field.is_padded:
                named[name] = cut_padding(named[name], field.shape)
        return self.nest(named)

    def nest(self, named: Mapping[str, Any]) -> Any:
        """Return the nest with what each name stands for."""
        return map_leaves(named.__getitem__, self.structure)


def _tensor_spec(field: Field | None, rows: int | None, cut: bool) -> tf.TensorSpec:
    if field is None:
        return tf.TensorSpec((rows,), tf.uint64)
    shape = field.shape if cut or not field.is_padded else (field.stride_bytes // field.dtype.itemsize,)
    return tf.TensorSpec((rows, *shape), tf.dtypes.as_dtype(field.dtype))


def _hand_over(batch: Batch, name: str, field: Field | None) -> Any:
    if field is None:
        return tf.convert_to_tensor(batch.tags)
    return tf.experimental.dlpack.from_dlpack(batch.dlpack(name, padded=field.is_padded).__dlpack__())


def _array(batch: Batch, name: str, field: Field | None, cut: bool) -> npt.NDArray[Any]:
    if field is None:
        return batch.tags
    return batch.padded(name) if field.is_padded and not cut else batch[name]


def tensors(batch: Batch, structure: Any = None) -> Any:
    """Return a batch as eager tensors over the ring's own memory.

    Release the batch as soon as you have them: its slots are recycled at the very moment at which
    the last tensor over them is gone, in whatever thread. Nothing is copied but the tags and the
    fields that are padded (whose samples do not fill a multiple of 64 bytes).

    Parameters
    ----------
    batch : Batch
        As `Ring.take` returns it.
    structure : nest of str, optional
        Names of fields, and `TAGS`, in dicts, lists and tuples; one name for a bare tensor. By
        default a dict of all fields.

    Returns
    -------
    nest of tf.Tensor
        Each of shape [rows, *field shape] and the field's dtype.

    Raises
    ------
    ValueError
        `structure` names something that the ring does not have.
    RingFeedError
        The batch was released before.

    Examples
    --------
    >>> with ring.take(max_rows=64) as batch:
    ...     images, labels = ringfeed.tf.tensors(batch, ("image", "label"))
    >>> loss = train_step(images, labels)
    >>> del images, labels  # from here on the slots are free
    """
    spec = batch.ring.spec
    if isinstance(structure, str) and structure in spec:  # the hot loop's case
        return _tensor(batch, structure, spec[structure])
    element = Element.of(spec, structure, batch.ring.name)
    made = {name: _tensor(batch, name, field) for name, field in element.fields.items()}
    return map_leaves(made.__getitem__, element.structure)


def _tensor(batch: Batch, name: str, field: Field | None) -> Any:
    # Without a graph, NumPy cuts the padding sooner than TensorFlow's operations: of 64 numbers in 5 us, not 290.
    return as_tensor(batch[name]) if field is not None and field.is_padded else _hand_over(batch, name, field)
