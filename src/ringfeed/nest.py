"""Nests of dicts, lists and tuples, for processes that do not import TensorFlow.

A nest is flattened into its leaves and a template: the same nest with the number of each leaf in the place of the leaf.
Dicts keep their order. It may not know TensorFlow, whose ``tf.nest`` sorts dicts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any


def flatten(nest: Any) -> tuple[Any, list[Any]]:
    """Return the template and the leaves of a nest.

    Parameters
    ----------
    nest : nest of anything
        Mappings, lists, tuples and named tuples are branches; everything else is a leaf. A mapping of another class
        becomes a dict.

    Returns
    -------
    template : nest of int
    leaves : list
        ``leaves[i]`` is the leaf in whose place the template has ``i``.
    """
    leaves: list[Any] = []

    def number(leaf: Any) -> int:
        leaves.append(leaf)
        return len(leaves) - 1

    return map_leaves(number, nest), leaves


def unflatten(template: Any, leaves: Sequence[Any]) -> Any:
    """Return the nest that a template and these leaves describe."""
    return map_leaves(lambda number: leaves[number], template)


def map_leaves(function: Callable[[Any], Any], nest: Any) -> Any:
    """Return the nest with `function` applied to each leaf, in order."""
    if isinstance(nest, dict):
        return {key: map_leaves(function, value) for key, value in nest.items()}
    if isinstance(nest, tuple) and hasattr(nest, "_fields"):
        return type(nest)(*(map_leaves(function, value) for value in nest))
    if isinstance(nest, (list, tuple)):
        return type(nest)(map_leaves(function, value) for value in nest)
    if isinstance(
        nest, Mapping
    ):  # such as collections.UserDict; last, because `isinstance` of an abstract class is slow
        return {key: map_leaves(function, value) for key, value in nest.items()}
    return function(nest)
