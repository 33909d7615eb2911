"""May a function be run once more than was asked for? Not where that changes a state, or is seen outside.

It may not know what the function is for.
"""

from __future__ import annotations

import itertools
from typing import Any

_HARMLESS = frozenset(
    {
        "Placeholder",
        "VarHandleOp",
        "ReadVariableOp",
        "ResourceGather",
        "ResourceGatherNd",
        "PartitionedCall",
        "StatefulPartitionedCall",
        "If",
        "While",
        "Case",
        "Assert",
        "CheckNumerics",
        "EnsureShape",
        "HashTableV2",
        "LookupTableFindV2",
        "LookupTableSizeV2",
    }
)
"""Operations that TensorFlow calls stateful, and that change nothing."""


def has_side_effects(concrete: Any) -> bool:
    """Tell whether a concrete function may change a variable, draw random numbers, or run Python code.

    What cannot be looked into counts as one that does.
    """
    try:
        from tensorflow.python.framework import op_def_registry  # no public way leads to it

        graph = concrete.graph.as_graph_def()
        nodes = itertools.chain(graph.node, *(function.node_def for function in graph.library.function))
        functions = {function.signature.name for function in graph.library.function}
        for name in {node.op for node in nodes} - _HARMLESS - functions:
            definition = op_def_registry.get(name)
            if definition is None or definition.is_stateful:
                return True
    except (ImportError, AttributeError, ValueError):  # ValueError: a graph of more than 2 GB
        return True
    return False
