"""Adapt TensorFlow functions, signatures and plain callables to an `AdaptedModel`.

This file may not know Keras, files or rings.
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
    """Adapt a callable.

    Parameters
    ----------
    function : callable
        A tf.function (including a restored one), a signature, or any callable on tensors.
    name : str
        The model's name in messages.
    owner : object
        Object to keep alive: a signature holds its variables only while its module lives.
    order : sequence of (str or None), optional
        The order in which the model takes its inputs, for a signature, whose inputs have only names.

    Notes
    -----
    The inputs have the names of the declared TensorSpecs, else those of the Python arguments.
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

    several = not getattr(function, "input_signature", None) and len(getattr(function, "concrete_functions", ())) > 1
    by_name_only = bool(keywords) and isinstance(expected, dict)
    return _DeclaredFunction(name, expected, names, call, by_name_only, several).adapted(owner)


class _DeclaredFunction:
    """A function with declared inputs: it arranges, casts and checks its arguments."""

    def __init__(
        self,
        name: str,
        expected: Any,
        names: list[str | None],
        call: Callable[[Any], Any],
        by_name_only: bool,
        has_several_shapes: bool,
    ) -> None:
        self._name = name
        self._expected = expected
        self._names = names
        self._call = call
        self._by_name_only = by_name_only
        self._has_several_shapes = has_several_shapes
        self._specs = tf.nest.flatten(expected)
        self._dtypes = DeclaredDtypes(self._specs, names, f"model {name!r}")

    def adapted(self, owner: Any) -> AdaptedModel:
        inputs = ModelInputs.of(self._expected, self._names)
        return AdaptedModel(
            self._name, self.step, specs_of(self._expected), owner=owner, inputs=inputs, fit=self.fit_dtypes
        )

    def arrange(self, data: Any) -> Any:
        inputs = unpack_inputs(data)
        if self._by_name_only and not isinstance(inputs, Mapping):
            listed = ", ".join(map(repr, self._names))
            raise ValueError(f"model {self._name!r} takes its inputs by name alone: {listed}. Give a dict of them.")
        return fit_structure(inputs, self._expected, f"model {self._name!r}", self._names)

    def fit_dtypes(self, data: Any) -> Any:
        if self._dtypes.take_all(tf.nest.flatten(data)):
            return data
        inputs = self.arrange(data)
        return pack_inputs(_repacked(inputs, self._dtypes.fit(tf.nest.flatten(inputs))))

    def step(self, data: Any) -> Any:
        inputs = self.arrange(data)
        leaves = tf.nest.flatten(inputs)
        if self._has_several_shapes and any(map(_leaves_length_open, leaves, self._specs)):
            raise ValueError(
                f"model {self._name!r} was saved with a function for each of several shapes, and the free number of "
                "rows does not select one of them. Save it with an input_signature whose axis 0 is None."
            )
        # The cast is in the graph, so the inputs travel to the device in their smaller dtypes.
        cast = [self._dtypes.cast(number, leaf) for number, leaf in enumerate(leaves)]
        return self._call(_repacked(inputs, list(map(_with_checked_shape, cast, self._specs))))


def _repacked(nest: Any, leaves: list[Any]) -> Any:
    return tf.nest.pack_sequence_as(nest, leaves) if tf.nest.is_nested(nest) else leaves[0]


def _with_checked_shape(value: Any, spec: Any) -> Any:
    """Let the graph check the shape if the tensor leaves a declared length open.

    A function that was declared for one number of rows may have computed with it. TensorFlow accepts a tensor whose
    number of rows is open in the graph, and returns wrong numbers.
    """
    return tf.ensure_shape(value, spec.shape) if _leaves_length_open(value, spec) else value


def _leaves_length_open(value: Any, spec: Any) -> bool:
    """Tell whether a tensor has an unknown length where the spec declares a fixed one."""
    if not isinstance(value, tf.Tensor) or not isinstance(spec, tf.TensorSpec):
        return False
    shape, declared = value.shape, spec.shape
    if declared.rank is None or not shape.is_compatible_with(declared):
        return False  # TensorFlow itself reports a contradiction
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
        names = list(arguments)  # the specs share a name, and the arguments' names differ
    return expected, names, lambda inputs: function(*inputs, **options)


def _with_keywords(
    function: Any, expected: dict[str, Any], order: Sequence[str | None] | None
) -> tuple[Any, list[str | None], _Call]:
    """Return (expected nest, names, call) of a signature: called by name, or by position if the order is known."""
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
    """Return (nests of TypeSpec given by position, their arguments' names, TypeSpecs given by keyword).

    Returns None if the function declares no inputs.
    """
    signature = getattr(function, "input_signature", None)  # a tf.function has it, also when it was restored
    if signature:
        names = _argument_names(function, len(signature))
        return tuple(signature), names[: len(signature)], {}
    concrete = function
    if not hasattr(concrete, "structured_input_signature"):
        candidates = getattr(function, "concrete_functions", None) or []  # a restored tf.function has some
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
    """Return the names of the first `count` Python arguments; None for an unknown name."""
    parameters = getattr(getattr(function, "function_type", None), "parameters", {})
    names = [str(name) for name in parameters if name != "self"]
    return (*names, *[None] * count)[:count]


def _is_tensor_nest(argument: Any) -> bool:
    leaves = tf.nest.flatten(argument)
    return bool(leaves) and all(isinstance(leaf, tf.TypeSpec) for leaf in leaves)


def flat_argument_names(function: Any) -> list[str | None]:
    """Return the names of all tensors that a function takes by position, in order."""
    declared = _declared_signature(function)
    if declared is None:
        return []
    return [getattr(spec, "name", None) for spec in tf.nest.flatten(declared[0])]


def _takes_training(function: Any) -> bool:
    """Tell whether a restored function has the argument `training`, as models saved by Keras 2 have."""
    if hasattr(function, "structured_input_signature"):  # in a concrete function, `training` is already bound
        return False
    return "training" in getattr(getattr(function, "function_type", None), "parameters", {})


def _unnamed_outputs(outputs: Any) -> Any:
    """Remove the names that TensorFlow generates for a signature's outputs: return output_0, or a list of outputs."""
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
