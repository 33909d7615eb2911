"""Cut a Keras model into consecutive stages, each a model over the same layers.

This file may not know rings, devices or where the stages run. The tensors that cross a cut have names and shapes that
`ringfeed.record_spec` accepts for the fields of a record.

Experimental: it uses private attributes of Keras (``_keras_history``, ``_inbound_nodes``, ``_flatten_layers``), which
may change with any release of Keras.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras

from ...record_spec import MAX_NAME_BYTES, RecordSpec


def split_model(model: Any, at: str | Sequence[str]) -> list[Any]:
    """Cut a model at the outputs of some of its layers. Experimental.

    Experimental: it follows the calls of layers through private parts of Keras.

    Parameters
    ----------
    model : keras.Model
        A functional model, or a Sequential model with an Input.
    at : sequence of str
        Names of layers, in the order of the data flow. They must be on the top level: a nested model is one layer.

    Returns
    -------
    list of keras.Model
        ``len(at) + 1`` stages; each stage takes the outputs of the stage before it. The first stage takes the inputs of
        `model`, and the last returns the outputs of `model`. Between stages are dicts of tensors, in the order in which
        the tensors are computed, with names and shapes that can be fields of a record. A stage holds the layers that
        its named layer depends on and that no earlier stage holds; the last stage holds the rest. The layers are shared
        with `model`, not copied.

    Raises
    ------
    ValueError
        A name is unknown, the names are not in order, a stage would be empty, or the model is not made of layers. Or a
        tensor that crosses a cut cannot be a field: its shape is not fixed, or it has no axis of rows.
    TypeError
        `model` is not a Keras model.

    Notes
    -----
    Every tensor that is needed behind a cut crosses it: the layer's output, tensors that skip the layer, inputs and
    outputs that pass by, and masks. A mask that Keras would attach to a tensor crosses as a tensor of its own.

    Axis 0 of a tensor is taken for the rows. A model may fold another axis into axis 0, for example by a Reshape to
    ``(-1, ...)`` of ``keras.ops``. Then the number of rows differs between fields, and the shapes do not show it.

    Experimental: this function uses private attributes of Keras, which may change with any release of Keras.
    """
    names = [at] if isinstance(at, str) else list(at)
    graph = _Graph(model)
    wholes = [graph.needed_for(name) for name in names]
    _require_order(graph, names, wholes)
    stages, done = [], set[int]()
    available = {id(tensor): tensor for tensor in graph.inputs}
    entry: dict[str, Any] | None = None
    for number, whole in enumerate([*wholes, set(map(id, graph.nodes))]):
        nodes = [node for node in graph.nodes if id(node) in whole - done]
        done |= whole
        is_last = number == len(names)
        exits = None if is_last else graph.crossing(done, available, nodes, f"the cut at {names[number]!r}")
        stages.append(_stage(graph, number, nodes, entry, exits))
        entry = exits
    return stages


def _require_order(graph: _Graph, names: list[str], wholes: list[set[int]]) -> None:
    done: set[int] = set()
    before = "the model's inputs"
    for name, whole in zip(names, wholes, strict=True):
        if not any(not node.is_input for node in graph.nodes if id(node) in whole - done):
            what = "comes before it" if before in names and whole < done else "is there already"
            raise ValueError(
                f"model {graph.name!r}: a cut at {name!r} behind {before!r} leaves that stage empty: its output "
                f"{what}. Name each layer once, in the order of the data flow."
            )
        done |= whole
        before = name
    if all(node.is_input or id(node) in done for node in graph.nodes):
        raise ValueError(
            f"model {graph.name!r}: nothing is left behind {before!r} for the last stage; name a layer further up."
        )


class _Graph:
    """The calls of a model's layers and operations ("nodes"), in an order in which they can be executed."""

    def __init__(self, model: Any) -> None:
        if not isinstance(model, keras.Model):
            raise TypeError(f"model {model!r:.80}: only a Keras model of layers can be split. Give a keras.Model.")
        self.name = model.name
        self.inputs: list[Any] = list(getattr(model, "inputs", None) or ())
        if not self.inputs or _is_overridden(model):
            raise ValueError(
                f"model {self.name!r} ({type(model).__name__}) is not a functional model, so the tensors between its "
                "layers are unknown. Make it by keras.Model(inputs, outputs), or Sequential with a keras.Input, and "
                "do not override call."
            )
        self.outputs = list(model.outputs)
        if isinstance(model, keras.Sequential):
            self.input_structure, structure = self.inputs[0], model.compute_output_spec(self.inputs[0])
        else:
            self.input_structure, structure = model.input, model.output
        self.output_structure = keras.tree.pack_sequence_as(structure, self.outputs)
        self.nodes = list(self._ordered())
        self.fields: dict[int, str] = {}
        self._name_fields()

    def _ordered(self) -> Iterator[Any]:
        """Yield each node after the nodes that it depends on; without recursion, because models may be deep."""
        seen: set[int] = set()
        stops = set(map(id, self.inputs))
        stack = [(_node_of(tensor), False) for tensor in reversed([*self.inputs, *self.outputs])]
        while stack:
            node, is_ready = stack.pop()
            if is_ready:
                yield node
            elif id(node) not in seen:
                seen.add(id(node))
                stack.append((node, True))
                needed = [] if any(id(tensor) in stops for tensor in node.outputs) else node.input_tensors
                stack.extend((_node_of(tensor), False) for tensor in reversed(needed))

    def _name_fields(self) -> None:
        """Give each tensor a unique name, derived from the layer that computed it.

        The name becomes the name of a stage's input, so it must differ from the names of all layers. A layer that is
        called again would otherwise have the same name.
        """
        calls = Counter(id(node.operation) for node in self.nodes)
        taken = {node.operation.name for node in self.nodes}
        made: Counter[int] = Counter()
        for node in self.nodes:
            made[id(node.operation)] += 1
            ending = f"_call{made[id(node.operation)]}" if calls[id(node.operation)] > 1 else ""
            for number, tensor in enumerate(node.outputs):
                name = node.operation.name + ending + (f"_{number}" if len(node.outputs) > 1 else "")
                while (short := _shortened(name)) in taken and name != node.operation.name:
                    name += "_"
                taken.add(short)
                self.fields[id(tensor)] = short

    def needed_for(self, layer: str) -> set[int]:
        """Return the ids of all nodes that the outputs of a layer depend on, including the layer's own calls."""
        stack = [node for node in self.nodes if node.operation.name == layer and not node.is_input]
        if not stack:
            raise ValueError(self._unknown(layer))
        needed: set[int] = set()
        ours = set(map(id, self.nodes))
        while stack:
            node = stack.pop()
            if id(node) not in needed and id(node) in ours:
                needed.add(id(node))
                stack.extend(map(_node_of, node.input_tensors))
        return needed

    def _unknown(self, layer: str) -> str:
        names = [node.operation.name for node in self.nodes if not node.is_input]
        nested = [n.operation for n in self.nodes if isinstance(n.operation, keras.Model)]
        inside = [model.name for model in nested if layer in (each.name for each in model._flatten_layers())]
        if inside:
            return f"model {self.name!r}: {layer!r} is inside {inside[0]!r}, which is one layer here; cut at that."
        if layer in (tensor.name for tensor in self.inputs):
            return f"model {self.name!r}: {layer!r} is an input, so its stage would be empty; name a later layer."
        close = difflib.get_close_matches(str(layer), names, 3) or names[:10]
        return f"model {self.name!r} has no layer {layer!r}; there are {', '.join(map(repr, close))}."

    def crossing(self, done: set[int], available: dict[int, Any], nodes: list[Any], where: str) -> dict[str, Any]:
        """Return by name the tensors that exist at a cut and are needed behind it; `available` grows by `nodes`."""
        available.update((id(tensor), tensor) for node in nodes for tensor in node.outputs)
        later = (node.input_tensors for node in self.nodes if id(node) not in done and not node.is_input)
        needed = {id(tensor) for tensors in [*later, self.outputs] for tensor in tensors}
        # An input belongs to no stage, so it is available from the start.
        found = {self.fields[key]: tensor for key, tensor in available.items() if key in needed}
        self._require_fields(found, where)
        return found

    def _require_fields(self, tensors: dict[str, Any], where: str) -> None:
        rows = {tensor.shape[0] for tensor in self.inputs if tensor.shape}
        for name, tensor in tensors.items():
            shape, sparse = tensor.shape, tensor.sparse or getattr(tensor, "ragged", False)
            if not shape or shape[0] not in rows or None in shape[1:] or sparse or _is_optional(tensor):
                what = "sparse" if sparse else "optional" if _is_optional(tensor) else f"of shape {shape}"
                raise ValueError(
                    f"model {self.name!r}: {name!r} passes {where} and is {what}; only tensors of fixed shapes "
                    "behind an axis of rows can pass. Give the model's Input a fixed shape, or cut elsewhere."
                )
        try:
            RecordSpec({name: (tensor.shape[1:], tensor.dtype) for name, tensor in tensors.items()})
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"model {self.name!r}: the tensors that pass {where} are not a record: {error} Cut elsewhere."
            ) from error


