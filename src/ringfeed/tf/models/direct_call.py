"""Call a traced function without the overhead of ``ConcreteFunction.__call__``.

This file may not know what the function does. ``ConcreteFunction.__call__`` prepares for gradients, tapes and
structured arguments; the operation below it runs the same graph with the same options. Measured with TensorFlow 2.21
for five small operations: 25 us instead of 130 us. Both take five times as long if other processes used the core and
its caches in between. The difference is constant, so it is negligible for a large model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def direct_call(concrete: Any) -> Callable[..., list[Any]]:
    """Return a function from a concrete function's input tensors to the flat list of its output tensors.

    With a GPU, the returned function uses the concrete function's own call: the operation would be placed on the GPU as
    a whole, with all its inputs and outputs.

    Parameters
    ----------
    concrete : tf.types.experimental.ConcreteFunction
        A function of positional tensors only; it is kept alive.

    Notes
    -----
    Gradients are not recorded. Variables are read at each call, as usual. The function uses the TensorFlow options that
    were set when `direct_call` was called. An error describes the failure in the graph, but not the model's line that
    caused it.
    """
    if tf.config.list_logical_devices("GPU"):
        return lambda *tensors: tf.nest.flatten(concrete(*tensors))
    options = _options()
    dtypes = [output.dtype for output in concrete.outputs]
    captured = list(concrete.captured_inputs)
    changes = bool(getattr(concrete.graph, "deferred_external_captures", ()))  # these are read again at each call

    def call(*tensors: Any) -> list[Any]:
        inputs = [*tensors, *(concrete.captured_inputs if changes else captured)]
        outputs: list[Any] = tf.raw_ops.StatefulPartitionedCall(
            args=inputs, Tout=dtypes, f=concrete, config_proto=options
        )
        return outputs

    return call


def direct_step(concrete: Any) -> Callable[..., Any]:
    """Return a function from a concrete function's input tensors to the nest of its outputs.

    If a direct call fails, the concrete function is called once more by its own call, whose error names the line of the
    model; a model with state sees that batch twice. If that call succeeds, it is used from then on. A function whose
    inputs or outputs are not all tensors is never called directly.
    """
    inputs, template = concrete.structured_input_signature, concrete.structured_outputs
    own_call: Callable[..., Any] = concrete
    if not all(isinstance(leaf, (tf.Tensor, tf.TensorSpec)) for leaf in tf.nest.flatten((inputs, template))):
        return own_call
    call = direct_call(concrete)
    is_nested, works = tf.nest.is_nested(template), True

    def step(*tensors: Any) -> Any:
        nonlocal works
        if not works:
            return own_call(*tensors)
        try:
            outputs = call(*tensors)
        except tf.errors.OpError:
            result = own_call(*tensors)
            works = False
            return result
        return tf.nest.pack_sequence_as(template, outputs) if is_nested else outputs[0]

    step.concrete = concrete  # type: ignore[attr-defined]
    return step


def _options() -> bytes:
    """Return the options that the function's own call passes: soft placement and the optimizer's options."""
    try:
        from tensorflow.python.eager import context  # TensorFlow has no public access to all of these options

        options: bytes = context.context().function_call_options.config_proto_serialized
    except (ImportError, AttributeError):
        placement = tf.config.get_soft_device_placement()
        options = tf.compat.v1.ConfigProto(allow_soft_placement=placement).SerializeToString()
    return options
