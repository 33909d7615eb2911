"""A digest of a model, by which engines on one ring tell whether they serve the same model.

It may not know of rings or engines.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from ..tf.models.adapted_model import AdaptedModel
from ..tf.models.output_spec import OutputSpec
from ..tf.models.side_effects import changeable_inputs, unchanged_variables
from .tuning_cache import architecture, fingerprint

_MOST_BYTES = 64 * 2**20
_SAMPLED_VALUES = 1024


def model_digest(adapted: AdaptedModel, outputs: OutputSpec, inputs: Any, concrete: Any) -> int:
    """Return 64 bits, not 0, that are the same for engines of the same model.

    The digest covers the model's name, its architecture or code, its inputs and outputs, and the values of its weights.
    If the weights have more than 64 MiB altogether, it covers some values of each. Weights are those of a Keras model.
    Of a SavedModel or a function they are the variables that it reads and does not change, and the tensors, arrays and
    numbers that it was made with.

    Parameters
    ----------
    adapted : AdaptedModel
    outputs : OutputSpec
    inputs : object
        What the model takes of a record; its text counts.
    concrete : tf.types.experimental.ConcreteFunction
        The function that runs for each batch.
    """
    digest = hashlib.blake2b(digest_size=8)
    model = adapted.keras_model
    made_of = fingerprint(adapted) if model is None else _architecture_of(model)
    for text in (adapted.name, made_of, repr(outputs.fields), repr(inputs)):
        digest.update(text.encode())
    if model is not None:
        for part in _digests(list(getattr(model, "weights", None) or ())):
            digest.update(part)
    else:  # sorted: the order of captures differs between processes, and each replica has its own captures
        for part in sorted(_captured(concrete)):
            digest.update(part)
    return int.from_bytes(digest.digest(), "little") or 1


def _digests(weights: list[Any]) -> Iterator[bytes]:
    takes_all = sum(int(np.prod(weight.shape)) for weight in weights) * 4 <= _MOST_BYTES
    for weight in weights:
        values = np.ravel(np.asarray(weight))
        step = 1 if takes_all else max(len(values) // _SAMPLED_VALUES, 1)
        yield hashlib.blake2b(np.ascontiguousarray(values[::step]).tobytes()).digest()


def _captured(concrete: Any) -> set[bytes]:
    """Return a digest of each variable that a function reads and never changes, and of each tensor that it keeps."""
    try:
        graph = concrete.graph.as_graph_def()
    except ValueError:  # the graph has more than 2 GB
        return set()
    kept = list(concrete.captured_inputs)
    names = [tensor.name.split(":")[0] for tensor in concrete.inputs[len(concrete.inputs) - len(kept) :]]
    changeable = changeable_inputs(graph)
    each = [part for variable in concrete.variables for part in getattr(variable, "values", (variable,))]
    variables = {id(part.handle): part for part in each}  # a distributed variable has a part on each device
    found = []
    for name, tensor in zip(names, kept, strict=True):
        if tensor.dtype == tf.resource:
            if id(tensor) in variables and name not in changeable:
                found.append(variables[id(tensor)])
        elif tensor.dtype not in (tf.variant, tf.string):
            found.append(tensor)
    found += filter(lambda value: value is not None, map(_value_of, unchanged_variables(graph)))
    return {*_digests(found), *_constants_of(graph)}


def _value_of(node: Any) -> Any:
    """Return the value of a variable that stands in the graph itself; None if TensorFlow cannot read it."""
    named = {key: node.attr[key].s.decode() for key in ("container", "shared_name")}
    dtype, shape = tf.as_dtype(node.attr["dtype"].type), tf.TensorShape(node.attr["shape"].shape)
    try:
        return tf.raw_ops.ReadVariableOp(
            resource=tf.raw_ops.VarHandleOp(dtype=dtype, shape=shape, **named), dtype=dtype
        )
    except tf.errors.OpError:
        return None


def _constants_of(graph: Any) -> Iterator[bytes]:
    """Yield a digest of each array and number of a GraphDef. Texts do not count: Keras numbers layer names anew."""
    for node in itertools.chain(graph.node, *(function.node_def for function in graph.library.function)):
        if node.op == "Const" and node.attr["dtype"].type != tf.string.as_datatype_enum:
            yield hashlib.blake2b(node.attr["value"].tensor.SerializeToString(deterministic=True)).digest()


def _architecture_of(model: Any) -> str:
    """Return the architecture without the names of layers: Keras numbers them anew in each process."""
    text = json.dumps(architecture(model), sort_keys=True, default=lambda value: type(value).__qualname__)
    layers = getattr(model, "_flatten_layers", lambda: ())()
    for number, name in enumerate(dict.fromkeys(str(layer.name) for layer in layers)):
        text = text.replace(json.dumps(name), json.dumps(f"layer {number}"))
    return text