def _is_overridden(model: Any) -> bool:
    """Tell whether the model's class overrides the computation of its layers."""
    plain = type(keras.Model(*(keras.Input((1,)),) * 2)), keras.Sequential
    known = {getattr(cls, name) for cls in plain for name in ("call", "predict_step", "__call__")}
    return not all(inspect.getattr_static(type(model), name) in known for name in ("call", "predict_step", "__call__"))


def _is_optional(tensor: Any) -> bool:
    return bool(getattr(tensor._keras_history.operation, "optional", False))


def _node_of(tensor: Any) -> Any:
    operation, index, _ = tensor._keras_history
    return operation._inbound_nodes[index]


def _shortened(name: str) -> str:
    """Return a name that a field can have; a long name is shortened to its beginning and a hash."""
    raw = name.replace("\0", "_").encode()
    if len(raw) <= MAX_NAME_BYTES:
        return raw.decode()
    digest = hashlib.sha256(raw).hexdigest()[:8]
    return raw[: MAX_NAME_BYTES - 9].decode(errors="ignore") + "_" + digest


def _stage(
    graph: _Graph, number: int, nodes: Iterable[Any], entry: dict[str, Any] | None, exits: dict[str, Any] | None
) -> Any:
    """Make a model of some nodes: call their layers again on new inputs."""
    if entry is None:
        inputs = keras.tree.map_structure(_input_like, graph.input_structure)
        values = dict(zip(map(id, graph.inputs), keras.tree.flatten(inputs), strict=True))
    else:
        inputs = {name: _input_like(tensor, name) for name, tensor in entry.items()}
        values = {id(tensor): inputs[name] for name, tensor in entry.items()}
    for node in nodes:
        if node.is_input or all(id(tensor) in values for tensor in node.outputs):
            continue
        arguments, keywords = node.arguments.fill_in(values)
        outputs = node.operation(*arguments, **keywords)
        values.update(zip(map(id, node.outputs), keras.tree.flatten(outputs), strict=True))
    wanted = graph.output_structure if exits is None else exits
    outputs = keras.tree.map_structure(lambda tensor: values[id(tensor)], wanted)
    return keras.Model(inputs, outputs, name=f"{graph.name}_stage_{number}")


def _input_like(tensor: Any, name: str | None = None) -> Any:
    return keras.Input(
        batch_shape=tensor.shape,
        dtype=tensor.dtype,
        sparse=tensor.sparse,
        name=name or tensor.name,
        optional=_is_optional(tensor),
    )
