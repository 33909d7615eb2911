"""Run a model of any kind with one call per batch: from arrays to arrays.

This file may not know rings, workers or where the batches come from. Axis 0 of a batch is left open when the model is
traced, so that the same function runs any number of rows. The function also copies the outputs to the host.
"""

from __future__ import annotations

import functools
import math
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from ..tensors.outputs import all_to_numpy
from ..tensors.structure import pack_inputs, structure_key
from ..tensors.zero_copy import PaddedRows, as_tensor
from .adapt_model import AdaptedModel, adapt_model
from .declared_dtypes import LossyCast
from .direct_call import direct_step
from .side_effects import has_side_effects

_Step = Callable[..., Any]

_MOST_ROW_COUNTS = 64
"""Number of functions for one number of rows that are kept; the least recently used function is dropped first."""


class ModelRunner:
    """Runs a model on batches, with the same results as ``keras.Model.predict``.

    Parameters
    ----------
    model : keras.Model, path, SavedModel folder, tf.function or callable
        - A Keras model (functional, Sequential or subclassed), built or not. Its `predict_step` is called with
          ``training=False``, eagerly if the model is compiled to run eagerly.
        - The path of a ``.keras`` or ``.h5`` file, or of another file that ``keras.models.load_model`` accepts. Its
          optimizer, losses and metrics are not restored.
        - The folder of a SavedModel, or the object loaded from it. The runner calls the ``serve`` endpoint that
          ``model.export`` writes, else the object itself if it is callable, else its ``serving_default`` signature. If
          TensorFlow cannot restore the objects, for example those of Keras 2 with an optimizer, the signature is loaded
          from the graph and the variables.
        - A tf.function or a callable on tensors. If it has several required arguments, the inputs are passed one by
        one.
          A callable that cannot be traced runs eagerly, with a warning.
    jit_compile : bool
        Compile the model with XLA. XLA compiles again for each number of rows, so use it if all batches have one size.
    signature : str, optional
        The signature of a SavedModel to call.
    tags : str or sequence of str, optional
        Tags of the graph to load from a SavedModel's folder. The default is the only graph, else the one tagged
        "serve".

    Attributes
    ----------
    name : str
        The model's name, for messages.
    input_specs : nest of (shape, dtype name), or None
        The shape of one sample (None for an axis of open length) and the dtype, in the structure of the inputs. None if
        the model does not declare its inputs (a subclassed model, a callable).
    input_names : list of (str or None), or None
        The model's names for the leaves of `input_specs`, in the order of ``tf.nest.flatten``. A name is None if the
        input has none, or if Keras or TensorFlow generated it ("input_layer_3"). The list is None if the model does not
        declare its inputs. A function of several arguments has the names of its arguments, although its shapes are
        unknown.
    keras_model : keras.Model or None
        The model, if it is a Keras model.
    adapted : AdaptedModel
        The model as a function.
    traces : int
        Number of functions that were traced so far.

    Raises
    ------
    FileNotFoundError, ValueError, TypeError
        The path or object is not a model; the message lists the accepted kinds. Or there is no such signature, or no
        graph of these tags; the message lists the existing ones.
    RuntimeError
        Keras does not run on the TensorFlow backend.

    Notes
    -----
    One function is traced for each structure, dtype and inner shape of the inputs. From the second inner shape on, axes
    of differing lengths are left open, too. A model cannot be traced with an open number of rows if it reads
    ``x.shape[0]`` in Python or declares one number; then one function is traced for each number of rows. The weights
    may change between calls, but not the model's layers. Call a runner from one thread at a time.
    """

    def __init__(
        self,
        model: Any,
        *,
        jit_compile: bool = False,
        signature: str | None = None,
        tags: str | Sequence[str] | None = None,
    ) -> None:
        self.adapted: AdaptedModel = adapt_model(model, signature, tags)
        self._jit_compile = jit_compile
        self._functions: dict[Any, _Step] = {}
        self._traced: dict[Any, tuple[list[Any], _Step]] = {}
        self._of_one_length: OrderedDict[Any, _Step] = OrderedDict()
        self._needs_length: set[Any] = set()
        self._is_traceable = True
        self.name = self.adapted.name
        self.input_specs = self.adapted.input_specs
        self.input_names = self.adapted.input_names
        self.keras_model = self.adapted.keras_model
        self.traces = 0

    def __call__(self, inputs: Any) -> Any:
        """Predict one batch.

        Parameters
        ----------
        inputs : nest of arrays, tensors or PaddedRows, each of shape (rows, ...)
            A mapping of any class is matched by the names of the model's inputs, in any order of its keys; superfluous
            keys are ignored. A single value for a single input needs no name. A Keras input without a name has the name
            of its layer ("input_layer_2"). A model without names takes the values in their order. A list counts as a
            tuple. An array that is C-contiguous and aligned to 64 bytes is read in place, and released before the call
            returns; any other array is copied once. None leaves out an optional input.

        Returns
        -------
        nest of numpy.ndarray
            The outputs, in memory of their own. Sparse and ragged tensors keep their kind.
        """
        return all_to_numpy(self.run(pack_inputs(inputs)))

    def run(self, data: Any) -> Any:
        """Run the model on a batch in the format that Keras passes to ``predict_step``.

        Parameters
        ----------
        data : nest of arrays, tensors or PaddedRows
            x, (x,), (x, y) or (x, y, sample_weight), without lists.

        Returns
        -------
        nest of tf.Tensor
            The outputs, on the host. A tensor may share the memory of an input.
        """
        return self.prepare(data)()

    def prepare(self, data: Any) -> Callable[[], Any]:
        """Find or trace the function for a batch, and return a call without arguments.

        This separates two kinds of errors: `prepare` raises errors that every batch of this kind would cause, and the
        call raises errors caused by the values of this batch. The call keeps the batch alive.

        Parameters
        ----------
        data : nest
            As for `run`.
        """
        if self.adapted.fit is not None:
            try:
                data = self.adapted.fit(data)
            except LossyCast as error:
                return functools.partial(_refuse, error.with_traceback(None))  # the traceback's frames hold the batch
        leaves = tf.nest.flatten(data) if tf.nest.is_nested(data) else [data]
        tensors = [_tensor(leaf) for leaf in leaves]
        if self._runs_eagerly():
            packed = _Layout(data, leaves).packed(tensors)
            return lambda: self._eager_step(packed)
        key = (structure_key(data), *map(_kind, leaves, tensors))
        function = self._functions.get(key)
        if function is None:
            function = self._function_for(_Layout(data, leaves), tensors, key)
        return functools.partial(function, *(tensor for tensor in tensors if tensor is not None))

    def may_be_tried(self, call: Callable[[], Any]) -> bool:
        """Tell whether a call that `prepare` returned may run an additional time, because it has no side effects.

        For an eager call this is unknown. It may run, because there is no other way to learn whether it accepts a
        batch.
        """
        step = getattr(call, "func", None)
        concrete = getattr(step, "concrete", step)
        return not hasattr(concrete, "graph") or not has_side_effects(concrete)

    def refusal_of(self, call: Callable[[], Any]) -> Exception | None:
        """Return the error for all batches of this kind, if a call that `prepare` returned would run eagerly.

        An operation that refuses the batch's shapes in a graph refuses them eagerly, too, and some kernels of
        TensorFlow abort the process on these shapes.
        """
        failure = getattr(getattr(call, "func", None), "failure", None)
        return failure if "{{node" in str(failure) else None

    @property
    def _eager_step(self) -> _Step:
        return self.adapted.eager_step or self.adapted.step

    def _runs_eagerly(self) -> bool:
        return (
            not self._is_traceable
            or bool(getattr(self.keras_model, "run_eagerly", False))
            or tf.config.functions_run_eagerly()
        )

    def _function_for(self, layout: _Layout, tensors: list[Any], key: tuple[Any, ...]) -> _Step:
        """Find or trace a function whose open axes cover the shapes of the tensors."""
        family = (key[0], *map(_family, tensors), *layout.sample_shapes)
        exact = [_type_spec(tensor, free_rows=True) for tensor in tensors]
        specs = exact
        if family in self._traced:
            known, function = self._traced[family]
            specs = [_merged(old, new) for old, new in zip(known, exact, strict=True)]
            if specs == known:
                return function
        attempts = [] if key in self._needs_length else [specs, exact]  # the most general specs first
        for number, attempt in enumerate(attempts):
            if attempt in attempts[:number]:
                continue
            try:
                function = self._trace(layout, attempt)
            except Exception as error:
                failure = error
                continue
            if number == 0:
                self._traced[family] = specs, function
            self._functions[key] = function
            return function
        try:
            return self._function_of_one_length(layout, tensors, key)
        except Exception as error:
            failure = error
        function = self._without_graph(layout, failure)
        if key not in self._needs_length:
            self._functions[key] = function
        return function

    def _function_of_one_length(self, layout: _Layout, tensors: list[Any], key: tuple[Any, ...]) -> _Step:
        """Find or trace a function for this number of rows only; the model may compute with it in Python."""
        specs = [_type_spec(tensor, free_rows=False) for tensor in tensors]
        own_key = (key, *specs)
        function = self._of_one_length.get(own_key)
        if function is None:
            function = self._of_one_length[own_key] = self._trace(layout, specs)
            self._needs_length.add(key)
            if len(self._of_one_length) > _MOST_ROW_COUNTS:
                self._of_one_length.popitem(last=False)
        self._of_one_length.move_to_end(own_key)
        return function

    def _trace(self, layout: _Layout, specs: list[Any]) -> _Step:
        step = (
            tf.function(self.adapted.step, jit_compile=True, autograph=False)
            if self._jit_compile
            else self.adapted.step
        )

        def on_host(output: Any) -> Any:
            return None if output is None else tf.identity(output)

        def function(*given: Any) -> Any:
            outputs = step(layout.packed(_with_nones(given, specs)))
            with tf.device("/CPU:0"):
                return tf.nest.map_structure(on_host, outputs)

        traced = tf.function(function, autograph=False)
        concrete = traced.get_concrete_function(*(spec for spec in specs if spec is not None))
        self.traces += 1
        return direct_step(concrete)

    def _without_graph(self, layout: _Layout, failure: Exception) -> _Step:
        """Return a step that runs a plain callable eagerly; raise `failure` if the model is not a plain callable."""
        if self.keras_model is not None or self.adapted.eager_step is None:
            raise failure
        step, reason = self.adapted.eager_step, f"{type(failure).__name__}: {failure}"

        def eagerly(*given: Any) -> Any:
            outputs = step(layout.packed(_with_nones(given, layout.present)))
            if self._is_traceable:  # the eager run succeeded, so the failure was due to the graph
                self._is_traceable = False
                warnings.warn(
                    f"model {self.name!r} cannot be turned into a TensorFlow graph ({reason}); it is run eagerly, "
                    "which is slower. Use only TensorFlow operations to avoid this.",
                    stacklevel=4,
                )
            return outputs

        eagerly.failure = failure  # type: ignore[attr-defined]
        return eagerly


