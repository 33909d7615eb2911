"""What a model takes as its inputs, as far as the model or the user says it.

A spec is a nest, as the model nests its inputs, of (shape without the batch axis, dtype); None in a shape is an axis
that the model leaves free. It may not know samples, rings or TensorFlow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..nest import unflatten
from ..record_spec import as_dtype

SpecLeaf = tuple[tuple[int | None, ...], str]
"""The (shape, dtype) of one input."""


@dataclass(frozen=True)
class InputSpec:
    """What the model takes.

    Attributes
    ----------
    specs : nest of (shape, dtype), or None
        None if neither the model nor the user gives it.
    names : sequence of (str or None), or None
        For each leaf of `specs`, in the order of ``tf.nest.flatten`` (dicts by their sorted keys): the model's name for
        it, even if Keras or TensorFlow invented the name.
    is_binding : bool
        The user gave it (``sample_spec=``): each sample becomes of exactly these dtypes.
    arguments : sequence of str
        If `specs` is None: the arguments of a Python function, which takes the entries of a mapping with these names. A
        function with a single argument takes the whole of a mapping without that name.
    options : sequence of str
        Further arguments, which may be left out.
    are_lost : bool
        The names replace unknown names, in whose order the inputs are: a mapping is matched in the order of its keys.
    floatx : str, optional
        If `specs` is None: the dtype to which floats are cast, as Keras does for every model of its own.
    """

    specs: Any
    names: Sequence[str | None] | None = None
    is_binding: bool = False
    arguments: Sequence[str] = ()
    options: Sequence[str] = ()
    are_lost: bool = False
    floatx: str | None = None

    @classmethod
    def bound_to(cls, sample_spec: Any) -> InputSpec:
        """Return the user's spec in plain data.

        Raises
        ------
        TypeError
            A leaf is no (shape, dtype), or has a dtype that a ring cannot hold.
        """
        template, leaves = spec_leaves(sample_spec)
        return cls(unflatten(template, [(shape, as_dtype(dtype).name) for shape, dtype in leaves]), None, True)

    @property
    def settles_all(self) -> bool:
        """Whether the layout of a row, and the nest that the model gets, are known without a sample.

        With several inputs, the structure of the sample tells which array is which input, and the model may get that
        structure.
        """
        return self.is_binding and self.gives_all_shapes and len(spec_leaves(self.specs)[1]) == 1

    @property
    def gives_all_shapes(self) -> bool:
        """Whether all axes of each input are known."""
        return self.specs is not None and all(None not in shape for shape, _ in spec_leaves(self.specs)[1])


def spec_leaves(specs: Any) -> tuple[Any, list[SpecLeaf]]:
    """Take a nest of (shape, dtype) apart; a (shape, dtype) is a leaf.

    Raises
    ------
    TypeError
        A leaf is no (shape, dtype).
    """
    leaves: list[SpecLeaf] = []

    def walk(nest: Any) -> Any:
        if _is_leaf(nest):
            leaves.append((tuple(nest[0]), nest[1]))
            return len(leaves) - 1
        if isinstance(nest, Mapping):
            return {key: walk(value) for key, value in nest.items()}
        if isinstance(nest, tuple) and hasattr(nest, "_fields"):
            return type(nest)(*map(walk, nest))
        if isinstance(nest, (list, tuple)):
            return type(nest)(walk(value) for value in nest)
        raise TypeError(f"sample_spec: {nest!r} is no (shape, dtype), as in ((224, 224, 3), 'uint8').")

    return walk(specs), leaves


def _is_leaf(nest: Any) -> bool:
    if not isinstance(nest, (list, tuple)) or len(nest) != 2 or not isinstance(nest[0], (list, tuple)):
        return False
    return all(length is None or isinstance(length, (int, np.integer)) for length in nest[0]) and not isinstance(
        nest[1], (list, dict, tuple)
    )
