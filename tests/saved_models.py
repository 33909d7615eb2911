"""SavedModels like those of TensorFlow 1, and of Keras 2 with an optimizer that no longer exists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

WEIGHTS = np.float32([[1, 2], [3, 4], [5, 6]])


def with_slots_of_a_lost_optimizer(folder: Path) -> Path:
    """Add the optimizer that Keras 2 wrote to a SavedModel: TensorFlow no longer has its class.

    ``tf.saved_model.load`` makes a plain object of the optimizer, and asks it for `add_slot`.
    """
    saved = _read(folder)
    nodes = saved.meta_graphs[0].object_graph_def.nodes
    variable = next(number for number, node in enumerate(nodes) if node.WhichOneof("kind") == "variable")
    nodes.add().CopyFrom(nodes[variable])
    optimizer = nodes.add()
    optimizer.user_object.identifier = "optimizer"
    optimizer.user_object.version.producer = optimizer.user_object.version.min_consumer = 1
    slot = optimizer.slot_variables.add()
    slot.original_variable_node_id, slot.slot_name, slot.slot_variable_node_id = variable, "m", len(nodes) - 2
    root = nodes[0].children.add()
    root.node_id, root.local_name = len(nodes) - 1, "optimizer"
    (folder / "saved_model.pb").write_bytes(saved.SerializeToString())
    return folder


def _read(folder: Path) -> Any:
    return saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())


class WithTable(tf.Module):
    """A model that looks numbers up in a saved file, and multiplies them by a variable."""

    def __init__(self, vocabulary: Path) -> None:
        super().__init__()
        vocabulary.write_text("zero\none\ntwo\n")
        self.weights = tf.Variable(WEIGHTS)
        rows = tf.lookup.TextFileInitializer(
            str(vocabulary),
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
        )
        self.table = tf.lookup.StaticHashTable(rows, tf.constant("unknown"))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, name="index"), tf.TensorSpec([None, 3], name="x")])
    def lengths(self, index: Any, x: Any) -> Any:
        words = tf.strings.length(self.table.lookup(index))
        return {"length": words, "y": x @ self.weights}

    @tf.function(input_signature=[tf.TensorSpec([None, 3], name="x")])
    def sums(self, x: Any) -> Any:
        return {"sum": tf.reduce_sum(x @ self.weights, axis=1)}


def save_with_table(folder: Path, **signatures: Any) -> Path:
    """Save a `WithTable` with signatures; by default "serving_default" and "sums"."""
    folder.mkdir(parents=True)
    module = WithTable(folder.parent / "vocabulary.txt")
    signatures = signatures or {"serving_default": module.lengths, "sums": module.sums}
    tf.saved_model.save(module, str(folder), signatures=signatures)
    (folder.parent / "vocabulary.txt").unlink()  # the model has its own copy in its assets
    return folder


def expected_of_table(index: np.ndarray, x: np.ndarray) -> dict[str, np.ndarray]:
    lengths = np.int32([len(["zero", "one", "two"][number]) if number < 3 else len("unknown") for number in index])
    return {"length": lengths, "y": x @ WEIGHTS}


def save_as_tensorflow_1(folder: Path, graphs: dict[str, float], default: bool = True) -> Path:
    """Write a SavedModel without objects: a graph for each set of tags ("serve,gpu"), which multiplies by a factor.

    Each has the signatures "scale" and, by `default`, "serving_default"; a table and a variable that need initializers.
    """
    one = tf.compat.v1
    builder = one.saved_model.Builder(str(folder))
    for number, (tags, factor) in enumerate(graphs.items()):
        with tf.Graph().as_default(), one.Session() as session:
            x = one.placeholder(tf.float32, [None, 3], "x")
            keys = tf.constant([0, 1], tf.int64)
            table = tf.lookup.StaticHashTable(
                tf.lookup.KeyValueTensorInitializer(keys, tf.constant([0.5, factor])), -1.0
            )
            weights = one.get_variable("weights", initializer=WEIGHTS, use_resource=number % 2 == 0)
            y = (x * table.lookup(tf.constant(1, tf.int64))) @ weights
            session.run([one.global_variables_initializer(), one.tables_initializer()])
            define = one.saved_model.predict_signature_def
            signatures = {"scale": define({"values": x}, {"scaled": x * factor})}
            if default:
                signatures["serving_default"] = define({"x": x}, {"y": y})
            add = builder.add_meta_graph_and_variables if number == 0 else None
            options = {"signature_def_map": signatures, "main_op": one.tables_initializer()}
            if add is not None:
                add(session, tags.split(","), **options)
            else:
                builder.add_meta_graph(tags.split(","), **options)
    builder.save()
    return folder