class _Layout:
    """The structure of a batch; it holds none of the batch's memory."""

    def __init__(self, data: Any, leaves: list[Any]) -> None:
        self._is_nested = tf.nest.is_nested(data)
        self._template = tf.nest.map_structure(lambda _: None, data) if self._is_nested else None
        self.sample_shapes = [leaf.sample_shape if isinstance(leaf, PaddedRows) else None for leaf in leaves]
        self.present = [None if leaf is None else True for leaf in leaves]

    def packed(self, tensors: list[Any]) -> Any:
        """Arrange the tensors in the structure of the batch, and cut their padding."""
        ready = [
            tensor if shape is None else tf.reshape(tensor[:, : math.prod(shape)], (-1, *shape))
            for tensor, shape in zip(tensors, self.sample_shapes, strict=True)
        ]
        return tf.nest.pack_sequence_as(self._template, ready) if self._is_nested else ready[0]


def _refuse(error: Exception) -> Any:
    raise error


def _with_nones(given: tuple[Any, ...], present: list[Any]) -> list[Any]:
    rest = iter(given)
    return [None if mark is None else next(rest) for mark in present]


def floatx_of(runner: ModelRunner) -> str | None:
    """Return the dtype to which Keras casts floating-point arrays before it calls a model; None for other models."""
    keras = sys.modules.get("keras")
    if runner.keras_model is None or keras is None:
        return None
    return str(keras.config.floatx())


