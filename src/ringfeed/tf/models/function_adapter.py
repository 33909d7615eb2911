"""TensorFlow functions, signatures and plain callables as the form of a model.

It may not know of Keras, of files or of rings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from ..tensors.structure import fit_structure, is_generated, natural_key, pack_inputs, repeated_names, unpack_inputs
from .adapted_model import AdaptedModel, ModelInputs, leaf_names, specs_of
from .call_arguments import CallArguments
from .declared_dtypes import DeclaredDtypes


def adapt_function(function: Any, name: str, owner: Any, order: Sequence[str | None] | None = None) -> AdaptedModel:
    """Return the form of a callable.

    Parameters
    ----------
    function : callable
        A tf.function, also a restored one, a signature, or any callable on tensors.
    name : str
        What messages call it.
    owner : object
        What must stay alive: a signature holds its variables only while its module lives.
    order : sequence of (str or None), optional
        Of a signature, whose inputs have names alone: the order in which the model takes them.

    Notes
    -----
    The inputs have the names of the TensorSpecs that were declared, else those of the Python arguments.
    """
    owner = (function, owner)
    declared = _declared_signature(function)
    if declared is None:
        return _from_undeclared(function, name, owner)
    positional, arguments, keywords = declared
    options = {"training": False} if _takes_training(function) else {}
    if keywords:
        expected, names, call = _with_keywords(function, keywords, order)
    else:
        expected, names, call = _with_positions(function, positional, arguments, options)

    has_order = not (keywords and isinstance(expected, dict))
    several = not getattr(function, "input_signature", None) and len(getattr(function, "concrete_functions", ())) > 1

    specs = tf.nest.flatten(expected)
    dtypes = DeclaredDtypes(specs, names, f"model {name!r}")

    def arranged(data: Any) -> Any:
        inputs = unpack_inputs(data)
        if not has_order and not isinstance(inputs, Mapping):
            listed = ", ".join(map(repr, names))
            raise ValueError(f"model {name!r} takes its inputs by name alone: {listed}. Give a dict of them.")
        return fit_structure(inputs, expected, f"model {name!r}", names)

    def fit(data: Any) -> Any:
        if dtypes.take_all(tf.nest.flatten(data)):
            return data
        inputs = arranged(data)
        return pack_inputs(_repacked(inputs, dtypes.fit(tf.nest.flatten(inputs))))

    def step(data: Any) -> Any:
        inputs = arranged(data)
        leaves = tf.nest.flatten(inputs)
        if several and any(map(_is_freer, leaves, specs)):
            raise ValueError(
                f"model {name!r} was saved with a function for each of several shapes: which one is called cannot be "
                "told for a free number of rows. Save it with an input_signature whose axis 0 is None."
            )
        cast = [dtypes.cast(number, leaf) for number, leaf in enumerate(leaves)]  # here the fewest bytes have travelled
        return call(_repacked(inputs, list(map(_of_declared_rows, cast, specs))))

    return AdaptedModel(name, step, specs_of(expected), owner=owner, inputs=ModelInputs.of(expected, names), fit=fit)


def _repacked(nest: Any, leaves: list[Any]) -> Any:
    return tf.nest.pack_sequence_as(nest, leaves) if tf.nest.is_nested(nest) else leaves[0]


def _of_declared_rows(value: Any, spec: Any) -> Any:
    """Have the graph look at the shape, where it leaves open what was declared as one length.

    A function that was declared for one number of rows may have computed with it. TensorFlow lets a tensor pass whose
    number is free in the graph, and answers with wrong numbers.
    """
    return tf.ensure_shape(value, spec.shape) if _is_freer(value, spec) else value


def _is_freer(value: Any, spec: Any) -> bool:
    """Tell whether a tensor leaves open what was declared as one length."""
    if not isinstance(value, tf.Tensor) or not isinstance(spec, tf.TensorSpec):
        return False
    shape, declared = value.shape, spec.shape
    if declared.rank is None or not shape.is_compatible_with(declared):
        return False  # where they contradict, TensorFlow says so
    if shape.rank is None:
        return True
    return any(length is None and fixed is not None for length, fixed in zip(shape, declared, strict=True))


_Call = Callable[[Any], Any]


def _with_positions(
    function: Any, expected: tuple[Any, ...], arguments: tuple[str | None, ...], options: dict[str, Any]
) -> tuple[Any, list[str | None], _Call]:
    if len(expected) == 1:
        return expected[0], leaf_names(expected[0], arguments[0]), lambda inputs: function(inputs, **options)
    names = [name for each, argument in zip(expected, arguments, strict=True) for name in leaf_names(each, argument)]
    if repeated_names(names) and len(names) == len(arguments) and None not in arguments:
        names = list(arguments)  # of specs of one name: these differ
    return expected, names, lambda inputs: function(*inputs, **options)


def _with_keywords(
    function: Any, expected: dict[str, Any], order: Sequence[str | None] | None
) -> tuple[Any, list[str | None], _Call]:
    """Return how a signature is called: by name, and by position where it is known which is which."""
    names = sorted(expected, key=natural_key)
    if len(names) == 1:
        return expected[names[0]], [names[0]], lambda inputs: _unnamed_outputs(function(**{names[0]: inputs}))
    ordered = [name for name in order or () if name is not None]
    if len(ordered) == len(names) and set(ordered) == set(names):
        names = ordered
    if names is ordered or all(map(is_generated, names)):
        specs = tuple(tf.TensorSpec(expected[name].shape, expected[name].dtype, name) for name in names)
        return specs, list(names), lambda inputs: _unnamed_outputs(function(**dict(zip(names, inputs, strict=True))))

    return expected, [*sorted(expected)], lambda inputs: _unnamed_outputs(function(**inputs))


def _declared_signature(function: Any) -> tuple[tuple[Any, ...], tuple[str | None, ...], dict[str, Any]] | None:
    """Return the nests of TypeSpec given by position, their arguments' names, and the TypeSpecs given by keyword.

    None where the function takes anything.
    """
    signature = getattr(function, "input_signature", None)  # a tf.function's, also when restored
    if signature:
        names = _argument_names(function, len(signature))
        return tuple(signature), names[: len(signature)], {}
    concrete = function
    if not hasattr(concrete, "structured_input_signature"):
        candidates = getattr(function, "concrete_functions", None) or []  # of a restored tf.function
        if not candidates:
            return None
        concrete = candidates[0]
    arguments, keywords = concrete.structured_input_signature
    names = _argument_names(function, len(arguments))
    tensors = [number for number, argument in enumerate(arguments) if _is_tensor_nest(argument)]
    if not tensors:
        return (), (), dict(keywords)
    return tuple(arguments[number] for number in tensors), tuple(names[number] for number in tensors), {}


def _argument_names(function: Any, count: int) -> tuple[str | None, ...]:
    """Return the names of the first Python arguments, as far as they are known."""
    parameters = getattr(getattr(function, "function_type", None), "parameters", {})
    names = [str(name) for name in parameters if name != "self"]
    return (*names, *[None] * count)[:count]


def _is_tensor_nest(argument: Any) -> bool:
    leaves = tf.nest.flatten(argument)
    return bool(leaves) and all(isinstance(leaf, tf.TypeSpec) for leaf in leaves)


def flat_argument_names(function: Any) -> list[str | None]:
    """Return the names of all tensors that a function takes by position, in their order."""
    declared = _declared_signature(function)
    if declared is None:
        return []
    return [getattr(spec, "name", None) for spec in tf.nest.flatten(declared[0])]


def _takes_training(function: Any) -> bool:
    """Tell whether a restored function has the argument `training`, as models saved by Keras 2 do."""
    if hasattr(function, "structured_input_signature"):  # a concrete one: that is settled
        return False
    return "training" in getattr(getattr(function, "function_type", None), "parameters", {})


def _unnamed_outputs(outputs: Any) -> Any:
    """Undo the names that TensorFlow invents for a signature's outputs: output_0 alone, or a list of them."""
    if not isinstance(outputs, dict) or not outputs:
        return outputs
    names = [f"output_{number}" for number in range(len(outputs))]
    if set(names) != set(outputs):
        return outputs
    return outputs["output_0"] if len(names) == 1 else [outputs[name] for name in names]


def _from_undeclared(function: Any, name: str, owner: Any) -> AdaptedModel:
    arguments = CallArguments.of(getattr(function, "python_function", function))

    def step_of(target: Callable[..., Any]) -> Callable[[Any], Any]:
        return lambda data: arguments.call(target, unpack_inputs(data), f"model {name!r}")

    names = arguments.required
    inputs = None
    if names:
        template: Any = 0 if len(names) == 1 else tuple(range(len(names)))
        inputs = ModelInputs(template, names, takes_dict=len(names) == 1, optional=arguments.optional)
    if isinstance(function, tf.types.experimental.PolymorphicFunction):
        return AdaptedModel(name, step_of(function), owner=owner, inputs=inputs)
    eager = step_of(function)
    return AdaptedModel(name, step_of(tf.function(function)), eager_step=eager, owner=owner, inputs=inputs)
