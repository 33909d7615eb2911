"""Find the side effects of a traced function: whether it may run an additional time, and which variables it only reads.

This file may not know the purpose of the function.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
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
"""Operations that TensorFlow marks as stateful although they change no state."""


def has_side_effects(concrete: Any) -> bool:
    """Tell whether a concrete function may change a variable, draw random numbers, or run Python code.

    A function that cannot be inspected counts as having side effects.
    """
    try:
        from tensorflow.python.framework import op_def_registry  # TensorFlow has no public access to it

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


_READS = frozenset({"ReadVariableOp", "ResourceGather", "ResourceGatherNd"})
_ARGUMENTS_BEHIND_THE_CHOICE = frozenset({"If", "StatelessIf", "Case", "StatelessCase"})


def changeable_inputs(graph: Any) -> set[str]:
    """Return the names of the inputs of a GraphDef that the graph may change, not only read as a variable."""
    functions = {function.signature.name: function for function in graph.library.function}
    return _touched(graph.node, functions, {})


def unchanged_variables(graph: Any) -> list[Any]:
    """Return the nodes of a GraphDef that represent its own variables, if the graph only reads them.

    Graphs of TensorFlow 1 have variables of their own; functions of TensorFlow 2 receive variables as inputs.
    """
    functions = {function.signature.name: function for function in graph.library.function}
    found = []
    for nodes in (graph.node, *(function.node_def for function in functions.values())):
        of_variables = [node for node in nodes if node.op == "VarHandleOp"]
        if of_variables:
            touched = _touched(nodes, functions, {})
            found += [node for node in of_variables if node.name not in touched]
    return found


def _touched(nodes: Sequence[Any], functions: Mapping[str, Any], known: dict[str, set[int]]) -> set[str]:
    found: set[str] = set()
    for node in nodes:
        if node.op in _READS:
            continue
        names = [name.split(":")[0] for name in node.input if not name.startswith("^")]
        called = _called_by(node, functions)
        if not called:
            found |= set(names)
            continue
        behind = 1 if node.op in _ARGUMENTS_BEHIND_THE_CHOICE else 0
        for name in called:
            found |= {names[number + behind] for number in _touched_arguments(name, functions, known)}
    return found


def _called_by(node: Any, functions: Mapping[str, Any]) -> list[str]:
    if node.op in functions:
        return [node.op]
    if node.op not in _HARMLESS and not node.op.startswith("Stateless"):
        return []  # the operation's use of its inputs is unknown
    values = node.attr.values()
    named = [each.name for value in values for each in (value.func, *value.list.func)]
    return [name for name in named if name in functions]


def _touched_arguments(name: str, functions: Mapping[str, Any], known: dict[str, set[int]]) -> set[int]:
    if name not in known:
        known[name] = set()  # ends the recursion of a function that calls itself
        function = functions[name]
        touched = _touched(function.node_def, functions, known)
        arguments = [argument.name for argument in function.signature.input_arg]
        known[name] = {number for number, argument in enumerate(arguments) if argument in touched}
    return known[name]