def _tensor(leaf: Any) -> Any:
    if leaf is None:
        return None
    return as_tensor(leaf.array if isinstance(leaf, PaddedRows) else leaf)


def _kind(leaf: Any, tensor: Any) -> Any:
    """Return the properties that select a function: all except the number of rows and the values."""
    if isinstance(leaf, np.ndarray):
        return leaf.dtype, leaf.shape[1:], leaf.ndim
    if isinstance(leaf, PaddedRows):
        return tensor.dtype, tuple(tensor.shape[1:]), leaf.sample_shape
    return None if tensor is None else _type_spec(tensor, free_rows=True)


def _family(tensor: Any) -> Any:
    """Return the properties that functions share if their inputs differ only in the lengths of axes."""
    if isinstance(tensor, tf.Tensor):
        return tensor.dtype, tensor.shape.rank
    return None if tensor is None else _type_spec(tensor, free_rows=True)


def _type_spec(tensor: Any, *, free_rows: bool) -> Any:
    if tensor is None:
        return None
    spec = tf.type_spec_from_value(tensor)
    shape = spec.shape
    if not free_rows or not shape.rank:
        return spec
    shape = [None, *shape[1:]]
    if isinstance(spec, tf.RaggedTensorSpec):
        return tf.RaggedTensorSpec(shape, spec.dtype, spec.ragged_rank, spec.row_splits_dtype)
    return type(spec)(shape, spec.dtype)  # TensorSpec or SparseTensorSpec


def _merged(old: Any, new: Any) -> Any:
    if not isinstance(old, tf.TensorSpec) or not old.shape.rank:
        return new
    lengths = [a if a == b else None for a, b in zip(old.shape, new.shape, strict=True)]
    return tf.TensorSpec(lengths, old.dtype)
